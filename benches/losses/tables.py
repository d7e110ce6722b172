#!/usr/bin/env python3
"""benches/losses/results/*.json as tables with a name for every row: results/README.md. Without arguments; --check only compares."""
import json
import re
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PARTS = {
    "noise-0": "All labels right",
    "noise-10": "One label of ten turned round",
    "noise-30": "Three labels of ten turned round",
    "imbalance-1": "Verdicts, as many desirable as undesirable",
    "imbalance-10": "Verdicts, ten undesirable to one desirable",
}


def main():
    text = document()
    path = RESULTS / "README.md"
    if "--check" in sys.argv[1:]:
        sys.exit(None if path.exists() and path.read_text() == text else f"{path} is not what {Path(__file__).name} makes of the results")
    path.write_text(text)


def document():
    parts = [part for part in PARTS if (RESULTS / f"{part}.json").exists()]
    lines = ["# Results", "", "Made by `benches/losses/tables.py` from the files beside it, which `benches/losses/run.sh` makes. What the columns are:",
             "[`docs/comparing.md`](../../../docs/comparing.md). What the numbers can and cannot show: [`../README.md`](../README.md)."]
    for part in parts:
        report = json.loads((RESULTS / f"{part}.json").read_text())
        lines += ["", f"## {PARTS[part]}", "", *table(part, report)]
    return "\n".join(lines) + "\n"


def table(part, report):
    base = report["arms"][report["baseline"]]["name"]
    yield (f"{report['items']} held-out preferences, {report['seeds']} seeds; settings chosen on {report['tuning_items']} others. Before training, "
           f"log π alone agrees with {report['start']:.3f}, the longer completion with {report['longer']:.3f}.")
    yield ""
    yield f"| arm | settings | accuracy | 95 % | to {base} | p (Holm) | KL | chosen | rejected | by log π a token | length ρ | steps to target |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    worth = lambda arm: -(arm["accuracy"] or {"estimate": -1})["estimate"]
    for arm in sorted(report["arms"], key=worth):
        yield row(part, report, arm)


def row(part, report, arm):
    estimate = lambda interval, digits: "" if interval is None else f"{interval['estimate']:.{digits}f}"
    accuracy, difference = arm["accuracy"], arm["difference"]
    p = None if difference is None else difference["adjusted"]
    failed = f" ({arm['failures']} of {arm['failures'] + arm['seeds']} not finite)" if arm["failures"] else ""
    steps = arm["steps_to_target"]
    steps = "never" if steps is None else f"{steps:.0f}" + (f" ({arm['reached_target']} of {arm['seeds']})" if arm["reached_target"] < arm["seeds"] else "")
    cells = [
        f'<a id="{part}-{slug(arm["name"])}"></a>{arm["name"]}{failed}',
        arm["settings"],
        estimate(accuracy, 3),
        "" if accuracy is None else f"{accuracy['low']:.3f} to {accuracy['high']:.3f}",
        "–" if difference is None else f"{difference['interval']['estimate']:+.3f}",
        "" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}",
        estimate(arm["drift"], 2),
        estimate(arm["chosen"], 2),
        estimate(arm["rejected"], 2),
        estimate(arm["by_mean_log_prob"], 3),
        estimate(arm["length"]["margin_and_length"], 2),
        steps,
    ]
    return "| " + " | ".join(cells) + " |"


def slug(name):
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")


main()
