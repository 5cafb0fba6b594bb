//! What the test programs share. Each program includes all of it and uses a part.
#![allow(dead_code, unused_imports, reason = "each test program uses its own part of this")]

#[cfg(feature = "backend")]
pub mod certificate;
pub mod client;
pub mod frames;
#[cfg(feature = "backend")]
pub mod host;
#[cfg(feature = "backend")]
pub mod mock;
pub mod pair;
#[cfg(feature = "backend")]
pub mod program;
pub mod properties;
pub mod random;
#[cfg(target_os = "linux")]
pub mod resident;
pub mod skip;
pub mod socket;
#[cfg(feature = "backend")]
pub mod typescript;
#[cfg(feature = "backend")]
pub mod upstream;
