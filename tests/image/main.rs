//! Images against registries that run, honest ones and others, and archives.
//! Needs root: layers keep their owners.
//!
//! Each test has a node of its own for the registries, and one or more stores:
//! image records, layers and staging below the node's directory.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod import;
mod lies;
mod pull;
mod service;
mod store;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longshore::base::tasks::Tasks;
use longshore::config;
use longshore::image::{AuthConfig, Credentials, Images, ImagesConfig, PullError, PullRequest};
use longshore_kit::Node;
use longshore_kit::image::{Compression, Config, Entry, Image, Layer, Layout, Recipe, layout};
use longshore_snapshotter::{LayerId, OverlayConfig, OverlaySnapshotter, Snapshotter};

/// Runs a test in a node of its own, on a runtime whose threads are all in it.
/// `recipes` are made before: packages come from outside.
fn in_node<F: Future<Output = ()>>(
    name: &str,
    recipes: &[Recipe],
    test: impl FnOnce(Arc<Node>) -> F + Send,
) {
    if !nix::unistd::geteuid().is_root() {
        longshore_kit::skip(name, "making a node and keeping owners needs root");
        return;
    }
    for recipe in recipes {
        Image::ensure(*recipe).unwrap();
    }
    let node = Arc::new(Node::new().unwrap());
    let inside = node.clone();
    node.inside(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(test(inside));
    })
    .unwrap();
}

/// A store of images.
struct Store {
    dir: PathBuf,
    images: Images,
    snapshotter: Arc<OverlaySnapshotter>,
}

fn settings() -> config::ImagesConfig {
    config::ImagesConfig {
        parallel_layers: 3,
        progress_timeout: Duration::from_secs(20),
        ca_files: vec![],
        pinned: vec![],
    }
}

impl Store {
    fn new(node: &Node, name: &str) -> Self {
        Self::with(node.dir().join(name), settings())
    }

    /// Opens what is in `dir`, or makes it.
    fn with(dir: PathBuf, settings: config::ImagesConfig) -> Self {
        for part in ["layers", "staging", "active", "images"] {
            std::fs::create_dir_all(dir.join(part)).unwrap();
        }
        let of = |part: &str| dir.join(part);
        let overlay = OverlayConfig::new(of("layers"), of("staging"), of("active"));
        let snapshotter = Arc::new(OverlaySnapshotter::open(overlay).unwrap());
        let config = ImagesConfig {
            records: of("images"),
            layers: of("layers"),
            staging: of("staging"),
            settings,
        };
        let images = Images::open(config, snapshotter.clone(), Tasks::new()).unwrap();
        Self {
            dir,
            images,
            snapshotter,
        }
    }

    fn restart(self) -> Self {
        let dir = self.dir.clone();
        drop(self);
        Self::with(dir, settings())
    }

    async fn pull(&self, reference: &str) -> Result<String, PullError> {
        self.pull_as(reference, Credentials::Anonymous).await
    }

    async fn pull_as(
        &self,
        reference: &str,
        credentials: Credentials,
    ) -> Result<String, PullError> {
        let request = PullRequest {
            reference: reference.to_owned(),
            auth: AuthConfig {
                server_address: None,
                credentials,
            },
        };
        self.images.pull(request).await.map(String::from)
    }

    fn layers(&self) -> Vec<LayerId> {
        self.snapshotter.layers().unwrap()
    }

    fn file(&self, reference: &str, path: &str) -> Option<Vec<u8>> {
        let image = self.images.get(reference).unwrap().unwrap();
        self.snapshotter
            .read_file(&image.layers, path, 1 << 20)
            .unwrap()
    }

    /// Nothing is left of what was tried; removals of what was unpacked may
    /// still run, and get a moment.
    async fn assert_empty(&self) {
        assert!(self.images.list().is_empty());
        for part in ["layers", "staging", "images"] {
            let mut left = entries(&self.dir.join(part));
            for _ in 0..100 {
                if left.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                left = entries(&self.dir.join(part));
            }
            assert!(left.is_empty(), "{part} holds {left:?}");
        }
    }
}

/// What a directory holds, but hidden names.
fn entries(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir(dir).unwrap();
    let names = all.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// The whole message of an error.
fn text(error: &(dyn std::error::Error + 'static)) -> String {
    longshore::base::chain::chain(error)
}

/// A layout of this machine's architecture.
fn make_layout(dir: &Path, layers: &[Layer]) {
    std::fs::create_dir_all(dir).unwrap();
    let made = Layout::create(dir).unwrap();
    let manifest = made.manifest(layout::architecture(), &Config::default(), layers);
    made.finish(&manifest.unwrap()).unwrap();
}

/// A layer of one file.
fn layer_of(path: &str, content: &str) -> Layer {
    Layer::pack(&[Entry::file(path, content)], Compression::Gzip).unwrap()
}
