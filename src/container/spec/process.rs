//! Arguments, environment, working directory.

use std::path::PathBuf;

use super::super::model::ContainerConfig;
use super::ImageFacts;
use super::error::SpecError;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `command` replaces the image's entrypoint and drops its cmd; `args` replace
/// the cmd. An entrypoint of one empty string is none.
pub(super) fn args(config: &ContainerConfig, image: &ImageFacts) -> Result<Vec<String>, SpecError> {
    let mut args = config.command.clone();
    if args.is_empty() {
        if image.entrypoint != [""] {
            args.clone_from(&image.entrypoint);
        }
        if config.args.is_empty() {
            args.extend_from_slice(&image.cmd);
        }
    }
    args.extend_from_slice(&config.args);
    if args.is_empty() {
        return Err(SpecError::invalid(
            "config.command",
            "neither the request nor the image says what to run",
        ));
    }
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(SpecError::invalid(
            "config.command",
            "an argument holds a NUL",
        ));
    }
    Ok(args)
}

/// `PATH`, `TERM` with a terminal, `HOSTNAME`, then the image's, then the
/// request's; a later value replaces an earlier one in its place.
///
/// Values are bytes in CRI, but the OCI spec is JSON text: one that is not
/// UTF-8 is refused, for passing on a mangled one would be worse.
pub(super) fn env(
    config: &ContainerConfig,
    image: &ImageFacts,
    hostname: &str,
) -> Result<Vec<String>, SpecError> {
    let mut env = Environment::default();
    env.set("PATH", DEFAULT_PATH);
    if config.tty {
        env.set("TERM", "xterm");
    }
    env.set("HOSTNAME", hostname);
    for pair in &image.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        env.set(name, value);
    }
    for (name, value) in &config.envs {
        let bad = |problem: &str| {
            SpecError::invalid("config.envs", format!("variable {name:?} {problem}"))
        };
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(bad("has an empty name or one with = or NUL"));
        }
        let value = std::str::from_utf8(value)
            .map_err(|_| bad("is not UTF-8, which the OCI runtime spec can't carry"))?;
        if value.contains('\0') {
            return Err(bad("holds a NUL"));
        }
        env.set(name, value);
    }
    Ok(env.pairs)
}

#[derive(Default)]
struct Environment {
    pairs: Vec<String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: &str) {
        let pair = format!("{name}={value}");
        let same = |have: &&mut String| {
            have.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='))
        };
        match self.pairs.iter_mut().find(same) {
            Some(have) => *have = pair,
            None => self.pairs.push(pair),
        }
    }
}

/// The request's, else the image's, else `/`.
pub(super) fn cwd(config: &ContainerConfig, image: &ImageFacts) -> Result<PathBuf, SpecError> {
    let dir = [&config.working_dir, &image.working_dir]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .map_or("/", String::as_str);
    if dir.contains('\0') {
        return Err(SpecError::invalid("config.working_dir", "it holds a NUL"));
    }
    // An image may name a relative one; it counts from the root.
    Ok(PathBuf::from("/").join(dir))
}
