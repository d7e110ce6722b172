"""Expected logits and greedy continuation of a trained model.

    python make_logits.py MODEL_DIR                  -> tests/expected/logits_tinystories.json
    python make_logits.py MODEL_DIR --adapter DIR    -> tests/expected/adapter_dpo_lora.json

The ids are drawn by seeds; no text is involved.
"""
import argparse
import json
import random
from pathlib import Path

import common

parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("--adapter", type=Path)
parser.add_argument("--output", type=Path)
args = parser.parse_args()

config = json.loads((args.model / "config.json").read_text())
vocabulary, first = config["vocab_size"], config["bos_token_id"]
vocab_ids = sorted(random.Random(2).sample(range(vocabulary), 16))
cases = [(common.draw(100 + n, n, vocabulary, first), list(range(n))) for n in (7, 33, 64)]
name = "adapter_dpo_lora.json" if args.adapter else "logits_tinystories.json"
common.write(args.output or common.EXPECTED / name, {
    "made_by": common.made_by(
        __file__, "torch", "transformers", *(["peft"] if args.adapter else []),
        model=args.model.name, adapter=f"{args.adapter.parent.name}/{args.adapter.name}" if args.adapter else None,
        f64="RMSNorm, softmax, rotary frequencies and angles in f64 too", f32="as shipped, eager attention",
    ),
    "vocab_ids": vocab_ids,
    "sequences": common.expectation(args.model, cases, vocab_ids, args.adapter),
    "greedy": common.greedy(args.model, common.draw(7, 6, vocabulary, first), 24, args.adapter),
})
