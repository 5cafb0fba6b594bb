//! The client in JavaScript, its React hooks and its types: `tests/web` has the tests, which Node's test runner runs against
//! the real server. What needs Node, its packages, Chromium or Firefox is skipped with a message where they are not installed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::skip;
use switchboard::backend::{registry, typescript};

const REGENERATE: &str = "sed -i '/^\\/\\/ Generated from the registry/,$d' src/web/client.d.ts && \
                          cargo run --features backend -- channels --typescript >> src/web/client.d.ts";

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// Runs a file of `tests/web`.
fn run(file: &str, needs_chromium: bool) {
    let is_missing = |program: &str| Command::new(program).arg("--version").output().is_err();
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    if is_missing("node") {
        return skip::skipped(&format!("tests/web/{file}: Node is not installed"));
    }
    if !path("tests/web/node_modules").exists() {
        return skip::skipped(&format!("tests/web/{file}: `npm ci --prefix tests/web` was not run"));
    }
    if needs_chromium && is_missing(&chromium) {
        return skip::skipped(&format!("tests/web/{file}: {chromium} is not installed"));
    }
    // `cargo test` builds the examples, but not `cargo test --test backend`.
    let example =
        Path::new(env!("CARGO_BIN_EXE_switchboard")).with_file_name("examples").join("expiring_tokens");
    let mut command = Command::new("node");
    if example.exists() {
        command.env("EXPIRING_TOKENS_BIN", example);
    } else if file.starts_with("expiring") {
        skip::skipped("tokens of our own server: the example expiring_tokens is not built");
    }
    let output = command
        .args(["--test", "--test-reporter=spec", file])
        .current_dir(path("tests/web"))
        .env("SWITCHBOARD_BIN", env!("CARGO_BIN_EXE_switchboard"))
        .env("CHROMIUM", chromium)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // The figures of a run with `--nocapture`.
        if line.ends_with(" failures") {
            println!("{line}");
        }
        if let Some((_, what)) = line.split_once("skipped: ") {
            skip::skipped(&format!("tests/web/{file}: {what}"));
        }
    }
}

#[test]
fn the_javascript_client_works_in_node() {
    run("client.node.test.mjs", false);
}

#[test]
fn the_javascript_client_works_in_chromium() {
    run("client.chromium.test.mjs", true);
}

#[test]
fn the_javascript_client_works_in_firefox() {
    run("client.firefox.test.mjs", true);
}

#[test]
fn a_process_ends_when_its_client_has_disconnected() {
    run("exit.test.mjs", false);
}

#[test]
fn no_call_fails_because_a_credential_expires() {
    run("expiring.test.mjs", true);
}

#[test]
fn the_hooks_work_with_react_18_and_19() {
    run("react.test.mjs", true);
}

#[test]
fn pages_of_other_origins_can_import_the_client_if_they_may_connect() {
    run("origins.test.mjs", true);
}

#[test]
fn the_console_works() {
    run("console.test.mjs", true);
}

#[test]
fn the_specifications_own_client_understands_the_server() {
    run("specification.test.mjs", false);
}

#[test]
fn calls_and_events_are_checked_and_completed_by_their_types() {
    run("types.test.mjs", false);
}

#[test]
fn the_types_of_the_client_are_those_of_the_registry() {
    let file = include_str!("../../src/web/client.d.ts");
    let at = file.find(registry::GENERATED).expect("client.d.ts has a generated section");
    assert!(
        file.get(at..) == Some(&*typescript()),
        "src/web/client.d.ts is not what the registry says; run\n{REGENERATE}"
    );
}

#[test]
fn every_type_has_its_own_name() {
    // TypeScript merges two interfaces of one name without an error.
    let mut names = HashSet::new();
    for line in include_str!("../../src/web/client.d.ts").lines() {
        let declared = line.strip_prefix("export interface ").or(line.strip_prefix("export type "));
        let name = declared.and_then(|rest| rest.split([' ', '<']).next());
        assert!(name.is_none_or(|name| names.insert(name)), "{name:?} is listed twice");
    }
    assert!(names.contains("Channels"));
}
