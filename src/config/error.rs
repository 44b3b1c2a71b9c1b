use std::io;
use std::path::PathBuf;

/// The configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file can't be read.
    #[error("read configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not TOML, or has a key or value of the wrong kind.
    #[error("configuration {name}: {message}")]
    Parse {
        /// The file.
        name: String,
        /// What and where, with line and column.
        message: String,
    },
    /// A value that makes no sense.
    #[error("configuration key {key}: {value:?} {why}")]
    Value {
        /// The key with its section.
        key: &'static str,
        /// What it is set to.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}
