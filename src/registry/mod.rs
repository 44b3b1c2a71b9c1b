//! The client of OCI registries (OCI distribution spec, and Docker's token
//! flow beside it).
//!
//! A [`Registry`] holds the HTTP clients; a [`Repository`] is one repository
//! as one pull sees it, with the credentials, the token and the scheme that
//! this pull found to work. What comes back is bytes: this module verifies no
//! digest and knows no image, so that whoever names the content checks it.
//!
//! A loopback host (`localhost`, `127.0.0.0/8`, `::1`) may speak plain HTTP:
//! HTTPS is tried first, and given up only where the peer doesn't speak TLS at
//! all. A certificate that doesn't verify never leads to plain HTTP.

mod auth;
mod challenge;
mod client;
mod error;
mod host;
mod repository;
mod tls;

pub use auth::{AuthConfig, Credentials};
pub use client::{Registry, RegistryConfig};
pub use error::RegistryError;
pub use repository::{BlobStream, Manifest, Repository};
