//! The `switchboard` command; see [`switchboard::backend::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    switchboard::backend::cli::main()
}
