//! The kernel's boot id, which tells a record of this boot from an older one.

use std::io;

/// The boot id of the running kernel (`random(4)`, `/proc/sys/kernel/random/boot_id`).
///
/// # Errors
/// Whatever reading the file yields; it exists on every Linux with procfs.
pub fn boot_id() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}
