#!/usr/bin/env bash
# This library beside the reference implementation: losses on recorded cases, whole training runs replayed.
#   tools/compare.sh FIXTURES
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fixtures=${1:?usage: tools/compare.sh FIXTURES}
model=$fixtures/assets/weights/tinystories-656k
runs=()
for name in dpo_sigmoid dpo_sigmoid_accum2 ipo hinge robust_eps0.1 apo_zero aot dpo_plus_sft kto; do
  runs+=("$fixtures/parity/$name.json")
done

cargo run --release --example golden -- "$fixtures"/golden/trl_*.json
cargo run --release --example parity -- --model "$model" "${runs[@]}"
cargo run --release --example parity -- --model "$model" --adapter "$fixtures/parity/dpo_lora_adapter/init" "$fixtures/parity/dpo_lora.json"
