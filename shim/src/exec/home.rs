//! HOME of the container's user, where the spec's environment has none.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// A passwd file is read up to here.
const LIMIT: u64 = 1 << 20;

/// The user's directory by /etc/passwd below `root`, else "/".
///
/// The file is the container's: it is opened within the root, without
/// following what leaves it, and a FIFO or device in its place is not read.
pub(super) fn of(root: BorrowedFd<'_>, uid: u32) -> String {
    read_passwd(root)
        .ok()
        .and_then(|text| find(&text, uid))
        .unwrap_or_else(|| "/".to_owned())
}

fn read_passwd(root: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(root, "etc/passwd", how)?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text)?;
    Ok(text)
}

/// Sixth field of the first line whose third is `uid`, by passwd(5).
fn find(passwd: &[u8], uid: u32) -> Option<String> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then_some(())?;
        fields
            .nth(2)
            .filter(|home| !home.is_empty() && !home.contains('\0'))
            .map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_users_home() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\n\xff\xfe:x:7:7::/bad:\nshort:x:5\n\
            empty:x:6:6:::/bin/sh\napp:x:1000:1000:App,,,:/home/app:/bin/sh";
        assert_eq!(find(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(find(passwd, 1000).as_deref(), Some("/home/app"));
        assert_eq!(find(passwd, 5), None);
        assert_eq!(find(passwd, 6), None);
        assert_eq!(find(passwd, 100), None);
    }
}
