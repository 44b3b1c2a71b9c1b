//! The main job, end to end: images, pods, containers, through the daemon's
//! socket, in a node of the test's own.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::too_many_lines,
    reason = "a test's own functions may fail it"
)]

mod bad_input;
mod network;
mod session;

use longshore_kit::cri::Client;
use longshore_kit::image::{Image, Recipe};
use longshore_kit::{Audit, Daemon, Node};

/// A pod network for a test's node.
const BRIDGE: &str = "[cni]\nfallback = \"bridge\"\nfallback_bridge = \"ls0\"\n";

/// The name under which tests import busybox.
const BUSYBOX: &str = "example.test/busybox:1";

/// A daemon with busybox imported, and what was there before the first pod.
async fn daemon<'a>(node: &'a Node, config: &str) -> (Daemon<'a>, Client, Audit<'a>) {
    let daemon = Daemon::start(node, config).await.unwrap();
    let mut client = Client::new(&daemon.socket());
    let busybox = Image::ensure(Recipe::Busybox).unwrap();
    client.import(&busybox, BUSYBOX).await.unwrap();
    // The parent of the pods' cgroups is the test's, as it is kubelet's.
    node.cgroup_parent().unwrap();
    let audit = Audit::before(node).unwrap().allow("link: ls0");
    (daemon, client, audit)
}
