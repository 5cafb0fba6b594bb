//! Tests that need software that is not installed.

use std::io::Write;

/// Prints what is skipped. The test runner hides `println!` of passing tests, but not this.
pub fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}
