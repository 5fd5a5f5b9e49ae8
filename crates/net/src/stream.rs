//! The one byte stream of the data path.
//!
//! A [`Stream`] is TCP, TLS over another `Stream`, or memory (for tests that own time), each with
//! bytes in front that were read already and must be read again. It is an enum and not a boxed trait
//! object, so that reads and vectored writes reach the socket without indirection. Everything that
//! accepts, detects, secures, serves or relays connections passes it along. It holds no policy and
//! performs no handshake: `identity` does, and gives the result back as a `Stream`.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::transfer::Transfer;

/// A byte stream in both directions. Reads give the prefix first, then what the transport brings.
#[derive(Debug)]
pub struct Stream {
    io: Io,
    prefix: Bytes,
    transfer: Option<Arc<Transfer>>,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<Stream>>),
    Memory(Box<Memory>),
}

#[derive(Debug)]
struct Memory {
    io: DuplexStream,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

impl Stream {
    /// A plain TCP connection.
    pub fn tcp(io: TcpStream) -> Self {
        Self::of(Io::Tcp(io))
    }

    /// A finished TLS session over another stream. Boxed: a session is large and plain streams are many.
    pub fn tls(io: TlsStream<Stream>) -> Self {
        Self::of(Io::Tls(Box::new(io)))
    }

    /// One end of an in-memory pipe, without addresses.
    pub fn memory(io: DuplexStream) -> Self {
        Self::of(Io::Memory(Box::new(Memory { io, local: None, peer: None })))
    }

    /// One end of an in-memory pipe that claims to run between these addresses.
    pub fn memory_between(io: DuplexStream, local: SocketAddr, peer: SocketAddr) -> Self {
        Self::of(Io::Memory(Box::new(Memory { io, local: Some(local), peer: Some(peer) })))
    }

    fn of(io: Io) -> Self {
        Self { io, prefix: Bytes::new(), transfer: None }
    }

    /// Counts what is read and written from here on, what lies in front included. The transfer is let go with
    /// the stream, or when it is taken apart.
    #[must_use]
    pub fn counted(mut self, transfer: Arc<Transfer>) -> Self {
        self.transfer = Some(transfer);
        self
    }

    /// The counts of this connection, if it is counted.
    pub fn transfer(&self) -> Option<&Transfer> {
        self.transfer.as_deref()
    }

    fn has_read<T>(&self, bytes: usize, polled: &Poll<io::Result<T>>) {
        if let Some(transfer) = &self.transfer {
            match polled {
                Poll::Ready(Ok(_)) => transfer.add_read(bytes),
                Poll::Ready(Err(error)) => transfer.failed(error),
                Poll::Pending => {}
            }
        }
    }

    fn has_written(&self, polled: &Poll<io::Result<usize>>) {
        if let Some(transfer) = &self.transfer {
            match polled {
                Poll::Ready(Ok(bytes)) => transfer.add_written(*bytes),
                Poll::Ready(Err(error)) => transfer.failed(error),
                Poll::Pending => {}
            }
        }
    }

    /// Puts bytes in front, to be read before anything else, also before an earlier prefix.
    #[must_use]
    pub fn with_prefix(mut self, bytes: Bytes) -> Self {
        if self.prefix.is_empty() {
            self.prefix = bytes;
        } else if !bytes.is_empty() {
            self.prefix = [bytes, std::mem::take(&mut self.prefix)].concat().into();
        }
        self
    }

    /// The bytes in front that were not read again yet.
    pub fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// The address at the other end of the transport; `None` in memory or when the peer is gone already.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match &self.io {
            Io::Tcp(io) => io.peer_addr().ok(),
            Io::Tls(io) => io.get_ref().0.peer_addr(),
            Io::Memory(memory) => memory.peer,
        }
    }

    /// The address at our end of the transport; `None` in memory.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.io {
            Io::Tcp(io) => io.local_addr().ok(),
            Io::Tls(io) => io.get_ref().0.local_addr(),
            Io::Memory(memory) => memory.local,
        }
    }

    /// Whether a TLS session lies between us and the transport.
    pub fn is_tls(&self) -> bool {
        matches!(self.io, Io::Tls(_))
    }

    /// The TLS session, where there is one.
    pub fn tls_session(&self) -> Option<&TlsStream<Stream>> {
        match &self.io {
            Io::Tls(io) => Some(io),
            Io::Tcp(_) | Io::Memory(_) => None,
        }
    }

    /// The socket, when this is plain TCP; a prefix may still lie in front of it.
    pub fn tcp_ref(&self) -> Option<&TcpStream> {
        match &self.io {
            Io::Tcp(io) => Some(io),
            Io::Tls(_) | Io::Memory(_) => None,
        }
    }

    /// Takes the plain socket out. Gives the stream back when a prefix waits to be read, or when it is not TCP.
    pub fn try_into_tcp(self) -> Result<TcpStream, Self> {
        match self {
            Stream { io: Io::Tcp(io), prefix, .. } if prefix.is_empty() => Ok(io),
            other => Err(other),
        }
    }

    /// Ready once a read would give something, without a buffer to read into, so that a silent connection
    /// costs none. Streams that cannot tell (TLS, memory) are always ready: their read then waits.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.io {
            Io::Tcp(io) if self.prefix.is_empty() => io.poll_read_ready(cx),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(io: TcpStream) -> Self {
        Self::tcp(io)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let n = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..n]);
            this.prefix.advance(n);
            if this.prefix.is_empty() {
                this.prefix = Bytes::new(); // gives the allocation back
            }
            let polled = Poll::Ready(Ok(()));
            this.has_read(n, &polled);
            return polled;
        }
        let before = buf.filled().len();
        let polled = match &mut this.io {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(&mut **io).poll_read(cx, buf),
            Io::Memory(memory) => Pin::new(&mut memory.io).poll_read(cx, buf),
        };
        this.has_read(buf.filled().len() - before, &polled);
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(&mut **io).poll_write(cx, buf),
            Io::Memory(memory) => Pin::new(&mut memory.io).poll_write(cx, buf),
        };
        this.has_written(&polled);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.io {
            Io::Tcp(io) => write_gathered(io, cx, bufs),
            Io::Tls(io) => Pin::new(&mut **io).poll_write_vectored(cx, bufs),
            Io::Memory(memory) => Pin::new(&mut memory.io).poll_write_vectored(cx, bufs),
        };
        this.has_written(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
            Io::Memory(memory) => memory.io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(&mut **io).poll_flush(cx),
            Io::Memory(memory) => Pin::new(&mut memory.io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = match &mut self.get_mut().io {
            Io::Tcp(io) => ready!(Pin::new(io).poll_shutdown(cx)),
            Io::Tls(io) => ready!(Pin::new(&mut **io).poll_shutdown(cx)),
            Io::Memory(memory) => ready!(Pin::new(&mut memory.io).poll_shutdown(cx)),
        };
        Poll::Ready(match outcome {
            // The peer has gone altogether: there is nothing left to half-close.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        })
    }
}

/// Most bytes that are copied together rather than written by writev(2).
const GATHERED: usize = 2048;
/// What most heads with a short body fit in; the room on the stack is cleared first.
const SMALL: usize = 512;

/// Writes a small message whole with send(2): copying a head and a short body together costs less than the
/// kernel takes to read a vector of two.
fn write_gathered(io: &mut TcpStream, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    let total: usize = bufs.iter().map(|b| b.len()).sum();
    match bufs {
        [only] => Pin::new(io).poll_write(cx, only),
        bufs if total <= SMALL => write_copied::<SMALL>(io, cx, bufs),
        bufs if total <= GATHERED => write_copied::<GATHERED>(io, cx, bufs),
        bufs => Pin::new(io).poll_write_vectored(cx, bufs),
    }
}

fn write_copied<const ROOM: usize>(
    io: &mut TcpStream,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let mut together = [0; ROOM];
    let mut filled = 0;
    for buf in bufs {
        if let Some(room) = together.get_mut(filled..filled + buf.len()) {
            room.copy_from_slice(buf);
            filled += buf.len();
        }
    }
    Pin::new(io).poll_write(cx, together.get(..filled).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_prefix_is_read_before_the_transport() {
        let (ours, mut theirs) = duplex(64);
        let mut stream = Stream::memory(ours)
            .with_prefix(Bytes::from_static(b"world "))
            .with_prefix(Bytes::from_static(b"hello "));
        theirs.write_all(b"again").await.unwrap();
        drop(theirs);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello world again");
    }

    #[tokio::test]
    async fn a_small_buffer_reads_a_prefix_in_pieces() {
        let (ours, _theirs) = duplex(64);
        let mut stream = Stream::memory(ours).with_prefix(Bytes::from_static(b"abc"));
        let mut two = [0; 2];
        assert_eq!(stream.read(&mut two).await.unwrap(), 2);
        assert_eq!(&stream.prefix()[..], b"c");
        assert_eq!(stream.read(&mut two).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn only_plain_tcp_without_a_prefix_is_taken_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = Stream::tcp(client).with_prefix(Bytes::from_static(b"x"));
        let mut stream = stream.try_into_tcp().expect_err("a prefix waits");
        let mut one = [0; 1];
        stream.read_exact(&mut one).await.unwrap();
        assert!(stream.is_write_vectored());
        assert_eq!(stream.peer_addr(), Some(listener.local_addr().unwrap()));
        assert!(stream.try_into_tcp().is_ok());
        assert!(Stream::memory(duplex(1).0).try_into_tcp().is_err());
    }

    #[tokio::test]
    async fn a_counted_stream_counts_what_its_user_sees_and_tells_its_end() {
        let (told, end) = std::sync::mpsc::sync_channel(1);
        let transfer =
            Arc::new(Transfer::new(move |t| told.send((t.read(), t.written(), t.error())).unwrap()));
        let (ours, mut theirs) = duplex(64);
        let mut stream = Stream::memory(ours).with_prefix(Bytes::from_static(b"seen ")).counted(transfer);
        theirs.write_all(b"new").await.unwrap();
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(b"answer").await.unwrap();
        assert_eq!(stream.transfer().map(|t| (t.read(), t.written())), Some((8, 6)));
        drop(stream);
        assert_eq!(end.try_recv(), Ok((8, 6, "")));
    }

    #[tokio::test]
    async fn a_reset_is_told_by_its_name() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let transfer = Arc::new(Transfer::new(|_| {}));
        let mut stream = Stream::tcp(listener.accept().await.unwrap().0).counted(transfer);
        socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(client);
        stream.read(&mut [0]).await.unwrap_err();
        assert_eq!(stream.transfer().map(Transfer::error), Some("ECONNRESET"));
    }

    #[test]
    fn a_stream_is_small() {
        assert!(std::mem::size_of::<Stream>() <= 80, "{}", std::mem::size_of::<Stream>());
    }
}
