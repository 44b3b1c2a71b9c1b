use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::recipes::{LAYERS_ABSENT, LAYERS_EXPECTED, Packing};
use super::*;
use crate::Node;

/// Unpacks with umoci, which shares no code with us.
fn unpack(image: &Image, into: &Path) {
    let source = format!("{}:latest", image.layout().display());
    let mut umoci = Command::new("umoci");
    output(
        umoci
            .args(["unpack", "--image", &source])
            .arg(into.join("bundle")),
    )
    .unwrap();
}

#[test]
fn every_recipe_builds_and_its_name_finds_it() {
    let mut manifests = BTreeSet::new();
    for recipe in Recipe::ALL {
        assert_eq!(Recipe::by_name(recipe.name()), Some(recipe));
        let image = Image::ensure(recipe).unwrap();
        assert!(
            manifests.insert(image.descriptor().unwrap().digest),
            "{recipe:?} is another image"
        );
        let source = format!("oci:{}:latest", image.layout().display());
        let text = output(Command::new("skopeo").args(["inspect", &source])).unwrap();
        let inspected: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            inspected["Architecture"],
            layout::architecture(),
            "{recipe:?}"
        );
    }
}

#[test]
fn busybox_runs_from_its_layer_and_its_applets_are_hard_links() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::ensure(Recipe::Busybox).unwrap();
    unpack(&image, dir.path());
    let root = dir.path().join("bundle/rootfs");
    let busybox = root.join("bin/busybox").metadata().unwrap();
    assert!(busybox.nlink() > 200, "{} links", busybox.nlink());
    assert_eq!(root.join("bin/ls").metadata().unwrap().ino(), busybox.ino());
    let text = output(
        Command::new("chroot")
            .arg(&root)
            .args(["/bin/sh", "-c", "id -u; ls /"]),
    );
    assert!(text.unwrap().starts_with("0\nbin\n"));
}

#[test]
fn layers_end_up_as_declared() {
    let dir = tempfile::tempdir().unwrap();
    unpack(
        &Image::ensure(Recipe::Layers(Packing::Gzip)).unwrap(),
        dir.path(),
    );
    let root = dir.path().join("bundle/rootfs");
    for (path, text) in LAYERS_EXPECTED {
        assert_eq!(fs::read_to_string(root.join(path)).unwrap(), text, "{path}");
    }
    for path in LAYERS_ABSENT {
        assert!(
            root.join(path).symlink_metadata().is_err(),
            "{path} is there"
        );
    }
    let inode = |path: &str| root.join(path).metadata().unwrap().ino();
    assert_eq!(inode("data/link-a"), inode("data/link-across"));
    let implied = root.join("data/implied").metadata().unwrap();
    assert_eq!(
        (implied.mode() & 0o7777, implied.uid(), implied.gid()),
        (0o700, 5, 6)
    );
}

#[test]
fn the_packings_differ_in_blobs_and_agree_in_layers() {
    let packings = [Packing::Gzip, Packing::Zstd, Packing::Plain, Packing::Mixed];
    let mut manifests = BTreeSet::new();
    let mut diff_ids = BTreeSet::new();
    for packing in packings {
        let image = Image::ensure(Recipe::Layers(packing)).unwrap();
        manifests.insert(image.descriptor().unwrap().digest);
        let config = layout::blob_path(image.layout(), &image.id().unwrap()).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
        diff_ids.insert(config["rootfs"]["diff_ids"].to_string());
    }
    assert_eq!((manifests.len(), diff_ids.len()), (4, 1));
}

#[test]
fn building_twice_gives_the_same_bytes() {
    let image = Image::ensure(Recipe::Busybox).unwrap();
    let dir = tempfile::tempdir().unwrap();
    Recipe::Busybox.build(dir.path()).unwrap();
    assert_eq!(
        layout::root_descriptor(dir.path()).unwrap(),
        image.descriptor().unwrap()
    );
}

#[test]
fn nginx_answers_as_root_on_80_and_as_anyone_on_8080() {
    let node = Node::new().unwrap();
    unpack(&Image::ensure(Recipe::Nginx).unwrap(), node.dir());
    let root = node.dir().join("bundle/rootfs");
    // A runtime gives a container its devices; here the machine's are lent.
    output(
        node.command("mount")
            .args(["--rbind", "/dev"])
            .arg(root.join("dev")),
    )
    .unwrap();
    output(
        node.command("mount")
            .args(["-t", "proc", "proc"])
            .arg(root.join("proc")),
    )
    .unwrap();
    let start = |flags: &[&str], arguments: &[&str], log: &str| {
        let mut command = node.command("chroot");
        command.args(flags).arg(&root).arg("nginx").args(arguments);
        crate::process::Process::spawn(command, &node.dir().join("logs").join(log)).unwrap()
    };
    let mut privileged = start(&[], &[], "privileged");
    let page = crate::registry::http_get(&node, &mut privileged, 80, "/").unwrap();
    assert!(page.ends_with("longshore test page\n"), "{page}");
    drop(privileged);
    fs::remove_file(root.join("tmp/nginx.pid")).ok();
    let leftovers = ["body", "proxy", "fastcgi", "uwsgi", "scgi"];
    for dir in leftovers {
        fs::remove_dir_all(root.join("tmp").join(dir)).unwrap();
    }
    // nginx reopens /dev/stdout, which a runtime gives to the container's user.
    let log = node.dir().join("logs/anyone");
    fs::write(&log, "").unwrap();
    std::os::unix::fs::chown(&log, Some(4321), Some(4321)).unwrap();
    let flags = ["-c", "/etc/nginx/unprivileged.conf", "-e", "/dev/null"];
    let mut anyone = start(&["--userspec=4321:4321"], &flags, "anyone");
    let page = crate::registry::http_get(&node, &mut anyone, 8080, "/").unwrap();
    assert!(page.ends_with("longshore test page\n"), "{page}");
}

#[test]
fn archives_hold_the_image() {
    let image = Image::ensure(Recipe::Busybox).unwrap();
    let docker = image.docker_archive().unwrap();
    let names = output(Command::new("tar").arg("-tf").arg(&docker)).unwrap();
    assert!(names.contains("manifest.json"), "{names}");
    let oci = image.layout_archive().unwrap();
    let names = output(Command::new("tar").arg("-tf").arg(&oci)).unwrap();
    assert!(
        names.contains("oci-layout") && names.contains("index.json"),
        "{names}"
    );
}

#[test]
fn long_and_odd_names_survive_gnu_tar() {
    let long = format!("{}/file", "d".repeat(150));
    let mut tar = TarBuilder::new();
    tar.extend(&[
        Entry::file(&long, "deep"),
        Entry::file(b"not-utf8-\xff", "x")
            .owner(0o1000, 7)
            .mode(0o4711),
        Entry::symlink("link", &"t".repeat(120)),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a.tar");
    fs::write(&archive, tar.finish()).unwrap();
    output(
        Command::new("tar")
            .arg("-C")
            .arg(dir.path())
            .arg("-xpf")
            .arg(&archive),
    )
    .unwrap();
    assert_eq!(fs::read_to_string(dir.path().join(long)).unwrap(), "deep");
    assert_eq!(
        fs::read_link(dir.path().join("link"))
            .unwrap()
            .as_os_str()
            .len(),
        120
    );
    let odd = dir
        .path()
        .join(OsStr::from_bytes(b"not-utf8-\xff"))
        .metadata()
        .unwrap();
    assert_eq!(
        (odd.mode() & 0o7777, odd.uid(), odd.gid()),
        (0o4711, 0o1000, 7)
    );
}
