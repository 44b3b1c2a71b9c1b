//! Compiles an OCI seccomp profile to a filter program (mode `seccomp`).
