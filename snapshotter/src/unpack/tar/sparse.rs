//! Maps of sparse files.

use super::pax::natural;
use super::{SparseMap, TarError};

/// Parses `offset,length,offset,length,...` (GNU format 0.1).
///
/// # Errors
/// [`TarError::Sparse`].
pub fn parse_sparse_values(text: &[u8]) -> Result<SparseMap, TarError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let numbers = text
        .split(|byte| *byte == b',')
        .map(value)
        .collect::<Result<Vec<_>, _>>()?;
    pairs(&numbers)
}

/// Parses the map that precedes the content in GNU format 1.0: the number of parts, then offset
/// and length of each, one decimal number a line. Answers the map and the bytes it took; `None`
/// if the text ends too early.
///
/// # Errors
/// [`TarError::Sparse`].
pub fn parse_sparse_text(text: &[u8]) -> Result<Option<(SparseMap, usize)>, TarError> {
    let mut used = 0;
    let mut rest = text;
    let mut next = || -> Result<Option<u64>, TarError> {
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let number = value(rest.get(..end).unwrap_or_default())?;
                rest = rest.get(end + 1..).unwrap_or_default();
                used += end + 1;
                Ok(Some(number))
            }
            // No number is longer, so this line will not end well.
            None if rest.len() > 20 => Err(TarError::Sparse),
            None => Ok(None),
        }
    };
    let Some(count) = next()? else {
        return Ok(None);
    };
    let mut numbers = Vec::new();
    for _ in 0..count.checked_mul(2).ok_or(TarError::Sparse)? {
        let Some(number) = next()? else {
            return Ok(None);
        };
        numbers.push(number);
    }
    Ok(Some((pairs(&numbers)?, used)))
}

/// How many lines a map has that starts like this, as its first line says.
pub(super) fn lines(text: &[u8]) -> Result<Option<u64>, TarError> {
    let Some(end) = text.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    let count = value(text.get(..end).unwrap_or_default())?;
    count
        .checked_mul(2)
        .and_then(|lines| lines.checked_add(1))
        .ok_or(TarError::Sparse)
        .map(Some)
}

/// Checks that the parts ascend, lie within `real` bytes and add up to `stored` bytes; leaves out
/// empty ones.
pub(super) fn check(map: SparseMap, real: u64, stored: u64) -> Result<SparseMap, TarError> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for (offset, len) in &map {
        let next = offset
            .checked_add(*len)
            .filter(|next| *offset >= end && *next <= real);
        end = next.ok_or(TarError::Sparse)?;
        sum = sum.checked_add(*len).ok_or(TarError::Sparse)?;
    }
    if sum != stored || real > i64::MAX.unsigned_abs() {
        return Err(TarError::Sparse);
    }
    Ok(map.into_iter().filter(|(_, len)| *len > 0).collect())
}

pub(super) fn pairs(numbers: &[u64]) -> Result<SparseMap, TarError> {
    let chunks = numbers.chunks_exact(2);
    if !chunks.remainder().is_empty() {
        return Err(TarError::Sparse);
    }
    Ok(chunks
        .filter_map(|pair| Some((*pair.first()?, *pair.get(1)?)))
        .collect())
}

fn value(digits: &[u8]) -> Result<u64, TarError> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(natural)
        .ok_or(TarError::Sparse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_text() {
        assert_eq!(parse_sparse_values(b""), Ok(vec![]));
        assert_eq!(parse_sparse_values(b"0,5,10,2"), Ok(vec![(0, 5), (10, 2)]));
        for bad in [
            "1",
            "1,2,3",
            "1,,2",
            "-1,2",
            "1,2,",
            "99999999999999999999,1",
        ] {
            assert!(parse_sparse_values(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(
            parse_sparse_text(b"2\n0\n5\n10\n2\nDATA"),
            Ok(Some((vec![(0, 5), (10, 2)], 11)))
        );
        assert_eq!(parse_sparse_text(b"0\n"), Ok(Some((vec![], 2))));
        for early in ["", "2", "2\n0\n5\n10\n2"] {
            assert_eq!(parse_sparse_text(early.as_bytes()), Ok(None), "{early:?}");
        }
        for bad in [
            "\n",
            "x\n",
            "1\n-1\n",
            "123456789012345678901",
            "18446744073709551615\n",
        ] {
            assert!(parse_sparse_text(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parts_ascend_and_add_up() {
        assert_eq!(
            check(vec![(0, 0), (2, 3), (5, 1)], 9, 4),
            Ok(vec![(2, 3), (5, 1)])
        );
        for (map, real, stored) in [
            (vec![(2, 3), (4, 1)], 9, 4),
            (vec![(2, 3)], 4, 3),
            (vec![(2, 3)], 9, 2),
            (vec![(u64::MAX, 1)], u64::MAX, 1),
            (vec![], u64::MAX, 0),
        ] {
            assert_eq!(
                check(map.clone(), real, stored),
                Err(TarError::Sparse),
                "{map:?}"
            );
        }
    }
}
