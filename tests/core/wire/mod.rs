//! The wire rules, in virtual time: each rule on both sides of its boundary, each script on a network that delivers
//! whole, byte by byte, and in seeded pieces.

mod budgets;
mod closing;
mod limits;
mod requests;
mod setup;
