//! TCP sockets with the settings of a proxy.
//!
//! [`listen`] and [`connect`] open sockets, [`prepare`] sets up an accepted one; all send small segments
//! at once (TCP_NODELAY) and probe dead peers. [`AcceptError`] tells an accept loop whether to go on, to
//! pause or to give up. Called by `proxy/listen.rs`, `connect/dial.rs`, and the servers of the control
//! plane. Chooses no addresses and accepts no connections by itself.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait to be accepted, where nothing else is set. The kernel's own bound
/// (`net.core.somaxconn`, 4096 by default) holds on top. 128, the customary value, overflows when a
/// client's pool of some hundred connections reconnects at once.
pub(crate) const BACKLOG: u32 = 1024;

/// What can be set on a TCP socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// Idle time before the first keepalive probe. `None` probes with the system's timings.
    pub keepalive: Option<Duration>,
    /// Longest time that sent data may stay unacknowledged (TCP_USER_TIMEOUT). `None`: the system's.
    pub user_timeout: Option<Duration>,
    /// Connections that may wait to be accepted; only for listeners. `None`: 1024.
    pub backlog: Option<u32>,
}

/// Binds and listens. The address may be reused at once after a restart; `[::]` also takes IPv4 where the
/// system is set so. Port 0 takes a free one.
pub fn listen(address: SocketAddr, options: &SocketOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let backlog = options.backlog.unwrap_or(BACKLOG);
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// Connects, without a time limit of its own. Dropping the future gives the attempt up.
pub async fn connect(address: SocketAddr, options: &SocketOptions) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    apply(&SockRef::from(&socket), options)?;
    socket.connect(address).await
}

/// Sets the options on an accepted connection.
pub fn prepare(socket: &TcpStream, options: &SocketOptions) -> io::Result<()> {
    apply(&SockRef::from(socket), options)
}

fn apply(socket: &SockRef<'_>, options: &SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    match options.keepalive {
        Some(idle) => socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?,
        None => socket.set_keepalive(true)?,
    }
    #[cfg(target_os = "linux")]
    if let Some(timeout) = options.user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}

/// Whether a connection made on this host to `address` arrives at a listener that is bound to `listener`. One
/// bound to the unspecified address takes what comes to any address of the host.
pub fn arrives_at(address: SocketAddr, listener: SocketAddr) -> bool {
    let (ip, bound) = (address.ip().to_canonical(), listener.ip().to_canonical());
    address.port() == listener.port() && (ip == bound || bound.is_unspecified() && is_of_this_host(ip))
}

/// Whether an address is one of this host's, in this network namespace, now. The kernel is asked, since addresses
/// come and go: it binds a socket only to its own. Nothing is sent.
fn is_of_this_host(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

/// What a failed accept means for the loop that called it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// That one connection failed before it was taken: go on at once.
    Connection,
    /// The process or the machine is out of descriptors or memory: pause (the connection stays in the
    /// queue, so trying at once would spin), count it, go on.
    Exhausted,
    /// The listener itself is broken: nothing will ever come from it.
    Listener,
}

impl AcceptError {
    /// Tells by the operating system's error number (accept(2)).
    pub fn of(error: &io::Error) -> Self {
        // EMFILE, ENFILE, ENOMEM, ENOBUFS: no ErrorKind names them all.
        const EXHAUSTED: [i32; 4] = [24, 23, 12, 105];
        // EBADF, EINVAL, ENOTSOCK. Not EOPNOTSUPP: accept(2) also gives it for an error of the new socket.
        const BROKEN: [i32; 3] = [9, 22, 88];
        match error.raw_os_error() {
            Some(number) if EXHAUSTED.contains(&number) => Self::Exhausted,
            Some(number) if BROKEN.contains(&number) => Self::Listener,
            _ => Self::Connection,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_carry_their_options() {
        let options = SocketOptions {
            keepalive: Some(Duration::from_secs(7)),
            user_timeout: Some(Duration::from_secs(9)),
            backlog: Some(5),
        };
        let listener = listen("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let client = connect(listener.local_addr().unwrap(), &options).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        prepare(&accepted, &options).unwrap();
        for socket in [&client, &accepted] {
            let socket = SockRef::from(socket);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));
        }
    }

    #[tokio::test]
    async fn keepalive_is_on_by_default() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
        let client = connect(listener.local_addr().unwrap(), &SocketOptions::default()).await.unwrap();
        assert!(SockRef::from(&client).keepalive().unwrap());
    }

    #[test]
    fn an_unspecified_listener_takes_every_address_of_the_host() {
        let check = |address: &str, listener: &str, expected: bool| {
            let arrives = arrives_at(address.parse().unwrap(), listener.parse().unwrap());
            assert_eq!(arrives, expected, "{address} at {listener}");
        };
        check("127.0.0.1:80", "127.0.0.1:80", true);
        check("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true);
        check("127.0.0.1:80", "127.0.0.1:81", false);
        check("127.0.0.2:80", "127.0.0.1:80", false);
        check("127.7.7.7:80", "0.0.0.0:80", true);
        check("127.7.7.7:80", "[::]:80", true);
        check("203.0.113.77:80", "0.0.0.0:80", false); // TEST-NET-3 is nobody's
        // The address that this host has towards others, if it has one.
        let towards = UdpSocket::bind("0.0.0.0:0").and_then(|s| s.connect("192.0.2.1:9").map(|()| s));
        if let Ok(own) = towards.and_then(|socket| socket.local_addr()) {
            check(&format!("{}:80", own.ip()), "0.0.0.0:80", true);
        }
    }

    #[test]
    fn an_accept_loop_survives_all_but_a_broken_listener() {
        let of = |number| AcceptError::of(&io::Error::from_raw_os_error(number));
        for (number, expected) in [
            (24, AcceptError::Exhausted),
            (23, AcceptError::Exhausted),
            (103, AcceptError::Connection), // ECONNABORTED
            (71, AcceptError::Connection),  // EPROTO
            (100, AcceptError::Connection), // ENETDOWN
            (95, AcceptError::Connection),  // EOPNOTSUPP
            (9, AcceptError::Listener),
        ] {
            assert_eq!(of(number), expected, "{number}");
        }
    }
}
