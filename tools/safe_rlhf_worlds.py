#!/usr/bin/env python3
"""Optima of small constrained worlds, for crates/losses/tests/safe_rlhf.

Plain Python in double precision, by bisection on the mean cost: no code is shared with the crate.

    python3 tools/safe_rlhf_worlds.py > crates/losses/tests/golden/safe_rlhf_worlds.json
"""
import json
from math import exp, log

REWARDS = [[1, 0.5, 0], [2, 0, 1]]
COSTS = [[1, 0, -1], [0.5, -0.5, 0]]
REFERENCE = [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]]
BETA = 0.4


def policy(multiplier, strength, rewards=REWARDS, costs=COSTS, reference=REFERENCE):
    """π ∝ π_ref·exp((r − λc)/strength), one list a prompt."""
    rows = []
    for r, c, q in zip(rewards, costs, reference):
        weights = [p * exp((a - multiplier * b) / strength) for a, b, p in zip(r, c, q)]
        rows.append([w / sum(weights) for w in weights])
    return rows


def mean(rows, values):
    return sum(p * v for row, vs in zip(rows, values) for p, v in zip(row, vs)) / len(rows)


def kl(rows, reference=REFERENCE):
    return sum(p * log(p / q) for row, qs in zip(rows, reference) for p, q in zip(row, qs)) / len(rows)


def root(cost_at, limit):
    """The multiplier at which a falling mean cost is the limit."""
    low, high = 0.0, 1.0
    while cost_at(high) > limit:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if cost_at(middle) > limit else (low, middle)
    return (low + high) / 2


def optimum(limit):
    multiplier = root(lambda m: mean(policy(m, BETA), COSTS), limit)
    rows = policy(multiplier, BETA)
    squares = [[c * c for c in row] for row in COSTS]
    variance = sum(
        sum(p * s for p, s in zip(row, ss)) - sum(p * c for p, c in zip(row, cs)) ** 2
        for row, ss, cs in zip(rows, squares, COSTS)
    ) / len(rows)
    return {
        "limit": limit,
        "multiplier": multiplier,
        "reward": mean(rows, REWARDS),
        "kl": kl(rows),
        "value": mean(rows, REWARDS) - BETA * kl(rows),
        "variance": variance,
        "policy": rows,
    }


def split(limit):
    """The released mixture: its best response is π ∝ π_ref·exp((r − λc)/((1 + λ)κ))."""
    multiplier = root(lambda m: mean(policy(m, (1 + m) * BETA), COSTS), limit)
    return {"limit": limit, "multiplier": multiplier, "reward": mean(policy(multiplier, (1 + multiplier) * BETA), REWARDS)}


print(
    json.dumps(
        {
            "made_by": "tools/safe_rlhf_worlds.py: bisection in double precision",
            "beta": BETA,
            "reward_only": [optimum(limit) for limit in (0.6, 0, -0.25, -0.6, -0.7)],
            "split": [split(limit) for limit in (0.6, 0, -0.25, -0.6)],
            "free_cost": mean(policy(0, BETA), COSTS),
            "split_limit_of_cost": mean(policy(1e9, (1 + 1e9) * BETA), COSTS),
        },
        indent=1,
    )
)
