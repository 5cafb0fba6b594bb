#!/bin/sh
# Usage: fuzz/run.sh [SECONDS] [TARGET...]. Default: 60 seconds and all targets. Afterwards it minimises each corpus and
# prints the lines of src/protocol that the inputs of all targets reach.
# Stops at the first finding; libFuzzer prints the path of the input, below fuzz/artifacts.
set -eu
cd "$(dirname "$0")/.."

seconds=60
case "${1:-}" in
[0-9]*)
    seconds=$1
    shift
    ;;
esac
all=$#
[ $# -gt 0 ] || set -- json envelope frames outbox connection session fair groups caller race upgrade access admission transcript sse tar origin

for target; do
    case "$target" in
    connection | tar) longest=4096 ;;
    *) longest=1024 ;;
    esac
    seeds="fuzz/seeds/$target fuzz/regressions/$target"
    corpus="fuzz/corpus/$target"
    mkdir -p "$corpus"
    echo "== $target: seeds and regressions"
    # The crate forbids unsafe code, so an address sanitizer would only cost speed.
    # shellcheck disable=SC2086
    cargo +nightly fuzz run --sanitizer none "$target" $seeds -- -runs=0 -timeout=10 -rss_limit_mb=2048
    echo "== $target: $seconds s"
    # New inputs go to the first folder; the others are only read.
    # shellcheck disable=SC2086
    cargo +nightly fuzz run --sanitizer none "$target" "$corpus" $seeds -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len="$longest" \
        -dict=fuzz/dictionary.txt -print_final_stats=1
    echo "== $target: minimising the corpus"
    # The old corpus stays if this fails. Only the last line of the output is of interest.
    cargo +nightly fuzz cmin --sanitizer none "$target" "$corpus" 2>&1 | tail -n 1
done

if [ "$all" = 0 ]; then
    echo "== coverage of src/protocol"
    fuzz/coverage.sh fuzz/corpus || [ $? = 77 ]
fi
