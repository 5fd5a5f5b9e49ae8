//! Opaque bytes of the load generator: blocks sent without pause, and an account of them at the end.

use super::{Shared, connect};
use crate::app::{SUMMED, fold};
use crate::statistics::Histogram;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is handed to the kernel at a time.
const BLOCK: usize = 64 * 1024;

/// Sends until the load stops, ends its direction and checks that the receiver counted as much.
pub(super) async fn run(target: SocketAddr, shared: &Shared) -> Result<Histogram, String> {
    let mut stream = connect(target).await?;
    let block = vec![b'.'; BLOCK]; // no protocol begins like this
    let mut sent = 0;
    while !shared.is_stopped() {
        stream.write_all(&block).await.map_err(|error| format!("send: {error}"))?;
        sent += block.len() as u64;
        shared.done.fetch_add(1, Relaxed);
    }
    let (total, _) = account(stream).await?;
    match total == sent {
        true => Ok(Histogram::new()),
        false => Err(format!("{sent} bytes sent, {total} received")),
    }
}

/// Sends `size` bytes of which no two neighbours are alike and checks their number and sum at the receiver.
pub(crate) async fn send_summed(target: SocketAddr, size: usize) -> Result<(), String> {
    let bytes: Vec<u8> = [SUMMED].into_iter().chain((0..=250).cycle()).take(size).collect();
    let mut stream = connect(target).await?;
    stream.write_all(&bytes).await.map_err(|error| format!("send: {error}"))?;
    let found = account(stream).await?;
    match found == (size as u64, fold(0, &bytes)) {
        true => Ok(()),
        false => Err(format!("{size} bytes sent, {} with another sum received", found.0)),
    }
}

/// Half-closes and reads what the receiver says it got: number and sum.
async fn account(mut stream: TcpStream) -> Result<(u64, u64), String> {
    let lost = |error: std::io::Error| format!("the receiver's account: {error}");
    stream.shutdown().await.map_err(lost)?;
    let (total, sum) = (stream.read_u64().await.map_err(lost)?, stream.read_u64().await.map_err(lost)?);
    match stream.read(&mut [0]).await.map_err(lost)? {
        0 => Ok((total, sum)),
        _ => Err("bytes behind the receiver's account".to_owned()),
    }
}
