//! The `switchboard` command.

mod arguments;
mod call;
pub mod cli;
mod private;
mod terminal;
