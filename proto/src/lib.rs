//! The wire contracts of longshore, generated from the `.proto` files beside
//! `src`. The one thing written by hand is what keeps credentials out of logs.

/// CRI v1, the Kubernetes container runtime interface.
#[cfg(feature = "cri")]
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
pub mod cri {
    /// Package `runtime.v1`.
    pub mod v1 {
        tonic::include_proto!("runtime.v1");

        /// Shows whose credentials these are, never the credentials.
        impl std::fmt::Debug for AuthConfig {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct("AuthConfig")
                    .field("username", &self.username)
                    .field("server_address", &self.server_address)
                    .finish_non_exhaustive()
            }
        }
    }

    /// The encoded `FileDescriptorSet` of the CRI and admin services.
    pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.bin"));
}

/// What `longshore` the command asks `longshore` the daemon beyond CRI.
#[cfg(feature = "cri")]
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
pub mod admin {
    /// Package `longshore.admin.v1`.
    pub mod v1 {
        tonic::include_proto!("longshore.admin.v1");
    }
}

/// The messages between the daemon and a shim.
#[cfg(feature = "shim")]
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
pub mod shim {
    /// Package `longshore.shim.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/longshore.shim.v1.rs"));
    }
}
