//! The tables of states in the docs of the machines are executed: each input in each state does what its cell says.

mod connection;
mod session;
mod table;
