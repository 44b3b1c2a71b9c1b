//! The overlayfs implementation: the contract, and what is its own.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use longshore_snapshotter::contract::{Bench, CHECKS, Tarball};
use longshore_snapshotter::{
    Compression, Damage, DiffId, OverlayConfig, OverlayProbe, OverlaySnapshotter, PrepareOptions,
    SnapshotError, SnapshotKey, Snapshotter, mount, probe,
};

/// Mounting, devices and files of root need root; answers whether to go on, and says why not.
fn root_or_skip(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("{test}: skipped, mounting, devices and files of root need root");
    }
    root
}

fn open_with(root: &Path, userxattr: bool) -> OverlaySnapshotter {
    let dir = |name: &str| root.join(name);
    let mut config = OverlayConfig::new(dir("layers"), dir("staging"), dir("active"));
    config.userxattr = userxattr;
    OverlaySnapshotter::open(config).unwrap()
}

fn open(root: &Path) -> OverlaySnapshotter {
    open_with(root, false)
}

fn image(store: &OverlaySnapshotter, tar: &[u8]) -> longshore_snapshotter::LayerId {
    let id = DiffId::of(tar);
    let layer = store
        .begin_layer(&id)
        .unwrap()
        .unpack(tar, Compression::Detect)
        .unwrap();
    store.commit(&[id], vec![layer]).unwrap()[0]
}

fn contract(userxattr: bool) {
    let mut failures = Vec::new();
    for (name, check) in CHECKS {
        let root = tempfile::tempdir().unwrap();
        let store = open_with(root.path(), userxattr);
        let home =
            |key: &SnapshotKey| std::fs::create_dir(root.path().join("active").join(key.as_str()));
        let result = check(&Bench {
            store: &store,
            home: &home,
        });
        if let Err(failure) = result {
            failures.push(format!("{name}: {failure}: {failure:?}"));
        }
        let left: Vec<_> = std::fs::read_dir(root.path().join("staging"))
            .unwrap()
            .collect();
        if !left.is_empty() {
            failures.push(format!("{name}: left in staging: {left:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("contract: {} checks, userxattr {userxattr}", CHECKS.len());
}

#[test]
fn keeps_the_contract() {
    if root_or_skip("keeps_the_contract") {
        contract(false);
    }
}

#[test]
fn keeps_the_contract_with_user_attributes() {
    if root_or_skip("keeps_the_contract_with_user_attributes") {
        contract(true);
    }
}

/// Set in the process that runs in a user namespace.
const INSIDE: &str = "SNAPSHOTTER_IN_USER_NAMESPACE";

/// The contract again, by a process that is root only in a user namespace of its own.
#[test]
fn keeps_the_contract_in_a_user_namespace() {
    if std::env::var_os(INSIDE).is_some() {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        assert!(
            !map.contains("4294967295"),
            "this is the initial user namespace: {map}"
        );
        return contract(true);
    }
    if !root_or_skip("keeps_the_contract_in_a_user_namespace") {
        return;
    }
    let mut child = Command::new("unshare")
        .args([
            "--user",
            "--mount",
            "sh",
            "-c",
            "echo ready; read go; exec \"$@\"",
            "sh",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "keeps_the_contract_in_a_user_namespace",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    text.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{map}", child.id()), "0 0 400000").unwrap();
    }
    // It becomes root of its namespace by the exec that follows.
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut rest = String::new();
    text.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
    assert!(rest.contains("contract: "), "it did not run: {rest}");
    println!(
        "in a user namespace: {}",
        rest.lines()
            .find(|line| line.contains("contract: "))
            .unwrap()
    );
}

#[test]
fn this_kernel_has_everything() {
    if !root_or_skip("this_kernel_has_everything") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let found = probe(root.path()).unwrap();
    let all = OverlayProbe {
        overlay: true,
        lowerdir_append: true,
        volatile: true,
        userxattr: true,
    };
    assert_eq!(found, all);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    if !root_or_skip("modes_do_not_depend_on_the_umask") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let id = image(&store, &Tarball::new().file("a/f", b"x").end());
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().mode() & 0o7777;
    let layer = root.path().join("layers").join(id.hex());
    assert_eq!(mode(layer.join("fs")), 0o755, "the layer's root");
    assert_eq!(mode(layer.join("fs/a")), 0o755, "an implied directory");
    assert_eq!(mode(layer), 0o711, "the layer's directory");
    assert_eq!(mode(root.path().join("layers")), 0o711);
    assert_eq!(mode(root.path().join("staging")), 0o700);
}

#[test]
fn damage_is_found() {
    if !root_or_skip("damage_is_found") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let sparse = [
        ("GNU.sparse.size", &b"1000000"[..]),
        ("GNU.sparse.map", b"500000,4"),
    ];
    let tar = Tarball::new()
        .file("same", b"12345")
        .file("shorter", b"12345")
        .file("other", b"12345")
        .file("gone", b"12345")
        .pax(&sparse)
        .file("sparse", b"hole")
        .end();
    let id = image(&store, &tar);
    assert_eq!(store.verify(&id).unwrap(), []);
    let fs = root.path().join("layers").join(id.hex()).join("fs");
    assert_eq!(
        std::fs::metadata(fs.join("sparse")).unwrap().len(),
        1_000_000
    );
    std::fs::write(fs.join("shorter"), "123").unwrap();
    std::fs::write(fs.join("other"), "12346").unwrap();
    std::fs::remove_file(fs.join("gone")).unwrap();
    std::fs::write(fs.join("more"), "").unwrap();
    std::fs::write(fs.join("and more"), "").unwrap();
    let mut found = store.verify(&id).unwrap();
    found.sort_by_key(ToString::to_string);
    let expected = [
        Damage::Names(5, 6),
        Damage::Missing("gone".into()),
        Damage::Size("shorter".into(), 5, 3),
        Damage::Content("other".into()),
    ];
    for damage in &expected {
        assert!(found.contains(damage), "{damage} not in {found:?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:?}");
}

#[test]
fn a_sweep_takes_what_an_earlier_run_left() {
    if !root_or_skip("a_sweep_takes_what_an_earlier_run_left") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let tar = Tarball::new().file("f", b"x").end();
    let earlier = open(root.path());
    let begun = earlier.begin_layer(&DiffId::of(&tar)).unwrap();
    std::mem::forget(begun);
    let staging = root.path().join("staging");
    std::fs::write(staging.join("download-1"), "not ours").unwrap();

    let store = open(root.path());
    let mine = store.begin_layer(&DiffId::of(&tar)).unwrap();
    assert_eq!(store.sweep().unwrap(), 1);
    assert_eq!(store.sweep().unwrap(), 0);
    mine.unpack(tar.as_slice(), Compression::Detect).unwrap();
    let left: Vec<_> = std::fs::read_dir(&staging)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["download-1"]);
}

#[test]
fn a_newer_record_is_reported() {
    if !root_or_skip("a_newer_record_is_reported") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let id = image(&open(root.path()), &Tarball::new().file("f", b"x").end());
    let path = root.path().join("layers").join(id.hex()).join("layer.json");
    let json = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, json.replace("\"version\":1", "\"version\":2")).unwrap();
    let store = open(root.path());
    assert!(matches!(
        store.layer(&id),
        Err(SnapshotError::Record { .. })
    ));
    assert_eq!(store.layers().unwrap(), [id]);
}

/// What a container can leave behind: a tree deeper than any path, immutable files, odd modes.
#[test]
fn any_upper_is_removed() {
    if !root_or_skip("any_upper_is_removed") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let id = image(&store, &Tarball::new().file("f", b"x").end());
    let key: SnapshotKey = "k".parse().unwrap();
    let home = root.path().join("active/k");
    std::fs::create_dir(&home).unwrap();
    let overlay = store
        .prepare(&key, &[id], &PrepareOptions::default())
        .unwrap();
    let upper = overlay.upper.clone().unwrap();
    // The mount makes work/work with mode 0.
    drop(mount::detached(&overlay).unwrap());

    use rustix::fs::{IFlags, Mode, OFlags};
    let mut at =
        rustix::fs::open(&upper, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    for _ in 0..5000 {
        rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
        at = rustix::fs::openat(
            &at,
            "deep",
            OFlags::DIRECTORY | OFlags::RDONLY,
            Mode::empty(),
        )
        .unwrap();
    }
    rustix::fs::mknodat(
        &at,
        "null",
        rustix::fs::FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .unwrap();
    let shut = upper.join("shut");
    std::fs::create_dir(&shut).unwrap();
    std::fs::write(shut.join("immutable"), "").unwrap();
    for path in [shut.join("immutable"), shut.clone()] {
        let fd = rustix::fs::open(&path, OFlags::RDONLY, Mode::empty()).unwrap();
        match rustix::fs::ioctl_setflags(&fd, IFlags::IMMUTABLE) {
            Ok(()) => assert!(std::fs::remove_file(shut.join("immutable")).is_err()),
            Err(errno) => println!("no immutable files here: {errno}"),
        }
    }
    std::fs::create_dir(upper.join("closed")).unwrap();
    std::fs::set_permissions(upper.join("closed"), PermissionsExt::from_mode(0o000)).unwrap();

    assert_eq!(store.usage(&key).unwrap().inodes, 1 + 5001 + 2 + 1);
    store.remove(&key).unwrap();
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0);
}

#[test]
fn a_prepare_without_a_home_leaves_nothing() {
    if !root_or_skip("a_prepare_without_a_home_leaves_nothing") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let id = image(&store, &Tarball::new().file("f", b"x").end());
    let key: SnapshotKey = "k".parse().unwrap();
    let error = store
        .prepare(&key, &[id], &PrepareOptions::default())
        .unwrap_err();
    assert!(matches!(error, SnapshotError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("active/k/upper"), "{error}");
    assert_eq!(store.snapshot(&key).unwrap(), None);
}

/// The fallback for kernels before 6.8, and attaching at all. Nothing is asserted while the mount
/// is there, so that a failure leaves none.
#[test]
fn both_ways_to_mount() {
    if !root_or_skip("both_ways_to_mount") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let tars: Vec<_> = (0..100)
        .map(|n| Tarball::new().file(format!("f{n}"), b"x").end())
        .collect();
    let layers: Vec<_> = tars.iter().map(|tar| image(&store, tar)).collect();
    std::fs::create_dir(root.path().join("active/k")).unwrap();
    let overlay = store
        .prepare(&"k".parse().unwrap(), &layers, &PrepareOptions::default())
        .unwrap();
    let target = root.path().join("target");
    std::fs::create_dir(&target).unwrap();
    type Mount = fn(&longshore_snapshotter::OverlayMount, &Path) -> Result<(), mount::MountError>;
    for way in [mount::mount as Mount, mount::mount_by_string] {
        way(&overlay, &target).unwrap();
        let files = std::fs::read_dir(&target).map(Iterator::count);
        let written = std::fs::write(target.join("new"), "");
        mount::unmount(&target).unwrap();
        assert_eq!(files.unwrap(), 100);
        written.unwrap();
        std::fs::remove_file(overlay.upper.as_ref().unwrap().join("new")).unwrap();
    }
    assert!(
        mount::unmount(&target).is_err(),
        "nothing is mounted any more"
    );
}
