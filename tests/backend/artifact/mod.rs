//! The channel family `artifact` over a real socket, on a real database file: real folders, real archives, real programs.

mod hostile;
mod install;
mod resources;
mod run;
mod setup;
