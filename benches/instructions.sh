#!/usr/bin/env bash
# Instructions that a token of an optimizer step costs, beside those on record: a regression shows on a machine of any mood.
#
#   benches/instructions.sh             # fails where a count is more than 3 % above benches/record/instructions.json
#   benches/instructions.sh --record    # puts the counts there
#   benches/instructions.sh --tool callgrind
#
# Two runs of different lengths on the same two pairs, one thread; what both do (loading, tokenizing) cancels in the difference.
# `perf` counts where the machine lets it, else valgrind's callgrind, which knows instructions up to AVX2: counts are kept by tool and
# by the widest vectors, and compared with those of the same kind alone. WICK names another program, CANDLEWICK_SHARED the fixtures.
set -euo pipefail
cd "$(dirname "$0")/.."
fixtures=${CANDLEWICK_SHARED:-../shared}
record=benches/record/instructions.json
tool= mode=compare
while [ $# -gt 0 ]; do
  case $1 in
  --record) mode=record ;;
  --tool) tool=${2:?--tool perf or callgrind} && shift ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 2 ;;
  esac
  shift
done

if [ -z "${WICK:-}" ]; then
  cargo build --release --quiet --bin wick --package candlewick-cli
  WICK=${CARGO_TARGET_DIR:-target}/release/wick
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head -n 2 "$fixtures/assets/ready/pairs_hh_harmless.jsonl" > "$work/pairs.jsonl"

# Instructions in user space of a command, by either tool.
perf_count() {
  perf stat -x, -o "$work/perf" -e instructions:u -- "$@" > "$work/out" && sed -n 's/^\([0-9][0-9]*\),.*instructions.*/\1/p' "$work/perf"
}
callgrind_count() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null -- "$@" > "$work/out" 2> "$work/said" ||
    { cat "$work/said" >&2 && return 1; }
  sed -n 's/.*Collected *: *\([0-9][0-9]*\).*/\1/p' "$work/said"
}
if [ -z "$tool" ]; then
  tool=callgrind
  if command -v perf > /dev/null && [ -n "$(perf_count true 2> /dev/null)" ]; then tool=perf; fi
fi
command -v "${tool/callgrind/valgrind}" > /dev/null || { echo "neither perf's counters nor valgrind can be used here" >&2 && exit 2; }
vectors=$(uname -m)
if grep -qw avx512f /proc/cpuinfo && [ "$tool" = perf ]; then vectors+=-avx512; elif grep -qw avx2 /proc/cpuinfo; then vectors+=-avx2; fi

# "INSTRUCTIONS TOKENS" of a run of $1 steps.
run() {
  local steps=$1 && shift
  local count
  count=$("${tool}_count" "$WICK" bench step --model "$fixtures/assets/weights/tinystories-656k" --data "$work/pairs.jsonl" \
    --batch 2 --max-length 128 --threads 1 --steps "$steps" --warmup 0 --json "$@")
  echo "$count $(sed -n 's/.*"tokens":\([0-9]*\).*/\1/p' "$work/out")"
}

counts=()
for kind in full lora; do
  words=() && [ $kind = full ] || words=(--lora 16)
  read -r short few <<< "$(run 1 "${words[@]}")"
  read -r long many <<< "$(run 2 "${words[@]}")"
  counts+=("$kind" $(((long - short) / (many - few))))
done

python3 - "$record" "$mode" "$tool $vectors" "${counts[@]}" << 'END'
import json, sys
from pathlib import Path

record, mode, kind, *counts = sys.argv[1:]
record, counts = Path(record), {name: int(count) for name, count in zip(counts[::2], counts[1::2])}
known = json.loads(record.read_text()) if record.exists() else {}
before, worse = known.get(kind, {}), False
for name, count in counts.items():
    change = count / before[name] - 1 if name in before else None
    worse = worse or (change is not None and change > 0.03)
    beside = "nothing on record" if change is None else f"{before[name]} on record, {change:+.1%}"
    print(f"{name:<5} {count:>9} instructions a token ({kind}; {beside})")
if mode == "record":
    known[kind] = counts
    record.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    print(record)
elif worse:
    sys.exit("more than 3 % above the record: find out what the step does more than before, or say why with --record")
elif not before:
    sys.exit(f"nothing on record for {kind}; --record puts it there")
END
