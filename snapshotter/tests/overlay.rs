//! The overlayfs implementation: the contract, and what is its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use longshore_snapshotter::contract::Tarball;
use longshore_snapshotter::{
    Compression, DiffId, OverlayConfig, OverlaySnapshotter, PrepareOptions, Snapshotter, mount,
};

fn open(root: &Path) -> OverlaySnapshotter {
    let dir = |name: &str| root.join(name);
    OverlaySnapshotter::open(OverlayConfig::new(
        dir("layers"),
        dir("staging"),
        dir("active"),
    ))
    .unwrap()
}

#[test]
fn smoke() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let tar = Tarball::new()
        .dir("etc/", 0o755)
        .file("etc/passwd", b"root:x:0:0\n")
        .end();
    let id = DiffId::of(&tar);
    assert_eq!(store.missing(&[id]).unwrap(), [id]);
    let layer = store
        .begin_layer(&id)
        .unwrap()
        .unpack(tar.as_slice(), Compression::Detect)
        .unwrap();
    let ids = store.commit(&[id], vec![layer]).unwrap();
    assert_eq!(store.missing(&[id]).unwrap(), []);
    assert_eq!(
        store.read_file(&ids, "/etc/passwd", 100).unwrap().unwrap(),
        b"root:x:0:0\n"
    );
    std::fs::create_dir(root.path().join("active/k")).unwrap();
    let key = "k".parse().unwrap();
    let overlay = store
        .prepare(&key, &ids, &PrepareOptions::default())
        .unwrap();
    let tree = mount::detached(&overlay).unwrap();
    use std::os::fd::AsRawFd;
    let at = format!("/proc/self/fd/{}/etc/passwd", tree.as_raw_fd());
    assert_eq!(std::fs::read(at).unwrap(), b"root:x:0:0\n");
    drop(tree);
    store.remove(&key).unwrap();
    assert_eq!(store.verify(&ids[0]).unwrap(), []);
}
