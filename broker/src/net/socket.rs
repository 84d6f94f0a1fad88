//! The only door of the broker to sockets: the kernel's, or in a simulated cluster the simulated network's. The rest of
//! `net` cannot tell which one it runs on.

use std::time::Duration;

#[cfg(not(ottla_sim))]
pub use real::{Listener, Stream};
#[cfg(ottla_sim)]
pub use simulated::{Listener, Stream};

/// What a listener's sockets are given (`socket.send.buffer.bytes`, `socket.receive.buffer.bytes`); `None` leaves it to
/// the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketOptions {
    pub send_buffer_bytes: Option<usize>,
    pub receive_buffer_bytes: Option<usize>,
    /// How long what was sent may go without the other machine's acknowledgement before the connection ends.
    pub unacknowledged_max: Option<Duration>,
}

#[cfg(not(ottla_sim))]
mod real {
    use std::collections::VecDeque;
    use std::io::{self, IoSlice};
    use std::net::SocketAddr;
    use std::os::fd::AsFd;

    use bytes::BytesMut;
    use rustix::net::SendFlags;
    use tokio::io::Interest;
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::SocketOptions;
    use crate::api::Part;

    /// Parts in one vectored write (the kernel takes up to 1,024).
    const VECTORS_MAX: usize = 64;

    pub struct Listener(TcpListener);

    impl Listener {
        /// The address that a listener of this host and port would have.
        pub async fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
            let mut addresses = tokio::net::lookup_host((host, port)).await?;
            addresses.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address"))
        }

        pub async fn bind(address: SocketAddr, backlog: u32) -> io::Result<Listener> {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            // A restarted broker must get its port back although old connections linger.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(Listener(socket.listen(backlog.max(1))?))
        }

        pub fn local_addr(&self) -> io::Result<SocketAddr> {
            self.0.local_addr()
        }

        pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
            let (stream, peer) = self.0.accept().await?;
            Ok((Stream(stream), peer))
        }
    }

    pub struct Stream(TcpStream);

    impl Stream {
        /// `address` is host and port.
        pub async fn connect(address: &str) -> io::Result<Stream> {
            Ok(Stream(TcpStream::connect(address).await?))
        }

        pub fn configure(&self, options: SocketOptions) -> io::Result<()> {
            self.0.set_nodelay(true)?;
            let socket = socket2::SockRef::from(&self.0);
            socket.set_keepalive(true)?;
            if let Some(bytes) = options.send_buffer_bytes {
                socket.set_send_buffer_size(bytes)?;
            }
            if let Some(bytes) = options.receive_buffer_bytes {
                socket.set_recv_buffer_size(bytes)?;
            }
            if let Some(time) = options.unacknowledged_max {
                let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
                rustix::net::sockopt::set_tcp_user_timeout(&self.0, millis)?;
            }
            Ok(())
        }

        pub fn local_addr(&self) -> io::Result<SocketAddr> {
            self.0.local_addr()
        }

        /// Returns when a read would bring bytes, the end or an error.
        pub async fn readable(&self) -> io::Result<()> {
            self.0.readable().await
        }

        /// Reads what is there into the room of `buffer`; 0 at the end of the stream, `WouldBlock` when nothing is there.
        pub fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
            self.0.try_read_buf(buffer)
        }

        /// Writes the front of `parts`, which are not empty, and answers how many bytes went.
        pub async fn write_some(&self, parts: &VecDeque<Part>) -> io::Result<usize> {
            self.0.async_io(Interest::WRITABLE, || try_write_some(&self.0, parts)).await
        }
    }

    fn try_write_some(stream: &TcpStream, parts: &VecDeque<Part>) -> io::Result<usize> {
        match &parts[0] {
            Part::Slice(slice) => {
                let mut offset = slice.position;
                let file = slice.file.as_ref().and_then(|file| file.as_fd());
                let file = file.ok_or_else(|| io::Error::other("a slice without a file descriptor"))?;
                let sent = rustix::fs::sendfile(stream.as_fd(), file, Some(&mut offset), slice.len)?;
                if sent == 0 {
                    // The file is shorter than the slice says: the frame cannot be completed.
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "a segment file was cut while it was sent",
                    ));
                }
                Ok(sent)
            }
            Part::Bytes(_) => {
                let mut vectors = [IoSlice::new(&[]); VECTORS_MAX];
                let mut count = 0;
                for part in parts.iter().take(VECTORS_MAX) {
                    let Part::Bytes(bytes) = part else { break };
                    vectors[count] = IoSlice::new(bytes);
                    count += 1;
                }
                // More to come right behind (a file): the kernel is told not to send a packet of the header alone.
                let flags = if count < parts.len() { SendFlags::MORE } else { SendFlags::empty() };
                let flags = flags | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                if count == 1 {
                    Ok(rustix::net::send(stream.as_fd(), &vectors[0], flags)?)
                } else {
                    let mut control = rustix::net::SendAncillaryBuffer::default();
                    Ok(rustix::net::sendmsg(stream.as_fd(), &vectors[..count], &mut control, flags)?)
                }
            }
        }
    }
}

#[cfg(ottla_sim)]
mod simulated {
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::io;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use bytes::{BufMut, BytesMut};
    use parking_lot::Mutex;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use turmoil::net::{TcpListener, TcpStream};

    use super::SocketOptions;
    use crate::api::Part;

    pub struct Listener(TcpListener);

    impl Listener {
        /// The simulated network only listens on all addresses of a host.
        pub async fn resolve(_host: &str, port: u16) -> io::Result<SocketAddr> {
            Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
        }

        pub async fn bind(address: SocketAddr, _backlog: u32) -> io::Result<Listener> {
            Ok(Listener(TcpListener::bind(address).await?))
        }

        pub fn local_addr(&self) -> io::Result<SocketAddr> {
            self.0.local_addr()
        }

        pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
            let (stream, peer) = self.0.accept().await?;
            Ok((Stream::new(stream)?, peer))
        }
    }

    /// Only one task uses a connection; the lock lets it read and write through a shared reference, as the kernel does.
    pub struct Stream {
        inner: Mutex<TcpStream>,
        local: SocketAddr,
    }

    impl Stream {
        fn new(stream: TcpStream) -> io::Result<Stream> {
            let local = stream.local_addr()?;
            Ok(Stream { inner: Mutex::new(stream), local })
        }

        pub async fn connect(address: &str) -> io::Result<Stream> {
            Stream::new(TcpStream::connect(address).await?)
        }

        pub fn configure(&self, _options: SocketOptions) -> io::Result<()> {
            Ok(())
        }

        pub fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(self.local)
        }

        pub async fn readable(&self) -> io::Result<()> {
            let mut byte = [0];
            poll_fn(|cx| self.inner.lock().poll_peek(cx, &mut ReadBuf::new(&mut byte))).await?;
            Ok(())
        }

        pub fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
            let mut bytes = vec![0; buffer.capacity() - buffer.len()];
            let mut read = ReadBuf::new(&mut bytes);
            let mut cx = Context::from_waker(Waker::noop());
            match Pin::new(&mut *self.inner.lock()).poll_read(&mut cx, &mut read) {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            }
            buffer.put_slice(read.filled());
            Ok(read.filled().len())
        }

        pub async fn write_some(&self, parts: &VecDeque<Part>) -> io::Result<usize> {
            let bytes = match &parts[0] {
                Part::Bytes(bytes) => bytes.clone(),
                Part::Slice(slice) => slice.read()?,
            };
            poll_fn(|cx| Pin::new(&mut *self.inner.lock()).poll_write(cx, &bytes)).await
        }
    }
}
