//! The protocol, the server and the client in Rust. `cargo test --test core access::` runs one module.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod admission;
mod advisories;
mod authentication;
mod backpressure;
mod calls;
#[cfg(feature = "client")]
mod client;
mod connections;
#[cfg(feature = "client")]
mod credentials;
mod documents;
mod drain;
mod examples;
mod extremes;
mod groups;
mod guards;
mod handlers;
mod handshake;
mod identities;
mod interop;
mod large;
mod memory;
mod observers;
mod order;
#[cfg(feature = "pages")]
mod pages;
mod pauses;
mod server;
mod states;
mod wire;
