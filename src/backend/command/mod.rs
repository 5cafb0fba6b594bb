//! The `switchboard` command.

mod arguments;
mod call;
pub mod cli;
mod limits;
mod log;
mod private;
mod terminal;
mod values;
