//! Where a container's log is.

use std::path::{Component, Path, PathBuf};

use super::spec::SpecError;

/// `log_directory/log_path`. Either being empty means no log.
///
/// # Errors
/// [`SpecError::Invalid`] for a log path that leaves the directory, or a
/// directory that isn't absolute.
pub(super) fn path(directory: &str, log_path: &str) -> Result<Option<PathBuf>, SpecError> {
    if directory.is_empty() || log_path.is_empty() {
        return Ok(None);
    }
    let directory = Path::new(directory);
    if !directory.is_absolute() {
        let problem = format!("{} is not absolute", directory.display());
        return Err(SpecError::invalid("sandbox_config.log_directory", problem));
    }
    let inside = Path::new(log_path)
        .components()
        .filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
    if inside.clone().any(|part| part == Component::ParentDir) {
        let problem = format!("{log_path:?} leaves the log directory");
        return Err(SpecError::invalid("config.log_path", problem));
    }
    Ok(Some(directory.join(inside.collect::<PathBuf>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_below_the_directory() {
        assert_eq!(path("", "a").unwrap(), None);
        assert_eq!(path("/logs", "").unwrap(), None);
        let some = |text: &str| Some(PathBuf::from(text));
        assert_eq!(path("/logs", "c/0.log").unwrap(), some("/logs/c/0.log"));
        assert_eq!(path("/logs/", "/abs.log").unwrap(), some("/logs/abs.log"));
        assert!(path("/logs", "../x").is_err());
        assert!(path("/logs", "a/../../x").is_err());
        assert!(path("logs", "x").is_err());
    }
}
