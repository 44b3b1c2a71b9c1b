//! Stdio of the container: pipes or a pty, the CRI log, attached clients.
