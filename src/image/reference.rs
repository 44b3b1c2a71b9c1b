//! Names of images, normalised the way Docker does.
//!
//! `busybox` is `docker.io/library/busybox:latest`; a first part with a dot, a
//! colon or an upper-case letter, and `localhost`, is a registry. A digest wins
//! over a tag beside it, which is dropped. Ids are no references: see
//! [`IdPattern`].

use std::fmt;
use std::str::FromStr;

use crate::base::id::Digest;

/// Longest repository name, registry included.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;
const HUB: &str = "docker.io";

/// What is wrong with a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no image reference: {reason}")]
pub struct ReferenceError {
    /// What was given.
    pub text: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

/// What a reference selects within its repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `:tag`
    Tag(String),
    /// `@sha256:...`
    Digest(Digest),
}

impl Selector {
    /// The tag or the digest, as the distribution API takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(tag) => tag,
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

/// A normalised reference: `registry/repository:tag` or `registry/repository@digest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    selector: Selector,
}

impl Reference {
    /// The registry as the name has it: `docker.io`, `host:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Where that registry is served, which differs for Docker Hub only.
    #[must_use]
    pub fn host(&self) -> &str {
        match self.registry.as_str() {
            HUB => "registry-1.docker.io",
            other => other,
        }
    }

    /// The repository within the registry: `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Tag or digest.
    #[must_use]
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// The same repository, selected by digest.
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> Self {
        Self {
            selector: Selector::Digest(digest.clone()),
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.selector {
            Selector::Tag(tag) => write!(f, ":{tag}"),
            Selector::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|reason| ReferenceError {
            text: text.chars().take(300).collect(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if is_hex(text) && text.len() == 64 {
        return Err("it is an id");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; one before it, a port.
    let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest.get(name_end..).and_then(|last| last.find(':')) {
        Some(colon) => {
            let (name, tag) = rest.split_at(name_end + colon);
            (name, Some(parse_tag(tag.strip_prefix(':').unwrap_or(tag))?))
        }
        None => (rest, None),
    };
    let (registry, repository) = split_name(name);
    check_registry(&registry)?;
    for part in repository.split('/') {
        check_component(part)?;
    }
    if registry.len() + 1 + repository.len() > MAX_NAME {
        return Err("the name has more than 255 characters");
    }
    let selector = match (digest, tag) {
        (Some(digest), _) => Selector::Digest(digest),
        (None, Some(tag)) => Selector::Tag(tag),
        (None, None) => Selector::Tag("latest".to_owned()),
    };
    Ok(Reference {
        registry,
        repository,
        selector,
    })
}

fn split_name(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if names_registry(first) => (first, rest),
        _ => (HUB, name),
    };
    let registry = match registry {
        "index.docker.io" | "registry-1.docker.io" => HUB,
        other => other,
    };
    if registry == HUB && !repository.contains('/') {
        return (registry.to_owned(), format!("library/{repository}"));
    }
    (registry.to_owned(), repository.to_owned())
}

fn names_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let bad = "the registry is no host name";
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(bad)?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| "the registry is no IPv6 address")?;
            (None, port)
        }
        None => match registry.split_once(':') {
            Some((host, _)) => (Some(host), registry.get(host.len()..).unwrap_or_default()),
            None => (Some(registry), ""),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.is_some_and(|host| !host.split('.').all(label)) {
        return Err(bad);
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok() => {
            Ok(())
        }
        _ => Err("the registry's port is no port"),
    }
}

/// `[a-z0-9]+`, joined by `.`, `_`, `__` or any number of `-`.
fn check_component(part: &str) -> Result<(), &'static str> {
    if part.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository has an upper-case letter");
    }
    let bad = "the repository is not made of a-z, 0-9 and single separators";
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends =
        part.bytes().next().is_some_and(alnum) && part.bytes().next_back().is_some_and(alnum);
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let joined = separators
        .filter(|s| !s.is_empty())
        .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
    if ends && joined { Ok(()) } else { Err(bad) }
}

fn parse_tag(tag: &str) -> Result<String, &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first = tag.bytes().next().is_some_and(word);
    let rest = tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'));
    if first && rest && tag.len() <= MAX_TAG {
        Ok(tag.to_owned())
    } else {
        Err("the tag is not 1 to 128 of [A-Za-z0-9_.-]")
    }
}

fn parse_digest(digest: &str) -> Result<Digest, &'static str> {
    if !digest.starts_with("sha256:") {
        return Err("only sha256 digests are supported");
    }
    digest
        .parse()
        .map_err(|_| "the digest is not sha256: and 64 lower-case hex digits")
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Text that may be an image id or the start of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IdPattern {
    /// All 64 digits.
    Full(String),
    /// The first digits.
    Prefix(String),
}

/// Fewest digits that are taken for the start of an id where no `sha256:` says
/// so: fewer are too likely the name of an image that isn't there (`cafe`).
const MIN_BARE_PREFIX: usize = 6;

impl IdPattern {
    /// `sha256:<1 to 64 digits>` or at least 6 bare hex digits; else `None`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (digits, min) = match text.strip_prefix("sha256:") {
            Some(digits) => (digits, 1),
            None => (text, MIN_BARE_PREFIX),
        };
        match digits.len() {
            64 if is_hex(digits) => Some(Self::Full(digits.to_owned())),
            n if (min..64).contains(&n) && is_hex(digits) => Some(Self::Prefix(digits.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn normalises_as_docker_does() {
        let digest = format!("sha256:{HEX}");
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".into()),
            ("user/app", "docker.io/user/app:latest".into()),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest".into(),
            ),
            ("index.docker.io/a/b", "docker.io/a/b:latest".into()),
            ("localhost/app", "localhost/app:latest".into()),
            ("localhost:5000/app", "localhost:5000/app:latest".into()),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c".into()),
            ("[::1]:5000/app:x", "[::1]:5000/app:x".into()),
            ("Host/app", "Host/app:latest".into()),
            (
                "r.example/a__b/c--d.e_f:T_1.0-x",
                "r.example/a__b/c--d.e_f:T_1.0-x".into(),
            ),
            ("deadbeef", "docker.io/library/deadbeef:latest".into()),
            (
                &format!("r.example/a@{digest}"),
                format!("r.example/a@{digest}"),
            ),
            (
                &format!("a:tag@{digest}"),
                format!("docker.io/library/a@{digest}"),
            ),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), expected);
        }
        let hub: Reference = "busybox".parse().unwrap();
        assert_eq!(hub.host(), "registry-1.docker.io");
    }

    #[test]
    fn refuses_what_is_none() {
        let long = "a".repeat(250);
        let tag = format!("a:{}", "t".repeat(129));
        for text in [
            "",
            ":tag",
            "a:",
            "a@",
            "/a",
            "a/",
            "a//b",
            "A",
            "r.example/Upper",
            "a b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a:b:c",
            "a:tag/",
            "r.example:port/a",
            "r.example:99999/a",
            "[::1/a",
            "[zz]:1/a",
            "-r.example/a",
            "a@sha256:00",
            "a@sha512:00",
            "../a",
            "a\n",
            "a:t\0",
            "http://r.example/a",
            HEX,
            &long,
            &tag,
            &format!("a@sha256:{}", HEX.to_uppercase()),
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn ids_are_told_from_names() {
        let full = IdPattern::Full(HEX.into());
        assert_eq!(IdPattern::parse(HEX), Some(full.clone()));
        assert_eq!(IdPattern::parse(&format!("sha256:{HEX}")), Some(full));
        assert_eq!(
            IdPattern::parse("sha256:0"),
            Some(IdPattern::Prefix("0".into()))
        );
        assert_eq!(
            IdPattern::parse("01234567"),
            Some(IdPattern::Prefix("01234567".into()))
        );
        for text in [
            "cafe",
            "",
            "sha256:",
            "busybox",
            "sha256:0G",
            "ABCDEF0",
            &format!("{HEX}0"),
        ] {
            assert_eq!(IdPattern::parse(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_parses_is_its_own_normal_form(text in "[a-zA-Z0-9.:/@_-]{1,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let normal = reference.to_string();
                proptest::prop_assert_eq!(normal.parse::<Reference>().unwrap(), reference);
            }
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _result = text.parse::<Reference>();
            let _id = IdPattern::parse(&text);
        }
    }
}
