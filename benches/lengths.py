#!/usr/bin/env python3
"""What a token costs in rows of 64 to 2,048 tokens, as many tokens in every step: equal but for attention.

    benches/lengths.py [--wick target/release/wick] [--record]

The model is the 30 M one of side_by_side.py, which makes it. Prompts have four tokens, so that nothing is shared; a step has 4,096
tokens. Beside four multiplications with each weight (forward, twice that backward, and the reference's forward) a token takes 4.5·L·hidden
for attention in a row of L tokens and a layer: two products over half a row forward, five backward, two of the reference. The last
column counts with that. Ratios to the shortest rows count, not times.
"""
import argparse
import json
import os
import random
import statistics
import sys
from pathlib import Path

import recording
import side_by_side as peers

LENGTHS = [64, 128, 256, 512, 1024, 2048]
TOKENS = 4096
PROMPT = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wick", type=Path, default=peers.ROOT / "target/release/wick")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch, to make the model")
    parser.add_argument("--peers", type=Path, default=peers.SHARED / "peers", help="where trl_step.py is")
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    args.quick = False
    load = os.getloadavg()[0]
    model = peers.made_model("30m", args)
    found = {length: [] for length in LENGTHS}
    for _ in range(args.rounds):
        for length in LENGTHS:
            pairs = TOKENS // (2 * length)
            words = ["--model", model, "--data", rows(length, pairs), "--batch", pairs, "--steps", args.steps, "--warmup", 1,
                     "--max-length", length, "--threads", args.threads, "--json"]
            found[length].append(1e6 / peers.run([args.wick, "bench", "step", *words])["tokens_per_s"])
    shape = peers.MODELS["30m"]
    layer = 4 * shape["hidden"] ** 2 + 3 * shape["hidden"] * shape["intermediate"]
    weights = 4 * (layer * shape["layers"] + 50_257 * shape["hidden"])
    of_token = lambda length: weights + 4.5 * length * shape["hidden"] * shape["layers"]
    medians = {length: statistics.median(times) for length, times in found.items()}
    results = {length: {"us_per_token": [round(time, 2) for time in found[length]],
                        "ratio": round(medians[length] / medians[LENGTHS[0]], 3), "by_counting": round(of_token(length) / of_token(LENGTHS[0]), 3)}
               for length in LENGTHS}
    print("| tokens in a row | cost of a token, to rows of 64 | multiplications of a token, likewise |\n|---|---|---|")
    for length, result in results.items():
        print(f"| {length} | {result['ratio']:.2f} | {result['by_counting']:.2f} |")
    if args.record:
        today, commit = recording.today_and_commit()
        document = {"date": today, "commit": commit, "machine": recording.machine(load), "threads": args.threads, "lengths": results}
        recording.keep(peers.ROOT / "benches/record" / f"{today}-{commit}-lengths.json", document)


def rows(length, pairs):
    """A file of pairs whose rows have exactly so many tokens with gpt2's tokenizer; the end of the text is one of them."""
    draw = random.Random(length)
    text = lambda count: " ".join(peers.WORDS[int(draw.random() * len(peers.WORDS))] for _ in range(count))
    path = peers.PLACE / f"length-{length}.jsonl"
    completion = length - PROMPT - 1
    lines = ({"prompt": text(PROMPT), "chosen": " " + text(completion), "rejected": " " + text(completion)} for _ in range(4 * pairs))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


if __name__ == "__main__":
    main()
