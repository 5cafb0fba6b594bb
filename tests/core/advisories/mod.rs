//! What went wrong elsewhere, held here: one test for each class of published advisory against a WebSocket or HTTP
//! implementation. The doc line names the advisory, the name says what holds here.
//!
//! Cost is counted in work, never in seconds: bytes given to a machine, allocations, bytes allocated in all (`bytes_total`,
//! so that memory moved again and again shows) and held at once (`bytes_max`). The allocator that counts is of the crate
//! `allocation-counter`, as one of our own would need `unsafe`; it counts each thread by itself, so tests do not disturb
//! each other. How often the bytes of a text are looked at is counted beside the machine, in `src/protocol/connection.rs`.

mod cost;
mod refusals;
mod setup;
