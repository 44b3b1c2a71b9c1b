//! The leak audit: what is there now and was not before.
//!
//! ```text
//! let audit = Audit::before(&node)?;          // the daemon runs, no pod does
//! ...                                         // pods come and go
//! audit.assert_clean();                       // one line for each thing that stayed
//! ```
//!
//! | kind | looked for in |
//! |---|---|
//! | `netns` | pinned network namespaces, in the node and on the machine |
//! | `mount` | the node's mount table; the machine's, where it names the node |
//! | `cgroup` | every hierarchy, v1 and v2, where the path carries a mark |
//! | `link` | the node's network interfaces |
//! | `address` | host-local's directories in the node |
//! | `rule` | the node's iptables rules |
//! | `process` | by environment, arguments, cgroup or namespace, see [`crate::node::sweep`] |
//! | `file` | daemons' records, intents, staging, state; the node's temporary directory |
//!
//! The marks are the node's name, which is part of every instance that the kit gives a daemon, and
//! what a test adds. What plugins keep for good by design is let through by name: [`PERMANENT`].

mod collect;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::Node;
use crate::node::Namespaces;

/// How long what is being torn down may take to be gone: a killed process is still listed until it is
/// reaped, and the kernel frees namespaces and links behind the last one's back.
const SETTLE: Duration = Duration::from_secs(3);

/// What the standard plugins make once and keep: the bridge itself, and portmap's and the masquerade's
/// top-level chains and the rules that lead there. None of it grows with pods.
pub const PERMANENT: [&str; 6] = [
    "link: longshore0",
    "link: cni0",
    "rule: nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
    "rule: nat -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
    "rule: nat -A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ",
    "rule: nat -A CNI-HOSTPORT-",
];

/// What kind of thing stayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A pinned network namespace.
    Netns,
    /// A mount.
    Mount,
    /// A cgroup.
    Cgroup,
    /// A network interface.
    Link,
    /// An address that host-local gave out.
    Address,
    /// An iptables rule.
    Rule,
    /// A process.
    Process,
    /// A file or directory.
    File,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Netns => "netns",
            Self::Mount => "mount",
            Self::Cgroup => "cgroup",
            Self::Link => "link",
            Self::Address => "address",
            Self::Rule => "rule",
            Self::Process => "process",
            Self::File => "file",
        })
    }
}

/// One thing that stayed; it prints as `kind: what`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Item {
    /// What kind of thing.
    pub kind: Kind,
    /// Which one.
    pub what: String,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.what)
    }
}

/// What the audit looks at.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) namespaces: &'a Namespaces,
    /// Paths, cgroups and processes that carry one of these are the test's.
    pub(crate) marks: Vec<String>,
    /// The node's directory.
    pub(crate) dir: PathBuf,
}

/// The node that this process itself runs in, as `kit_node` made it.
#[derive(Debug)]
pub struct Scene {
    namespaces: Namespaces,
    name: String,
    dir: PathBuf,
}

impl Scene {
    /// Reads the node's name and directory from the environment.
    ///
    /// # Errors
    /// When this process does not run in a node.
    pub fn current() -> Result<Self> {
        let variable = |name: &str| {
            std::env::var(name).with_context(|| format!("{name} is not set: not in a node"))
        };
        let (name, dir) = (variable(crate::node::MARK)?, variable("LONGSHORE_KIT_DIR")?);
        Ok(Self {
            namespaces: Namespaces::current()?,
            name,
            dir: dir.into(),
        })
    }

    /// An audit of the node.
    ///
    /// # Errors
    /// As [`Audit::before`].
    pub fn audit(&self) -> Result<Audit<'_>> {
        Audit::of(&self.namespaces, &self.name, &self.dir)
    }
}

/// What was there before.
#[derive(Debug)]
pub struct Audit<'a> {
    scope: Scope<'a>,
    before: BTreeSet<Item>,
    allowed: Vec<String>,
    settle: Duration,
}

impl<'a> Audit<'a> {
    /// Notes what is there now: a running daemon, a registry, the pods of other tests in the node.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn before(node: &'a Node) -> Result<Self> {
        Self::of(node.namespaces(), node.name(), node.dir())
    }

    /// The same for a process that is itself inside the node, such as a script's helper.
    pub(crate) fn of(namespaces: &'a Namespaces, mark: &str, dir: &Path) -> Result<Self> {
        let marks = vec![mark.to_owned()];
        let scope = Scope {
            namespaces,
            marks,
            dir: dir.to_path_buf(),
        };
        let before = collect::everything(&scope)?;
        let allowed = PERMANENT.map(str::to_owned).to_vec();
        Ok(Self {
            scope,
            before,
            allowed,
            settle: SETTLE,
        })
    }

    /// Adds a mark: what carries it is looked for too, from both sides of the comparison.
    ///
    /// # Errors
    /// As [`Self::before`].
    pub fn mark(mut self, mark: &str) -> Result<Self> {
        self.scope.marks.push(mark.to_owned());
        self.before = collect::everything(&self.scope)?;
        Ok(self)
    }

    /// Lets through what prints beginning with `prefix`, such as `link: mybridge`.
    #[must_use]
    pub fn allow(mut self, prefix: &str) -> Self {
        self.allowed.push(prefix.to_owned());
        self
    }

    /// What is there and was not before; waits a moment for what is just ending.
    ///
    /// # Errors
    /// As [`Self::before`].
    pub fn after(&self) -> Result<Vec<Item>> {
        let deadline = Instant::now() + self.settle;
        loop {
            let left: Vec<Item> = collect::everything(&self.scope)?
                .into_iter()
                .filter(|item| !self.before.contains(item) && !self.is_allowed(item))
                .collect();
            if left.is_empty() || Instant::now() > deadline {
                return Ok(left);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits this long for what is just ending, instead of the three seconds that fit most tests.
    #[must_use]
    pub fn settle(mut self, limit: Duration) -> Self {
        self.settle = limit;
        self
    }

    fn is_allowed(&self, item: &Item) -> bool {
        let text = item.to_string();
        self.allowed
            .iter()
            .any(|prefix| text.starts_with(prefix.as_str()))
    }

    /// Panics with one line for each thing that stayed.
    ///
    /// # Panics
    /// When something stayed, or a table cannot be read.
    pub fn assert_clean(&self) {
        match self.after() {
            Ok(left) if left.is_empty() => {}
            Ok(left) => panic!("{} left behind:\n{}", left.len(), lines(&left)),
            Err(error) => panic!("the leak audit failed: {error:#}"),
        }
    }

    /// Writes what was there before to a file, for [`Self::load`] in a later process.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(&self.before).context("render the audit")?;
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Takes over what an earlier process saved.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        self.before = serde_json::from_slice(&text).context("parse a saved audit")?;
        Ok(())
    }
}

/// One line each.
#[must_use]
pub fn lines(items: &[Item]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests;
