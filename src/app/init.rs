//! PID 1 of pods that share a PID namespace.

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::id::SandboxId;
use crate::sandbox::{PodInit, PodInits, Starting};
use crate::shimlink::{PodInitSpec, Shims};

/// The shim binary's `init` mode.
#[derive(Debug)]
pub(super) struct ShimInits(pub(super) Arc<Shims>);

impl PodInits for ShimInits {
    fn start<'a>(
        &'a self,
        _: &'a SandboxId,
        cgroup: Vec<PathBuf>,
        userns: Option<PathBuf>,
    ) -> Starting<'a> {
        Box::pin(async move {
            let spec = PodInitSpec {
                user: userns,
                cgroup,
                ..PodInitSpec::default()
            };
            let init = self.0.pod_init(&spec).await?;
            Ok(PodInit {
                pid: init.pid,
                pidfd: init.pidfd,
            })
        })
    }
}
