//! Images from disk, at start-up.

use std::collections::BTreeSet;
use std::sync::Arc;

use longshore_snapshotter::{LayerId, Snapshotter};
use oci_spec::image::ImageConfiguration;

use super::ImageError;
use super::model::{Image, Pins};
use super::record::{self, ImageRecord};
use super::table::Entry;
use crate::base::chain::chain;
use crate::store::{Loaded, Records};

/// Every image with a readable record, and the layers of those that a newer
/// daemon recorded, which are left alone. What is unreadable is reported; the
/// rest of an interrupted commit or removal is removed.
pub(super) fn entries(
    records: &Records<ImageRecord>,
    snapshotter: &dyn Snapshotter,
) -> Result<(Vec<Entry>, Vec<LayerId>), ImageError> {
    for orphan in records.orphans()? {
        tracing::info!(id = orphan, "rest of an interrupted commit is removed");
        if let Err(error) = records.remove(&orphan) {
            tracing::warn!(id = orphan, error = chain(&error), "it stays");
        }
    }
    let (mut entries, mut left_alone) = (Vec::new(), Vec::new());
    for (name, loaded) in records.load_all()? {
        match loaded {
            Loaded::Object { object, .. } if object.id.hex() == name => {
                entries.push(entry(records, snapshotter, object));
            }
            Loaded::Object { object, .. } => tracing::error!(
                directory = name, id = %object.id, "image record in another image's place is left alone"
            ),
            Loaded::Newer { version } => {
                tracing::error!(
                    id = name,
                    version,
                    "image record of a newer version is left alone"
                );
                let layers: Option<Vec<LayerId>> = records.peek(&name, "layers");
                left_alone.extend(layers.unwrap_or_default());
            }
            Loaded::Broken { error, moved_to } => tracing::error!(
                id = name,
                error = chain(&error),
                ?moved_to,
                "image record is unreadable, pull the image again"
            ),
        }
    }
    Ok((entries, left_alone))
}

fn entry(
    records: &Records<ImageRecord>,
    snapshotter: &dyn Snapshotter,
    record: ImageRecord,
) -> Entry {
    let config = record::read_config(records, &record.id).and_then(|bytes| {
        serde_json::from_slice::<ImageConfiguration>(&bytes)
            .map_err(|error| super::PlanError::Config(error).into())
    });
    let layers = missing_layer(snapshotter, &record);
    let id = &record.id;
    let damaged = match (&config, &layers) {
        (Err(error), _) => {
            tracing::error!(%id, error = chain(error), "the image's configuration is unreadable, pull it again");
            true
        }
        (_, Some(what)) => {
            tracing::error!(%id, what, "a layer of the image is missing, pull it again");
            true
        }
        _ => false,
    };
    let config = Arc::new(config.unwrap_or_default());
    Entry {
        image: Arc::new(Image::new(&record, config, &Pins::default())),
        record,
        damaged,
    }
}

fn missing_layer(snapshotter: &dyn Snapshotter, record: &ImageRecord) -> Option<String> {
    let layers: BTreeSet<_> = record.layers.iter().collect();
    layers
        .into_iter()
        .find_map(|id| match snapshotter.layer(id) {
            Ok(Some(_)) => None,
            Ok(None) => Some(format!("layer {id} is not stored")),
            Err(error) => Some(chain(&error)),
        })
}
