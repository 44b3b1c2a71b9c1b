//! The test kit of longshore.
//!
//! A test makes a [`Node`]: a network and a mount namespace of its own, in which the daemon, crictl
//! and a registry run, so that bridges, mounts and addresses never touch the machine's. The node's
//! name marks every process, cgroup and directory of the test, which is how the [`audit`] finds what
//! a test left behind, and how a later run sweeps up after one that was killed.
//!
//! | module | what |
//! |---|---|
//! | [`node`] | namespaces, directories, clean-up and the sweep |
//! | [`process`] | a child with its output in a file |
//! | [`daemon`] | `longshore serve` in a node, killed and restarted at will |
//! | [`pods`] | requests as kubelet would send them |
//! | [`cri`] | clients of both services, and what kubelet calls in a row |
//! | [`crictl`] | the command line client |
//! | [`image`] | images made from Debian's packages, as OCI layouts |
//! | [`registry`] | Debian's registry in a node, and a scripted one that lies |
//! | [`audit`] | what is there now and was not before |
//! | [`script`] | scripted failures, as `fake_cni` takes them |
//! | [`memory`] | PSS of a process |

pub mod audit;
pub mod cgroup;
pub mod cri;
pub mod crictl;
pub mod daemon;
pub mod image;
pub mod memory;
pub mod node;
pub mod paths;
pub mod pods;
pub mod process;
pub mod registry;
pub mod script;

pub use audit::Audit;
pub use daemon::Daemon;
pub use node::Node;
pub use registry::{Fault, Registry, Rule, ScriptedRegistry};

/// Says that a test cannot run here and why; the run's summary counts and shows it. The test returns
/// right after.
pub fn skip(test: &str, reason: &str) {
    use std::io::Write as _;
    eprintln!("skipped: {test}: {reason}");
    let Some(path) = std::env::var_os("LONGSHORE_SKIP_LOG") else {
        return;
    };
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{test}: {reason}")) {
        eprintln!("skip: {error}");
    }
}
