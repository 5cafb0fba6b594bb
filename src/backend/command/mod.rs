//! The `switchboard` command.

mod call;
pub mod cli;
