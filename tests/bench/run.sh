#!/usr/bin/env bash
# Builds this server and its peers and compares them: ./tests/bench/run.sh [OPTION ...], with the options of `compare`
# (--rounds N, --rows WORD,..., --servers WORD,..., --workers N). Needs Linux and two cores: the load runs on the first, the
# servers on the second. Peers that cannot be installed are skipped and named.
set -euo pipefail
cd "$(dirname "$0")"
cargo build --locked --release --bin compare --bin serve --bin yardstick
cargo build --locked --release --manifest-path peers/Cargo.toml
set -- "$@" yardstick=canned:target/release/yardstick switchboard=envelopes:target/release/serve
if npm ci --no-audit --no-fund --prefix peers/js >/dev/null 2>&1 && peers/js/node_modules/.bin/bun --version >/dev/null; then
    set -- "$@" "bun=envelopes:peers/js/node_modules/.bin/bun peers/js/bun.mjs" "ws=envelopes:node peers/js/ws.mjs"
else
    echo "skipped: Bun and ws, whose packages could not be installed" >&2
fi
for peer in axum-value axum-raw fast-value fast-raw; do
    set -- "$@" "$peer=envelopes:peers/target/release/$peer"
done
ulimit -n "$(ulimit -Hn)"
exec taskset -c 0 target/release/compare "$@" jsonrpsee=json-rpc:peers/target/release/jsonrpsee
