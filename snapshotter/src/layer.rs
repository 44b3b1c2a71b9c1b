//! What a layer is called: its diffID, and the id it is stored under.

use std::fmt;
use std::str::FromStr;

use ring::digest;
use serde::{Deserialize, Serialize};

/// A string that is not `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not `sha256:` and 64 lower-case hexadecimal digits")]
pub struct InvalidDigest(String);

/// The digest of a layer's uncompressed tar (OCI image-spec, config.md, `rootfs.diff_ids`).
///
/// ```
/// use longshore_snapshotter::DiffId;
/// let id: DiffId = format!("sha256:{}", "0a".repeat(32)).parse()?;
/// assert_eq!(id.hex(), "0a".repeat(32));
/// assert!("sha256:0A".parse::<DiffId>().is_err());
/// # Ok::<(), longshore_snapshotter::InvalidDigest>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiffId([u8; 32]);

impl DiffId {
    /// The diffID of `bytes`, for callers that have the whole tar in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(array(&digest::digest(&digest::SHA256, bytes)))
    }

    /// A finished SHA-256 as a diffID.
    #[must_use]
    pub fn from_digest(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// The 64 digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for DiffId {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("sha256:")
            .and_then(parse_hex)
            .map(Self)
            .ok_or_else(|| InvalidDigest(text.to_owned()))
    }
}

impl TryFrom<String> for DiffId {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DiffId> for String {
    fn from(id: DiffId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiffId({self})")
    }
}

/// What a layer is stored under: 64 lower-case hexadecimal digits.
///
/// A layer that is the same on any parent is stored under its diffID and shared by all images. One
/// that leans on its parents is stored under the `ChainID` of itself and everything below it
/// (OCI image-spec, config.md, "Layer ChainID"). The chain of a single layer is its diffID, and
/// a lowest layer has nothing to lean on, so the two never collide.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId([u8; 32]);

impl LayerId {
    /// The id of a layer that does not lean on its parents.
    #[must_use]
    pub fn shared(diff_id: &DiffId) -> Self {
        Self(diff_id.0)
    }

    /// The id of the topmost of `chain` (bottom to top), stored for exactly these parents.
    /// `None` for an empty chain.
    #[must_use]
    pub fn chained(chain: &[DiffId]) -> Option<Self> {
        let (first, rest) = chain.split_first()?;
        let id = rest.iter().fold(*first, |below, diff_id| {
            DiffId::of(format!("{below} {diff_id}").as_bytes())
        });
        Some(Self(id.0))
    }

    /// The 64 digits: the name of the layer's directory.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for LayerId {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text)
            .map(Self)
            .ok_or_else(|| InvalidDigest(text.to_owned()))
    }
}

impl TryFrom<String> for LayerId {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> Self {
        id.hex()
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerId({self})")
    }
}

pub(crate) fn array(digest: &digest::Digest) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    out
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(byte: u8) -> DiffId {
        DiffId::from_digest([byte; 32])
    }

    #[test]
    fn only_canonical_digests_parse() {
        let good = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(good.parse::<DiffId>().unwrap().to_string(), good);
        for bad in [
            "",
            "sha256:",
            "sha512:00",
            &"ab".repeat(32),
            &format!("sha256:{}", "AB".repeat(32)),
            &format!("sha256:{}", "ab".repeat(31)),
            &format!("sha256:{}x", "ab".repeat(32)),
            &format!("sha256:{}/../../etc", "ab".repeat(26)),
        ] {
            assert!(bad.parse::<DiffId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn chain_ids_are_the_specification_s() {
        assert_eq!(LayerId::chained(&[]), None);
        assert_eq!(
            LayerId::chained(&[diff(1)]),
            Some(LayerId::shared(&diff(1)))
        );
        let two = DiffId::of(format!("{} {}", diff(1), diff(2)).as_bytes());
        assert_eq!(
            LayerId::chained(&[diff(1), diff(2)]),
            Some(LayerId::shared(&two))
        );
        let three = DiffId::of(format!("{two} {}", diff(3)).as_bytes());
        assert_eq!(
            LayerId::chained(&[diff(1), diff(2), diff(3)]),
            Some(LayerId::shared(&three))
        );
    }

    #[test]
    fn ids_are_strings_in_json() {
        let json = serde_json::to_string(&(diff(7), LayerId::shared(&diff(7)))).unwrap();
        let back: (DiffId, LayerId) = serde_json::from_str(&json).unwrap();
        assert_eq!(back, (diff(7), LayerId::shared(&diff(7))));
        assert!(serde_json::from_str::<LayerId>("\"../x\"").is_err());
    }
}
