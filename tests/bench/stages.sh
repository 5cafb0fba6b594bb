#!/bin/sh
# Counts the instructions of each stage of a request's way, with callgrind, beside the figures that are committed:
# ./tests/bench/stages.sh [--write]; `--write` makes the new figures the committed ones. Needs valgrind.
set -eu
cd "$(dirname "$0")"
cargo build --locked --release --no-default-features --bin stages
stages=$(cargo metadata --locked --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/stages

# count NAME TIMES: all instructions of a run.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$stages" "$1" "$2" 2>&1 |
        sed -n 's/^.*Collected : //p'
}

new=$(mktemp)
trap 'rm "$new"' EXIT
"$stages" | while IFS= read -r name; do
    once=$(count "$name" 10)
    often=$(count "$name" 110)
    printf '%s\t%s\n' "$(((often - once) / 100))" "$name"
done >"$new"
printf '%10s %10s  instructions\n' now committed
while IFS="$(printf '\t')" read -r instructions name; do
    committed=$(sed -n "s/	$name\$//p" stages.tsv 2>/dev/null || true)
    printf '%10s %10s  %s\n' "$instructions" "${committed:--}" "$name"
done <"$new"
if [ "${1:-}" = --write ]; then
    cp "$new" stages.tsv
fi
