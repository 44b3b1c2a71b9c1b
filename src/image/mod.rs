//! Images: pulled, imported, kept, removed.
//!
//! ```text
//!  registry, archive
//!     |  plan.rs       manifest, platform, layers: pure
//!     v
//!  pull.rs, import/    one job per image and credentials, joined by who asks for the same
//!     |  layers.rs     one flight per layer: download -> verify -> decompress -> verify -> unpack
//!     v
//!  commit.rs           layers durable (one syncfs), then the record, then readers see it
//!     |
//!     v
//!  table.rs            id -> image, name -> id; readers take a whole table, never wait
//! ```
//!
//! An image is its configuration's digest. It may have many names; a tag
//! stands for one image. Removing it by any name removes it with all of them,
//! and what layers nothing else names (`gc.rs`).
//!
//! Where content comes from is a `Source`: whatever a registry or an archive
//! gives is verified by the digest that asked for it, before it is used.

mod commit;
mod error;
mod flight;
mod gc;
mod images;
mod import;
mod kind;
mod layers;
mod load;
mod model;
mod plan;
mod platform;
mod pull;
mod record;
mod reference;
mod source;
mod table;
mod usage;
mod verify;

pub use error::{ImageError, PullError, Stage};
pub use images::{Images, ImagesConfig};
pub use import::Imported;
pub use kind::ErrorKind;
pub use model::Image;
pub use plan::PlanError;
pub use pull::PullRequest;
pub use reference::{Reference, ReferenceError, Selector};
pub use usage::FsUsage;

pub use crate::registry::{AuthConfig, Credentials};
