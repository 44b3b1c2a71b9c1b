//! Pod sandboxes: pinned namespaces, an address, a few files, and no process
//! unless the pod shares its PID namespace.
//!
//! ```text
//!  RunPodSandbox
//!       |
//!   Creating{stage} --fails--> Unwinding --clean--> Gone{failure}     name is free again
//!       |                          |
//!       |                          +----not clean--> NotReady{CreateFailed, Held}
//!     Ready --init ends, namespace lost, reboot--> NotReady{.., Held}
//!       |                                              |
//!       +--begin_stop--> NotReady{Stopped, Held} <-----+
//!                              |
//!                         finish_stop
//!                              v
//!                     NotReady{.., Released} --remove--> Gone
//! ```
//!
//! One task owns each sandbox ([`driver`](self)); others queue a request and
//! read the last published [`SandboxView`]. The record is written before the
//! first effect, and every name follows from the id, so that `destroy(record)`
//! undoes a creation that failed, one that the daemon's death interrupted, and
//! a sandbox that is removed.
//!
//! StopPodSandbox is `begin_stop`, then the container domain ends the
//! containers, then `finish_stop`.

mod create;
mod driver;
mod env;
mod error;
mod files;
mod init;
mod layout;
pub mod model;
mod record;
mod recover;
mod sandboxes;
mod state;
mod table;
mod teardown;
mod validate;
mod view;

pub use error::{CreateError, LookupError, OpenError, SandboxError, StepError};
pub use files::{FileError, HostFiles};
pub use init::{Bind, InitError, Pinning, PodInit, PodInits, Starting};
pub use sandboxes::{Sandboxes, SandboxesConfig};
pub use state::{Denied, Phase, Reason, Resources, Stage};
pub use view::{NamespacePaths, SandboxFiles, SandboxHandle, SandboxView};
