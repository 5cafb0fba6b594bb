//! Parts of a test that need what is not installed.

use std::io::Write;

/// Says by name what is skipped, past the test runner, which hides what passing tests print.
pub fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}
