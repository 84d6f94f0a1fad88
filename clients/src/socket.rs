//! The only door of this crate to sockets: the kernel's, or the simulated network's in a simulated cluster.

#[cfg(not(ottla_sim))]
pub use tokio::net::{
    TcpStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};
#[cfg(ottla_sim)]
pub use turmoil::net::{
    TcpStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};
