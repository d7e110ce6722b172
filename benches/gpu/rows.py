#!/usr/bin/env python3
"""Rows of the side-by-side suite: pairs of token ids in four sets of lengths, the same for every model and every side.

    python3 benches/gpu/rows.py dense-1k FILE [--rows 400]     # JSON lines; prints what lengths they have

A line has `prompt_ids`, `chosen_ids`, `rejected_ids`, and the same as texts `prompt`, `chosen`, `rejected`, whose words the
models' own tokenizer turns into those ids. A completion ends with the id that ends a text. Ids are drawn log-uniformly, so that
few are frequent, as in texts. `dense-1k` and `4k` have equal lengths everywhere; `ultrafeedback` and `hh` are log-normal, cut
at both ends, with medians chosen here to have the proportions of those sets, not measured on them: prompts make 0.4 and 3.1 of
a completion (1.5 at least in every row).
"""
import argparse
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = 1, 2
FEWEST, LARGEST_ID = 8, 100_000


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt and of a completion: the median, and the deviation of the logarithm, 0 for equal lengths."""

    title: str
    seed: int
    prompt: tuple
    completion: tuple
    most: int = 1024
    # The prompt has at least so many times the tokens of the longer completion.
    prompt_heavy: float = 0.0


SETS = {
    "dense-1k": Lengths("512 + 512 tokens", 11, (512, 0.0), (512, 0.0)),
    "ultrafeedback": Lengths("UltraFeedback-like", 12, (90, 0.9), (280, 0.6)),
    "hh": Lengths("HH-like, prompt-heavy", 13, (300, 0.6), (110, 0.5), prompt_heavy=1.5),
    "4k": Lengths("2,048 + 2,048 tokens", 14, (2048, 0.0), (2048, 0.0), most=2048),
}


def lengths(name, count, scale=1.0):
    """(prompt, chosen, rejected) tokens of every row; `scale` shrinks all of them, for machines without a GPU."""
    spec = SETS[name]
    draw = random.Random(spec.seed)
    few = max(2, round(FEWEST * scale))
    def one(median, deviation, most):
        normal = math.sqrt(-2 * math.log(1 - draw.random())) * math.cos(2 * math.pi * draw.random())
        return max(few, min(round(most * scale), round(median * scale * math.exp(deviation * normal))))
    rows = []
    for _ in range(count):
        prompt, chosen, rejected = one(*spec.prompt, spec.most), one(*spec.completion, spec.most), one(*spec.completion, spec.most)
        if spec.prompt_heavy:
            prompt = max(prompt, math.ceil(few * spec.prompt_heavy))
            chosen, rejected = (min(tokens, int(prompt / spec.prompt_heavy)) for tokens in (chosen, rejected))
        rows.append((prompt, chosen, rejected))
    return rows


def rows(name, count, scale=1.0, largest=LARGEST_ID):
    draw = random.Random(f"ids {SETS[name].seed}")
    ids = lambda tokens: [int(math.exp(draw.random() * math.log(largest - 3))) + 2 for _ in range(tokens)]
    text = lambda ids: " ".join("</s>" if id == END else f"t{id}" for id in ids)
    for prompt, chosen, rejected in lengths(name, count, scale):
        parts = {"prompt": ids(prompt), "chosen": ids(chosen - 1) + [END], "rejected": ids(rejected - 1) + [END]}
        spaced = {key: ("" if key == "prompt" else " ") + text(value) for key, value in parts.items()}
        yield spaced | {f"{key}_ids": value for key, value in parts.items()}


def write(name, path, count, scale=1.0, largest=LARGEST_ID):
    """Writes the file beside its place, then renames it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    with open(beside, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(name, count, scale, largest))
    beside.rename(path)
    return path


def read(path, need):
    """As many rows as are needed, (prompt, chosen, rejected) ids each, from the start again where the file ends."""
    with open(path) as file:
        found = [json.loads(line) for _, line in zip(range(need), file)]
    found = [tuple(row[f"{key}_ids"] for key in ("prompt", "chosen", "rejected")) for row in found]
    return (found * (need // len(found) + 1))[:need]


def batches(rows, size):
    return [rows[i:i + size] for i in range(0, len(rows), size)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--scale", type=float, default=1.0)
    words = parser.parse_args()
    write(words.set, words.file, words.rows, words.scale)
    of = lengths(words.set, words.rows, words.scale)
    prompts, completions = sum(row[0] for row in of), sum(row[1] + row[2] for row in of) / 2
    print(f"{words.rows} rows: prompts of {prompts / words.rows:.0f} tokens, completions of {completions / words.rows:.0f}, "
          f"prompt / completion {prompts / completions:.2f}, {2 * (prompts + completions) / words.rows:.0f} tokens a pair")
