#!/usr/bin/env bash
# Follows CONTRIBUTING.md in a copy of the repository: the loss that the page shows, its line in the list, and the tests.
#   tools/new_loss.sh          tests of the losses alone
#   tools/new_loss.sh --all    the other commands of the page too: reference pages and benchmark (compiles far more)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cd "$root"
git ls-files --cached --others --exclude-standard -z | xargs -0 -I{} sh -c '[ ! -e "$1" ] || printf "%s\0" "$1"' sh {} |
  tar --null --files-from - --create | tar --extract --directory "$copy"
cd "$copy"
export CARGO_TARGET_DIR=$target

name=squared_hinge
losses=crates/losses/src/builtin
if [ -e $losses/$name.rs ]; then
  echo "the example of CONTRIBUTING.md is a loss of the list by now: show another one" >&2
  exit 1
fi
# The first block in Rust is the file, the first line in the list's form is the line.
awk '/^```rust$/ { inside = 1; next } /^```$/ { if (inside) exit } inside' CONTRIBUTING.md >$losses/$name.rs
line=$(grep -m1 "^    $name::" CONTRIBUTING.md)
awk -v line="$line" '/^builtin! \{/ { inside = 1 } inside && /^\}/ { print line; inside = 0 } { print }' $losses/mod.rs >mod.rs
mv mod.rs $losses/mod.rs

rustfmt --edition 2024 --check $losses/$name.rs
# With the rest beside it: alone, the losses ask for other features of their dependencies, which compile again.
packages=(--package candlewick-losses --package candlewick --package candlewick-cli)
cargo test "${packages[@]}" --lib $name
cargo test "${packages[@]}" --test family properties
cargo test "${packages[@]}" --doc $name
if [ "${1-}" = --all ]; then
  UPDATE_EXPECTED=1 cargo test --test reference
  grep -q "^## $name$" docs/reference/objectives.md
  cargo bench --package candlewick-losses -- --quick $name
fi
echo "CONTRIBUTING.md leads to a loss that passes"
