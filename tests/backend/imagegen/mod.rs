//! The channel family `imagegen` over a real socket, on a real database file: the built-in provider, and upstreams that play
//! every fault from a script.

mod gallery;
mod providers;
mod queue;
mod restart;
mod setup;
