#!/usr/bin/env python3
"""What run.sh has measured: figure.py OUTPUT_DIR writes results.csv beside this file and docs/moving-references.svg."""
import csv
import json
import math
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).parent
FIGURE = HERE.parents[1] / "docs/moving-references.svg"
PANELS = {"full": "all weights", "lora": "an adapter of rank 8"}
COLOURS = {"dpo": "#1f6f8b", "soft": "#c8553d", "hard": "#6b8f3c"}
WIDTH, HEIGHT, LEFT, TOP = 360, 300, 80, 40


def main(output):
    rows = []
    for panel in PANELS:
        path = output / panel / "results.json"
        if path.exists():
            rows += [row(panel, arm) for arm in json.loads(path.read_text())["arms"]]
    with open(HERE / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    beside = [line for panel in PANELS for line in above_dpo(panel, output / panel / "cells")]
    if beside:
        with open(HERE / "equal_drift.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, beside[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(beside)
    FIGURE.write_text(figure(rows))


def above_dpo(panel, cells):
    """How far each run lies above the curve of the DPO runs of its seed: the margin less DPO's at the same drift, which is interpolated
    between neighbouring betas over the logarithm of the drift. Runs that drifted further than all of DPO's, or less, have no such value."""
    runs = {}
    for path in cells.glob("*/cell.json"):
        arm, seed = path.parent.name.replace("__", " ").replace("_", " ").rsplit(" seed ", 1)
        cell = json.loads(path.read_text())
        runs.setdefault(arm, {})[seed] = (cell["drift"]["kl"], cell["points"][-1]["margin"])
    curves = [runs[arm] for arm in runs if arm.startswith("dpo")]
    for arm in sorted(arm for arm in runs if not arm.startswith("dpo")):
        gaps = []
        for seed, (drift, margin) in runs[arm].items():
            points = sorted(curve[seed] for curve in curves)
            for (low, at_low), (high, at_high) in zip(points, points[1:]):
                if low <= drift <= high:
                    share = math.log(drift / low) / math.log(high / low)
                    gaps.append(margin - at_low - share * (at_high - at_low))
                    break
        mean = round(statistics.mean(gaps), 4) if gaps else ""
        error = round(statistics.stdev(gaps) / len(gaps) ** 0.5, 4) if len(gaps) > 1 else ""
        yield {"trained": panel, "arm": arm, "seeds": len(gaps), "above": sum(gap > 0 for gap in gaps), "mean": mean, "standard_error": error}


def row(panel, arm):
    """An arm's means over seeds, with the intervals that wick compare makes of seeds and items."""
    out = {"trained": panel, "arm": arm["name"], "seeds": arm["seeds"]}
    for name in ("accuracy", "margin", "drift"):
        interval = arm[name]
        out |= {name: round(interval["estimate"], 4), f"{name}_low": round(interval["low"], 4), f"{name}_high": round(interval["high"], 4)}
    return out


def figure(rows):
    """A panel a way of training: margin upwards, drift to the right; a line joins DPO's betas."""
    panels = [panel for panel in PANELS if any(row["trained"] == panel for row in rows)]
    width = len(panels) * (WIDTH + LEFT) + 170
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + TOP + 60}" font-family="sans-serif" font-size="11">',
             '<rect width="100%" height="100%" fill="white"/>']
    for index, panel in enumerate(panels):
        lines += draw(panel, [row for row in rows if row["trained"] == panel], LEFT + index * (WIDTH + LEFT))
    x = len(panels) * (WIDTH + LEFT) + 30
    for index, (kind, words) in enumerate({"dpo": "DPO, β 0.02 to 0.5", "soft": "TR-DPO, soft", "hard": "TR-DPO, hard"}.items()):
        lines.append(f'<circle cx="{x}" cy="{TOP + 16 * index}" r="4" fill="{COLOURS[kind]}"/><text x="{x + 10}" y="{TOP + 4 + 16 * index}">{words}</text>')
    return "\n".join(lines) + "\n</svg>\n"


def draw(panel, rows, left):
    most_drift, most_margin = 1.5 * max(row["drift"] for row in rows), 1.1 * max(row["margin"] for row in rows)
    x = lambda drift: left + WIDTH * drift / most_drift
    y = lambda margin: TOP + HEIGHT * (1 - margin / most_margin)
    yield f'<text x="{left}" y="{TOP - 14}" font-size="13">{PANELS[panel]}</text>'
    yield f'<path d="M{left},{TOP} V{TOP + HEIGHT} H{left + WIDTH}" fill="none" stroke="#444"/>'
    for share in (0.25, 0.5, 0.75, 1.0):
        drift, margin = share * most_drift, share * most_margin
        yield f'<text x="{x(drift):.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{drift:.2g}</text>'
        yield f'<text x="{left - 6}" y="{y(margin) + 4:.1f}" text-anchor="end">{margin:.2g}</text>'
    yield f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 36}" text-anchor="middle">drift: KL from the start, nats an answer</text>'
    turned = f"translate({left - 36},{TOP + HEIGHT / 2}) rotate(-90)"
    yield f'<text transform="{turned}" text-anchor="middle">held-out margin over the start, nats</text>'
    dpo = sorted((row for row in rows if row["arm"].startswith("dpo")), key=lambda row: row["drift"])
    points = " ".join(f"{x(row['drift']):.1f},{y(row['margin']):.1f}" for row in dpo)
    yield f'<polyline points="{points}" fill="none" stroke="{COLOURS["dpo"]}" stroke-dasharray="4 3"/>'
    # Names stand in a column at the right of the points, in their order and apart from each other.
    column, last = x(max(row["drift"] for row in rows)) + 22, -100.0
    for row in sorted(rows, key=lambda row: -row["margin"]):
        colour, at = COLOURS[row["arm"].split()[0].rstrip(",")], (x(row["drift"]), y(row["margin"]))
        last = max(at[1], last + 11)
        yield f'<path d="M{at[0]:.1f},{at[1]:.1f} L{column - 3:.1f},{last:.1f}" stroke="{colour}" stroke-width="0.5"/>'
        yield f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.5" fill="{colour}"/>'
        yield f'<text x="{column:.1f}" y="{last + 3:.1f}" font-size="9" fill="{colour}">{row["arm"].replace("beta", "β")}</text>'


main(Path(sys.argv[1]))
