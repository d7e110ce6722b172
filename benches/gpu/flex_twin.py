#!/usr/bin/env python3
"""DPO steps in plain PyTorch that compute a pair's prompt once, by FlexAttention; one JSON line at the end.

    python3 benches/gpu/flex_twin.py --model DIR --rows FILE [--adapter DIR] [--masters none] [--compile]

A pair is one document: prompt, chosen, rejected. Both completions see the prompt and themselves, and their positions go on from
the prompt's end; the prompt's last hidden state predicts the first token of both. FlexAttention skips blocks of 128 × 128 that
nobody sees. Without a GPU, where it has no backward, the same mask goes to SDPA. twin.py says what the rest is.
"""
import attention
import twin


def place(pairs):
    """A document a pair: the prompt on branch 0, chosen on 1, rejected on 2."""
    placed = {key: [] for key in ("ids", "positions", "documents", "branches", "rows", "targets", "sequences", "ends")}
    for i, (prompt, *completions) in enumerate(pairs):
        start = len(placed["ids"])
        placed["ids"] += prompt
        placed["positions"] += range(len(prompt))
        placed["branches"] += [0] * len(prompt)
        for branch, completion in enumerate(completions, 1):
            begin = len(placed["ids"])
            placed["ids"] += completion
            placed["positions"] += range(len(prompt), len(prompt) + len(completion))
            placed["branches"] += [branch] * len(completion)
            # The place before a token predicts it: the prompt's last for the first token of either.
            placed["rows"] += [start + len(prompt) - 1, *range(begin, begin + len(completion) - 1)]
            placed["targets"] += completion
            placed["sequences"] += [i + (branch - 1) * len(pairs)] * len(completion)
        placed["documents"] += [i] * (len(placed["ids"]) - start)
        placed["ends"].append(len(placed["ids"]))
    return placed


TWIN = twin.Twin("shared", place, True, [attention.Flex, attention.FlexRepeated, attention.Dense])

if __name__ == "__main__":
    twin.main(TWIN, __doc__)
