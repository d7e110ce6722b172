"""Tokens and operations that one DPO step needs, by formula, the same for every side; what padding or a kernel adds does not count.

    body       2·n a token forward, 4·n backward when all is trained, 2·n when an adapter is; n: weights of the layers' linear maps
    adapter    2·a a token forward, 4·a backward; a: weights of the adapter
    head       2·H·V a token of a completion forward, 4·H·V backward, 2·H·V when frozen; other tokens need no logits
    attention  4·Q a visible pair of query and key forward, 8·Q backward, a layer; Q: heads × width of a head
    reference  forward once more, without the adapter, unless it was computed before

Two counts: `prompts_twice` has each pair as two rows, as most programs compute it and as tokens/s count; `prompts_once` has the
prompt's tokens, and its attention, once a pair, which is all that a step needs. No norms, no activations, no optimizer.
"""
import models


def tokens(lengths):
    """Tokens of the rows, without padding, prompts counted twice."""
    return sum(2 * prompt + chosen + rejected for prompt, chosen, rejected in lengths)


def of_step(config, lengths, rank=0, reference=True):
    """Operations of a step on rows of (prompt, chosen, rejected) tokens; `rank` of the adapter, 0 when all is trained."""
    layers = config["num_hidden_layers"]
    maps = list(models.linears(config).values())
    body = layers * sum(outputs * inputs for outputs, inputs in maps)
    adapter = layers * rank * sum(outputs + inputs for outputs, inputs in maps)
    head = config["hidden_size"] * config["vocab_size"]
    heads = layers * config["num_attention_heads"] * config["head_dim"]
    body_passes = (4 if rank else 6) + (2 if reference else 0)
    causal = lambda length: length * (length + 1) // 2

    def count(tokens, pairs, completions):
        return (body_passes * body * tokens + 6 * adapter * tokens + body_passes * head * completions
                + (12 + (4 if reference else 0)) * heads * pairs)

    completions = sum(chosen + rejected for _, chosen, rejected in lengths)
    once = sum(causal(p) + sum(p * n + causal(n) for n in (c, r)) for p, c, r in lengths)
    twice = sum(causal(p + c) + causal(p + r) for p, c, r in lengths)
    return {
        "prompts_once": count(sum(map(sum, lengths)), once, completions),
        "prompts_twice": count(tokens(lengths), twice, completions),
    }
