#!/bin/sh
# Formatting, lints, and the rules of this repository that a script can hold.
set -eu
cd "$(dirname "$0")/.."

cargo fmt --all -- --check
cargo clippy --workspace --all-targets --locked -q -- -D warnings

# `unsafe` only where the kernel leaves no choice.
for lib in crates/*/src/lib.rs crates/yunfan/src/main.rs; do
    crate=$(basename "$(dirname "$(dirname "$lib")")")
    case $crate in
    runtime | network | hypervisor) rule='deny(unsafe_code)' ;;
    *) rule='forbid(unsafe_code)' ;;
    esac
    grep -qF "#![$rule]" "$lib" || { echo "lint: $lib lacks #![$rule]" >&2; exit 1; }
done

# A long file is a room that wants a wall.
long=$(git ls-files '*.rs' | xargs wc -l | awk '$2 != "total" && $1 > 600 {print $2 " has " $1 " lines"}')
[ -z "$long" ] || { echo "lint: files over 600 lines: $long" >&2; exit 1; }

# Nothing unfinished is called finished.
if git grep -nE 'todo!\(|unimplemented!\(|FIXME' -- '*.rs' '*.sh' ':!scripts/lint.sh'; then
    echo "lint: markers of unfinished work (above)" >&2
    exit 1
fi
echo "lint: clean"
