//! Layers that mean something else on other parents.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::bench::{Bench, Failure, dir, ensure, equal, file, of};
use super::{Head, Tarball};
use crate::unpack::{Refusal, UnpackError};
use crate::{DiffId, LayerId, SnapshotError};

fn special() -> Vec<u8> {
    let head = Head {
        mode: 0o1777,
        uid: 3,
        gid: 4,
        ..Head::new("a/b/", b'5')
    };
    Tarball::new()
        .dir("a/", 0o755)
        .pax(&[("SCHILY.xattr.user.mark", b"below")])
        .head(&head)
        .file("a/b/lower", b"1")
        .file("plain", b"1")
        .end()
}

fn implying() -> Vec<u8> {
    Tarball::new().file("a/b/c/upper", b"2").end()
}

pub(super) fn implied_directories(bench: &Bench<'_>) -> Result<(), Failure> {
    let layers = bench.image(&[special(), implying()])?;
    let shared = LayerId::shared(&DiffId::of(&implying()));
    ensure(
        "a leaning layer has its chain's id",
        !layers.contains(&shared),
    )?;
    equal("the shared layer", &bench.store.layer(&shared)?, &None)?;
    let expected = of(&[
        ("", dir(0o755, "0:0")),
        ("a", dir(0o755, "0:0")),
        ("a/b", dir(0o1777, "3:4")),
        ("a/b/lower", file("1")),
        ("a/b/c", dir(0o755, "0:0")),
        ("a/b/c/upper", file("2")),
        ("plain", file("1")),
    ]);
    equal("the merged tree", &bench.tree(&layers)?, &expected)?;
    let (_, mounted) = bench.prepare("implied", &layers)?;
    let mut value = [0_u8; 16];
    let len = rustix::fs::getxattr(mounted.path("a/b"), "user.mark", &mut value[..])?;
    equal(
        "its attribute",
        &value.get(..len),
        &Some(b"below".as_slice()),
    )?;
    let again = bench
        .store
        .commit(&[DiffId::of(&special()), DiffId::of(&implying())], vec![])?;
    equal("the image again", &again, &layers)?;
    for layer in &layers {
        equal("damage", &bench.store.verify(layer)?, &vec![])?;
    }
    Ok(())
}

pub(super) fn fitted_from_the_store(bench: &Bench<'_>) -> Result<(), Failure> {
    let alone = bench.image(&[implying()])?;
    let before = bench.tree(&alone)?;
    bench.image(&[special()])?;
    let image = [DiffId::of(&special()), DiffId::of(&implying())];
    equal("missing", &bench.store.missing(&image)?, &vec![])?;
    let layers = bench.store.commit(&image, vec![])?;
    let tree = bench.tree(&layers)?;
    equal(
        "the directory",
        &tree.get(Path::new("a/b")),
        &Some(&dir(0o1777, "3:4")),
    )?;
    equal("the shared layer", &bench.tree(&alone)?, &before)?;
    // On parents that say nothing special it is the shared one.
    let plain = Tarball::new().dir("a/", 0o755).file("x", b"").end();
    let on_plain = bench.image(&[plain, implying()])?;
    equal("on plain parents", &on_plain.last(), &alone.last())
}

pub(super) fn hard_links_below(bench: &Bench<'_>) -> Result<(), Failure> {
    let upper = Tarball::new()
        .hardlink("first", "a/b/lower")
        .hardlink("second", "/a/b/lower")
        .hardlink("third", "first")
        .hardlink("replaced", "plain")
        .file("replaced", b"own")
        .end();
    let layers = bench.image(&[special(), upper.clone()])?;
    let (_, mounted) = bench.prepare("links", &layers)?;
    let inode = |name: &str| Ok::<_, Failure>(std::fs::metadata(mounted.path(name))?.ino());
    for (name, content) in [
        ("first", "1"),
        ("second", "1"),
        ("third", "1"),
        ("replaced", "own"),
    ] {
        equal(
            name,
            &std::fs::read_to_string(mounted.path(name))?.as_str(),
            &content,
        )?;
    }
    equal("one file", &inode("first")?, &inode("second")?)?;
    equal("one file", &inode("first")?, &inode("third")?)?;
    for layer in &layers {
        equal("damage", &bench.store.verify(layer)?, &vec![])?;
    }
    let Err(failure) = bench.image(&[upper]) else {
        return Err("a link to nowhere".into());
    };
    let error = failure.downcast::<SnapshotError>()?;
    let SnapshotError::Resolve {
        source:
            UnpackError::Refused {
                reason: Refusal::NoTarget(target),
                ..
            },
        ..
    } = *error
    else {
        return Err(error);
    };
    equal("the target", &target, &"a/b/lower".into())
}

pub(super) fn opaque_root(bench: &Bench<'_>) -> Result<(), Failure> {
    let upper = Tarball::new()
        .file(".wh..wh..opq", b"")
        .dir("a/", 0o755)
        .file("a/upper", b"2")
        .end();
    let alone = bench.image(std::slice::from_ref(&upper))?;
    let layers = bench.image(&[special(), upper])?;
    equal(
        "the merged tree",
        &bench.tree(&layers)?,
        &bench.tree(&alone)?,
    )?;
    ensure("fitted", layers.last() != alone.last())
}

pub(super) fn implied_in_opaque(bench: &Bench<'_>) -> Result<(), Failure> {
    let upper = Tarball::new()
        .file("a/.wh..wh..opq", b"")
        .file("a/b/upper", b"2")
        .end();
    let layers = bench.image(&[special(), upper])?;
    let expected = of(&[
        ("", dir(0o755, "0:0")),
        ("a", dir(0o755, "0:0")),
        ("a/b", dir(0o755, "0:0")),
        ("a/b/upper", file("2")),
        ("plain", file("1")),
    ]);
    equal("the merged tree", &bench.tree(&layers)?, &expected)
}
