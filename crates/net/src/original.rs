//! Where a redirected connection was going.
//!
//! The kernel's NAT keeps the address that the client dialled; SO_ORIGINAL_DST reads it back from an
//! accepted socket. Asked by `listen` once per accepted connection where traffic is captured. It does not
//! judge the answer: an address of the proxy itself is the caller's to refuse.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

/// The address that the client dialled before it was redirected here. Asks the IPv4 table for an IPv4
/// client, also one that shows as IPv4-mapped IPv6, and the IPv6 table for others. Fails when the
/// connection was not redirected (and conntrack knows nothing of it).
pub fn original_dst(socket: &TcpStream) -> io::Result<SocketAddr> {
    let is_v4 = match socket.peer_addr()?.ip() {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
    };
    let socket = SockRef::from(socket);
    let address = if is_v4 { socket.original_dst_v4()? } else { socket.original_dst_v6()? };
    address.as_socket().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the original destination is no IP address")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    // A redirected connection needs a network namespace: that test lives with capture.
    #[tokio::test]
    async fn a_connection_that_was_not_redirected_has_no_foreign_destination() {
        for host in ["127.0.0.1", "::1"] {
            let Ok(listener) = TcpListener::bind((host, 0)).await else { continue }; // no IPv6 here
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            // Without conntrack the kernel refuses; with it, it names the listener.
            if let Ok(address) = original_dst(&accepted) {
                assert_eq!(address, client.peer_addr().unwrap());
            }
        }
    }
}
