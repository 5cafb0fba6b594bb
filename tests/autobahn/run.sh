#!/usr/bin/env bash
# Runs the Autobahn test suite, the usual conformance tests for RFC 6455, against both ends of our connections, and compares
# the results with tests/autobahn/results.txt: one line for each case, with the end, the case, the suite's verdict on behaviour
# and close, and the code of our close frame. Fails on any difference, and on any verdict other than OK.
#
#   tests/autobahn/run.sh              takes about a minute; the suite's report is then below target/autobahn
#   tests/autobahn/run.sh --accept     replaces results.txt
#
# `server` is the fuzzingclient of the suite against our server's end, `client` its fuzzingserver against our client's end.
# Both ends are tests/autobahn/echo.rs: the suite needs raw echoes, but our server only answers requests.
#
# All cases of groups 1 to 7, 9 and 10 are run; there is no group 8. Groups 12 and 13 are permessage-deflate, which we do not
# offer. Every verdict must be OK, except for these cases, where the suite gives INFORMATIONAL for any behaviour:
#
#   7.1.6    A close frame directly after messages. RFC 6455 leaves open whether those are still answered. Here they are.
#   7.13.1   Close code 5000. RFC 6455, 7.4.2, defines no meaning for codes from 5000 on. We answer with 1002.
#   7.13.2   Close code 65535. The same.
#
# The suite needs Python 2.7, also in its release of 2025, which has the cases of 0.8.2 and declares no dependencies. If there
# is no Python 2.7 (PYTHON2, on the path, or from pyenv), or no suite, the exit status is 77: skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
readonly suite=autobahntestsuite==0.8.2
readonly results=tests/autobahn/results.txt
readonly informational='7.1.6|7.13.1|7.13.2'
readonly work=target/autobahn
readonly cases='"cases": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"], "exclude-cases": [], "exclude-agent-cases": {}'
running=()
trap '[ ${#running[@]} = 0 ] || kill "${running[@]}" 2>/dev/null' EXIT

skip() {
    echo "skipped: $*"
    exit 77
}

# Prints a Python 2.7 that starts; a shim of pyenv on the path can fail.
find_python2() {
    local python
    for python in "${PYTHON2:-}" python2.7 pypy "$HOME"/.pyenv/versions/2.7*/bin/python; do
        if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    return 1
}

install_suite() {
    local python2
    python2=$(find_python2) || skip "Autobahn, which needs Python 2.7"
    # The last virtualenv that supports Python 2.7.
    python3 -m venv "$work/tools" &&
        "$work/tools/bin/python" -m pip install --quiet --disable-pip-version-check 'virtualenv<20.22' &&
        "$work/tools/bin/virtualenv" --quiet --python "$python2" "$work/python" &&
        "$work/python/bin/python" -m pip install --quiet --disable-pip-version-check "$suite" &&
        touch "$work/installed"
}

# wait_for DESCRIPTION COMMAND...: repeats the command until it succeeds.
wait_for() {
    local what=$1
    shift
    for _ in $(seq 300); do
        "$@" && return
        sleep 0.1
    done
    echo "timed out waiting for $what"
    return 1
}

test_server() {
    "$echo" server >"$work/port" &
    running+=($!)
    wait_for "the echo server" test -s "$work/port"
    echo '{"outdir": "'$work'/server", "servers": [{"agent": "server", "url": "ws://127.0.0.1:'"$(cat $work/port)"'"}], '"$cases}" \
        >"$work/server.json"
    "$wstest" --mode fuzzingclient --spec "$work/server.json" >"$work/server.log" 2>&1
}

answers() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

test_client() {
    local port
    # The suite cannot report a free port that it selected.
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    echo '{"outdir": "'$work'/client", "url": "ws://127.0.0.1:'"$port"'", '"$cases}" >"$work/client.json"
    "$wstest" --mode fuzzingserver --webport 0 --spec "$work/client.json" >"$work/client.log" 2>&1 &
    running+=($!)
    wait_for "the fuzzing server" answers "$port"
    "$echo" client "ws://127.0.0.1:$port" client
}

# Prints the results of the suite as lines, in the order of the cases.
summarize() {
    python3 - <<'PYTHON'
import json
for end in ("server", "client"):
    with open(f"target/autobahn/{end}/index.json") as file:
        cases = json.load(file)[end]
    for case in sorted(cases, key=lambda case: [int(part) for part in case.split(".")]):
        outcome = cases[case]
        print(end, case, outcome["behavior"], outcome["behaviorClose"], outcome["remoteCloseCode"] or "-")
PYTHON
}

mkdir -p $work
[ -e $work/installed ] || install_suite || skip "Autobahn, which could not be installed"
cargo build --quiet --locked --features client --example autobahn-echo
echo=${CARGO_TARGET_DIR:-target}/debug/examples/autobahn-echo
wstest=$work/python/bin/wstest
rm -rf $work/server $work/client
test_server || { tail $work/server.log; exit 1; }
test_client || { tail $work/client.log; exit 1; }
summarize >$work/results.txt

[ "${1:-}" != --accept ] || cp $work/results.txt $results
diff -u $results $work/results.txt
failed=$(grep -vE "^(server|client) ([0-9.]+ OK OK|($informational) INFORMATIONAL INFORMATIONAL) " $work/results.txt || true)
[ -z "$failed" ] || { echo "not OK:"; echo "$failed"; exit 1; }
echo "Autobahn: $(wc -l <$work/results.txt) cases as expected, $(grep -c ' OK OK ' $work/results.txt) of them OK"
