#!/usr/bin/env bash
# The GPU suite for a machine that has a GPU and neither cargo nor a network: test and benchmark programs, stripped, with their runner.
#
#   tools/gpu/pack.sh [DIR]      # makes DIR, by default target/gpu, and DIR.tar.gz; on the other machine: bash run.sh OUT
#
# Builds with nvcc of CUDA_HOME; where that is not set, tools/cuda_home.sh puts one into target/cuda. The programs load the driver and
# cuBLASLt when they run, and need a glibc no older than the one the file ABOUT names. Fails where the archive, which is what travels, is
# above 64 MiB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# What is packed: test or bench, the crate, the name of the target. They are run in the order of their names.
programs=(
  'test candlewick-kernels gpu'
  'test candlewick-model device'
  'test candlewick-train device'
  'test candlewick parity'
  'bench candlewick-kernels gpu'
)
# Of the whole workspace, so that all programs have the same build of what they depend on.
build=(--workspace --features candlewick/cuda,candlewick-cli/cuda,candlewick-kernels/cuda,candlewick-model/cuda,candlewick-train/cuda)
most=$((64 << 20))

case ${1:-} in
  -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//;/^set /d;p;}' "$0" && exit ;;
  -*) echo "$1 is not known; usage: tools/gpu/pack.sh [DIR]" >&2 && exit 2 ;;
esac
if [ -z "${CUDA_HOME:-}" ]; then
  [ -x target/cuda/bin/nvcc ] || tools/cuda_home.sh target/cuda
  export CUDA_HOME=$PWD/target/cuda
fi
dir=${1:-target/gpu}
rm -rf "$dir" "$dir.tar.gz"
mkdir -p "$dir"

# What cargo says of what it has built: a line of JSON for each target.
said=$(mktemp)
trap 'rm -f "$said"' EXIT
for kind in test bench; do
  mapfile -t names < <(printf '%s\n' "${programs[@]}" | sed -n "s/^$kind .* /--$kind=/p" | sort -u)
  [ $kind = bench ] || names+=(--release)
  echo "building ${names[*]}"
  cargo "$kind" "${build[@]}" "${names[@]}" --no-run --message-format=json >>"$said"
done
for program in "${programs[@]}"; do
  read -r kind package name <<<"$program"
  built=$(grep -F "\"kind\":[\"$kind\"]" "$said" | grep -F "\"name\":\"$name\"" | grep -E "[#/]$package[@#]" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
  [ -x "$built" ] || { echo "cargo has not told where $kind $name of $package is: '$built'" >&2 && exit 1; }
  strip -o "$dir/$kind-$package-$name" "$built"
done
cp tools/gpu/run.sh "$dir/"
cp docs/gpu.md "$dir/README.md"
echo "building wick"
cargo build --release "${build[@]}" --bin wick
strip -o "$dir/wick" "${CARGO_TARGET_DIR:-target}/release/wick"
# What the tests read: recorded runs, and the models that they are of.
mkdir -p "$dir/tests/expected/models"
cp tests/expected/tr_dpo_hard.json "$dir/tests/expected/"
cp -r tests/expected/models/untied_head "$dir/tests/expected/models/"
shared=${CANDLEWICK_SHARED:-../shared}
if [ -d "$shared/parity" ]; then
  mkdir -p "$dir/shared/assets/weights"
  cp -r "$shared/parity" "$dir/shared/"
  cp -rL "$shared/assets/weights/tinystories-656k" "$dir/shared/assets/weights/"
else
  echo "$shared/parity is missing: the package replays no recorded runs, and its test of them will say that it was skipped" >&2
fi
# The side-by-side suite; the peer that is no part of this repository goes with it from where it lies.
mkdir -p "$dir/benches/gpu"
cp benches/recording.py "$dir/benches/"
cp benches/gpu/*.py "$dir/benches/gpu/"
peer=$shared/peers/torch_step.py
if [ -f "$peer" ]; then
  mkdir -p "$dir/peers"
  cp "$peer" "$dir/peers/"
else
  echo "$peer is missing: the package's side-by-side suite has no padded side" >&2
fi

glibc=$(for program in "$dir"/test-* "$dir"/bench-* "$dir"/wick; do objdump -T "$program"; done |
  sed -n 's/.*[( ]GLIBC_\([0-9.]*\)).*/\1/p' | sort -uV | tail -n 1)
{
  echo "commit $(git rev-parse HEAD)$(git diff --quiet HEAD || echo ', and changes that are not committed')"
  echo "packed $(date -u +%Y-%m-%dT%H:%MZ)"
  echo "nvcc $("$CUDA_HOME/bin/nvcc" --version | sed -n 's/.*, V//p')"
  echo "glibc $glibc"
} >"$dir/ABOUT"

tar -C "$(dirname "$dir")" -cf - "$(basename "$dir")" | gzip -9 >"$dir.tar.gz"
bytes=$(stat -c %s "$dir.tar.gz")
printf '%s: %d bytes, %s: %d bytes\n' "$dir" "$(du -sb "$dir" | cut -f 1)" "$dir.tar.gz" "$bytes"
cat "$dir/ABOUT"
if [ "$bytes" -gt "$most" ]; then
  echo "$dir.tar.gz has more than $most bytes: leave out what is not needed" >&2
  exit 1
fi
