#!/usr/bin/env python3
"""One optimizer step here, in plain PyTorch and in TRL: same model, same rows, one sitting; the ratios are the result.

    python tools/bench_step.py --model DIR --data pairs.jsonl --python VENV/bin/python --record

Runs `torch_step.py`, `trl_step.py` and `wick bench step` one after another (the whole round `--repeat` times, the median step of each
counts), prints their JSON lines and the ratios, and with `--record` keeps everything in benches/record/DATE-COMMIT.json. Bare times
say as much about the machine and its mood as about the program: never quote one without its neighbours.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("CANDLEWICK_SHARED", ROOT.parent / "shared"))

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=Path, required=True)
parser.add_argument("--data", type=Path, default=SHARED / "assets/ready/pairs_hh_harmless.jsonl")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--steps", type=int, default=8)
parser.add_argument("--warmup", type=int, default=2)
parser.add_argument("--max-length", type=int, default=512)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--lora", type=int, default=0)
parser.add_argument("--precompute", action="store_true")
parser.add_argument("--repeat", type=int, default=1)
parser.add_argument("--without", choices=["trl", "torch"], action="append", default=[], help="leave a peer out")
parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch, transformers and trl")
parser.add_argument("--peers", type=Path, default=SHARED / "peers", help="where torch_step.py and trl_step.py are")
parser.add_argument("--wick", type=Path, default=ROOT / "target/release/wick")
parser.add_argument("--record", action="store_true")
args = parser.parse_args()

load = os.getloadavg()[0]
if args.record and load > 0.5:
    sys.exit(f"the machine is busy (load {load:.1f}): a thread that waits for another spins, and the ratios are worth nothing")

shared = [
    "--model", args.model, "--data", args.data, "--batch", args.batch, "--steps", args.steps, "--warmup", args.warmup,
    "--max-length", args.max_length, "--threads", args.threads,
    *(["--lora", args.lora] if args.lora else []), *(["--precompute"] if args.precompute else []),
]
programs = {
    "torch": [args.python, args.peers / "torch_step.py", *shared],
    "trl": [args.python, args.peers / "trl_step.py", *shared],
    "wick": [args.wick, "bench", "step", *shared, "--json"],
}


def run(name):
    """The JSON line a program ends with."""
    command = list(map(str, programs[name]))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{") and "step_s" in line]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(command)}\nfailed with {done.returncode}\n{done.stderr[-2000:]}")
    print(lines[-1], flush=True)
    return json.loads(lines[-1])


def text(*command):
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip()


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


rounds = [{name: run(name) for name in programs if name not in args.without} for _ in range(args.repeat)]
median = lambda name, key: statistics.median(result[name][key] for result in rounds)
ratios = {
    f"wick_vs_{peer}": {
        "pairs_per_s": round(median("wick", "pairs_per_s") / median(peer, "pairs_per_s"), 3),
        "peak_rss_mb": round(median("wick", "peak_rss_mb") / median(peer, "peak_rss_mb"), 3),
        "largest_loss_difference": max(
            abs(a - b) for result in rounds for a, b in zip(result["wick"]["losses"], result[peer]["losses"])),
    }
    for peer in programs if peer != "wick" and peer not in args.without
}
for name, ratio in ratios.items():
    print(f"{name}: {ratio['pairs_per_s']:.2f} x the pairs/s, {ratio['peak_rss_mb']:.2f} x the peak memory,"
          f" losses within {ratio['largest_loss_difference']:.1e}")

if args.record:
    today, commit = datetime.date.today().isoformat(), text("git", "rev-parse", "--short=10", "HEAD") or "uncommitted"
    config = json.loads((args.model / "config.json").read_text())
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    document = {
        "date": today, "commit": commit, "dirty": bool(text("git", "status", "--porcelain")),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load_before": load, "system": platform.system()},
        "model": {key: config[key] for key in sizes}, "data": args.data.name,
        "options": {key: getattr(args, key) for key in ("batch", "steps", "warmup", "max_length", "threads", "lora", "precompute")},
        "ratios": ratios, "rounds": rounds,
    }
    path = ROOT / "benches/record" / f"{today}-{commit}{f'-lora{args.lora}' if args.lora else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(path.relative_to(ROOT))
