#!/usr/bin/env python3
"""prepare.py SHARED OUT: real preferences in the characters that the small model's tokenizer knows.

DiaSafety, in two halves by context: cost_a, cost_b and cost_test are responses labelled safe or not, both_a and both_b pairs of a safe and an
unsafe response to one context, sft_a the responses of the first half, prompts_train and prompts_test contexts of the first half and of the
test split. helpful_train and helpful_test: the polite pairs and the demonstration pairs of LLaMA-Factory; harmless_train and harmless_test:
HH-harmless. A fifth of each is held out, by prompt.
"""
import gzip
import hashlib
import json
import sys
from pathlib import Path

KNOWN = set("\n!\"$',-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz ")
PROMPTS = {"train": 480, "test": 128}
LONGEST_CONTEXT = 160
LONGEST_TURN, LONGEST_ANSWER = 400, 300


def clean(text):
    return " ".join("".join(c for c in text.replace("’", "'") if c in KNOWN).split())


def digest(text):
    return hashlib.sha256(text.encode()).digest()[0]


def read(path):
    with gzip.open(path, "rt") as file:
        return json.load(file)


def asked(text):
    return f"A: {clean(text)[-LONGEST_TURN:]}\nB:"


def row(entry):
    return {"prompt": asked(entry["context"]), "completion": " " + clean(entry["response"])}


def pair(prompt, chosen, rejected):
    return {"prompt": asked(prompt), "chosen": " " + clean(chosen)[:LONGEST_ANSWER], "rejected": " " + clean(rejected)[:LONGEST_ANSWER]}


def helpful(shared):
    for line in (shared / "assets/ready/pairs_polite_1100.jsonl").read_text().splitlines():
        entry = json.loads(line)
        yield pair(entry["prompt"], entry["chosen"], entry["rejected"])
    for entry in read(shared / "assets/preferences/lf_dpo_en_demo.json.gz"):
        yield pair(entry["conversations"][-1]["value"], entry["chosen"]["value"], entry["rejected"]["value"])


def harmless(shared):
    with gzip.open(shared / "assets/preferences/hh_harmless_base_test.jsonl.gz", "rt") as file:
        for line in file:
            entry = json.loads(line)
            turns = [entry[side].rsplit("\n\nAssistant:", 1) for side in ("chosen", "rejected")]
            if turns[0][0] == turns[1][0]:
                yield pair(turns[0][0].rsplit("\n\nHuman:", 1)[-1], turns[0][1], turns[1][1])


def main(shared, out):
    out.mkdir(parents=True, exist_ok=True)

    def write(name, rows):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))

    splits = {}
    for split in ("train", "test"):
        entries = read(shared / f"assets/preferences/diasafety_{split}.json.gz")
        splits[split] = [entry for entry in entries if row(entry)["completion"].strip()]
    halves = {"a": [], "b": []}
    for entry in splits["train"]:
        halves["ab"[digest(entry["context"]) & 1]].append(entry)
    for which, entries in {**halves, "test": splits["test"]}.items():
        write(f"cost_{which}", ({**row(entry), "label": entry["label"] == "Safe"} for entry in entries))
    for which, entries in halves.items():
        answers = {}
        for entry in entries:
            answers.setdefault(entry["context"], {}).setdefault(entry["label"], []).append(entry["response"])
        write(
            f"both_{which}",
            (pair(context, safe, unsafe) for context, by in answers.items() for safe in by.get("Safe", []) for unsafe in by.get("Unsafe", [])),
        )
    write("sft_a", map(row, halves["a"]))
    for name, entries in (("train", halves["a"]), ("test", splits["test"])):
        short = (row(entry)["prompt"] for entry in entries if len(entry["context"]) < LONGEST_CONTEXT)
        write(f"prompts_{name}", [{"prompt": prompt} for prompt in list(dict.fromkeys(short))[: PROMPTS[name]]])
    for name, pairs in (("helpful", helpful(shared)), ("harmless", harmless(shared))):
        usable = [each for each in pairs if each["chosen"].strip() and each["rejected"].strip() and each["chosen"] != each["rejected"]]
        held_out = lambda each: digest(each["prompt"]) % 5 == 0
        write(f"{name}_train", (each for each in usable if not held_out(each)))
        write(f"{name}_test", filter(held_out, usable))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
