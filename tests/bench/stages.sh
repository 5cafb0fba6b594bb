#!/bin/sh
# Counts the instructions of each stage of a request with callgrind, and prints them next to the committed figures:
# ./tests/bench/stages.sh [--write]; `--write` replaces the committed figures. Needs valgrind.
set -eu
cd "$(dirname "$0")"
cargo build --locked --release --no-default-features --bin stages
stages=$(cargo metadata --locked --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/stages

# count NAME TIMES: prints the instructions of a whole run.
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
printf '%10s %10s %8s  instructions\n' now committed change
while IFS="$(printf '\t')" read -r instructions name; do
    committed=$(sed -n "s/	$name\$//p" stages.tsv 2>/dev/null || true)
    change=$(awk -v now="$instructions" -v old="${committed:-0}" 'BEGIN { if (old > 0) printf "%+.1f %%", 100 * now / old - 100 }')
    printf '%10s %10s %8s  %s\n' "$instructions" "${committed:--}" "$change" "$name"
done <"$new"
if [ "${1:-}" = --write ]; then
    cp "$new" stages.tsv
fi
