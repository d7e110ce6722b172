#!/usr/bin/env bash
# The benchmark of loss variants: every objective on rows about the same little world, tuned over the same small grid, five seeds, with
# labels that are right, wrong in one of ten, wrong in three of ten, and verdicts that are even or one to ten.
#
#   benches/losses/run.sh            # some hours; goes on where it was stopped; puts what came out into benches/losses/results/
#   benches/losses/run.sh --short    # a few arms and seeds, beside what is on record: fails where they are outside its intervals
#
# WICK names a program that is built already.
set -euo pipefail
cd "$(dirname "$0")/../.."
short= && [ "${1:-}" = --short ] && short=yes
if [ -z "${WICK:-}" ]; then
  cargo build --release --quiet --bin wick --package candlewick-cli
  WICK=${CARGO_TARGET_DIR:-target}/release/wick
fi
wick=$(realpath "$WICK")
here=$PWD/benches/losses
work=$PWD/target/losses
mkdir -p "$work" "$here/results"

# What a teacher is made of: the model after preferences that are all right. No arm of the short form has one.
teacher=$work/teacher/run/final
if [ -z "$short" ] && [ ! -d "$teacher" ]; then
  mkdir -p "$work/teacher"
  (cd "$work/teacher" && "$wick" data make world --rows 12800 --seed 90 --model &&
    "$wick" train --model world/model --data world/pairs.jsonl --output run --batch 32 --steps 400 --lr 1e-3 --seed 90)
fi

# compare NAME MATRIX "WORDS OF data make" WORDS…
compare() {
  local name=$1 matrix=$2 world=$3
  shift 3
  mkdir -p "$work/$name"
  (
    cd "$work/$name"
    if [ ! -e world ]; then
      # shellcheck disable=SC2086
      "$wick" data make making --rows 2400 --held-out 600 --seed 1 --model "${teaching[@]}" $world
      mv making world
    fi
    "$wick" compare --config "$here/$matrix.toml" --output out "$@"
  )
}
teaching=(--teacher "$teacher")
if [ -n "$short" ]; then
  teaching=()
  # Nothing of an earlier program is to pass for this one's.
  rm -rf "$work/short"
  compare short matrix "" --objectives dpo,simpo,orpo --seeds 2
  python3 "$here/within.py" "$here/results/noise-0.json" "$work/short/out/results.json"
  exit
fi
for part in noise-0 imbalance-10 imbalance-1 noise-30 noise-10; do
  if [ -e "$here/results/$part.json" ]; then
    echo "$part stands in $here/results; remove it there to have it made again"
    continue
  fi
  case $part in
  noise-*) compare "$part" matrix "--noise 0.${part#noise-}" ;;
  *) compare "$part" verdicts "--imbalance ${part#imbalance-}" ;;
  esac
  for kind in json csv; do cp "$work/$part/out/results.$kind" "$here/results/$part.$kind"; done
done
