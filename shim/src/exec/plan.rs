//! Everything that a child needs, made ready before the fork.

use std::ffi::{CStr, CString};
use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::{Gid, Uid, fchown};

use super::context::{Context, c_string, open_root};
use super::error::{ExecError, Step};
use super::terminal;
use super::{Descriptors, ExecRequest, cgroups};

/// Where programs are looked up in a container whose environment has no PATH.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything that a child needs. It only reads.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) context: &'a Context,
    pub(super) cgroups: Vec<cgroups::Target<'a>>,
    /// Paths to try, as execvp(3) does.
    pub(super) candidates: Vec<CString>,
    pub(super) argv: StringArray,
    pub(super) envp: StringArray,
    /// For 0, 1 and 2. All have higher numbers than that.
    pub(super) stdio: [OwnedFd; 3],
    pub(super) tty: bool,
}

/// A NULL-terminated array of strings, as execve(2) takes it.
#[derive(Debug)]
pub(super) struct StringArray {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl StringArray {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|s| s.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect();
        Self {
            _strings: strings,
            pointers,
        }
    }

    pub(super) fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}

impl<'a> Plan<'a> {
    /// The plan, and the pty's master with a tty.
    pub(super) fn new(
        context: &'a Context,
        request: &ExecRequest,
        descriptors: Descriptors,
    ) -> Result<(Self, Option<OwnedFd>), ExecError> {
        let args = request
            .args
            .iter()
            .map(|arg| c_string(arg))
            .collect::<Result<Vec<_>, _>>()?;
        let mut environment = context.environment.clone();
        let path = variable(&environment, b"PATH")
            .unwrap_or(DEFAULT_PATH)
            .to_vec();
        if request.tty && variable(&environment, b"TERM").is_none() {
            environment.push(c"TERM=xterm".to_owned());
        }
        let program = args.first().filter(|program| !program.is_empty());
        let Some(program) = program else {
            return Err(ExecError::from_errno(Step::Arguments, libc::EINVAL));
        };
        let candidates = candidates(program, &path);
        let (stdio, master) = if request.tty {
            let root = open_root(context.pid).map_err(|e| ExecError::new(Step::Pty, e))?;
            let pty = terminal::allocate(root.as_fd())?;
            // Its group stays the devpts'. Not left to the child: an inode
            // that the host's root made is nobody's to change in a user
            // namespace.
            fchown(&pty.slave, Some(Uid::from_raw(context.owner.0)), None)
                .map_err(|e| ExecError::new(Step::TtyOwner, e))?;
            (on_terminal(&pty.slave)?, Some(pty.master))
        } else {
            (on_pipes(descriptors, context.owner)?, None)
        };
        let plan = Self {
            context,
            cgroups: cgroups::targets(&context.cgroups, context.pid),
            candidates,
            argv: StringArray::new(args),
            envp: StringArray::new(environment),
            stdio,
            tty: request.tty,
        };
        Ok((plan, master))
    }
}

fn variable<'a>(environment: &'a [CString], name: &[u8]) -> Option<&'a [u8]> {
    environment
        .iter()
        .find_map(|entry| entry.as_bytes().strip_prefix(name)?.strip_prefix(b"="))
}

/// What execvp(3) would try: the name itself if it has a slash, else the name
/// in each directory of the path, an empty one being the working directory.
fn candidates(program: &CStr, path: &[u8]) -> Vec<CString> {
    let name = program.to_bytes();
    if name.contains(&b'/') {
        return vec![program.to_owned()];
    }
    path.split(|byte| *byte == b':')
        .filter_map(|directory| {
            let mut candidate = directory.to_vec();
            if !directory.is_empty() {
                candidate.push(b'/');
            }
            candidate.extend_from_slice(name);
            CString::new(candidate).ok()
        })
        .collect()
}

fn on_terminal(slave: &OwnedFd) -> Result<[OwnedFd; 3], ExecError> {
    Ok([
        above_stdio(slave.as_fd())?,
        above_stdio(slave.as_fd())?,
        above_stdio(slave.as_fd())?,
    ])
}

fn on_pipes(descriptors: Descriptors, owner: (u32, u32)) -> Result<[OwnedFd; 3], ExecError> {
    let end = |given: Option<OwnedFd>| match given {
        Some(fd) => {
            give_to(&fd, owner)?;
            above_stdio(fd.as_fd())
        }
        None => {
            let null = OpenOptions::new().read(true).write(true).open("/dev/null");
            above_stdio(null.map_err(|e| ExecError::new(Step::Stdio, e))?.as_fd())
        }
    };
    Ok([
        end(descriptors.stdin)?,
        end(descriptors.stdout)?,
        end(descriptors.stderr)?,
    ])
}

/// A pipe that is root's can't be opened again as /dev/stdout by others.
fn give_to(fd: &OwnedFd, (uid, gid): (u32, u32)) -> Result<(), ExecError> {
    let kind = nix::sys::stat::fstat(fd).map_err(|e| ExecError::new(Step::Stdio, e))?;
    if kind.st_mode & libc::S_IFMT == libc::S_IFIFO {
        fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|e| ExecError::new(Step::Stdio, e))?;
    }
    Ok(())
}

/// A duplicate that dup2(2) onto 0, 1 and 2 does not close.
fn above_stdio(fd: BorrowedFd<'_>) -> Result<OwnedFd, ExecError> {
    super::enter::duplicate_above(fd, 3).map_err(|e| ExecError::new(Step::Stdio, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_as_execvp() {
        let search = |program: &CStr, path: &[u8]| {
            candidates(program, path)
                .into_iter()
                .map(|c| c.into_string().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(search(c"/bin/ls", b"/x"), ["/bin/ls"]);
        assert_eq!(search(c"./ls", b"/x"), ["./ls"]);
        assert_eq!(search(c"ls", b"/usr/bin:/bin"), ["/usr/bin/ls", "/bin/ls"]);
        assert_eq!(
            search(c"ls", b"/usr/bin::/bin/"),
            ["/usr/bin/ls", "ls", "/bin//ls"]
        );
    }

    #[test]
    fn variables_by_whole_name() {
        let environment = [c"PATHS=/no".to_owned(), c"PATH=/yes".to_owned()];
        assert_eq!(variable(&environment, b"PATH"), Some(b"/yes".as_slice()));
        assert_eq!(variable(&environment, b"TERM"), None);
    }
}
