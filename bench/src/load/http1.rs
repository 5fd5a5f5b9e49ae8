//! HTTP/1.1 of the load generator: a preformatted request, and as much of a parser as its answer needs.

use super::{AGENT, AUTHORITY, Shared, connect};
use crate::app::BODY;
use crate::statistics::Histogram;
use std::net::SocketAddr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Larger answers are not the application's.
const LARGEST: usize = 64 * 1024;

fn request() -> String {
    format!("GET / HTTP/1.1\r\nhost: {AUTHORITY}\r\nuser-agent: {AGENT}\r\naccept: */*\r\n\r\n")
}

pub(super) async fn run(target: SocketAddr, shared: &Shared) -> Result<Histogram, String> {
    let mut stream = connect(target).await?;
    let request = request();
    let (mut buffer, mut histogram) = (Vec::with_capacity(4096), Histogram::new());
    while !shared.is_stopped() {
        let begun = Instant::now();
        exchange(&mut stream, request.as_bytes(), &mut buffer).await?;
        shared.done(&mut histogram, begun.elapsed());
    }
    Ok(histogram)
}

/// Sends one request over `stream` and checks its answer.
pub(crate) async fn ask(stream: &mut TcpStream) -> Result<(), String> {
    exchange(stream, request().as_bytes(), &mut Vec::new()).await
}

/// The status that one request on a new connection gets; `None` if the connection is closed instead.
pub(crate) async fn ask_status(target: SocketAddr) -> Result<Option<u16>, String> {
    let mut stream = connect(target).await?;
    let mut answer = Vec::new();
    if stream.write_all(request().as_bytes()).await.is_err() {
        return Ok(None);
    }
    while !answer.ends_with(b"\r\n") {
        match stream.read_buf(&mut answer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    Ok(status.and_then(|status| status.parse().ok()))
}

async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> Result<(), String> {
    stream.write_all(request).await.map_err(|error| format!("send: {error}"))?;
    buffer.clear();
    loop {
        let read = stream.read_buf(buffer).await.map_err(|error| format!("receive: {error}"))?;
        if read == 0 {
            return Err(format!("closed after {} bytes of an answer", buffer.len()));
        }
        if let Some(length) = check_response(buffer)? {
            return match buffer.len() == length {
                true => Ok(()),
                false => Err(format!("{} bytes behind the answer", buffer.len() - length)),
            };
        }
        if buffer.len() > LARGEST {
            return Err("an answer without end".to_owned());
        }
    }
}

/// The length of the whole response that `bytes` begins with, if it has arrived.
///
/// # Errors
/// It is not the application's: another status, another body, or framed in another way.
fn check_response(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = &bytes[..end];
    let quoted = || String::from_utf8_lossy(head).into_owned();
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(format!("answered {}", quoted().escape_debug()));
    }
    let length = head
        .split(|byte| *byte == b'\n')
        .find_map(content_length)
        .ok_or_else(|| format!("no content-length: {}", quoted().escape_debug()))?;
    if length != BODY.len() {
        return Err(format!("a body of {length} bytes"));
    }
    let Some(body) = bytes.get(end + 4..end + 4 + length) else { return Ok(None) };
    if body != BODY {
        return Err("another body".to_owned());
    }
    Ok(Some(end + 4 + length))
}

fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let (name, value) = line.split_at_checked(NAME.len())?;
    let value = name.eq_ignore_ascii_case(NAME).then_some(value)?;
    str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_applications_own_answer_passes() {
        let body = str::from_utf8(BODY).unwrap();
        let check = |text: &str, expected: Result<Option<usize>, ()>| {
            assert_eq!(check_response(text.as_bytes()).map_err(drop), expected, "{text:?}");
        };
        let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: 128\r\nx: y\r\n\r\n{body}");
        check(&whole, Ok(Some(whole.len())));
        check(&whole[..whole.len() - 1], Ok(None));
        check(&whole[..20], Ok(None));
        check(&whole.replace("200", "503"), Err(()));
        check(&whole.replace("128", "127"), Err(()));
        check(&whole.replace("xxx", "xyx"), Err(()));
        check(&whole.replace("Content-Length: 128", "transfer-encoding: chunked"), Err(()));
        check("", Ok(None));
    }
}
