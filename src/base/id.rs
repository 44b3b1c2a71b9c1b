//! Validated ids. A value of these types is safe as a path component.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

/// A string that is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {kind}")]
pub struct BadId {
    /// What was expected.
    pub kind: &'static str,
    /// What came.
    pub value: String,
}

fn is_lower_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn random_hex<const BYTES: usize>() -> Result<String, NoRandom> {
    let mut bytes = [0_u8; BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(hex::encode(bytes))
}

/// The kernel gave no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("getrandom(2) gave no random bytes")]
pub struct NoRandom;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text of the id.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(BadId { kind: $kind, value: text.to_owned() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;

            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A pod sandbox: 64 lower-case hex digits, the form that cAdvisor and log
    /// shippers match.
    SandboxId, "a sandbox id (64 lower-case hex digits)", |s| is_lower_hex(s, 64)
);
id!(
    /// A container: 64 lower-case hex digits.
    ContainerId, "a container id (64 lower-case hex digits)", |s| is_lower_hex(s, 64)
);
id!(
    /// A content digest, `sha256:<64 hex>` (OCI image spec, "Digests").
    Digest, "a digest (sha256:<64 hex digits>)",
    |s| s.strip_prefix("sha256:").is_some_and(|hex| is_lower_hex(hex, 64))
);
id!(
    /// An image: the digest of its configuration, `sha256:<64 hex>`. The one
    /// string for `Image.id`, `image_ref` of a pull and `image_id` of a container.
    ImageId, "an image id (sha256:<64 hex digits>)",
    |s| s.strip_prefix("sha256:").is_some_and(|hex| is_lower_hex(hex, 64))
);
id!(
    /// A daemon instance: part of every name that is visible on the host, so
    /// that two daemons never sweep each other's. 1 to 16 of `[a-z0-9]`.
    InstanceId, "an instance id (1 to 16 of a-z, 0-9)",
    |s| (1..=16).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
);

impl SandboxId {
    /// A new random id.
    ///
    /// # Errors
    /// [`NoRandom`] when the kernel gives no random bytes.
    pub fn random() -> Result<Self, NoRandom> {
        random_hex::<32>().map(Self)
    }
}

impl ContainerId {
    /// A new random id.
    ///
    /// # Errors
    /// [`NoRandom`] when the kernel gives no random bytes.
    pub fn random() -> Result<Self, NoRandom> {
        random_hex::<32>().map(Self)
    }
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_sha256(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
    }

    /// From the 32 bytes of a SHA-256 hash.
    #[must_use]
    pub fn from_sha256(hash: &[u8]) -> Self {
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    /// The 64 hex digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

impl ImageId {
    /// The 64 hex digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

impl From<Digest> for ImageId {
    fn from(config: Digest) -> Self {
        Self(config.0)
    }
}

impl From<ImageId> for Digest {
    fn from(image: ImageId) -> Self {
        Self(image.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_its_own_form() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(hex.parse::<SandboxId>().is_ok());
        for bad in [
            "",
            "..",
            "a/b",
            &hex[1..],
            &hex.to_uppercase(),
            &format!("{hex}0"),
        ] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let digest: Digest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(digest.hex(), hex);
        assert!("x-y".parse::<InstanceId>().is_err());
    }

    #[test]
    fn random_ids_differ_and_parse() {
        let (a, b) = (
            ContainerId::random().unwrap(),
            ContainerId::random().unwrap(),
        );
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<ContainerId>().unwrap(), a);
    }
}
