#!/usr/bin/env python3
"""`wick bench step` in the words of suite.py's --ours: in bf16 with f32 masters on a GPU (a wick with the feature cuda), or in f32 on the CPU,
so that the suite can be rehearsed with every side.

    python3 benches/gpu/suite.py OUT --ours 'python3 benches/gpu/wick.py --device cuda ./wick'
    python3 benches/gpu/suite.py OUT --tiny --ours 'python3 benches/gpu/wick.py target/release/wick'
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
parser.add_argument("wick")
parser.add_argument("model", type=Path)
parser.add_argument("rows", type=Path)
parser.add_argument("--mode", choices=["full", "lora"], required=True)
parser.add_argument("--adapter", type=Path)
parser.add_argument("--masters", choices=["f32", "none"], required=True, help="none is an error on a GPU: wick has masters there; the CPU has f32 alone, and takes both")
parser.add_argument("--json", type=Path, required=True)
for name in ("--batch", "--warmup", "--steps"):
    parser.add_argument(name, required=True)
args = parser.parse_args()
if args.device != "cpu" and args.masters == "none":
    sys.exit("wick trains with f32 masters on a GPU; leave the side without them out (--without)")
lora = []
if args.mode == "lora":
    lora = ["--adapter", args.adapter, "--lora", json.loads((args.adapter / "adapter_config.json").read_text())["r"]]
words = [args.wick, "bench", "step", "--model", args.model, "--data", args.rows, "--batch", args.batch, "--warmup", args.warmup,
         "--steps", args.steps, "--max-length", 1 << 14, "--device", args.device, *lora, "--json"]
done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, text=True, check=True)
args.json.write_text(done.stdout.strip().splitlines()[-1] + "\n")
