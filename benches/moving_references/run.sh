#!/usr/bin/env bash
# DPO of several strengths beside references that follow, with all weights and with an adapter, five seeds each; then the tables and the figure.
#   benches/moving_references/run.sh MODEL_DIR PAIRS.jsonl OUTPUT_DIR
# A comparison that was stopped goes on. WICK names the binary (target/release/wick by default).
set -euo pipefail
model=$1 pairs=$2 output=$3
here=$(cd "$(dirname "$0")" && pwd)
wick=${WICK:-$here/../../target/release/wick}
for kind in full lora; do
    "$wick" compare --config "$here/$kind.toml" --model "$model" --data "$pairs" --output "$output/$kind"
done
python3 "$here/figure.py" "$output"
