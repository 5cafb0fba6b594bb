//! The channel family `imagegen` over a real socket, on a real database file: the built-in provider, and upstreams that play
//! scripts with faults.

mod fair;
mod gallery;
mod providers;
mod queue;
mod restart;
mod setup;
