//! The wire contracts of longshore. Everything here is generated from the
//! `.proto` files beside `src`; nothing is written by hand.

/// CRI v1, the Kubernetes container runtime interface.
#[cfg(feature = "cri")]
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
pub mod cri {
    /// Package `runtime.v1`.
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
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
