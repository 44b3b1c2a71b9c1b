//! A directory of objects of one kind.

use std::io::ErrorKind;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::atomic::{Durability, write_file};
use super::error::StoreError;

/// What is kept in records: a serialisable type with a name and a version.
pub trait Record: Serialize + DeserializeOwned {
    /// Word for messages and for the record itself, e.g. `sandbox`.
    const KIND: &'static str;
    /// Raised when an older daemon would misread the record.
    const VERSION: u32;
}

#[derive(Serialize)]
struct EnvelopeOut<'a, T> {
    kind: &'a str,
    version: u32,
    boot_id: &'a str,
    object: &'a T,
}

#[derive(Deserialize)]
struct EnvelopeHead {
    kind: String,
    version: u32,
    boot_id: String,
}

#[derive(Deserialize)]
struct EnvelopeBody<T> {
    object: T,
}

/// An object found at start-up.
#[derive(Debug)]
pub enum Loaded<T> {
    /// A readable record.
    Object {
        /// The object.
        object: T,
        /// Written during this boot of the kernel.
        this_boot: bool,
    },
    /// Written by a newer daemon: to be left alone and reported.
    Newer {
        /// The version that the record has.
        version: u32,
    },
    /// Unreadable; moved to `moved_to` unless that failed as well.
    Broken {
        /// What is wrong with it.
        error: StoreError,
        /// Where the object's directory went.
        moved_to: Option<PathBuf>,
    },
}

/// The records of one kind below one directory.
#[derive(Debug)]
pub struct Records<T> {
    root: PathBuf,
    boot_id: String,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Records<T> {
    fn clone(&self) -> Self {
        Self {
            root: self.root.clone(),
            boot_id: self.boot_id.clone(),
            kind: PhantomData,
        }
    }
}

impl<T: Record> Records<T> {
    /// Opens (and makes) the directory.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it can't be made.
    pub fn open(root: impl Into<PathBuf>, boot_id: impl Into<String>) -> Result<Self, StoreError> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(StoreError::io("create directory", &root))?;
        Ok(Self {
            root,
            boot_id: boot_id.into(),
            kind: PhantomData,
        })
    }

    /// The directory of one object.
    #[must_use]
    pub fn dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// The directory of all objects.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes the record, making the object's directory (mode 0711) if needed.
    ///
    /// # Errors
    /// [`StoreError`]; an earlier record is then still in place.
    pub fn write(&self, id: &str, object: &T, durability: Durability) -> Result<(), StoreError> {
        let dir = self.dir(id);
        make_dir(&dir)?;
        let path = dir.join("record.json");
        let bytes = self.encode(object).map_err(|source| StoreError::Encode {
            path: path.clone(),
            source,
        })?;
        write_file(&path, &bytes, durability)
    }

    /// The record as bytes, the way `write` puts it on disk.
    ///
    /// # Errors
    /// When the object can't be turned into JSON.
    pub fn encode(&self, object: &T) -> Result<Vec<u8>, serde_json::Error> {
        let envelope = EnvelopeOut {
            kind: T::KIND,
            version: T::VERSION,
            boot_id: &self.boot_id,
            object,
        };
        serde_json::to_vec(&envelope)
    }

    /// Reads a record from bytes, e.g. those that a shim kept.
    ///
    /// # Errors
    /// When the bytes are no record of this kind.
    pub fn decode(&self, bytes: &[u8]) -> Result<Loaded<T>, serde_json::Error> {
        let head: EnvelopeHead = serde_json::from_slice(bytes)?;
        if head.kind != T::KIND {
            return Err(serde::de::Error::custom(format!(
                "it is a record of a {}, not of a {}",
                head.kind,
                T::KIND
            )));
        }
        if head.version > T::VERSION {
            return Ok(Loaded::Newer {
                version: head.version,
            });
        }
        let body: EnvelopeBody<T> = serde_json::from_slice(bytes)?;
        Ok(Loaded::Object {
            object: body.object,
            this_boot: head.boot_id == self.boot_id,
        })
    }

    /// One field of a record whatever its version, for what must be known even of
    /// an object that is left alone. `None` where it isn't there or means
    /// something else.
    #[must_use]
    pub fn peek<F: DeserializeOwned>(&self, id: &str, field: &str) -> Option<F> {
        let bytes = std::fs::read(self.dir(id).join("record.json")).ok()?;
        let mut record: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let value = record.get_mut("object")?.get_mut(field)?.take();
        serde_json::from_value(value).ok()
    }

    /// Removes the object's directory with all that is in it. Not there is fine.
    ///
    /// The record goes first, so that a crash in between leaves a directory
    /// without a record, which the next start removes.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self, id: &str) -> Result<(), StoreError> {
        let dir = self.dir(id);
        match std::fs::remove_file(dir.join("record.json")) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StoreError::io("remove record", dir.join("record.json"))(
                    error,
                ));
            }
            _ => {}
        }
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(StoreError::io("remove directory", &dir)(error))
            }
            _ => Ok(()),
        }
    }

    /// Every object on disk. A directory without a record is the rest of an
    /// interrupted create or remove and is not listed; see [`Self::orphans`].
    ///
    /// # Errors
    /// Only when the directory itself can't be read: one bad object never
    /// stops the others.
    pub fn load_all(&self) -> Result<Vec<(String, Loaded<T>)>, StoreError> {
        let mut found = Vec::new();
        for name in self.names()? {
            let path = self.dir(&name).join("record.json");
            match std::fs::read(&path) {
                Ok(bytes) => {
                    let loaded = self.decode(&bytes).unwrap_or_else(|source| {
                        self.quarantine(&name, StoreError::Parse { path, source })
                    });
                    found.push((name, loaded));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let error = StoreError::io("read record", path)(error);
                    found.push((
                        name,
                        Loaded::Broken {
                            error,
                            moved_to: None,
                        },
                    ));
                }
            }
        }
        Ok(found)
    }

    /// Names of directories that have no record.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory can't be read.
    pub fn orphans(&self) -> Result<Vec<String>, StoreError> {
        let names = self.names()?;
        Ok(names
            .into_iter()
            .filter(|n| !self.dir(n).join("record.json").exists())
            .collect())
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let entries = std::fs::read_dir(&self.root).map_err(StoreError::io("list", &self.root))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StoreError::io("list", &self.root))?;
            if let Ok(name) = entry.file_name().into_string()
                && !name.starts_with('.')
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn quarantine(&self, name: &str, error: StoreError) -> Loaded<T> {
        let quarantine = self.root.join(".quarantine");
        let moved = std::fs::create_dir_all(&quarantine).and_then(|()| {
            let mut serial = 0;
            loop {
                let target = quarantine.join(format!("{name}.{serial}"));
                if !target.exists() {
                    return std::fs::rename(self.dir(name), &target).map(|()| target);
                }
                serial += 1;
            }
        });
        match moved {
            Ok(target) => Loaded::Broken {
                error,
                moved_to: Some(target),
            },
            Err(cause) => {
                tracing::error!(kind = T::KIND, id = name, error = %cause, "quarantine failed");
                Loaded::Broken {
                    error,
                    moved_to: None,
                }
            }
        }
    }
}

fn make_dir(dir: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o711).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(StoreError::io("create directory", dir)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pod {
        name: String,
    }

    impl Record for Pod {
        const KIND: &'static str = "pod";
        const VERSION: u32 = 2;
    }

    fn records(root: &Path, boot: &str) -> Records<Pod> {
        Records::open(root, boot).unwrap()
    }

    #[test]
    fn writes_reads_and_knows_the_boot() {
        let tmp = tempfile::tempdir().unwrap();
        let pod = Pod { name: "a".into() };
        records(tmp.path(), "b1")
            .write("x", &pod, Durability::Synced)
            .unwrap();
        let all = records(tmp.path(), "b2").load_all().unwrap();
        assert!(matches!(&all[..],
            [(id, Loaded::Object { object, this_boot: false })] if id == "x" && *object == pod));
    }

    #[test]
    fn a_torn_record_is_quarantined_and_the_rest_loads() {
        let tmp = tempfile::tempdir().unwrap();
        let store = records(tmp.path(), "b");
        store
            .write("good", &Pod { name: "g".into() }, Durability::Rename)
            .unwrap();
        std::fs::create_dir(tmp.path().join("bad")).unwrap();
        std::fs::write(tmp.path().join("bad/record.json"), b"{\"kind\":\"po").unwrap();
        let all = store.load_all().unwrap();
        assert_eq!(all.len(), 2);
        let Loaded::Broken {
            moved_to: Some(target),
            ..
        } = &all[0].1
        else {
            panic!("{all:?}")
        };
        assert!(target.join("record.json").exists());
        assert!(!tmp.path().join("bad").exists());
    }

    #[test]
    fn a_newer_record_is_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let store = records(tmp.path(), "b");
        std::fs::create_dir(tmp.path().join("n")).unwrap();
        let text = br#"{"kind":"pod","version":3,"boot_id":"b","object":{"other":1}}"#;
        std::fs::write(tmp.path().join("n/record.json"), text).unwrap();
        assert!(matches!(
            store.load_all().unwrap()[0].1,
            Loaded::Newer { version: 3 }
        ));
        assert!(tmp.path().join("n/record.json").exists());
    }

    #[test]
    fn remove_is_idempotent_and_orphans_are_told() {
        let tmp = tempfile::tempdir().unwrap();
        let store = records(tmp.path(), "b");
        store
            .write("x", &Pod { name: "x".into() }, Durability::Rename)
            .unwrap();
        std::fs::create_dir(tmp.path().join("orphan")).unwrap();
        assert_eq!(store.orphans().unwrap(), ["orphan"]);
        store.remove("x").unwrap();
        store.remove("x").unwrap();
        assert!(!tmp.path().join("x").exists());
    }
}
