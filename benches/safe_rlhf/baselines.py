#!/usr/bin/env python3
"""baselines.py OUT: what the length of a response alone, and its words alone, say of the held-out rows that prepare.py made.

Logistic regressions with the same rows as the score models: on log(1 + words), and on which words the response has (AdaGrad, four passes,
a penalty of 1e-4 on squares). Prints CSV: question, by, value. `sign` is the share of labels guessed right, `ranking` the share of pairs.
"""
import json
import math
import random
import re
import sys
from pathlib import Path

QUESTIONS = (
    ("sign, DiaSafety test", "cost_a", "cost_test"),
    ("ranking, DiaSafety other half", "cost_a", "both_b"),
    ("ranking, HH-harmless", "harmless_train", "harmless_test"),
    ("ranking, helpfulness", "helpful_train", "helpful_test"),
)
PASSES, RATE, PENALTY = 4, 0.2, 1e-4


def length(text):
    return {"length": math.log1p(len(text.split()))}


def words(text):
    return {word: 1.0 for word in re.findall(r"[a-z']+", text.lower())}


def less(first, second):
    return {name: first.get(name, 0.0) - second.get(name, 0.0) for name in first.keys() | second.keys()}


def read(out, name, features):
    """Features with a label: of a labelled row, or of a pair with its chosen side first."""
    rows = map(json.loads, (out / f"{name}.jsonl").read_text().splitlines())
    for row in rows:
        if "label" in row:
            yield features(row["completion"]) | {"bias": 1.0}, row["label"]
        else:
            yield less(features(row["chosen"]), features(row["rejected"])), True


def fit(rows):
    weights, squares = {}, {}
    order = random.Random(0)
    for _ in range(PASSES):
        order.shuffle(rows)
        for features, label in rows:
            score = sum(weights.get(name, 0.0) * value for name, value in features.items())
            slope = 1 / (1 + math.exp(-max(-30.0, min(30.0, score)))) - label
            for name, value in features.items():
                gradient = slope * value + PENALTY * weights.get(name, 0.0)
                squares[name] = squares.get(name, 1e-8) + gradient * gradient
                weights[name] = weights.get(name, 0.0) - RATE * gradient / math.sqrt(squares[name])
    return weights


def right(weights, rows):
    """Ties count half."""
    hits = 0.0
    for features, label in rows:
        score = sum(weights.get(name, 0.0) * value for name, value in features.items())
        hits += 0.5 if score == 0 else float((score > 0) == label)
    return hits / len(rows)


def main(out):
    print("question,by,value")
    for question, train, test in QUESTIONS:
        for by, features in (("length", length), ("words", words)):
            held_out = list(read(out, test, features))
            weights = fit(list(read(out, train, features)))
            print(f'"{question}",{by},{right(weights, held_out):.4f}')
        labels = [label for _, label in held_out]
        print(f'"{question}",rows,{len(labels)}')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
