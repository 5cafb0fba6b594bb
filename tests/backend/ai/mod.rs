//! The channel family `ai` over a real socket: the echo provider, and upstreams that play scripts with faults.

mod conversion;
mod fair;
mod keys;
mod providers;
mod setup;
mod stored;
mod streams;
