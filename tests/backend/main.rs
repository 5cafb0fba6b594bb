//! The channel registry, its families and the `switchboard` command, over real sockets and on real database files.
//! `cargo test --all-features --test backend chat::` runs one module.

#[path = "../support/mod.rs"]
mod support;

mod ai;
mod analytics;
#[cfg(unix)]
mod artifact;
mod chat;
mod code;
mod commands;
mod credentials;
mod durability;
mod expiring;
#[cfg(unix)]
mod extremes;
#[cfg(unix)]
mod faults;
mod hostile;
mod identities;
mod imagegen;
mod registry;
mod settings;
mod web;
