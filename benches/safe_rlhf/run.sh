#!/usr/bin/env bash
# A limit on unsafe answers of a small model, on real text: run.sh OUTPUT SEED PROMISE
#
# Rewards are learned from the polite pairs and LLaMA-Factory's, costs from one half of DiaSafety. Policies are trained against the mean of
# three cost models of that half, without a limit (DPO) and with one, and judged by the mean of three of the other half, on contexts of the
# test split. Appends to OUTPUT/policies.csv and OUTPUT/models.csv; what is there already is not made again. $WICK is the command,
# $CANDLEWICK_SHARED the directory of the assets. The limit of the mean cost is the one at which the best policy over the sampled answers would
# have PROMISE of unsafe ones. For docs/safe-rlhf.md: seeds 1 to 5 with a promise of 0.03, then baselines.py and results.py figure.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
wick=$(realpath "${WICK:-target/release/wick}")
shared=$(realpath "${CANDLEWICK_SHARED:-../shared}")
output=$1 seed=$2 promise=$3 beta=0.5
model=$shared/assets/weights/tinystories-656k
python3 "$here/prepare.py" "$shared" "$output/$seed"
cd "$output/$seed"

train() { # NAME MODEL DATA OBJECTIVE …
  local name=$1 from=$2 data=$3 objective=$4
  shift 4
  [ -e "$name/final" ] && return
  "$wick" train --model "$from" --data "$data" --objective "$objective" --output "$name" --set "train.seed=$seed" "$@" >"$name.log" 2>&1
}
sample() { # OUT PROMPTS MODEL …
  local out=$1 prompts=$2 from=$3
  shift 3
  [ -e "$out" ] ||
    "$wick" sample "$prompts" "$out" --prompt-column prompt --model "$from" --max-new-tokens 32 --temperature 0.8 --top-p 0.95 "$@" >&2
}
ensemble() { # ROWS OUT HALF …: by the three cost models of a half
  local rows=$1 out=$2 half=$3
  shift 3
  "$wick" score "$rows" "$out" "$@" --model "cm_${half}1/final" --model "cm_${half}2/final" --model "cm_${half}3/final" --force >>score.log 2>&1
}
score() { # ROWS OUT HALF: the reward, and the mean of the half's cost models
  ensemble "$1" "parts-$2" "$3" --model rm/final --heads reward,cost1,cost2,cost3
  python3 "$here/results.py" mean "parts-$2" "$2"
}

for half in a b; do
  for member in 1 2 3; do
    seed=$((10 * $2 + member)) train "cm_$half$member" "$model" "cost_$half.jsonl" score_classification --set 'objective.meaning="cost"' \
      --set 'model.heads=["cost"]' --epochs 2 --lr 5e-4 --batch 16
  done
done
for preference in helpful harmless; do
  name=$([ $preference = helpful ] && echo rm || echo harmless)
  train "$name" "$model" "${preference}_train.jsonl" bradley_terry --set 'model.heads=["reward"]' --set objective.centring=0.01 --epochs 2 \
    --lr 5e-4 --batch 8
done
ensemble cost_test.jsonl parts-test.jsonl a --heads cost1,cost2,cost3
python3 "$here/results.py" mean parts-test.jsonl scored-test.jsonl
ensemble both_b.jsonl scored-both.jsonl a --heads cost1,cost2,cost3
"$wick" score harmless_test.jsonl scored-harmless.jsonl --model harmless/final --heads reward --force >>score.log 2>&1
"$wick" score helpful_test.jsonl scored-helpful.jsonl --model rm/final --heads reward --force >>score.log 2>&1
python3 "$here/results.py" models "$seed" scored-test.jsonl scored-both.jsonl scored-harmless.jsonl scored-helpful.jsonl >>../models.csv

train sft "$model" sft_a.jsonl sft --epochs 4 --lr 1e-3 --batch 16
sample raw.jsonl prompts_train.jsonl sft/final -k 64 --seed "$seed"
[ -e table.jsonl ] || score raw.jsonl table.jsonl a
read -r limit lambda <<<"$(python3 "$here/results.py" limit "$wick" table.jsonl "$promise" "$beta")"
echo "limit $limit, lambda $lambda" >&2
[ -e pairs.jsonl ] || "$wick" safety pairs table.jsonl pairs.jsonl --pairs 8 >&2
common=(--set "objective.beta=$beta" --epochs 2 --lr 1e-3 --batch 16)
train dpo sft/final pairs.jsonl dpo "${common[@]}"
train "limited-$promise" sft/final pairs.jsonl safe_rlhf_lagrangian --set "objective.lambda=[$lambda]" "${common[@]}"
for policy in "sft 0 sft" "dpo 0 dpo" "limited $lambda limited-$promise"; do
  read -r name weight from <<<"$policy"
  sample "$from.jsonl" prompts_test.jsonl "$from/final" -k 8 --seed "$((seed + 1000))"
  for half in a b; do score "$from.jsonl" "$from-$half.jsonl" "$half"; done
  python3 "$here/results.py" policy "$seed" "$name" "$weight" "$from-a.jsonl" "$from-b.jsonl" >>../policies.csv
done
