//! The channel family `ai` over a real socket: the echo provider, and an upstream that plays every fault from a script.

mod keys;
mod providers;
mod setup;
mod stored;
mod streams;
