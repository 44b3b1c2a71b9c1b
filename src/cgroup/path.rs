//! What a group is called. Pure.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::CgroupError;

/// A cgroup by its path below each hierarchy: absolute, without `.` and `..`,
/// never the root itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Checks and normalises: repeated and trailing slashes go.
    ///
    /// # Errors
    /// [`CgroupError::BadPath`] when the text is relative, holds `.`, `..`, a
    /// NUL or a newline, or names the root.
    pub fn new(text: &str) -> Result<Self, CgroupError> {
        let bad = |reason| CgroupError::BadPath {
            path: text.to_owned(),
            reason,
        };
        if !text.starts_with('/') {
            return Err(bad("it is not absolute"));
        }
        if text.contains(['\0', '\n']) {
            return Err(bad("it holds a NUL or a newline"));
        }
        let mut normal = String::with_capacity(text.len());
        for part in text.split('/').filter(|p| !p.is_empty()) {
            if matches!(part, "." | "..") {
                return Err(bad("it holds . or .."));
            }
            normal.push('/');
            normal.push_str(part);
        }
        if normal.is_empty() {
            return Err(bad("it is the root"));
        }
        Ok(Self(normal))
    }

    /// The path, beginning with a slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The group `name` below this one.
    ///
    /// # Errors
    /// [`CgroupError::BadPath`] when `name` is no single path component.
    pub fn child(&self, name: &str) -> Result<Self, CgroupError> {
        if name.is_empty() || name.contains('/') {
            return Err(CgroupError::BadPath {
                path: name.to_owned(),
                reason: "it is not one component",
            });
        }
        Self::new(&format!("{}/{name}", self.0))
    }

    /// The directory of this group below the mount point `mount`.
    #[must_use]
    pub fn below(&self, mount: &Path) -> PathBuf {
        mount.join(self.0.trim_start_matches('/'))
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = CgroupError;

    fn try_from(text: String) -> Result<Self, CgroupError> {
        Self::new(&text)
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> Self {
        path.0
    }
}

/// The group of a pod, from `LinuxPodSandboxConfig.cgroup_parent`: a cgroupfs
/// path (`/kubepods/pod1`, also without the leading slash) or the name of a
/// systemd slice (`kubepods-pod1.slice`), whose place in the tree follows from
/// its dashes (`systemd.slice(5)`). Empty: `default`.
///
/// # Errors
/// [`CgroupError::BadPath`].
pub fn parent_path(cgroup_parent: &str, default: &CgroupPath) -> Result<CgroupPath, CgroupError> {
    if cgroup_parent.is_empty() {
        return Ok(default.clone());
    }
    let last = cgroup_parent.trim_end_matches('/').rsplit('/').next();
    match last.and_then(|name| name.strip_suffix(".slice")) {
        Some(name) => expand_slice(cgroup_parent, name),
        None if cgroup_parent.starts_with('/') => CgroupPath::new(cgroup_parent),
        None => CgroupPath::new(&format!("/{cgroup_parent}")),
    }
}

/// `a-b-c` to `/a.slice/a-b.slice/a-b-c.slice`.
fn expand_slice(given: &str, name: &str) -> Result<CgroupPath, CgroupError> {
    if name == "-" || name.split('-').any(str::is_empty) {
        return Err(CgroupError::BadPath {
            path: given.to_owned(),
            reason: "the slice is the root slice or has an empty part between dashes",
        });
    }
    let mut path = String::new();
    let ends = name.match_indices('-').map(|(at, _)| at);
    for end in ends.chain([name.len()]) {
        let slice = name.get(..end).unwrap_or(name);
        path.push('/');
        path.push_str(slice);
        path.push_str(".slice");
    }
    CgroupPath::new(&path)
}

/// The group of a container below its pod's: the id, or below a systemd slice
/// a scope, which is what tools that read container ids from paths expect.
///
/// # Errors
/// [`CgroupError::BadPath`] when `id` is no single path component.
pub fn container_path(parent: &CgroupPath, id: &str) -> Result<CgroupPath, CgroupError> {
    if parent.as_str().ends_with(".slice") {
        parent.child(&format!("longshore-{id}.scope"))
    } else {
        parent.child(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(text: &str) -> Result<String, ()> {
        let default = CgroupPath::new("/longshore").unwrap();
        parent_path(text, &default)
            .map(String::from)
            .map_err(|_| ())
    }

    #[test]
    fn parents() {
        for (given, wanted) in [
            ("", Ok("/longshore")),
            ("/kubepods/burstable/podx", Ok("/kubepods/burstable/podx")),
            ("kubepods/podx", Ok("/kubepods/podx")),
            ("/a//b/", Ok("/a/b")),
            ("kubepods.slice", Ok("/kubepods.slice")),
            (
                "kubepods-burstable-pod1_2.slice",
                Ok("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"),
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice",
                Ok("/kubepods.slice/kubepods-burstable.slice"),
            ),
            ("/", Err(())),
            ("-.slice", Err(())),
            (".slice", Err(())),
            ("a--b.slice", Err(())),
            ("-a.slice", Err(())),
            ("../escape", Err(())),
            ("/a/../../b", Err(())),
            ("/a/./b", Err(())),
            ("/a\n/b", Err(())),
        ] {
            assert_eq!(parent(given), wanted.map(str::to_owned), "{given:?}");
        }
    }

    #[test]
    fn containers() {
        let plain = CgroupPath::new("/pods/p").unwrap();
        assert_eq!(container_path(&plain, "c1").unwrap().as_str(), "/pods/p/c1");
        let slice = CgroupPath::new("/p.slice").unwrap();
        assert_eq!(
            container_path(&slice, "c1").unwrap().as_str(),
            "/p.slice/longshore-c1.scope"
        );
        assert!(container_path(&plain, "").is_err());
        assert!(container_path(&plain, "a/b").is_err());
        assert!(container_path(&plain, "..").is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_leaves_the_hierarchy(text in "[a./\\-]{0,24}(\\.slice)?") {
            let default = CgroupPath::new("/d").unwrap();
            if let Ok(path) = parent_path(&text, &default) {
                let below = path.below(Path::new("/sys/fs/cgroup"));
                proptest::prop_assert!(below.starts_with("/sys/fs/cgroup"));
                proptest::prop_assert!(below.components().count() > 4);
                proptest::prop_assert!(!below.components().any(|c| c.as_os_str() == ".."));
            }
        }
    }
}
