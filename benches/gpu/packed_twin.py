#!/usr/bin/env python3
"""DPO steps in plain PyTorch on packed rows: no padding, attention over sequences of any length; one JSON line at the end.

    python3 benches/gpu/packed_twin.py --model DIR --rows FILE [--adapter DIR] [--masters none] [--compile]

Chosen and rejected are sequences of their own, so that a prompt is computed twice. Attention is torch.nn.attention.varlen, else
flash-attn, else FlexAttention under a mask of documents; without a GPU it is SDPA under a mask. twin.py says what the rest is.
"""
import attention
import twin


def place(pairs):
    """All chosen sequences, then all rejected ones; a document each."""
    placed = {key: [] for key in ("ids", "positions", "documents", "branches", "rows", "targets", "sequences", "ends")}
    sequences = [(prompt, chosen) for prompt, chosen, _ in pairs] + [(prompt, rejected) for prompt, _, rejected in pairs]
    for i, (prompt, completion) in enumerate(sequences):
        start, tokens = len(placed["ids"]), len(prompt) + len(completion)
        placed["ids"] += prompt + completion
        placed["positions"] += range(tokens)
        placed["documents"] += [i] * tokens
        placed["branches"] += [0] * tokens
        # The place before a token predicts it.
        placed["rows"] += range(start + len(prompt) - 1, start + tokens - 1)
        placed["targets"] += completion
        placed["sequences"] += [i] * len(completion)
        placed["ends"].append(start + tokens)
    return placed


TWIN = twin.Twin("packed", place, False, [attention.Varlen, attention.FlashAttn, attention.Flex, attention.FlexRepeated, attention.Dense])

if __name__ == "__main__":
    twin.main(TWIN, __doc__)
