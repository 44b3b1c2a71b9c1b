//! Tars that try to get out of their layer, or to confuse what is in it.
#![expect(clippy::too_many_lines, reason = "the functions are tables")]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Head, Tarball};

/// What must come of a tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An error, and nothing stays.
    Refused,
    /// A layer, and nothing outside of it.
    Contained,
}

/// One hostile tar.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it tries.
    pub name: &'static str,
    /// The tar, uncompressed.
    pub tar: Vec<u8>,
    /// What must come of it.
    pub outcome: Outcome,
}

/// A layer for the cases to sit on: a file to link to and a link to `canary`.
#[must_use]
pub fn base(canary: &Path) -> Vec<u8> {
    let outside = canary.as_os_str().as_bytes();
    let tar = Tarball::new()
        .dir("victim/", 0o755)
        .file("victim/file", b"lower");
    long_symlink(tar, "out", outside).end()
}

/// A link whose target may be longer than a header takes.
fn long_symlink(tar: Tarball, name: &str, target: &[u8]) -> Tarball {
    tar.pax(&[("linkpath", target)]).symlink(name, "")
}

fn long_hardlink(tar: Tarball, name: &str, target: &[u8]) -> Tarball {
    tar.pax(&[("linkpath", target)]).hardlink(name, "")
}

/// The corpus. `canary` is an existing directory outside of the store that holds `file` and
/// `dir/file`; the tars aim at it by its absolute path and by relative ones.
#[must_use]
pub fn malicious(canary: &Path) -> Vec<Case> {
    let refused = |name, tar: Tarball| Case {
        name,
        tar: tar.end(),
        outcome: Outcome::Refused,
    };
    let contained = |name, tar: Tarball| Case {
        name,
        tar: tar.end(),
        outcome: Outcome::Contained,
    };
    let outside = canary.as_os_str().as_bytes();
    let (mut cases, links) = (names(outside), links(outside));
    cases.extend(links);
    cases.extend(hard_links(outside));
    cases.extend(whiteouts(outside));
    cases.extend([
        refused(
            "overlay redirect attribute",
            Tarball::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/victim")])
                .dir("d/", 0o755),
        ),
        refused(
            "overlay user attribute, libarchive form",
            Tarball::new()
                .pax(&[("LIBARCHIVE.xattr.user.overlay%2eopaque", b"eQ")])
                .dir("d/", 0o755),
        ),
        refused(
            "overlay metacopy attribute on a file",
            Tarball::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.metacopy", b"")])
                .file("f", b"x"),
        ),
        contained(
            "attribute on a link to the canary",
            Tarball::new()
                .pax(&[
                    ("SCHILY.xattr.trusted.seen", b"x"),
                    ("linkpath", &[outside, b"/file"].concat()),
                ])
                .symlink("l", ""),
        ),
        refused(
            "device number out of range",
            Tarball::new().node("d", b'4', (0o777_7777, 1)),
        ),
        contained(
            "block device of the disk",
            Tarball::new().node("d", b'4', (8, 0)),
        ),
        refused(
            "owner -1",
            Tarball::new().pax(&[("uid", b"4294967295")]).file("f", b""),
        ),
        refused(
            "sparse parts beyond the end",
            Tarball::new()
                .pax(&[
                    ("GNU.sparse.size", b"10"),
                    ("GNU.sparse.map", b"18446744073709551615,1"),
                ])
                .file("f", b"x"),
        ),
        refused(
            "sparse parts that overlap",
            Tarball::new()
                .pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"0,2,1,2")])
                .file("f", b"xxxx"),
        ),
        refused(
            "pax header of 2 MiB",
            Tarball::new().extension(b'x', &vec![b'a'; 2 << 20]),
        ),
        refused(
            "sparse map of 2 MiB",
            Tarball::new()
                .pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"1"),
                ])
                .file(
                    "f",
                    format!("1000000\n{}", "0\n".repeat(1 << 20)).as_bytes(),
                ),
        ),
    ]);
    cases
}

fn names(outside: &[u8]) -> Vec<Case> {
    let refused = |name, tar: Tarball| Case {
        name,
        tar: tar.end(),
        outcome: Outcome::Refused,
    };
    let contained = |name, tar: Tarball| Case {
        name,
        tar: tar.end(),
        outcome: Outcome::Contained,
    };
    let escaped = [outside, b"/escaped"].concat();
    vec![
        refused("dot-dot file", Tarball::new().file("../escaped", b"x")),
        refused(
            "dot-dot after a directory",
            Tarball::new()
                .dir("a/", 0o755)
                .file("a/../../escaped", b"x"),
        ),
        refused(
            "dot-dot after a slash",
            Tarball::new().file("/../../../escaped", b"x"),
        ),
        refused("dot-dot alone", Tarball::new().dir("..", 0o777)),
        refused(
            "dot-dot in a pax path",
            Tarball::new()
                .pax(&[("path", b"a/../../escaped")])
                .file("a", b"x"),
        ),
        refused(
            "dot-dot in a long name",
            Tarball::new()
                .extension(b'L', b"../escaped\0")
                .file("a", b"x"),
        ),
        refused(
            "dot-dot in a sparse name",
            Tarball::new()
                .pax(&[
                    ("GNU.sparse.name", b"../escaped"),
                    ("GNU.sparse.size", b"1"),
                    ("GNU.sparse.map", b"0,1"),
                ])
                .file("a", b"x"),
        ),
        refused(
            "NUL in a pax path",
            Tarball::new()
                .pax(&[("path", b"a\0/../../escaped")])
                .file("a", b"x"),
        ),
        refused(
            "a path of 1 MB",
            Tarball::new()
                .pax(&[("path", &b"d/".repeat(500_000))])
                .file("a", b"x"),
        ),
        refused(
            "a component of 256 bytes",
            Tarball::new()
                .pax(&[("path", &[b'n'; 256])])
                .file("a", b"x"),
        ),
        contained(
            "2000 directories deep",
            Tarball::new()
                .pax(&[("path", &b"d/".repeat(2000))])
                .dir("a", 0o755),
        ),
        contained(
            "absolute name",
            Tarball::new().pax(&[("path", &escaped)]).file("a", b"x"),
        ),
        contained(
            "backslashes and line ends",
            Tarball::new().file("..\\escaped\n..", b"x"),
        ),
        refused(
            "the root as a link",
            Tarball::new()
                .pax(&[("linkpath", outside)])
                .symlink("./", ""),
        ),
        refused("the root as a file", Tarball::new().file(".", b"x")),
    ]
}

fn links(outside: &[u8]) -> Vec<Case> {
    let case = |name, outcome, tar: Tarball| Case {
        name,
        tar: tar.end(),
        outcome,
    };
    let (refused, contained) = (Outcome::Refused, Outcome::Contained);
    let to = |target: &[u8]| long_symlink(Tarball::new(), "s", target);
    let up = b"../".repeat(40);
    let below = |path: &[u8]| [outside, path].concat();
    vec![
        case(
            "file through an absolute link",
            contained,
            to(outside).file("s/escaped", b"x"),
        ),
        case(
            "file in a directory through an absolute link",
            contained,
            to(outside).file("s/dir/escaped", b"x"),
        ),
        case(
            "file over a file through an absolute link",
            contained,
            to(outside).file("s/dir/file", b"overwritten"),
        ),
        case(
            "file through a relative link",
            contained,
            to(&[&up, outside].concat()).file("s/escaped", b"x"),
        ),
        case(
            "file through a link to ..",
            contained,
            to(b"..").file("s/escaped", b"x"),
        ),
        case(
            "file through a chain of links",
            contained,
            long_symlink(
                Tarball::new().symlink("s", "t").symlink("t", "u"),
                "u",
                outside,
            )
            .file("s/escaped", b"x"),
        ),
        case(
            "file through a dangling link",
            contained,
            to(&below(b"/new/dir")).file("s/escaped", b"x"),
        ),
        case(
            "file through a magic link",
            contained,
            to(&[b"/proc/self/root", outside].concat()).file("s/escaped", b"x"),
        ),
        case(
            "file through the working directory",
            contained,
            to(b"/proc/self/cwd").file("s/escaped", b"x"),
        ),
        case(
            "file in the place of a link",
            contained,
            to(&below(b"/file")).file("s", b"overwritten"),
        ),
        case(
            "setuid file in the place of a link",
            contained,
            to(&below(b"/file")).head(&Head {
                mode: 0o4777,
                ..Head::new("s", b'0')
            }),
        ),
        case(
            "directory in the place of a link",
            contained,
            to(&below(b"/dir")).dir("s/", 0o777),
        ),
        case(
            "directory in the place of a link, with a dot",
            contained,
            to(&below(b"/dir")).dir("s/.", 0o777),
        ),
        case(
            "link in the place of a directory",
            contained,
            long_symlink(
                Tarball::new().dir("s/", 0o755).file("s/file", b"x"),
                "s",
                outside,
            )
            .file("s/file", b"overwritten")
            .file("s/dir/file", b"overwritten"),
        ),
        case(
            "times and mode of a directory that became a link",
            contained,
            long_symlink(Tarball::new().dir("s/", 0o777), "s", &below(b"/dir")),
        ),
        case(
            "fifo and device through a link",
            contained,
            to(outside)
                .node("s/fifo", b'6', (0, 0))
                .node("s/null", b'3', (1, 3)),
        ),
        case(
            "link through a link",
            contained,
            long_symlink(to(outside), "s/escaped", outside),
        ),
        case(
            "links in a circle",
            refused,
            Tarball::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/escaped", b"x"),
        ),
        case(
            "a link to itself",
            refused,
            Tarball::new().symlink("a", "a/a").file("a/escaped", b"x"),
        ),
        case(
            "file below a file",
            refused,
            Tarball::new().file("f", b"x").file("f/escaped", b"x"),
        ),
        case(
            "file through a device",
            refused,
            Tarball::new()
                .node("f", b'3', (1, 3))
                .file("f/escaped", b"x"),
        ),
    ]
}

fn hard_links(outside: &[u8]) -> Vec<Case> {
    let case = |name, outcome, tar: Tarball| Case {
        name,
        tar: tar.end(),
        outcome,
    };
    let (refused, contained) = (Outcome::Refused, Outcome::Contained);
    let file = [outside, b"/file"].concat();
    let to = |target: &[u8]| long_hardlink(Tarball::new(), "h", target);
    vec![
        case("hard link to an absolute name", refused, to(&file)),
        case(
            "hard link to an absolute name, then written",
            contained,
            to(&file).file("h", b"overwritten"),
        ),
        case(
            "hard link to dot-dot",
            refused,
            to(&[b"../".repeat(40), file.clone()].concat()),
        ),
        case(
            "hard link through a link",
            refused,
            long_hardlink(long_symlink(Tarball::new(), "s", outside), "h", b"s/file"),
        ),
        case("hard link through a link below", refused, to(b"out/file")),
        case(
            "hard link to a link, then written",
            contained,
            long_symlink(Tarball::new(), "s", &file)
                .hardlink("h", "s")
                .file("h", b"overwritten"),
        ),
        case(
            "hard link into a link",
            contained,
            long_symlink(Tarball::new(), "s", outside)
                .file("own", b"x")
                .hardlink("s/escaped", "own"),
        ),
        case(
            "hard link to a directory",
            refused,
            Tarball::new().dir("d/", 0o755).hardlink("h", "d"),
        ),
        case("hard link to a directory below", refused, to(b"victim")),
        case("hard link to the root", refused, to(b"/")),
        case(
            "hard link over the directory of its target",
            refused,
            Tarball::new().file("d/f", b"x").hardlink("d", "d/f"),
        ),
        case("hard link to a file below", contained, to(b"victim/file")),
        case(
            "hard link to a file below, then written",
            contained,
            to(b"victim/file").file("h", b"overwritten"),
        ),
        case("hard link to a link below", contained, to(b"out")),
        case(
            "hard links to each other",
            refused,
            Tarball::new().hardlink("a", "b").hardlink("b", "a"),
        ),
        case(
            "hard link to a whiteout",
            refused,
            Tarball::new()
                .file("victim/.wh.file", b"")
                .hardlink("h", "victim/file"),
        ),
    ]
}

fn whiteouts(outside: &[u8]) -> Vec<Case> {
    let case = |name, outcome, tar: Tarball| Case {
        name,
        tar: tar.end(),
        outcome,
    };
    let (refused, contained) = (Outcome::Refused, Outcome::Contained);
    let link = || long_symlink(Tarball::new(), "s", outside);
    vec![
        case(
            "whiteout through a link",
            contained,
            link().file("s/.wh.file", b""),
        ),
        case(
            "opaque directory through a link",
            contained,
            link().file("s/.wh..wh..opq", b""),
        ),
        case(
            "whiteout of ..",
            refused,
            Tarball::new().file("a/.wh...", b""),
        ),
        case(
            "whiteout of .",
            refused,
            Tarball::new().file("a/.wh..", b""),
        ),
        case(
            "whiteout of nothing",
            refused,
            Tarball::new().file("a/.wh.", b""),
        ),
        case(
            "file below a whiteout",
            refused,
            Tarball::new().file("a/.wh.b/escaped", b"x"),
        ),
        case(
            "device 0:0 as a directory",
            contained,
            Tarball::new()
                .node("victim", b'3', (0, 0))
                .file("victim/new", b"x"),
        ),
        case(
            "hard link to a whiteout's name",
            refused,
            Tarball::new().file("f", b"").hardlink("h", ".wh.f"),
        ),
    ]
}
