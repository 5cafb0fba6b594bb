#!/bin/sh
# Says which lines of src/protocol the fuzzers' inputs reach, through the same properties and without a fuzzer:
# fuzz/coverage.sh [CORPUS]. Seeds and old finds count, and those of a corpus, a folder with one folder for each target.
# Fails below 98 of 100 lines. Needs rustup's llvm-tools.
set -eu
cd "$(dirname "$0")/.."

tools=$(dirname "$(find "$(rustc --print sysroot)" -name llvm-cov -type f | head -n 1)")
[ -x "$tools/llvm-cov" ] || { echo "llvm-cov is missing: rustup component add llvm-tools"; exit 77; }
target=target/coverage
export CARGO_TARGET_DIR="$target" RUSTFLAGS="-Cinstrument-coverage"
# The build's own profiles are not wanted.
test=$(LLVM_PROFILE_FILE=/dev/null cargo test --locked --features backend --test seeds --no-run 2>&1 | tee /dev/stderr |
    sed -n 's/.*Executable.*(\(.*\))/\1/p')
rm -f "$target"/*.profraw
${1:+env CORPUS="$1"} env LLVM_PROFILE_FILE="$target/seeds-%p.profraw" "$test" every_seed
"$tools/llvm-profdata" merge -o "$target/seeds.profdata" "$target"/*.profraw

# show lists the lines by file with a count each; 0 is missed.
"$tools/llvm-cov" show "$test" --instr-profile "$target/seeds.profdata" --show-instantiations=false \
    --sources src/protocol >"$target/lines.txt"
awk -F'|' '
    /^\// { sub(/.*src\//, "src/"); sub(/:$/, ""); file = $0; next }
    NF >= 3 && $2 ~ /[0-9]/ { lines[file]++; all++; if ($2 + 0 == 0) { missed[file]++; none++; where[file] = where[file] " " $1 + 0 } }
    END {
        for (file in lines) printf "%6.2f %%  %4d lines  %s%s\n", 100 - 100 * missed[file] / lines[file], lines[file], file,
            missed[file] ? ", not" where[file] : "" | "sort -k 5"
        close("sort -k 5")
        reached = 100 - 100 * none / all
        printf "%6.2f %%  %4d lines in all\n", reached, all
        exit reached < 98
    }' "$target/lines.txt"
