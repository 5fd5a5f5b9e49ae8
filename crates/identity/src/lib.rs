//! Who we are and who they are: every TLS session, certificate and join token of the mesh.
//!
//! [`store`] holds an identity and makes handshakes with it, [`renew`] keeps it fresh with [`keys`], [`authority`] issues
//! certificates, [`token`] and [`join`] let a workload ask for its first one. Called by the proxy, the control
//! plane and the commands. It is the only crate that names rustls, and it opens no connection by itself.

pub mod anchors;
pub mod authority;
pub mod certificate;
pub mod csr;
mod handshake;
pub mod join;
pub mod keys;
pub mod limits;
pub mod private;
pub mod renew;
mod spent;
pub mod store;
pub mod tls;
pub mod token;
pub mod verify;
