//! The pod network over CNI plugins (CNI specification 0.1.0 to 1.1.0).
//!
//! ```text
//!  conf dir --watch--> Network (first valid file)          add(attachment)
//!                          \                                   |
//!                           +---> intent, synced to disk <-----+
//!                                      |
//!                  ADD plugin 1..n, result beside the intent
//!                                      :
//!                  DEL plugin n..1, from the intent alone, until it succeeds
//!                                      |
//!                               intent removed
//! ```
//!
//! The intent is what keeps addresses from leaking: from before the first
//! plugin runs until DEL succeeded it is on disk, with the whole configuration
//! as it was then. A DEL that fails is repeated with growing pauses, in this
//! run of the daemon by a task of its own, in the next one by whoever owns the
//! sandbox.
//!
//! Plugins run in the network namespace of the daemon's thread that spawns
//! them, with the daemon's environment.

mod bandwidth;
mod chain;
mod conf;
mod error;
mod exec;
mod fallback;
mod intent;
mod network;
mod result;
mod watch;

pub use bandwidth::{BadBandwidth, Bandwidth};
pub use conf::{BadConf, NetworkList};
pub use error::{CniError, Complaint, NetworkNotReady, PluginCause, PluginFailure};
pub use exec::Verb;
pub use fallback::FallbackBridge;
pub use intent::{Attachment, PortMap};
pub use network::{Attached, Cni, CniConfig};
pub use watch::Networks;
