//! The command line. The daemon writes it, so it is strict and small.

use std::path::PathBuf;
use std::time::Duration;

use crate::bootstrap::ServeOptions;
use crate::init::InitOptions;
use crate::pin::PinOptions;

/// Time in seconds after which an abandoned shim ends itself.
const LINGER_SECONDS: u64 = 60;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Create and keep one container.
    Serve(ServeOptions),
    /// Be PID 1 of a pod.
    Init(InitOptions),
    /// Make namespaces for the daemon to pin.
    Pin(PinOptions),
    /// Compile a seccomp profile.
    Seccomp,
}

/// What is wrong with the command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentsError {
    /// No mode, or one that doesn't exist.
    #[error("usage: longshore-shim serve | init | pin | seccomp, not {0:?}")]
    Mode(String),
    /// An option that the mode doesn't have.
    #[error("unknown option {0:?}")]
    Option(String),
    /// An option without its value, or with a bad one.
    #[error("bad value of {0}")]
    Value(String),
    /// A necessary option is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// The first that is wrong.
pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Mode, ArgumentsError> {
    let mode = args.next().unwrap_or_default();
    match mode.as_str() {
        "serve" => serve(args).map(Mode::Serve),
        "init" => init(args).map(Mode::Init),
        "pin" => pin(args).map(Mode::Pin),
        "seccomp" => match args.next() {
            None => Ok(Mode::Seccomp),
            Some(option) => Err(ArgumentsError::Option(option)),
        },
        _ => Err(ArgumentsError::Mode(mode)),
    }
}

fn value(args: &mut impl Iterator<Item = String>, option: &str) -> Result<String, ArgumentsError> {
    args.next()
        .filter(|value| !value.is_empty())
        .ok_or_else(|| ArgumentsError::Value(option.to_owned()))
}

fn serve(mut args: impl Iterator<Item = String>) -> Result<ServeOptions, ArgumentsError> {
    let mut options = ServeOptions {
        id: String::new(),
        cgroups: Vec::new(),
        linger: Duration::from_secs(LINGER_SECONDS),
        log_stderr: false,
    };
    while let Some(option) = args.next() {
        match option.as_str() {
            "--id" => options.id = value(&mut args, &option)?,
            "--cgroup" => options
                .cgroups
                .push(PathBuf::from(value(&mut args, &option)?)),
            "--linger" => {
                let seconds = value(&mut args, &option)?.parse();
                options.linger =
                    Duration::from_secs(seconds.map_err(|_| ArgumentsError::Value(option))?);
            }
            "--log-stderr" => options.log_stderr = true,
            _ => return Err(ArgumentsError::Option(option)),
        }
    }
    if options.id.is_empty() {
        Err(ArgumentsError::Missing("--id"))
    } else {
        Ok(options)
    }
}

fn init(mut args: impl Iterator<Item = String>) -> Result<InitOptions, ArgumentsError> {
    let mut options = InitOptions::default();
    while let Some(option) = args.next() {
        let mut path = || value(&mut args, &option).map(PathBuf::from);
        match option.as_str() {
            "--net" => options.net = Some(path()?),
            "--ipc" => options.ipc = Some(path()?),
            "--uts" => options.uts = Some(path()?),
            "--user" => options.user = Some(path()?),
            "--cgroup" => options.cgroups.push(path()?),
            // Fixed, and said for the reader of a process list.
            "--ready-fd" if path()?.as_os_str() == "3" => {}
            _ => return Err(ArgumentsError::Option(option)),
        }
    }
    Ok(options)
}

fn pin(args: impl Iterator<Item = String>) -> Result<PinOptions, ArgumentsError> {
    let mut options = PinOptions::default();
    for option in args {
        match option.as_str() {
            "--net" => options.net = true,
            "--ipc" => options.ipc = true,
            "--uts" => options.uts = true,
            _ => return Err(ArgumentsError::Option(option)),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Mode, ArgumentsError> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_mode() {
        let Ok(Mode::Serve(serve)) = read("serve --id c --cgroup /a --cgroup /b --linger 5") else {
            panic!("serve")
        };
        assert_eq!(serve.id, "c");
        assert_eq!(serve.cgroups, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(serve.linger, Duration::from_secs(5));
        let Ok(Mode::Init(init)) = read("init --net /n --cgroup /c --ready-fd 3") else {
            panic!("init")
        };
        assert_eq!(
            (init.net, init.cgroups.len()),
            (Some(PathBuf::from("/n")), 1)
        );
        let all = PinOptions {
            net: true,
            ipc: true,
            uts: true,
        };
        assert_eq!(read("pin --net --ipc --uts"), Ok(Mode::Pin(all)));
        assert_eq!(read("seccomp"), Ok(Mode::Seccomp));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, error) in [
            ("", ArgumentsError::Mode(String::new())),
            ("run", ArgumentsError::Mode("run".into())),
            ("serve", ArgumentsError::Missing("--id")),
            ("serve --id", ArgumentsError::Value("--id".into())),
            (
                "serve --id c --linger x",
                ArgumentsError::Value("--linger".into()),
            ),
            ("serve --id c -v", ArgumentsError::Option("-v".into())),
            (
                "init --ready-fd 4",
                ArgumentsError::Option("--ready-fd".into()),
            ),
            ("pin --mount", ArgumentsError::Option("--mount".into())),
            ("seccomp x", ArgumentsError::Option("x".into())),
        ] {
            assert_eq!(read(line), Err(error), "{line}");
        }
    }
}
