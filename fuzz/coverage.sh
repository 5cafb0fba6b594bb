#!/bin/sh
# Usage: fuzz/coverage.sh [CORPUS]. Prints the lines of src/protocol that the fuzzers' inputs reach, through the same
# properties but without a fuzzer. The inputs are the seeds, the old findings and those of CORPUS, which has one folder
# per target. Fails below 98 % of the lines. Needs rustup's llvm-tools.
set -eu
cd "$(dirname "$0")/.."

tools=$(dirname "$(find "$(rustc --print sysroot)" -name llvm-cov -type f | head -n 1)")
[ -x "$tools/llvm-cov" ] || { echo "llvm-cov is missing: rustup component add llvm-tools"; exit 77; }
target=target/coverage
export CARGO_TARGET_DIR="$target" RUSTFLAGS="-Cinstrument-coverage"
# Discard the profiles of build scripts and procedural macros.
test=$(LLVM_PROFILE_FILE=/dev/null cargo test --locked --features backend --test seeds --no-run 2>&1 | tee /dev/stderr |
    sed -n 's/.*Executable.*(\(.*\))/\1/p')
rm -f "$target"/*.profraw
${1:+env CORPUS="$1"} env LLVM_PROFILE_FILE="$target/seeds-%p.profraw" "$test" every_seed
"$tools/llvm-profdata" merge -o "$target/seeds.profdata" "$target"/*.profraw

# llvm-cov prints each line of each file with its count; 0 is a missed line.
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
        printf "%6.2f %%  %4d of %d lines\n", reached, all - none, all
        exit reached < 98
    }' "$target/lines.txt"
