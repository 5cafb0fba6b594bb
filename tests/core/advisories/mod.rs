//! One test for each class of published advisory against a WebSocket or HTTP implementation.
//! The doc line names the advisory, the test's name says what holds here.
//!
//! Cost is counted in work, never in seconds: bytes given to a machine, allocations, bytes allocated in total (`bytes_total`,
//! which shows repeated copying) and held at the same time (`bytes_max`). The counting allocator is from the crate
//! `allocation-counter`, because our own would need `unsafe`. It counts each thread separately, so tests do not disturb
//! each other. How often the bytes of a text are read is counted in the unit tests of `src/protocol/connection.rs`.

mod cost;
mod refusals;
mod setup;
