//! Debian's `docker-registry` (distribution 2.8) on the loopback of a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::http::free_port;
use crate::Node;
use crate::image::{Image, skopeo_copy};
use crate::process::{Process, output, wait_until};

const READY: Duration = Duration::from_secs(30);

/// Which manifest a push stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As the layout has it.
    Oci,
    /// Docker image manifest version 2, schema 2: rewritten by skopeo, gzip layers only.
    DockerSchema2,
}

/// A registry, ended when it is dropped.
#[derive(Debug)]
pub struct Registry<'a> {
    node: &'a Node,
    port: u16,
    dir: PathBuf,
    tls: bool,
    process: Process,
}

impl<'a> Registry<'a> {
    /// Starts one that speaks plain HTTP.
    ///
    /// # Errors
    /// When `docker-registry` is missing or does not start.
    pub fn start(node: &'a Node) -> Result<Self> {
        Self::launch(node, false)
    }

    /// Starts one with a certificate for 127.0.0.1 and `localhost`, signed by [`Self::ca`].
    ///
    /// # Errors
    /// When `docker-registry` or `openssl` is missing or fails.
    pub fn start_tls(node: &'a Node) -> Result<Self> {
        Self::launch(node, true)
    }

    fn launch(node: &'a Node, tls: bool) -> Result<Self> {
        let port = free_port(node)?;
        let dir = node.dir().join(format!("registry-{port}"));
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        if tls {
            make_certificates(&dir)?;
        }
        let config = dir.join("config.yml");
        fs::write(&config, configuration(&dir, port, tls))
            .with_context(|| format!("write {}", config.display()))?;
        let mut command = node.command("docker-registry");
        command.arg("serve").arg(&config);
        let log = node.dir().join("logs").join(format!("registry-{port}.log"));
        let mut process = Process::spawn(command, &log)?;
        let address = ([127, 0, 0, 1], port).into();
        wait_until(&mut process, READY, || node.connect(address).is_ok())
            .context("start docker-registry")?;
        Ok(Self {
            node,
            port,
            dir,
            tls,
            process,
        })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A full reference: `127.0.0.1:PORT/NAME`.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// The certificate that signs the registry's own, with TLS only.
    #[must_use]
    pub fn ca(&self) -> Option<PathBuf> {
        self.tls.then(|| self.dir.join("ca.crt"))
    }

    /// Pushes an image as `NAME:latest` and hands back its full reference.
    ///
    /// # Errors
    /// When skopeo fails.
    pub fn push(&self, image: &Image) -> Result<String> {
        self.push_as(
            image,
            &format!("{}:latest", image.recipe().name()),
            Format::Oci,
        )
    }

    /// Pushes an image under a name with a tag.
    ///
    /// # Errors
    /// When skopeo fails.
    pub fn push_as(&self, image: &Image, name: &str, format: Format) -> Result<String> {
        let reference = self.reference(name);
        let from = format!("oci:{}:latest", image.layout().display());
        let mut flags = vec!["--dest-tls-verify=false"];
        match format {
            // Every platform, and not one byte changed.
            Format::Oci => flags.extend(["--all", "--preserve-digests"]),
            Format::DockerSchema2 => flags.extend(["--format", "v2s2"]),
        }
        let command = self.node.command("skopeo");
        skopeo_copy(command, &flags, &from, &format!("docker://{reference}"))?;
        Ok(reference)
    }

    /// The digest of the manifest or index that a reference names.
    ///
    /// # Errors
    /// When the registry has no such reference.
    pub fn digest(&self, reference: &str) -> Result<String> {
        let mut command = self.node.command("skopeo");
        command.args(["inspect", "--raw", "--tls-verify=false"]);
        let raw = output(command.arg(format!("docker://{reference}")))?;
        Ok(crate::image::layout::sha256(raw.as_bytes()))
    }

    /// Where it keeps a blob, for tests that damage one.
    #[must_use]
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let shard = hex.get(..2).unwrap_or_default();
        let blobs = self.dir.join("data/docker/registry/v2/blobs/sha256");
        blobs.join(shard).join(hex).join("data")
    }

    /// What it logged, one request a line.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn configuration(dir: &Path, port: u16, tls: bool) -> String {
    let mut text = format!(
        "version: 0.1\nlog: {{ level: info }}\nstorage:\n  filesystem: {{ rootdirectory: {} }}\n  \
         delete: {{ enabled: true }}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        dir.join("data").display()
    );
    if tls {
        let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
        text.push_str(&format!(
            "  tls: {{ certificate: {}, key: {} }}\n",
            certificate.display(),
            key.display()
        ));
    }
    text
}

/// A certificate authority and a server certificate, valid for a week.
fn make_certificates(dir: &Path) -> Result<()> {
    let names = "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n";
    fs::write(dir.join("server.ext"), names).context("write the certificate's extensions")?;
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let openssl = |arguments: &[&str]| {
        let mut command = std::process::Command::new("openssl");
        output(command.args(arguments).current_dir(dir)).map(drop)
    };
    let ca = [
        "-x509",
        "-days",
        "7",
        "-subj",
        "/CN=longshore test",
        "-keyout",
        "ca.key",
    ];
    openssl(&[&["req"], &key[..], &ca[..], &["-out", "ca.crt"]].concat())?;
    let server = [
        "-subj",
        "/CN=127.0.0.1",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ];
    openssl(&[&["req"], &key[..], &server[..]].concat())?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "7",
        "-extfile",
        "server.ext",
        "-out",
        "server.crt",
    ])
}
