#!/usr/bin/env python3
"""`wick bench step` in the words of suite.py's --ours, in f32 on the CPU: so the suite can be rehearsed with every side.

    python3 benches/gpu/suite.py OUT --tiny --ours 'python3 benches/gpu/wick_on_cpu.py target/release/wick'
"""
import argparse
import json
import subprocess
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("wick")
parser.add_argument("model", type=Path)
parser.add_argument("rows", type=Path)
parser.add_argument("--mode", choices=["full", "lora"], required=True)
parser.add_argument("--adapter", type=Path)
parser.add_argument("--masters", choices=["f32", "none"], required=True, help="f32 is all there is on the CPU; both are taken")
parser.add_argument("--json", type=Path, required=True)
for name in ("--batch", "--warmup", "--steps"):
    parser.add_argument(name, required=True)
args = parser.parse_args()
lora = []
if args.mode == "lora":
    lora = ["--adapter", args.adapter, "--lora", json.loads((args.adapter / "adapter_config.json").read_text())["r"]]
words = [args.wick, "bench", "step", "--model", args.model, "--data", args.rows, "--batch", args.batch, "--warmup", args.warmup,
         "--steps", args.steps, "--max-length", 1 << 14, *lora, "--json"]
done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, text=True, check=True)
args.json.write_text(done.stdout.strip().splitlines()[-1] + "\n")
