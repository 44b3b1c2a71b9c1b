//! Compiles a seccomp profile to a filter program (mode `seccomp`).
//!
//! The daemon runs this once per profile and capability set and keeps the
//! bytes; create and exec load them. libseccomp takes 10 to 25 ms for the usual
//! profile, which is most of what starting a container costs otherwise.
//!
//! The profile is an OCI `LinuxSeccomp` with the extensions in which default
//! profiles are written everywhere: `archMap`, and rules with `includes` and
//! `excludes` (capabilities, architectures, least kernel).

mod filter;
mod profile;
mod stub;

use std::io::{self, Read, Write};
use std::process::ExitCode;

pub use filter::compile;
pub use profile::{Profile, Request};

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// Standard input could not be read.
    #[error("read seccomp request")]
    Read(#[source] io::Error),
    /// It is not what it should be.
    #[error("parse seccomp request")]
    Parse(#[source] serde_json::Error),
    /// Needs an agent beside the container, which nobody starts.
    #[error("seccomp action SCMP_ACT_NOTIFY is not supported")]
    Notify,
    /// errno(3) to return is out of range.
    #[error("seccomp errnoRet {0} is out of range")]
    Errno(u32),
    /// Index of a system call's argument.
    #[error("seccomp rule for {syscall} names argument {index}")]
    Argument {
        /// Name of the system call.
        syscall: String,
        /// As given.
        index: usize,
    },
    /// libseccomp refused.
    #[error("{operation}")]
    Library {
        /// What was asked for.
        operation: String,
        /// Its answer.
        #[source]
        source: libseccomp::error::SeccompError,
    },
    /// More instructions than the kernel takes (`BPF_MAXINSNS`).
    #[error("seccomp filter has {0} instructions, 4096 are possible")]
    TooLong(usize),
    /// Standard output could not be written.
    #[error("write seccomp filter")]
    Write(#[source] io::Error),
}

/// The mode `seccomp`: a [`Request`] as JSON on stdin, the filter program (an
/// array of `struct sock_filter`) on stdout. A failure is one line on stderr
/// and exit code 1.
#[must_use]
pub fn run() -> ExitCode {
    match serve(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut line = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                line.push_str(": ");
                line.push_str(&error.to_string());
                cause = error.source();
            }
            // Nowhere else to say it; the exit code stays.
            writeln!(io::stderr(), "{line}").ok();
            ExitCode::FAILURE
        }
    }
}

fn serve(mut input: impl Read, mut output: impl Write) -> Result<(), SeccompError> {
    let mut text = Vec::new();
    input.read_to_end(&mut text).map_err(SeccompError::Read)?;
    let request: Request = serde_json::from_slice(&text).map_err(SeccompError::Parse)?;
    let program = compile(&request)?;
    output
        .write_all(&program)
        .and_then(|()| output.flush())
        .map_err(SeccompError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_a_request_and_says_what_is_wrong() {
        let mut out = Vec::new();
        let request = r#"{"profile":{"defaultAction":"SCMP_ACT_ERRNO",
            "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}}"#;
        serve(request.as_bytes(), &mut out).unwrap();
        assert!(!out.is_empty() && out.len() % 8 == 0);
        let bad = [
            (
                r#"{"profile":{"defaultAction":"SCMP_ACT_NOTIFY"}}"#,
                "Notify",
            ),
            (
                r#"{"profile":{"defaultAction":"SCMP_ACT_WHATEVER"}}"#,
                "Parse",
            ),
            (
                r#"{"profile":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":70000}}"#,
                "Errno",
            ),
            ("", "Parse"),
        ];
        for (request, expected) in bad {
            let error = serve(request.as_bytes(), &mut Vec::new()).unwrap_err();
            assert!(
                format!("{error:?}").starts_with(expected),
                "{request}: {error:?}"
            );
        }
    }
}
