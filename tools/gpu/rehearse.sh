#!/usr/bin/env bash
# Runs the programs of a package (tools/gpu/pack.sh) on a machine without a GPU: libcuda is played by the emulation of the kernels,
# libcublasLt by plain loops.
#
#   tools/gpu/rehearse.sh [DIR [WORDS…]]     # DIR: the package, by default target/gpu; WORDS: for the tests, such as parts of their names
#
# It shows that the programs load what they need, find every kernel by its name, hand over arguments and matrices as the driver and the
# library want them, and that the benchmark ends with a table. Its numbers mean nothing. Needs g++ and takes some minutes.
set -euo pipefail
dir=$(realpath "${1:-target/gpu}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

played=$(mktemp -d)
trap 'rm -rf "$played"' EXIT
build=(g++ -std=c++17 -O2 -Wall -Wextra -ffp-contract=off -fPIC -shared)
mapfile -t kernels < <(find crates/kernels/src -name '*.cu')
"${build[@]}" -o "$played/libcuda.so.1" tools/gpu/played_driver.cpp crates/kernels/src/cuda/emulation.cpp -x c++ "${kernels[@]}"
ln -s libcuda.so.1 "$played/libcuda.so"
"${build[@]}" -o "$played/libcublasLt.so.13" tools/gpu/played_cublas_lt.cpp
export LD_LIBRARY_PATH=$played${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} CANDLEWICK_NEEDS_GPU=1

[ ! -d "$dir/shared" ] || export CANDLEWICK_SHARED=$dir/shared
for program in "$dir"/test-*; do
  (cd "$dir" && "$program" --show-output "${@:2}") | tee "$played/said"
  if grep -q '^skipped:' "$played/said"; then
    echo "$(basename "$program"): not everything was tested" >&2
    exit 1
  fi
done
for program in "$dir"/bench-*; do
  "$program" --rehearse --repeats 3 --output "$played/table.md"
done
cat "$played/table.md"
# Steps as the side-by-side suite has them made.
model=$dir/shared/assets/weights/tinystories-656k
if [ -d "$model" ]; then
  for i in 1 2 3 4; do
    echo '{"prompt": "Once upon a time", "chosen": " there was a '$i' little girl.", "rejected": " no '$i' no."}'
  done >"$played/rows.jsonl"
  "$dir/wick" bench step --model "$model" --data "$played/rows.jsonl" --batch 2 --steps 2 --warmup 1 --max-length 32 --device cuda --json
else
  echo "$model is missing: wick is not rehearsed" >&2
fi
