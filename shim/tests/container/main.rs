//! The shim as the daemon sees it: a process with a socket, real containers
//! of a busybox made from the files of this machine. Needs root; each test has
//! a mount namespace of its own and cgroups of its own.

#[cfg(test)]
mod cleanup;
#[cfg(test)]
#[path = "../description/mod.rs"]
mod description;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod exits;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod modes;
#[cfg(test)]
mod security;
#[cfg(test)]
mod volumes;
