//! The shim's binary; see the library for what it is made of.

use std::process::ExitCode;

use longshore_shim::arguments::{self, Mode};
use longshore_shim::error::chain;
use longshore_shim::{bootstrap, init, pin, seccomp};

fn main() -> ExitCode {
    let mode = match arguments::parse(std::env::args().skip(1)) {
        Ok(mode) => mode,
        Err(error) => {
            eprintln!("longshore-shim: {error}");
            return ExitCode::from(2);
        }
    };
    let outcome = match mode {
        Mode::Serve(options) => bootstrap::serve(options),
        Mode::Init(options) => init::run(&options),
        Mode::Pin(options) => pin::run(options),
        Mode::Seccomp => return seccomp::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("longshore-shim: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
