#!/usr/bin/env python3
"""What run.sh makes of scored rows.

results.py mean PARTS OUT: the mean of the columns cost1 to cost3 as `cost`.
results.py limit WICK TABLE SHARE BETA: the limit of the mean cost at which the best policy has this share of unsafe answers, and its multiplier.
results.py policy SEED POLICY LAMBDA A B: a line of policies.csv, the shares of unsafe answers by both halves' cost models, and the mean reward.
results.py models SEED COST_TEST BOTH HARMLESS HELPFUL: lines of models.csv, how often score models were right about held-out rows.
results.py figure POLICIES.csv TARGET: docs/safe-rlhf.svg.
"""
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

FIGURE = Path(__file__).parents[2] / "docs/safe-rlhf.svg"
NAMES = {"sft": "reference", "dpo": "DPO", "limited": "with the limit"}
COLOURS = {"sft": "#666666", "dpo": "#c8553d", "limited": "#1f6f8b"}
WIDTH, HEIGHT, LEFT, TOP = 300, 220, 60, 40


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def mean(parts, out):
    with open(out, "w") as file:
        for row in read(parts):
            costs = [row.pop(f"cost{member}") for member in (1, 2, 3)]
            file.write(json.dumps({**row, "cost": sum(costs) / 3}) + "\n")


def limit(wick, table, share, beta):
    low, high, weight = -8.0, 4.0, 0.0
    for _ in range(14):
        middle = (low + high) / 2
        solve = [wick, "safety", "solve", table, f"--limit={middle}", "--beta", beta, "--json"]
        solved = subprocess.run(solve, capture_output=True, text=True)
        answer = json.loads(solved.stdout) if solved.stdout else {"solution": "infeasible"}
        if answer["solution"] == "infeasible" or answer["unsafe_share"][0] < float(share):
            low = middle
        else:
            high, weight = middle, answer["lambda"][0]
    print(high, weight)


def policy(seed, name, weight, first, other):
    first, other = read(first), read(other)
    rates = [sum(row["cost"] > 0 for row in rows) / len(rows) for rows in (first, other)]
    print(f"{seed},{name},{weight},{rates[0]:.4f},{rates[1]:.4f},{statistics.mean(row['reward'] for row in first):.4f}")


def models(seed, cost_test, both, harmless, helpful):
    signs = [(row["cost"] <= 0) == row["label"] for row in read(cost_test)]
    # The chosen side of `both` is the safe one, and cost the mean of three models.
    cost = lambda row, side: sum(row[f"cost{member}_{side}"] for member in (1, 2, 3))
    rankings = {
        "ranking, DiaSafety other half": [cost(row, "chosen") < cost(row, "rejected") for row in read(both)],
        "ranking, HH-harmless": [row["reward_chosen"] > row["reward_rejected"] for row in read(harmless)],
        "ranking, helpfulness": [row["reward_chosen"] > row["reward_rejected"] for row in read(helpful)],
    }
    for question, right in {"sign, DiaSafety test": signs, **rankings}.items():
        print(f'{seed},"{question}",{sum(right) / len(right):.4f}')


def figure(policies, target):
    """A panel a judge: the share of unsafe answers of every policy, a dot a seed, the mean as a bar, and the target as a line."""
    with open(policies) as file:
        rows = list(csv.DictReader(file))
    top = max(float(row[judge]) for row in rows for judge in ("unsafe_a", "unsafe_b")) * 1.15
    y = lambda share: TOP + HEIGHT * (1 - share / top)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * (WIDTH + LEFT) + 20} {TOP + HEIGHT + 40}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for panel, (judge, words) in enumerate({"unsafe_a": "by its own cost models", "unsafe_b": "by those of the other half"}.items()):
        left = LEFT + panel * (WIDTH + LEFT)
        lines.append(f'<text x="{left}" y="{TOP - 16}" font-size="12">unsafe answers {words}</text>')
        lines.append(f'<path d="M{left},{TOP} V{TOP + HEIGHT} H{left + WIDTH}" fill="none" stroke="#444"/>')
        for share in range(0, int(top * 100) + 1, 10):
            lines.append(f'<text x="{left - 6}" y="{y(share / 100) + 4:.1f}" text-anchor="end">{share} %</text>')
        line = y(float(target))
        lines.append(f'<path d="M{left},{line:.1f} H{left + WIDTH}" stroke="#222" stroke-dasharray="5 4"/>')
        lines.append(f'<text x="{left + WIDTH}" y="{line - 4:.1f}" text-anchor="end">target</text>')
        for place, (name, label) in enumerate(NAMES.items()):
            values = [float(row[judge]) for row in rows if row["policy"] == name]
            x, middle = left + WIDTH * (place + 0.5) / 3, y(statistics.mean(values))
            lines.append(f'<path d="M{x - 26:.1f},{middle:.1f} h52" stroke="{COLOURS[name]}" stroke-width="2"/>')
            for index, value in enumerate(values):
                at = x + 8 * (index - (len(values) - 1) / 2)
                lines.append(f'<circle cx="{at:.1f}" cy="{y(value):.1f}" r="3.5" fill="{COLOURS[name]}" fill-opacity="0.7"/>')
            lines.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{label}</text>')
    FIGURE.write_text("\n".join(lines) + "\n</svg>\n")


if __name__ == "__main__":
    {"mean": mean, "limit": limit, "policy": policy, "models": models, "figure": figure}[sys.argv[1]](*sys.argv[2:])
