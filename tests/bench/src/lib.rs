//! What the programs that start the `switchboard` command have in common: the process, clients, attackers.

pub mod attackers;
pub mod dice;
pub mod others;
pub mod program;
pub mod wire;
