//! The CRI log: what a container writes becomes lines
//! `<RFC 3339 time> stdout|stderr P|F <text>`.
//!
//! A line longer than the limit is split; all but its last piece are tagged P
//! (partial), the last F (full). `\r\n` ends a line as `\n` does. What is left
//! without an end when the stream ends is a P.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::StdioError;

/// Which of the container's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1, or the terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Turns one stream of bytes into log lines. However the bytes are cut into
/// calls, the lines are the same.
#[derive(Debug)]
pub struct Formatter {
    stream: Stream,
    limit: usize,
    /// The current line as far as it came: at most `limit` bytes, and a
    /// carriage return after them that may turn out to be part of its end.
    line: Vec<u8>,
}

impl Formatter {
    /// `limit`: the longest piece of a line in bytes, at least 1.
    #[must_use]
    pub fn new(stream: Stream, limit: usize) -> Self {
        Self {
            stream,
            limit: limit.max(1),
            line: Vec::new(),
        }
    }

    /// Appends to `out` the lines that `input` completes.
    pub fn push(&mut self, input: &[u8], time: &Timestamp, out: &mut Vec<u8>) {
        let mut rest = input;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (piece, after) = rest.split_at(end);
            self.extend(piece, time, out);
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            self.write(time, b'F', &self.line, out);
            self.line.clear();
            rest = after.get(1..).unwrap_or_default();
        }
        self.extend(rest, time, out);
    }

    /// Ends the stream: an unfinished line is written as it is.
    pub fn finish(&mut self, time: &Timestamp, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.line);
        for piece in line.chunks(self.limit) {
            self.write(time, b'P', piece, out);
        }
    }

    fn extend(&mut self, piece: &[u8], time: &Timestamp, out: &mut Vec<u8>) {
        let mut rest = piece;
        while !rest.is_empty() {
            let room = self.limit.saturating_sub(self.line.len()).max(1);
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.line.extend_from_slice(now);
            rest = later;
            while self.is_over_limit() {
                let after = self.line.split_off(self.limit);
                self.write(time, b'P', &self.line, out);
                self.line.clear();
                self.line.extend_from_slice(&after);
            }
        }
    }

    /// One byte above the limit is none yet if it may belong to the line's end.
    fn is_over_limit(&self) -> bool {
        match self.line.len().checked_sub(self.limit) {
            None | Some(0) => false,
            Some(1) => self.line.last() != Some(&b'\r'),
            Some(_) => true,
        }
    }

    fn write(&self, time: &Timestamp, tag: u8, text: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(time.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.name().as_bytes());
        out.extend_from_slice(&[b' ', tag, b' ']);
        out.extend_from_slice(text);
        out.push(b'\n');
    }
}

/// A time as RFC 3339 writes it, in UTC, with nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timestamp(Vec<u8>);

impl Timestamp {
    /// The system's clock now. A clock before 1970 counts as 1970.
    #[must_use]
    pub fn now() -> Self {
        Self::new(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        )
    }

    /// The time that long after 1970-01-01.
    #[must_use]
    pub fn new(since_epoch: Duration) -> Self {
        let seconds = since_epoch.as_secs();
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let nanos = since_epoch.subsec_nanos();
        let text =
            format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z");
        Self(text.into_bytes())
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic
/// Gregorian calendar. Years are taken to begin in March, so that a leap day
/// is a year's last, and are counted in eras of 400.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468; // from 0000-03-01
    const ERA: u64 = 146_097;
    let days = days + DAYS_TO_1970;
    let day_of_era = days % ERA;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (
        days / ERA * 400 + year_of_era + u64::from(month <= 2),
        month,
        day,
    )
}

/// The log file. An error to write loses what was to be written, never more.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// The file ends in the middle of a line: a write was cut short.
    torn: bool,
    lost_bytes: u64,
}

impl LogFile {
    /// Opens, or makes, the file (0640) and the directories above it (0755).
    ///
    /// # Errors
    /// What could not be opened or made.
    pub fn open(path: &Path) -> Result<Self, StdioError> {
        let file = open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            torn: false,
            lost_bytes: 0,
        })
    }

    /// Opens the path again and goes on there: it has been renamed.
    ///
    /// # Errors
    /// What could not be opened or made. The old file then goes on.
    pub fn reopen(&mut self) -> Result<(), StdioError> {
        self.file = open(&self.path)?;
        self.torn = false;
        Ok(())
    }

    /// Writes whole lines.
    pub fn write(&mut self, lines: &[u8]) {
        if self.torn && self.write_some(b"\n").0 == 1 {
            self.torn = false;
        }
        let (written, result) = if self.torn {
            (0, Err(io::ErrorKind::StorageFull.into()))
        } else {
            self.write_some(lines)
        };
        if result.is_err() {
            let whole = lines.get(..written).unwrap_or(lines);
            self.torn |= !whole.is_empty() && whole.last() != Some(&b'\n');
            self.lost_bytes += (lines.len() - written) as u64;
        }
    }

    /// Bytes that could not be written.
    #[must_use]
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }

    fn write_some(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }
}

fn open(path: &Path) -> Result<File, StdioError> {
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(|source| StdioError::LogDirectory {
                path: parent.to_owned(),
                source,
            })?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(|source| StdioError::OpenLog {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn lines(limit: usize, pieces: &[&[u8]]) -> String {
        let time = Timestamp::new(Duration::ZERO);
        let mut formatter = Formatter::new(Stream::Stdout, limit);
        let mut out = Vec::new();
        for piece in pieces {
            formatter.push(piece, &time, &mut out);
        }
        formatter.finish(&time, &mut out);
        String::from_utf8_lossy(&out).replace("1970-01-01T00:00:00.000000000Z stdout ", "")
    }

    #[test]
    fn table() {
        for (limit, input, expected) in [
            (4, "", ""),
            (4, "\n", "F \n"),
            (4, "ab\n", "F ab\n"),
            (4, "ab", "P ab\n"),
            (4, "abcd\n", "F abcd\n"),
            (4, "abcde\n", "P abcd\nF e\n"),
            (4, "abcdefgh\n", "P abcd\nF efgh\n"),
            (4, "abcdefghi", "P abcd\nP efgh\nP i\n"),
            (4, "ab\r\n", "F ab\n"),
            (4, "abcd\r\n", "F abcd\n"),
            (4, "abcd\re\n", "P abcd\nF \re\n"),
            (4, "abcd\r", "P abcd\nP \r\n"),
            (4, "\r\n\r\n", "F \nF \n"),
            (4, "a\rb\r\r\n", "F a\rb\r\n"),
            (1, "\r\r\r\n", "P \r\nF \r\n"),
            (4, " x \n\ny\n", "F  x \nF \nF y\n"),
        ] {
            assert_eq!(
                lines(limit, &[input.as_bytes()]),
                expected,
                "{limit} {input:?}"
            );
        }
    }

    /// The rule for a whole line, without any buffering.
    fn model(limit: usize, input: &[u8]) -> String {
        let mut out = Vec::new();
        let mut all: Vec<&[u8]> = input.split(|b| *b == b'\n').collect();
        let last = all.pop().unwrap();
        for line in all {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let mut pieces: Vec<&[u8]> = line.chunks(limit).collect();
            let end = pieces.pop().unwrap_or_default();
            for piece in pieces {
                out.extend([b"P ", piece, b"\n"].concat());
            }
            out.extend([b"F ", end, b"\n"].concat());
        }
        for piece in last.chunks(limit) {
            out.extend([b"P ", piece, b"\n"].concat());
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(
            limit in 1_usize..9,
            input in "[ab\r\n]{0,60}",
            cuts in prop::collection::vec(0_usize..60, 0..8),
        ) {
            let mut cuts: Vec<usize> =
                cuts.into_iter().map(|cut| cut.min(input.len())).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> =
                cuts.windows(2).map(|w| &input.as_bytes()[w[0]..w[1]]).collect();
            prop_assert_eq!(lines(limit, &pieces), model(limit, input.as_bytes()));
        }
    }

    #[test]
    fn times() {
        let text = |seconds, nanos| {
            String::from_utf8(Timestamp::new(Duration::new(seconds, nanos)).0).unwrap()
        };
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_399, 1), "2000-02-28T23:59:59.000000001Z");
        assert_eq!(text(951_782_400, 0), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(text(1_709_164_800, 0), "2024-02-29T00:00:00.000000000Z");
        assert_eq!(
            text(1_735_689_599, 999_999_999),
            "2024-12-31T23:59:59.999999999Z"
        );
        assert_eq!(text(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
    }

    #[test]
    fn makes_file_and_directories() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pod/container/0.log");
        let mut log = LogFile::open(&path).unwrap();
        log.write(b"one\n");
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o7777,
            0o640
        );
        let parent = path.parent().unwrap().metadata().unwrap();
        assert_eq!(parent.permissions().mode() & 0o7777, 0o755);
        let renamed = root.path().join("0.log.1");
        std::fs::rename(&path, &renamed).unwrap();
        log.write(b"two\n");
        log.reopen().unwrap();
        log.write(b"three\n");
        assert_eq!(std::fs::read(&renamed).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        assert_eq!(log.lost_bytes(), 0);
    }

    #[test]
    fn a_full_disk_loses_lines_and_no_more() {
        let mut log = LogFile::open(Path::new("/dev/full")).unwrap();
        log.write(b"lost\n");
        assert_eq!(log.lost_bytes(), 5);
        assert!(!log.torn);
        // As after a short write: the next line must begin a line.
        let root = tempfile::tempdir().unwrap();
        log.path = root.path().join("log");
        log.reopen().unwrap();
        log.write(b"cut ");
        log.torn = true;
        log.write(b"whole\n");
        assert_eq!(std::fs::read(&log.path).unwrap(), b"cut \nwhole\n");
    }
}
