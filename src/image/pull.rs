//! Pulling: a job that its callers join, and that outlives them.
//!
//! ```text
//! name --> Resolve --> Config --> Layers --> Commit --> image id
//!          manifest,   verified   streamed   one syncfs,
//!          or index    by digest  in         then the
//!          and choice             parallel   record
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::commit::{Candidate, Names};
use super::error::{ImageError, PullError, Stage};
use super::images::Inner;
use super::plan::{self, Blob, Document, PlanError};
use super::platform::Platform;
use super::record::Documents;
use super::reference::{Reference, Selector};
use super::source::Source;
use crate::base::id::{Digest, ImageId};
use crate::registry::{AuthConfig, Credentials, Manifest, Repository};

/// How deep indexes may nest.
const MAX_DEPTH: usize = 4;

/// What to pull, and as whom.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// The image's name, as the user gave it.
    pub reference: String,
    /// Credentials, and the host they are for.
    pub auth: AuthConfig,
}

/// Pulls with the same key are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PullKey {
    reference: Reference,
    credentials: Credentials,
}

/// Joins the pull of this image with these credentials, or starts it.
pub(super) async fn join(inner: &Arc<Inner>, request: PullRequest) -> Result<ImageId, PullError> {
    let failed = |stage, cause| PullError {
        reference: request.reference.clone(),
        stage,
        cause,
    };
    let reference: Reference = request
        .reference
        .parse()
        .map_err(|e| failed(Stage::Name, Arc::new(ImageError::Reference(e))))?;
    let key = PullKey {
        credentials: request.auth.for_registry(reference.registry()),
        reference,
    };
    let ticket = inner
        .pulls
        .join(key.clone(), true, || run(inner.clone(), key));
    let cut_off = || failed(Stage::Resolve, Arc::new(ImageError::CutOff));
    ticket.wait().await.ok_or_else(cut_off)?
}

/// The stage a pull is in, readable while it runs.
#[derive(Debug, Default)]
struct Reached(AtomicU8);

const STAGES: [Stage; 4] = [Stage::Resolve, Stage::Config, Stage::Layers, Stage::Commit];

impl Reached {
    fn set(&self, reference: &Reference, stage: Stage) {
        let at = STAGES.iter().position(|s| *s == stage).unwrap_or(0);
        self.0
            .store(u8::try_from(at).unwrap_or(0), Ordering::Relaxed);
        tracing::debug!(%reference, %stage, "pull");
    }

    fn get(&self) -> Stage {
        let at = usize::from(self.0.load(Ordering::Relaxed));
        STAGES.get(at).copied().unwrap_or(Stage::Resolve)
    }
}

async fn run(inner: Arc<Inner>, key: PullKey) -> Result<ImageId, PullError> {
    let reached = Reached::default();
    let reference = key.reference.to_string();
    match stages(&inner, key, &reached).await {
        Ok(id) => {
            tracing::info!(reference, %id, "image is pulled");
            Ok(id)
        }
        Err(cause) => Err(PullError {
            reference,
            stage: reached.get(),
            cause,
        }),
    }
}

async fn stages(
    inner: &Inner,
    key: PullKey,
    reached: &Reached,
) -> Result<ImageId, Arc<ImageError>> {
    let PullKey {
        reference,
        credentials,
    } = key;
    reached.set(&reference, Stage::Resolve);
    let repository = inner
        .registry
        .repository(reference.host(), reference.repository(), credentials)
        .await
        .map_err(ImageError::Registry)?;
    let (top, first) = resolve(&repository, reference.selector()).await?;
    let source = Arc::new(Source::Registry(repository));
    let found = descend(&source, &inner.platform, &top, first).await?;
    reached.set(&reference, Stage::Config);
    let candidate = read(&source, &inner.platform, found).await?;
    let tags = match reference.selector() {
        Selector::Tag(_) => vec![reference.to_string()],
        Selector::Digest(_) => vec![],
    };
    let names = Names {
        tags,
        digests: vec![reference.with_digest(&top).to_string()],
    };
    let progress = |stage| reached.set(&reference, stage);
    inner.obtain(&source, candidate, names, &progress).await
}

/// The document that a name stands for, and its digest. A registry whose word
/// on the digest differs from the content is not believed.
async fn resolve(
    repository: &Repository,
    selector: &Selector,
) -> Result<(Digest, Manifest), ImageError> {
    let manifest = repository.manifest(selector.as_str()).await?;
    let actual = Digest::of(&manifest.bytes);
    let claimed = manifest.digest.as_deref().and_then(|d| d.parse().ok());
    let wanted = match selector {
        Selector::Digest(digest) => Some(digest.clone()),
        Selector::Tag(_) => None,
    };
    for expected in wanted.into_iter().chain(claimed) {
        if expected != actual {
            return Err(ImageError::DigestMismatch {
                what: format!("manifest {}", selector.as_str()),
                expected,
                actual,
            });
        }
    }
    Ok((actual, manifest))
}

/// One image's manifest.
#[derive(Debug)]
pub(super) struct Found {
    digest: Digest,
    raw: Manifest,
    manifest: plan::Manifest,
}

/// Goes down from an index to the manifest for this machine.
pub(super) async fn descend(
    source: &Source,
    platform: &Platform,
    digest: &Digest,
    first: Manifest,
) -> Result<Found, ImageError> {
    let (mut digest, mut raw) = (digest.clone(), first);
    for _ in 0..MAX_DEPTH {
        match plan::parse(&raw.bytes, raw.media_type.as_deref())? {
            Document::Manifest(manifest) => {
                return Ok(Found {
                    digest,
                    raw,
                    manifest,
                });
            }
            Document::Index(manifests) => {
                let chosen: Blob = plan::choose(&manifests, platform)?;
                raw = source.manifest(&chosen).await?;
                digest = chosen.digest;
            }
        }
    }
    Err(PlanError::Nested.into())
}

/// Fetches the configuration and plans the layers.
pub(super) async fn read(
    source: &Source,
    platform: &Platform,
    found: Found,
) -> Result<Candidate, ImageError> {
    let Found {
        digest,
        raw,
        manifest,
    } = found;
    let bytes = source.document("configuration", &manifest.config).await?;
    let config = plan::read_config(&bytes, platform)?;
    let layers = plan::layers(&manifest, &config)?;
    Ok(Candidate {
        id: manifest.config.digest.into(),
        manifest_digest: digest,
        manifest_type: raw.media_type,
        documents: Documents {
            manifest: raw.bytes,
            config: bytes,
        },
        config,
        layers,
    })
}
