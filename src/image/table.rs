//! The images there are: the owner of image state. Pure.
//!
//! ```text
//! id   -> record, image        one image, however many names
//! name -> id                   tags and digests; a tag stands for one image
//! ```
//!
//! Readers get a whole [`Table`] behind an `Arc`; a change makes a new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ImageError;
use super::model::{Image, Pins};
use super::record::ImageRecord;
use super::reference::{IdPattern, Reference};
use crate::base::id::ImageId;

/// An image and its record.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) record: ImageRecord,
    pub(super) image: Arc<Image>,
    /// A layer is missing or unreadable: the image is reported absent, keeps
    /// what layers it has, and is whole again after the next pull.
    pub(super) damaged: bool,
}

/// Every image, by id and by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    entries: BTreeMap<ImageId, Entry>,
    names: BTreeMap<String, ImageId>,
}

impl Table {
    /// From what was found on disk, in any order.
    pub(super) fn load(entries: Vec<Entry>, pins: &Pins) -> Self {
        let mut since: BTreeMap<String, (i64, ImageId)> = BTreeMap::new();
        for entry in &entries {
            for (tag, at) in &entry.record.tags {
                let claim = (*at, entry.record.id.clone());
                let held = since.entry(tag.clone()).or_insert_with(|| claim.clone());
                if *held < claim {
                    *held = claim;
                }
            }
        }
        let mut table = Self::default();
        for mut entry in entries {
            let id = entry.record.id.clone();
            entry
                .record
                .tags
                .retain(|tag, _| since.get(tag).is_some_and(|(_, of)| *of == id));
            table.insert(entry, pins);
        }
        table
    }

    /// Adds or replaces an image. Its tags are taken from the images that had
    /// them; those images are returned.
    pub(super) fn put(&mut self, entry: Entry, pins: &Pins) -> Vec<ImageId> {
        let id = entry.record.id.clone();
        let mut losers = Vec::new();
        for tag in entry.record.tags.keys() {
            if let Some(owner) = self.names.get(tag).filter(|owner| **owner != id)
                && !losers.contains(owner)
            {
                losers.push(owner.clone());
            }
        }
        for loser in &losers {
            if let Some(mut other) = self.entries.remove(loser) {
                other
                    .record
                    .tags
                    .retain(|tag, _| !entry.record.tags.contains_key(tag));
                self.insert(other, pins);
            }
        }
        self.insert(entry, pins);
        losers
    }

    /// Takes an image out with all its names.
    pub(super) fn take(&mut self, id: &ImageId) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.names.retain(|_, owner| owner != id);
        Some(entry)
    }

    fn insert(&mut self, mut entry: Entry, pins: &Pins) {
        entry.image = Arc::new(Image::new(&entry.record, entry.image.config.clone(), pins));
        let id = entry.record.id.clone();
        self.names.retain(|_, owner| *owner != id);
        for name in entry.record.tags.keys().chain(&entry.record.digests) {
            self.names.insert(name.clone(), id.clone());
        }
        self.entries.insert(id, entry);
    }

    /// The image of that id, damaged or not.
    pub(super) fn by_id(&self, id: &ImageId) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// All images, sorted by id, damaged ones too.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The image that `text` means, damaged or not: a whole id, else a name,
    /// else the start of an id. So an image's name that happens to be made of
    /// hex digits is never taken for an id.
    ///
    /// # Errors
    /// [`ImageError::Reference`] for what is neither a name nor an id,
    /// [`ImageError::AmbiguousId`].
    pub(super) fn resolve(&self, text: &str) -> Result<Option<&Entry>, ImageError> {
        let pattern = IdPattern::parse(text);
        if let Some(IdPattern::Full(hex)) = &pattern {
            return Ok(self.entries.values().find(|e| e.record.id.hex() == hex));
        }
        let name = text.parse::<Reference>();
        if let Ok(reference) = &name
            && let Some(id) = self.names.get(&reference.to_string())
        {
            return Ok(self.entries.get(id));
        }
        let Some(IdPattern::Prefix(start)) = pattern else {
            return name.map(|_| None).map_err(ImageError::Reference);
        };
        let mut matches = self
            .entries
            .values()
            .filter(|e| e.record.id.hex().starts_with(&start));
        match (matches.next(), matches.next()) {
            (Some(_), Some(_)) => Err(ImageError::AmbiguousId(text.to_owned())),
            (found, _) => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Digest;
    use oci_spec::image::ImageConfiguration;

    fn id(start: &str) -> ImageId {
        format!("sha256:{start:0<64}").parse().unwrap()
    }

    fn entry(start: &str, at: i64, tags: &[&str]) -> Entry {
        let record = ImageRecord {
            id: id(start),
            manifest: Digest::of(b""),
            manifest_type: None,
            layers: vec![],
            size: 1,
            tags: tags.iter().map(|t| ((*t).to_owned(), at)).collect(),
            digests: [format!(
                "r.example/{start}@{}",
                Digest::of(start.as_bytes())
            )]
            .into(),
        };
        let image = Image::new(
            &record,
            Arc::new(ImageConfiguration::default()),
            &Pins::default(),
        );
        Entry {
            record,
            image: Arc::new(image),
            damaged: false,
        }
    }

    fn table(entries: Vec<Entry>) -> Table {
        Table::load(entries, &Pins::default())
    }

    fn found(table: &Table, text: &str) -> Option<ImageId> {
        table.resolve(text).unwrap().map(|e| e.record.id.clone())
    }

    const A: &str = "docker.io/library/a:latest";

    #[test]
    fn resolves_by_every_form_and_names_win_over_short_ids() {
        let cafe = "docker.io/library/cafe0123:latest";
        let table = table(vec![entry("cafe0123", 1, &[A]), entry("beef", 1, &[cafe])]);
        let hex = format!("{:0<64}", "cafe0123");
        assert_eq!(found(&table, &hex), Some(id("cafe0123")));
        assert_eq!(
            found(&table, &format!("sha256:{hex}")),
            Some(id("cafe0123"))
        );
        assert_eq!(found(&table, "sha256:ca"), Some(id("cafe0123")));
        assert_eq!(found(&table, "cafe0123"), Some(id("beef")));
        assert_eq!(found(&table, "cafe012"), Some(id("cafe0123")));
        assert_eq!(found(&table, "a"), Some(id("cafe0123")));
        assert_eq!(found(&table, "docker.io/a:latest"), Some(id("cafe0123")));
        let by_digest = format!("r.example/beef@{}", Digest::of(b"beef"));
        assert_eq!(found(&table, &by_digest), Some(id("beef")));
        assert_eq!(
            found(&table, "beef"),
            None,
            "too short to be taken for an id"
        );
        assert_eq!(found(&table, "nothing"), None);
        assert!(table.resolve("").is_err());
        assert!(table.resolve("UPPER").is_err());
    }

    #[test]
    fn an_ambiguous_start_is_an_error() {
        let table = table(vec![entry("abcdef1", 1, &[]), entry("abcdef2", 1, &[])]);
        assert!(matches!(
            table.resolve("abcdef"),
            Err(ImageError::AmbiguousId(_))
        ));
        assert_eq!(found(&table, "abcdef1"), Some(id("abcdef1")));
    }

    #[test]
    fn a_tag_moves_and_the_old_image_stays() {
        let mut table = table(vec![entry("aa", 1, &[A, "docker.io/library/b:1"])]);
        assert_eq!(
            table.put(entry("bb", 2, &[A]), &Pins::default()),
            [id("aa")]
        );
        assert_eq!(found(&table, "a"), Some(id("bb")));
        let old = table.by_id(&id("aa")).unwrap();
        assert_eq!(old.image.repo_tags, ["docker.io/library/b:1"]);
        assert!(table.take(&id("bb")).is_some());
        assert_eq!(found(&table, "a"), None);
        assert!(table.take(&id("bb")).is_none());
    }

    #[test]
    fn after_a_crash_the_later_claim_on_a_tag_wins() {
        for order in [[1, 0], [0, 1]] {
            let entries = [entry("aa", 5, &[A]), entry("bb", 6, &[A])];
            let table = table(order.map(|i: usize| entries[i].clone()).to_vec());
            assert_eq!(found(&table, "a"), Some(id("bb")));
            assert!(table.by_id(&id("aa")).unwrap().record.tags.is_empty());
        }
    }
}
