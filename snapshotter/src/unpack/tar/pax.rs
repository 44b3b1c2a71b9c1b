//! pax extended headers.

use super::TarError;

/// One record: key and value.
pub type PaxRecord = (Vec<u8>, Vec<u8>);

/// Splits an extended header into its records, in order and with repetitions.
///
/// # Errors
/// [`TarError::Pax`].
pub fn parse_pax(mut bytes: &[u8]) -> Result<Vec<PaxRecord>, TarError> {
    let mut records = Vec::new();
    // Some writers fill up with zeros.
    while bytes.first().is_some_and(|byte| *byte != 0) {
        let space = bytes
            .iter()
            .take(20)
            .position(|byte| *byte == b' ')
            .ok_or(TarError::Pax)?;
        let digits = bytes
            .get(..space)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let len: usize = digits.and_then(natural).ok_or(TarError::Pax)?;
        let record = bytes.get(space + 1..len).ok_or(TarError::Pax)?;
        let record = record.strip_suffix(b"\n").ok_or(TarError::Pax)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or(TarError::Pax)?;
        let (key, value) = record.split_at(equals);
        if key.is_empty() {
            return Err(TarError::Pax);
        }
        records.push((key.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
        bytes = bytes.get(len..).unwrap_or_default();
    }
    Ok(records)
}

/// Digits only: `parse` alone would take a sign.
pub(super) fn natural<N: std::str::FromStr>(text: &str) -> Option<N> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

fn bad(key: &[u8]) -> TarError {
    TarError::PaxValue(String::from_utf8_lossy(key).into_owned())
}

/// The value of a record as a natural number.
pub(super) fn number(key: &[u8], value: &[u8]) -> Result<u64, TarError> {
    std::str::from_utf8(value)
        .ok()
        .and_then(natural)
        .ok_or_else(|| bad(key))
}

/// A time `[-]seconds[.fraction]`: seconds, rounded down, and nanoseconds, further digits cut off.
pub(super) fn time(key: &[u8], value: &[u8]) -> Result<(i64, u32), TarError> {
    let text = std::str::from_utf8(value).map_err(|_| bad(key))?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = natural(whole).ok_or_else(|| bad(key))?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad(key));
    }
    let nanos = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0_u32, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanos) {
        (false, nanos) => (whole, nanos),
        (true, 0) => (-whole, 0),
        (true, nanos) => (-whole - 1, 1_000_000_000 - nanos),
    })
}

/// The attribute that a record sets, if it is one of those: `SCHILY.xattr.` with what a key cannot
/// hold escaped as GNU tar does, `LIBARCHIVE.xattr.` with the name URL-encoded and the value in
/// base64 without padding. `SCHILY.acl.` is text with names of users that only the archive's
/// author knows; the same lists come as `SCHILY.xattr.system.posix_acl_` in a form that counts.
pub(super) fn xattr(key: &[u8], value: &[u8]) -> Result<Option<PaxRecord>, TarError> {
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        return Ok(Some((unescape(name), value.to_vec())));
    }
    let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") else {
        return Ok(None);
    };
    let name = url_decode(name).ok_or_else(|| bad(key))?;
    let value = base64(value).ok_or_else(|| bad(key))?;
    Ok(Some((name, value)))
}

/// GNU tar writes `=` and `%` as `%3D` and `%25`, and nothing else so.
fn unescape(mut name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    while let Some((&byte, rest)) = name.split_first() {
        let (byte, rest) = match name.get(..3) {
            Some(b"%3D") => (b'=', rest.get(2..).unwrap_or_default()),
            Some(b"%25") => (b'%', rest.get(2..).unwrap_or_default()),
            _ => (byte, rest),
        };
        out.push(byte);
        name = rest;
    }
    out
}

fn url_decode(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    while let Some((&byte, rest)) = text.split_first() {
        text = rest;
        if byte == b'%' {
            let (digits, rest) = rest.split_at_checked(2)?;
            out.extend(hex::decode(digits).ok()?);
            text = rest;
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text
        .strip_suffix(b"==")
        .or_else(|| text.strip_suffix(b"="))
        .unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let bytes = group.len() * 6 / 8;
        if bytes == 0 {
            return None;
        }
        bits <<= 24 - 6 * u32::try_from(group.len()).unwrap_or(4);
        out.extend(bits.to_be_bytes().iter().skip(1).take(bytes));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let one = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        for (bytes, records) in [
            ("", Some(vec![])),
            ("6 a=b\n", Some(vec![one("a", "b")])),
            ("5 a=\n", Some(vec![one("a", "")])),
            (
                "8 a=b=c\n6 a=d\n",
                Some(vec![one("a", "b=c"), one("a", "d")]),
            ),
            ("9 a=b\nc\n\n", Some(vec![one("a", "b\nc\n")])),
            ("6 a=b\n\0\0\0", Some(vec![one("a", "b")])),
            ("5 a=b\n", None),
            ("7 a=b\n", None),
            ("6 a=b ", None),
            ("6 =ab\n", None),
            ("5 ab\n", None),
            ("+6 a=b\n", None),
            ("0 a=b\n", None),
            ("99999999999999999999999 a=b\n", None),
        ] {
            assert_eq!(parse_pax(bytes.as_bytes()).ok(), records, "{bytes:?}");
        }
    }

    #[test]
    fn times_round_down() {
        for (text, value) in [
            ("0", Some((0, 0))),
            ("1700000000.123456789", Some((1_700_000_000, 123_456_789))),
            ("1.5", Some((1, 500_000_000))),
            ("1.1234567891", Some((1, 123_456_789))),
            ("-1", Some((-1, 0))),
            ("-0.25", Some((-1, 750_000_000))),
            ("", None),
            (".5", None),
            ("1.x", None),
            ("+1", None),
            ("1e9", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(b"mtime", text.as_bytes()).ok(), value, "{text:?}");
        }
    }

    #[test]
    fn attributes() {
        let value = |key: &[u8], value: &[u8]| xattr(key, value).ok().flatten();
        let named = |bytes: &[u8]| Some((b"user.a=b".to_vec(), bytes.to_vec()));
        assert_eq!(value(b"SCHILY.xattr.user.a%3Db", b"\0x"), named(b"\0x"));
        let name = value(b"SCHILY.xattr.user.%253D%3d%", b"").map(|(name, _)| name);
        assert_eq!(name.as_deref(), Some(&b"user.%3D%3d%"[..]));
        for (text, bytes) in [
            ("", &b""[..]),
            ("YQ", b"a"),
            ("YQ==", b"a"),
            ("YWI", b"ab"),
            ("YWJj", b"abc"),
        ] {
            assert_eq!(
                value(b"LIBARCHIVE.xattr.user.a%3Db", text.as_bytes()),
                named(bytes)
            );
        }
        assert!(xattr(b"LIBARCHIVE.xattr.user.a", b"Y").is_err());
        assert!(xattr(b"LIBARCHIVE.xattr.user.%3", b"").is_err());
        assert_eq!(value(b"SCHILY.acl.access", b""), None);
    }
}
