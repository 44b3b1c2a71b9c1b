//! Compiles an OCI seccomp profile to a filter program (mode `seccomp`).

use std::process::ExitCode;

/// The mode `seccomp`: a request as JSON on stdin, the filter program (an
/// array of `struct sock_filter`) on stdout. A failure is one line on stderr
/// and exit code 1.
#[must_use]
pub fn run() -> ExitCode {
    ExitCode::FAILURE
}
