//! Traffic limits from the pod's annotations, as Kubernetes writes quantities.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Capability argument `bandwidth`: bits per second, bursts in bits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Towards the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_rate: Option<u64>,
    /// With a rate only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_burst: Option<u64>,
    /// From the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_rate: Option<u64>,
    /// With a rate only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_burst: Option<u64>,
}

/// An annotation that is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {value:?} is not a rate of 1k to 1P bits per second")]
pub struct BadBandwidth {
    /// Its key.
    pub annotation: &'static str,
    /// Its value.
    pub value: String,
}

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// The greatest burst that the bandwidth plugin takes: no limit of its own.
const BURST: u64 = u32::MAX as u64;

impl Bandwidth {
    /// `kubernetes.io/ingress-bandwidth` and `kubernetes.io/egress-bandwidth`;
    /// `None` without either.
    ///
    /// # Errors
    /// [`BadBandwidth`].
    pub fn from_annotations(
        annotations: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, BadBandwidth> {
        let rate = |annotation: &'static str| match annotations.get(annotation) {
            None => Ok(None),
            Some(value) => quantity(value)
                .filter(|rate| (1_000..=1_000_000_000_000_000).contains(rate))
                .map(Some)
                .ok_or_else(|| BadBandwidth {
                    annotation,
                    value: value.clone(),
                }),
        };
        let (ingress, egress) = (rate(INGRESS)?, rate(EGRESS)?);
        Ok((ingress.is_some() || egress.is_some()).then(|| Self {
            ingress_rate: ingress,
            ingress_burst: ingress.map(|_| BURST),
            egress_rate: egress,
            egress_burst: egress.map(|_| BURST),
        }))
    }
}

/// A Kubernetes quantity as a whole number, rounded up: decimal digits with an
/// optional fraction, then a decimal exponent, an SI or a binary suffix.
fn quantity(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let parts = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (times, per) = scale(suffix)?;
    let value = digits.checked_mul(times)?.div_ceil(parts.checked_mul(per)?);
    u64::try_from(value).ok()
}

/// What a suffix multiplies by and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_u128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quantities() {
        for (text, expected) in [
            ("1000", Some(1000)),
            ("10M", Some(10_000_000)),
            ("1.5k", Some(1500)),
            ("1Ki", Some(1024)),
            ("1e6", Some(1_000_000)),
            ("25E-1", Some(3)),
            ("1500m", Some(2)),
            ("", None),
            (".", None),
            ("-1", None),
            ("1.2.3", None),
            ("1X", None),
            ("99999999999999999999999E", None),
        ] {
            assert_eq!(quantity(text), expected, "{text}");
        }
    }

    #[test]
    fn limits_what_the_annotations_name() {
        let of = |pairs: &[(&str, &str)]| {
            let map = pairs
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect();
            Bandwidth::from_annotations(&map)
        };
        assert_eq!(of(&[("other", "1")]), Ok(None));
        let both = of(&[(INGRESS, "10M"), (EGRESS, "1M")]).unwrap().unwrap();
        assert_eq!(
            (both.ingress_rate, both.egress_rate),
            (Some(10_000_000), Some(1_000_000))
        );
        let one = serde_json::to_value(of(&[(EGRESS, "1M")]).unwrap().unwrap()).unwrap();
        assert_eq!(
            one,
            serde_json::json!({"egressRate": 1_000_000, "egressBurst": BURST})
        );
        assert!(of(&[(INGRESS, "1")]).is_err());
        assert!(of(&[(INGRESS, "fast")]).is_err());
    }
}
