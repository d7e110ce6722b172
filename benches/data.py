#!/usr/bin/env python3
"""From a file of pairs to token ids: here, and with Python's `datasets` and TRL's own preparation; the ratios are the result.

    python benches/data.py --python VENV/bin/python --record

The 2,312 rows of HH (`chosen` and `rejected`, the prompt implicit) are repeated to `--rows` and read from a JSONL file. TRL's side is
`load_dataset` with an empty cache and then `DPOTrainer._prepare_dataset` of the installed TRL, unchanged: the prompt is taken out, the
end-of-sequence token added, everything tokenized, with each `--processes` in turn; the fastest one is what we are compared with. Ours
is `wick bench data` with `--workers`. On both sides the clock runs from opening the file to the last token id: not while modules and
the tokenizer are loaded. Nothing is cut to a length. Rows that we reject and report (an empty completion, different prompts) do not
count in TRL's tokens; what is left has to be equal, or the comparison is worth nothing and fails.

The programs run in turns, `--repeat` rounds, and the median of each counts. Times say as much about the machine and its mood as about
the program: never quote one without its neighbours.
"""
import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import recording

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("CANDLEWICK_SHARED", ROOT.parent / "shared"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "assets/preferences/hh_harmless_base_test.jsonl.gz")
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "assets/tokenizers/gpt2",
                        help="its directory; tokenizer.json may be compressed (.gz)")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="num_proc of datasets")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="tokenizing threads of ours")
    parser.add_argument("--boundary", choices=["offsets", "common-prefix"], default="offsets")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch, transformers and trl")
    parser.add_argument("--wick", type=Path, default=ROOT / "target/release/wick")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--even-if-busy", action="store_true", help="record though something else runs; the record says so")
    parser.add_argument("--prepare", type=int, metavar="PROCESSES", help=argparse.SUPPRESS)
    parser.add_argument("--unused", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare is not None:
        return prepare(args.data, args.tokenizer, args.prepare, json.loads(args.unused.read_text()))

    load = os.getloadavg()[0]
    if args.record and load > 0.5 and not args.even_if_busy:
        sys.exit(f"the machine is busy (load {load:.1f}): what runs beside this takes from both sides, and not evenly")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        lines, tokenizer = read(args.data), unpacked(args.tokenizer, scratch)
        data, unused = repeated(lines, args.rows, scratch), scratch / "unused.json"
        ours = [args.wick, "bench", "data", "--model", tokenizer, "--boundary", args.boundary, "--json"]
        once = run("each row once", [*ours, "--data", repeated(lines, len(lines), scratch, "once.jsonl")])
        unused.write_text(json.dumps({"every": len(lines), "lines": once["rejected"]}))
        programs = {
            **{f"trl, num_proc={n}": [args.python, __file__, "--prepare", n, "--data", data, "--tokenizer", tokenizer,
                                      "--unused", unused]
               for n in args.processes},
            **{f"wick, workers={n}": [*ours, "--data", data, "--workers", n] for n in args.workers},
        }
        rounds = [{name: run(name, command) for name, command in programs.items()} for _ in range(args.repeat)]
    report(args, load, rounds)


def read(path):
    """The rows of a file, as they are written."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    with opened:
        return [line.rstrip("\n") + "\n" for line in opened if line.strip()]


def repeated(lines, rows, scratch, name="rows.jsonl"):
    """A file of these rows again and again, up to a number of them."""
    target = scratch / name
    with open(target, "w", encoding="utf-8") as out:
        for row in range(rows):
            out.write(lines[row % len(lines)])
    return target


def unpacked(directory, scratch):
    """A copy of a tokenizer's directory with nothing compressed."""
    target = scratch / "tokenizer"
    target.mkdir()
    for file in directory.iterdir():
        if file.suffix == ".gz":
            (target / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        elif file.is_file():
            shutil.copy(file, target)
    return target


def run(name, command):
    """The JSON line a program ends with."""
    command = list(map(str, command))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{") and "rows_per_s" in line]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(command)}\nfailed with {done.returncode}\n{done.stderr[-2000:]}")
    result = json.loads(lines[-1])
    print(f"{name}: {result['seconds']:.2f} s, {result['rows_per_s']:.0f} rows/s, {result['tokens']} tokens,"
          f" peak {result['peak_rss_mb']:.0f} MB", flush=True)
    return result


def prepare(data, tokenizer, processes, unused):
    """TRL's preparation of a dataset, timed; one JSON line."""
    import resource
    from types import SimpleNamespace

    # A cache of its own, so that nothing is found there.
    cache = tempfile.mkdtemp(dir=data.parent)
    os.environ.update(HF_HOME=cache, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")
    import datasets
    import transformers
    import trl
    from trl import DPOTrainer

    datasets.disable_progress_bars()
    processing = transformers.AutoTokenizer.from_pretrained(tokenizer)
    if processing.pad_token is None:
        processing.pad_token = processing.eos_token
    processes = None if processes == 1 else processes
    settings = SimpleNamespace(dataset_num_proc=processes, max_length=None, truncation_mode="keep_start")
    trainer = SimpleNamespace(_tokenizer=processing)

    start = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=str(data), split="train", num_proc=processes)
    loaded = time.perf_counter()
    rows = DPOTrainer._prepare_dataset(trainer, rows, processing, settings, "train")
    seconds = time.perf_counter() - start

    unused_lines = set(unused["lines"])
    used = [row for number, row in enumerate(rows) if number % unused["every"] + 1 not in unused_lines]
    tokens = sum(2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in used)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(json.dumps({
        "peer": "trl", "num_proc": processes or 1, "rows": len(rows), "kept": len(used), "tokens": tokens,
        "seconds": seconds, "load_seconds": loaded - start, "rows_per_s": len(rows) / seconds, "peak_rss_mb": peak,
        "versions": {module.__name__: module.__version__ for module in (datasets, transformers, trl)},
    }))
    shutil.rmtree(cache, ignore_errors=True)


def report(args, load, rounds):
    median = lambda name, key: statistics.median(result[name][key] for result in rounds)
    trl = [name for name in rounds[0] if name.startswith("trl")]
    wick = [name for name in rounds[0] if name.startswith("wick")]
    for name in wick:
        ours, theirs = rounds[0][name], rounds[0][trl[0]]
        if ours["tokens"] != theirs["tokens"] or ours["kept"] != theirs["kept"]:
            sys.exit(f"not the same work: {ours['kept']} rows with {ours['tokens']} tokens here,"
                     f" {theirs['kept']} rows with {theirs['tokens']} tokens there")
    best = max(trl, key=lambda name: median(name, "rows_per_s"))
    ratios = {
        f"{name} vs {best}": {
            "rows_per_s": round(median(name, "rows_per_s") / median(best, "rows_per_s"), 3),
            "peak_rss_mb": round(median(name, "peak_rss_mb") / median(best, "peak_rss_mb"), 3),
        }
        for name in wick
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio['rows_per_s']:.2f} x the rows/s, {ratio['peak_rss_mb']:.2f} x the peak memory")
    if args.record:
        record(args, load, ratios, rounds)


def record(args, load, ratios, rounds):
    today, commit = recording.today_and_commit()
    document = {
        "date": today, "commit": commit, "dirty": bool(recording.said("git", "status", "--porcelain")),
        "machine": recording.machine(load),
        "tokenizer": args.tokenizer.name, "data": args.data.name,
        "options": {key: getattr(args, key) for key in ("rows", "repeat", "processes", "workers", "boundary")},
        "ratios": ratios, "rounds": rounds,
    }
    path = ROOT / "benches/record" / f"{today}-{commit}-data{'' if args.boundary == 'offsets' else '-' + args.boundary}.json"
    recording.keep(path, document)


if __name__ == "__main__":
    main()
