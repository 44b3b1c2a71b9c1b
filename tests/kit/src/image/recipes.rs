//! The images.
//!
//! | name | what |
//! |---|---|
//! | `busybox` | Debian's dynamic busybox and its libc, applets as hard links |
//! | `nginx` | nginx on port 80; `-c /etc/nginx/unprivileged.conf` on 8080 for any user |
//! | `users-*` | busybox with a `USER` of each form and supplementary groups |
//! | `layers-*` | whiteouts, opaque directories, hard links across layers; one per compression |
//! | `two-platforms` | an index: this machine's platform is real, the other one only declared |
//! | `stamp` | writes the time of its first instruction, see `tests/images/stamp.rs` |
//! | `pause` | sleeps; the sandbox container of runtimes that want one |
//!
//! The applets are hard links because critest masks `/bin/ls`-like paths, which a symlink evades, and
//! the busybox is dynamic because Debian's static one runs its own applets inside `sh`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::layout::{Compression, Config, Layer, Layout, architecture, sha256};
use super::tar::{Entry, Kind, entries_of};
use super::{deb, program};
use crate::process::output;

/// Part of every key: raise it when the code below makes other bytes of the same recipe.
const VERSION: u32 = 1;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image that the kit can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recipe {
    /// A shell and its tools.
    Busybox,
    /// A web server.
    Nginx,
    /// Busybox as a user.
    Users(User),
    /// Three layers that depend on each other.
    Layers(Packing),
    /// An index of amd64 and arm64.
    TwoPlatforms,
    /// The clock program of the benchmark.
    Stamp,
    /// A program that sleeps.
    Pause,
}

/// The forms of an image's `User`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum User {
    /// `1234`, which `/etc/passwd` does not know.
    Number,
    /// `app`: 1000:1000, also in the groups audio (29) and extra (2000).
    Name,
    /// `app:extra`.
    NameAndGroup,
    /// `1000:2000`.
    NumberAndGroup,
    /// `ghost`, which does not exist.
    Unknown,
}

/// How the layers of [`Recipe::Layers`] are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// All gzip.
    Gzip,
    /// All zstd.
    Zstd,
    /// None at all.
    Plain,
    /// One of each.
    Mixed,
}

impl Recipe {
    /// Every recipe.
    pub const ALL: [Self; 14] = [
        Self::Busybox,
        Self::Nginx,
        Self::Users(User::Number),
        Self::Users(User::Name),
        Self::Users(User::NameAndGroup),
        Self::Users(User::NumberAndGroup),
        Self::Users(User::Unknown),
        Self::Layers(Packing::Gzip),
        Self::Layers(Packing::Zstd),
        Self::Layers(Packing::Plain),
        Self::Layers(Packing::Mixed),
        Self::TwoPlatforms,
        Self::Stamp,
        Self::Pause,
    ];

    /// Its name, good as a repository name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Busybox => "busybox",
            Self::Nginx => "nginx",
            Self::Users(User::Number) => "users-number",
            Self::Users(User::Name) => "users-name",
            Self::Users(User::NameAndGroup) => "users-name-group",
            Self::Users(User::NumberAndGroup) => "users-number-group",
            Self::Users(User::Unknown) => "users-unknown",
            Self::Layers(Packing::Gzip) => "layers-gzip",
            Self::Layers(Packing::Zstd) => "layers-zstd",
            Self::Layers(Packing::Plain) => "layers-plain",
            Self::Layers(Packing::Mixed) => "layers-mixed",
            Self::TwoPlatforms => "two-platforms",
            Self::Stamp => "stamp",
            Self::Pause => "pause",
        }
    }

    /// The recipe with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|recipe| recipe.name() == name)
    }

    /// The name of its cache entry: all that goes into the image but the packages' versions.
    pub(super) fn key(self) -> Result<String> {
        let mut source = format!("{VERSION} {self:?} {}", architecture()).into_bytes();
        match self {
            Self::Stamp => source.extend(program::compile("stamp")?),
            Self::Pause => source.extend(program::compile("pause")?),
            Self::Busybox | Self::Nginx | Self::Users(_) | Self::Layers(_) | Self::TwoPlatforms => {
                source.extend_from_slice(include_bytes!("recipes.rs"))
            }
        }
        let hash = sha256(&source);
        Ok(format!(
            "{}-{}",
            self.name(),
            hash.get(7..19).unwrap_or_default()
        ))
    }

    pub(super) fn build(self, dir: &Path) -> Result<()> {
        let layout = Layout::create(dir)?;
        let arch = architecture();
        let root = match self {
            Self::Busybox => layout.manifest(arch, &shell(""), &[busybox_layer()?]),
            Self::Nginx => {
                layout.manifest(arch, &nginx_config(), &[busybox_layer()?, nginx_layer()?])
            }
            Self::Users(user) => layout.manifest(
                arch,
                &shell(user.text()),
                &[busybox_layer()?, users_layer()?],
            ),
            Self::Layers(packing) => layout.manifest(arch, &shell(""), &stacked_layers(packing)?),
            Self::TwoPlatforms => two_platforms(&layout),
            Self::Stamp => layout.manifest(arch, &single("/stamper"), &[stamp_layer()?]),
            Self::Pause => layout.manifest(arch, &single("/pause"), &[pause_layer()?]),
        }?;
        layout.finish(&root)
    }
}

impl User {
    fn text(self) -> &'static str {
        match self {
            Self::Number => "1234",
            Self::Name => "app",
            Self::NameAndGroup => "app:extra",
            Self::NumberAndGroup => "1000:2000",
            Self::Unknown => "ghost",
        }
    }
}

impl Packing {
    fn of_layer(self, index: usize) -> Compression {
        match (self, index % 3) {
            (Self::Gzip, _) | (Self::Mixed, 0) => Compression::Gzip,
            (Self::Zstd, _) | (Self::Mixed, 1) => Compression::Zstd,
            (Self::Plain, _) | (Self::Mixed, _) => Compression::None,
        }
    }
}

fn shell(user: &str) -> Config {
    Config {
        user: user.to_owned(),
        env: vec![PATH.to_owned()],
        cmd: vec!["sh".to_owned()],
        ..Config::default()
    }
}

fn single(program: &str) -> Config {
    Config {
        env: vec![PATH.to_owned()],
        entrypoint: vec![program.to_owned()],
        ..Config::default()
    }
}

/// The root directories that every runtime mounts on or into.
fn skeleton() -> Vec<Entry> {
    let mut entries: Vec<Entry> = [
        "bin", "dev", "etc", "home", "lib", "proc", "run", "sbin", "sys", "usr", "usr/bin",
        "usr/sbin", "usr/lib", "var",
    ]
    .into_iter()
    .map(Entry::dir)
    .collect();
    entries.push(Entry::dir("root").mode(0o700));
    entries.push(Entry::dir("tmp").mode(0o1777));
    entries
}

/// The C library and the loader, at the paths that programs name.
fn libc() -> Result<Vec<Entry>> {
    let lib = deb::multiarch();
    let mut entries = vec![Entry::dir(format!("lib/{lib}"))];
    for name in ["libc.so.6", "libresolv.so.2"] {
        let path = format!("lib/{lib}/{name}");
        entries.push(Entry::file(&path, deb::file("libc6", &path)?).mode(0o755));
    }
    let loader = match architecture() {
        "arm64" => "lib/ld-linux-aarch64.so.1",
        _ => {
            entries.push(Entry::dir("lib64"));
            "lib64/ld-linux-x86-64.so.2"
        }
    };
    entries.push(Entry::file(loader, deb::file("libc6", loader)?).mode(0o755));
    Ok(entries)
}

fn busybox_entries() -> Result<Vec<Entry>> {
    let binary = deb::tree("busybox")?.join("bin/busybox");
    let applets = output(Command::new(&binary).arg("--list-full"))?;
    let mut entries = skeleton();
    entries.extend(libc()?);
    entries.push(Entry::file("bin/busybox", deb::file("busybox", "bin/busybox")?).mode(0o755));
    for applet in applets.lines().filter(|applet| *applet != "bin/busybox") {
        entries.push(Entry::hardlink(applet, "bin/busybox").mode(0o755));
    }
    let accounts = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    entries.push(Entry::file("etc/passwd", accounts));
    entries.push(Entry::file("etc/group", "root:x:0:\nnogroup:x:65534:\n"));
    entries.push(Entry::file("etc/nsswitch.conf", "hosts: files dns\n"));
    Ok(entries)
}

fn busybox_layer() -> Result<Layer> {
    Layer::pack(&busybox_entries()?, Compression::Gzip)
}

const NGINX_MAIN: &str = "\
daemon off;
worker_processes 1;
pid /tmp/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 64; }
http {
    access_log /dev/stdout;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
";

fn nginx_layer() -> Result<Layer> {
    let lib = deb::multiarch();
    let mut entries = Vec::new();
    let libraries = [
        ("libcrypt1", format!("lib/{lib}/libcrypt.so.1")),
        ("libpcre2-8-0", format!("usr/lib/{lib}/libpcre2-8.so.0")),
        ("libssl3", format!("usr/lib/{lib}/libssl.so.3")),
        ("libssl3", format!("usr/lib/{lib}/libcrypto.so.3")),
        ("zlib1g", format!("lib/{lib}/libz.so.1")),
    ];
    entries.push(Entry::dir(format!("usr/lib/{lib}")));
    for (package, path) in libraries {
        entries.push(Entry::file(&path, deb::file(package, &path)?));
    }
    entries.push(Entry::file("usr/sbin/nginx", deb::file("nginx", "usr/sbin/nginx")?).mode(0o755));
    for dir in [
        "etc/nginx",
        "var/lib",
        "var/lib/nginx",
        "var/log",
        "var/log/nginx",
        "var/www",
    ] {
        entries.push(Entry::dir(dir));
    }
    let server = |port| {
        format!(
            "{NGINX_MAIN}    server {{ listen {port}; root /var/www; index index.html; }}\n}}\n"
        )
    };
    let privileged = format!("user nobody nogroup;\n{}", server(80));
    entries.push(Entry::file("etc/nginx/nginx.conf", privileged));
    entries.push(Entry::file("etc/nginx/unprivileged.conf", server(8080)));
    entries.push(Entry::file("var/www/index.html", "longshore test page\n"));
    Layer::pack(&entries, Compression::Gzip)
}

fn nginx_config() -> Config {
    let mut config = single("nginx");
    config.stop_signal = "SIGQUIT".to_owned();
    config.exposed_ports.insert("80/tcp".to_owned(), json!({}));
    config
        .labels
        .insert("org.longshore.test".to_owned(), json!("nginx"));
    config
}

fn users_layer() -> Result<Layer> {
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n\
                  other:x:1001:1000:other:/home/other:/bin/sh\n";
    let group = "root:x:0:\naudio:x:29:app\napp:x:1000:\nextra:x:2000:other,app\n";
    let entries = [
        Entry::dir("etc"),
        Entry::file("etc/passwd", passwd),
        Entry::file("etc/group", group),
        Entry::dir("home"),
        Entry::dir("home/app").owner(1000, 1000).mode(0o750),
        Entry::file("home/app/owned", "app's\n")
            .owner(1000, 1000)
            .mode(0o600),
    ];
    Layer::pack(&entries, Compression::Gzip)
}

/// What each regular file of [`Recipe::Layers`] must hold once all its layers are applied, below `/data`.
pub const LAYERS_EXPECTED: [(&str, &str); 12] = [
    ("data/kept", "base\n"),
    ("data/replaced", "middle\n"),
    ("data/opaque/new", "middle\n"),
    ("data/back", "top\n"),
    ("data/dir-to-file", "top\n"),
    ("data/file-to-dir/inside", "top\n"),
    ("data/link-a", "linked\n"),
    ("data/link-b", "linked\n"),
    ("data/link-across", "linked\n"),
    ("data/implied/deep/file", "middle\n"),
    ("data/via-link-dir/file", "base\n"),
    ("data/setuid", "setuid\n"),
];

/// What must not be there any more.
pub const LAYERS_ABSENT: [&str; 5] = [
    "data/gone",
    "data/gone-dir",
    "data/opaque/old",
    "data/opaque/.wh..wh..opq",
    "data/dir-to-file/inside",
];

fn stacked_entries() -> Result<[Vec<Entry>; 3]> {
    let mut base = busybox_entries()?;
    base.extend([
        Entry::dir("data"),
        Entry::file("data/kept", "base\n"),
        Entry::file("data/replaced", "base\n"),
        Entry::file("data/gone", "base\n"),
        Entry::dir("data/gone-dir"),
        Entry::file("data/gone-dir/inside", "base\n"),
        Entry::dir("data/opaque").mode(0o711).owner(7, 8),
        Entry::file("data/opaque/old", "base\n"),
        Entry::file("data/back", "base\n"),
        Entry::dir("data/dir-to-file"),
        Entry::file("data/dir-to-file/inside", "base\n"),
        Entry::file("data/file-to-dir", "base\n"),
        Entry::file("data/link-a", "linked\n").owner(3, 4),
        Entry::hardlink("data/link-b", "data/link-a"),
        Entry::dir("data/implied").mode(0o700).owner(5, 6),
        Entry::dir("data/via-link-dir"),
        Entry::file("data/via-link-dir/file", "base\n"),
        Entry::symlink("data/absolute-link", "/data/kept"),
        Entry::file("data/setuid", "setuid\n")
            .mode(0o4755)
            .owner(0, 29),
        Entry::special("data/fifo", Kind::Fifo).mode(0o600),
    ]);
    let middle = vec![
        Entry::file("data/replaced", "middle\n").mode(0o600),
        Entry::whiteout("data", "gone"),
        Entry::whiteout("data", "gone-dir"),
        Entry::whiteout("data", "back"),
        Entry::dir("data/opaque").mode(0o711).owner(7, 8),
        Entry::opaque("data/opaque"),
        Entry::file("data/opaque/new", "middle\n"),
        Entry::hardlink("data/link-across", "data/link-a"),
        // Its parents are only implied: they keep what the layer below says of them.
        Entry::file("data/implied/deep/file", "middle\n"),
    ];
    let top = vec![
        Entry::file("data/back", "top\n"),
        Entry::file("data/dir-to-file", "top\n"),
        Entry::dir("data/file-to-dir"),
        Entry::file("data/file-to-dir/inside", "top\n"),
    ];
    Ok([base, middle, top])
}

fn stacked_layers(packing: Packing) -> Result<Vec<Layer>> {
    let pack =
        |(index, entries): (usize, &Vec<Entry>)| Layer::pack(entries, packing.of_layer(index));
    stacked_entries()?.iter().enumerate().map(pack).collect()
}

fn two_platforms(layout: &Layout) -> Result<super::Descriptor> {
    let here = architecture();
    let elsewhere = if here == "arm64" { "amd64" } else { "arm64" };
    let marker = Entry::file("platform", format!("{elsewhere}\n"));
    let mut real = busybox_entries()?;
    real.push(Entry::file("platform", format!("{here}\n")));
    // The other platform comes first, so that taking the first entry is a visible mistake.
    let other = layout.manifest(
        elsewhere,
        &shell(""),
        &[Layer::pack(&[marker], Compression::Gzip)?],
    )?;
    let ours = layout.manifest(here, &shell(""), &[Layer::pack(&real, Compression::Gzip)?])?;
    layout.index(&[other, ours])
}

fn stamp_layer() -> Result<Layer> {
    let mut entries = skeleton();
    entries.push(Entry::dir("stamp").mode(0o777));
    entries.push(Entry::file("stamper", program::compile("stamp")?).mode(0o755));
    Layer::pack(&entries, Compression::Gzip)
}

fn pause_layer() -> Result<Layer> {
    let entries = [Entry::file("pause", program::compile("pause")?).mode(0o755)];
    Layer::pack(&entries, Compression::Gzip)
}

/// The files of a layer of [`Recipe::Layers`], by index, for tests that unpack them one by one.
///
/// # Errors
/// When a package cannot be had, or there is no such layer.
pub fn layer_entries(index: usize) -> Result<Vec<Entry>> {
    let [base, middle, top] = stacked_entries()?;
    [base, middle, top]
        .into_iter()
        .nth(index)
        .context("there are three layers")
}

/// A whole package as a layer: bulk for tests of speed and size.
///
/// # Errors
/// When the package cannot be had.
pub fn package_layer(package: &str, compression: Compression) -> Result<Layer> {
    Layer::pack(&entries_of(&deb::tree(package)?)?, compression)
}
