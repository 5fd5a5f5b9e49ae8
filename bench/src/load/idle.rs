//! Connections that are held open and do nothing.

use super::{ask, connect};
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Open connections. Dropped, they close.
pub(crate) struct Held {
    connections: Vec<TcpStream>,
}

impl Held {
    /// Opens `count` connections over which nothing is said.
    pub(crate) async fn silent(target: SocketAddr, count: usize) -> Result<Self, String> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(connect(target).await?);
        }
        Ok(Self { connections })
    }

    /// Opens `count` connections, one after the other, and asks one thing over each.
    pub(crate) async fn used_once(target: SocketAddr, count: usize) -> Result<Self, String> {
        let mut held = Self { connections: Vec::with_capacity(count) };
        for _ in 0..count {
            let mut stream = connect(target).await?;
            ask(&mut stream).await?;
            held.connections.push(stream);
        }
        Ok(held)
    }

    /// Checks that every one of them is still open, by asking over each.
    pub(crate) async fn are_open(&mut self) -> Result<(), String> {
        for stream in &mut self.connections {
            ask(stream).await.map_err(|error| format!("an idle connection was not kept: {error}"))?;
        }
        Ok(())
    }
}
