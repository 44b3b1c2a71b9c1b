//! Namespaces that live without a process: pinned by bind mounts of their nsfs
//! files (`namespaces(7)`).
//!
//! ```text
//!  thread: unshare(net|ipc|uts) -> hostname, sysctls, lo up -> bind /proc/thread-self/ns/* -> ends
//!                                                                     |
//!  <netns dir>/longshore-<instance>-<id>   net, where ip-netns(8) and CNI tools look
//!  <state>/ns/<id>/{ipc,uts,pid,user}      the rest, on the daemon's private tmpfs
//! ```
//!
//! What a namespace is is told by device and inode of its nsfs file, never by
//! the path alone: after a reboot, or when somebody removed and re-made it,
//! the path may lead to another one or to an empty file.
//!
//! Everything here blocks, for a few milliseconds: `unshare` of a network
//! namespace waits for the kernel's RCU.

mod error;
mod link;
mod pin;
mod sysctl;
mod thread;

pub use error::NetnsError;
pub use pin::{Identity, Namespace, pin, pin_process, pins, prepare_dir, unpin};
pub use sysctl::{BadSysctl, Owner, Sysctl, defaults};
pub use thread::{Kind, Request, create, enter, set_up};
