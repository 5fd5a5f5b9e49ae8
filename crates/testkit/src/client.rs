//! Clients: HTTP/1 byte by byte, so that a test says exactly what is sent, and HTTP/2.
//!
//! A test talks to a proxy's listener with one. It never retries and never reconnects.

use crate::within;
use http::{Request, Response};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use weft_net::body::Body;
use weft_net::stream::Stream;
use weft_net::web::{Http2Client, Http2ClientOptions, WebError};

/// A connection whose bytes the test writes, and reads as bytes or as HTTP/1 responses.
pub struct Raw {
    /// The connection.
    pub tcp: TcpStream,
    unread: Vec<u8>,
}

/// An HTTP/1 response.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its header fields, names in lower case; the last of a name.
    pub headers: HashMap<String, String>,
    /// Its body, without framing.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Raw {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> Self {
        let tcp = within("a connection", TcpStream::connect(to)).await.unwrap();
        Self { tcp, unread: Vec::new() }
    }

    /// Connects from an address of this host.
    pub async fn connect_from(from: IpAddr, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        let tcp = within("a connection", socket.connect(to)).await.unwrap();
        Self { tcp, unread: Vec::new() }
    }

    /// Writes bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.tcp.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Says that nothing more will be written.
    pub async fn finish(&mut self) {
        self.tcp.shutdown().await.unwrap();
    }

    /// Reads exactly so many bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        within("bytes", async {
            while self.unread.len() < count {
                assert!(self.more().await, "the connection ended after {:?}", self.shown());
            }
        })
        .await;
        self.unread.drain(..count).collect()
    }

    /// Reads to the end of the connection, which may break.
    pub async fn rest(&mut self) -> Vec<u8> {
        within("the end of a connection", async { while self.more().await {} }).await;
        std::mem::take(&mut self.unread)
    }

    /// Reads a response.
    pub async fn answer(&mut self) -> Answer {
        let (status, headers) = self.head().await;
        let find = |name: &str| headers.get(name).map(String::as_str);
        let body = match (status, find("transfer-encoding"), find("content-length")) {
            (100..200 | 204 | 304, ..) => Vec::new(),
            (_, Some("chunked"), _) => self.chunks().await,
            (.., Some(length)) => self.bytes(length.parse().unwrap()).await,
            _ => self.rest().await,
        };
        Answer { status, headers, body }
    }

    /// Reads the head of a response that has no body, whatever its headers say.
    pub async fn answer_to_head(&mut self) -> Answer {
        let (status, headers) = self.head().await;
        Answer { status, headers, body: Vec::new() }
    }

    async fn head(&mut self) -> (u16, HashMap<String, String>) {
        let status = self.line().await;
        let status = status.split(' ').nth(1).and_then(|s| s.parse().ok());
        let mut headers = HashMap::new();
        loop {
            let line = self.line().await;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap();
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        (status.unwrap(), headers)
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line().await, 16).unwrap();
            body.extend(self.bytes(size).await);
            if size == 0 {
                while !self.line().await.is_empty() {}
                return body;
            }
            self.line().await;
        }
    }

    async fn line(&mut self) -> String {
        within("a line", async {
            loop {
                if let Some(end) = self.unread.windows(2).position(|w| w == b"\r\n") {
                    let line: Vec<u8> = self.unread.drain(..end + 2).collect();
                    return String::from_utf8_lossy(&line[..end]).into_owned();
                }
                assert!(self.more().await, "the connection ended after {:?}", self.shown());
            }
        })
        .await
    }

    async fn more(&mut self) -> bool {
        // A broken connection is an ended one.
        self.tcp.read_buf(&mut self.unread).await.is_ok_and(|n| n > 0)
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.unread).into_owned()
    }
}

/// GETs a path on a connection of its own.
pub async fn get(from: SocketAddr, path: &str) -> Answer {
    exchange(from, &format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n")).await
}

/// Sends one request on a connection of its own and reads the answer.
pub async fn exchange(with: SocketAddr, request: &str) -> Answer {
    let mut raw = Raw::connect(with).await;
    raw.send(request).await;
    raw.answer().await
}

/// An HTTP/2 connection.
pub async fn http2(to: SocketAddr) -> Http2Client {
    let tcp = within("a connection", TcpStream::connect(to)).await.unwrap();
    Http2Client::open(Stream::tcp(tcp), &Http2ClientOptions::default()).await.unwrap()
}

/// Sends one HTTP/2 request and reads the head of its response.
pub async fn ask(client: &mut Http2Client, request: Request<Body>) -> Result<Response<Body>, WebError> {
    within("a response", async {
        client.ready().await?;
        client.send(request).await
    })
    .await
}
