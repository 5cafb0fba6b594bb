# shellcheck shell=bash
# Installs the tools that the steps need. Each function succeeds if the tool is present when it returns.

skip() { echo "skipped: $*"; }

# quietly COMMAND...: prints the output of the command only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    [ $status = 0 ] || tail -n 20 "$log"
    rm "$log"
    return $status
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# debian PACKAGE: a package of Debian or Ubuntu.
debian() {
    dpkg -s "$1" >/dev/null 2>&1 && return
    # A new machine has no list of packages, or an old one. Once a day is enough.
    if [ -z "$(find target/ci/apt-updated -mtime -1 2>/dev/null)" ]; then
        quietly as_root apt-get update || true
        touch target/ci/apt-updated
    fi
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y "$1"
}

# command_of PACKAGE COMMAND: a command, however it was installed, else from a package of Debian or Ubuntu.
command_of() { command -v "$2" >/dev/null || debian "$1"; }

# cargo_tool NAME: a cargo subcommand. Without optimization it builds in half the time, and none of them has much to compute.
cargo_tool() { command -v "$1" >/dev/null || quietly cargo install --locked --debug "$1"; }

component() { rustup component list --installed 2>/dev/null | grep -q "^$1" || quietly rustup component add "$1"; }

standard_library() { rustup target list --installed 2>/dev/null | grep -qx "$1" || quietly rustup target add "$1"; }

# toolchain NAME: by the name that `cargo +NAME` takes.
toolchain() { cargo "+$1" --version >/dev/null 2>&1 || quietly rustup toolchain install "$1" --profile minimal; }

nightly_with() {
    toolchain nightly || return
    for name; do
        rustup component list --toolchain nightly --installed | grep -q "^$name" ||
            quietly rustup component add --toolchain nightly "$name" || return
    done
}

# What the tests use if it is present. They skip the rest by name.
tools_of_tests() {
    local python=target/interop/python
    mkdir -p target/interop
    [ -x $python/bin/python ] || quietly python3 -m venv $python || true
    quietly $python/bin/python -m pip install --quiet websockets || true
    quietly npm install --no-save --no-audit --no-fund --prefix target/interop ws @copilotkit/aimock || true
    quietly npm ci --no-audit --no-fund --prefix tests/web || true
    [ -n "${CHROMIUM:-}" ] || command_of chromium chromium || true
    [ -n "${FIREFOX:-}" ] || command_of firefox-esr firefox-esr || true
    command_of sqlite3 sqlite3 || true
    debian faketime || true
}
