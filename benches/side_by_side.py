#!/usr/bin/env python3
"""Optimizer steps here, in plain PyTorch and in TRL: same model, same rows, one sitting; the ratios are the result.

    benches/side_by_side.sh                                # every workload
    benches/side_by_side.sh --only full,lora --rounds 5    # some of them
    benches/side_by_side.sh --quick                        # tiny models: does every program run, and do they agree?
    benches/side_by_side.sh --record                       # benches/record/DATE-COMMIT.json

For each workload the programs run in turns, a round at a time: `torch_step.py` (for KTO `kto_step.py`), the same under
`torch.compile`, `wick bench step` and, where there is a goal against it, `trl_step.py`. The medians over the rounds count, and of
PyTorch's two forms the faster; its memory is the smaller of the two peaks. The losses of the first steps have to agree, or the
ratios say nothing: where they do not, the exit status is 1. With LoRA all programs start from the adapter that `torch_step.py
--adapter` writes. Models, adapters and generated rows are kept in target/side-by-side.

Bare times say as much about the machine and its mood as about the program: never quote one without its neighbours.
"""
import argparse
import gzip
import json
import os
import random
import runpy
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import recording

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("CANDLEWICK_SHARED", ROOT.parent / "shared"))
PLACE = ROOT / "target/side-by-side"

# As trl_step.py --make-model takes them. The vocabulary is gpt2's 50,257 in both; SmolLM2's own has 49,152.
MODELS = {
    "30m": {"hidden": 384, "layers": 6, "heads": 6, "kv-heads": 6, "intermediate": 1024},
    "135m": {"hidden": 576, "layers": 30, "heads": 9, "kv-heads": 3, "intermediate": 1536},
}
QUICK = {
    "30m": {"hidden": 64, "layers": 2, "heads": 2, "kv-heads": 2, "intermediate": 128},
    "135m": {"hidden": 96, "layers": 2, "heads": 3, "kv-heads": 1, "intermediate": 192},
}
HH = "pairs_hh_harmless.jsonl"


@dataclass(frozen=True)
class Workload:
    """What is run, and the ratios that are the goal: at least so many times the pairs/s, at most that much of the memory."""

    title: str
    model: str
    data: str
    torch: float
    memory: float
    trl: float | None = None
    batch: int = 4
    max_length: int = 512
    lora: int = 0
    precompute: bool = False
    kto: bool = False
    steps: int = 8
    warmup: int = 2


WORKLOADS = {
    "full": Workload("30 M, HH, batch 4, full", "30m", HH, torch=1.6, trl=6, memory=0.5),
    "lora": Workload("same, LoRA 16", "30m", HH, torch=1.8, trl=7, memory=0.4, lora=16),
    "cached": Workload("same, cached reference", "30m", HH, torch=1.6, trl=5, memory=0.5, precompute=True),
    "135m-full": Workload("135 M, 256 + 256 tokens, batch 2, full", "135m", "even.jsonl", torch=1.5, memory=0.5, batch=2,
                          max_length=1024, steps=4, warmup=1),
    "135m-lora": Workload("same, LoRA 16", "135m", "even.jsonl", torch=1.5, memory=0.5, batch=2, max_length=1024, lora=16,
                          steps=4, warmup=1),
    "long": Workload("30 M, short prompts, long completions", "30m", "long.jsonl", torch=1.1, memory=0.6),
    "kto": Workload("30 M, KTO, batch 16", "30m", "unpaired_diasafety_test.jsonl", torch=1.5, trl=5, memory=0.5, batch=16,
                    kto=True),
}

# Generated rows: a seed, and the fewest and most tokens of prompt and completion.
GENERATED = {"even.jsonl": (1, (240, 272), (240, 272)), "long.jsonl": (2, (6, 12), (320, 480))}
# Each is one token of gpt2's, with the space before it.
WORDS = """time year people way day man thing woman life child world school state family student group country problem hand part place
case week company system program question work government number night point home water room mother area money story fact month lot
right study book eye job word business issue side kind head house service friend father power hour game line end member law car city
community name president team minute idea kid body information back parent face others level office door health person art war history
party result change morning reason research girl guy moment air teacher force education""".split()

FIRST_STEPS = 4
AGREEMENT = 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(WORKLOADS), metavar="NAME,…",
                        help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, help="3, with --quick 1")
    parser.add_argument("--steps", type=int, help="measured steps of every workload")
    parser.add_argument("--warmup", type=int, help="steps before them, of every workload; compiled PyTorch makes its code in them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", choices=["torch", "compiled", "trl"], action="append", default=[], help="leave a peer out")
    parser.add_argument("--recompute", choices=["nothing", "layers"], default="nothing", help="of ours")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch, transformers and trl")
    parser.add_argument("--peers", type=Path, default=SHARED / "peers", help="where torch_step.py and trl_step.py are")
    parser.add_argument("--wick", type=Path, default=ROOT / "target/release/wick")
    parser.add_argument("--quick", action="store_true", help="tiny models, one round of two steps, nothing compiled; nothing worth recording")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--even-if-busy", action="store_true", help="record though something else runs; the record says so")
    args = parser.parse_args()
    for name in args.only:
        if name not in WORKLOADS:
            parser.error(f"--only: unknown workload {name!r}; expected some of {', '.join(WORKLOADS)}")
    if args.quick and args.record:
        parser.error("--quick is not worth recording")
    if args.quick:
        args.without.append("compiled")  # minutes of compiling for steps of milliseconds
    if {"torch", "compiled"} <= set(args.without):
        parser.error("--without torch and compiled leaves nothing to compare with")
    load = os.getloadavg()[0]
    if args.record and load > 0.5 and not args.even_if_busy:
        sys.exit(f"the machine is busy (load {load:.1f}): a thread that waits for another spins, and the ratios are worth nothing")

    done = {}
    for name in args.only:
        done[name] = measure(name, args)
        print("\n" + table(done) + "\n", flush=True)
        if args.record:
            record(args, load, done)
    apart = [name for name, results in done.items() if results["largest_loss_difference"] > AGREEMENT]
    if apart:
        sys.exit(f"losses of the first {FIRST_STEPS} steps are further apart than {AGREEMENT:g}: {', '.join(apart)}")


def measure(name, args):
    """Rounds of all programs on one workload, and what follows from them."""
    workload = WORKLOADS[name]
    commands = programs(workload, args)
    print(f"{name}: {workload.title}", flush=True)
    rounds = []
    for turn in range(args.rounds or (1 if args.quick else 3)):
        # Who goes first changes, so that a machine that warms up favours nobody.
        order = list(commands)[turn % len(commands):] + list(commands)[:turn % len(commands)]
        results = {}
        for program in order:
            results[program] = run(commands[program], may_fail=program == "compiled")
            if results[program] is None:
                del results[program], commands[program]
                print(f"  {program:<9} failed and is left out", flush=True)
                continue
            print("  {:<9} {step_s:>9.4f} s a step {tokens_per_s:>9.0f} tokens/s {peak_rss_mb:>7.0f} MB".format(
                program, **results[program]), flush=True)
        rounds.append(results)
    # A form that failed once has no median.
    rounds = [{program: results[program] for program in commands if program in results} for results in rounds]
    return {"ratios": ratios(rounds), "largest_loss_difference": apart(rounds), "options": options(workload, args), "rounds": rounds}


def options(workload, args):
    steps, warmup = (2, 1) if args.quick else (args.steps or workload.steps, args.warmup or workload.warmup)
    return {"model": workload.model, "data": workload.data, "batch": workload.batch, "steps": steps, "warmup": warmup,
            "max_length": workload.max_length, "threads": args.threads, "lora": workload.lora,
            "precompute": workload.precompute, "objective": "kto" if workload.kto else "dpo", "recompute": args.recompute}


def programs(workload, args):
    """The command line of each program, by its name."""
    chosen = options(workload, args)
    model, data = made_model(workload.model, args), rows(workload.data)
    words = ["--model", model, "--data", data, "--threads", args.threads, "--batch", workload.batch, "--steps", chosen["steps"],
             "--warmup", chosen["warmup"], "--max-length", workload.max_length]
    words += ["--precompute"] if workload.precompute else []
    torch = [args.python, ROOT / "benches/kto_step.py"] if workload.kto else [args.python, args.peers / "torch_step.py"]
    trl = [*torch, "--trl", "--peers", args.peers] if workload.kto else [args.python, args.peers / "trl_step.py"]
    if workload.lora:
        adapter = model.with_name(f"{model.name}-lora{workload.lora}")
        words += ["--lora", workload.lora]
        if not adapter.exists():
            run([*torch, *words, "--steps", 1, "--warmup", 0, "--adapter", adapter])
        trl = [args.python, __file__, "--trl-from", adapter, args.peers / "trl_step.py"]
    start = ["--adapter", adapter] if workload.lora else []
    commands = {
        "torch": [*torch, *words, *start],
        "compiled": [*torch, *words, *start, "--compile"],
        "wick": [args.wick, "bench", "step", *words, *start, "--objective", chosen["objective"], "--recompute", args.recompute, "--json"],
        "trl": [*trl, *words],
    }
    if workload.trl is None:
        del commands["trl"]
    return {program: command for program, command in commands.items() if program not in args.without}


def run(command, may_fail=False):
    """What the JSON line says that a program ends with; None where one that may fail has failed."""
    command = list(map(str, command))
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{") and ("step_s" in line or "parameters" in line)]
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    said = f"{' '.join(command)}\nfailed with {done.returncode}\n{done.stderr[-2000:]}"
    if not may_fail:
        sys.exit(said)
    print(said, file=sys.stderr)


def ratios(rounds):
    """Ours over each peer's. PyTorch stands for the faster of its two forms, and for the smaller of their peaks."""
    median = lambda program, key: statistics.median(results[program][key] for results in rounds)
    torch = [program for program in ("torch", "compiled") if all(program in results for results in rounds)]
    faster = max(torch, key=lambda program: median(program, "pairs_per_s"))
    over = lambda program, key: round(median("wick", key) / median(program, key), 3)
    found = {"torch": {"form": faster, "pairs_per_s": over(faster, "pairs_per_s"), "tokens_per_s": over(faster, "tokens_per_s"),
                       "peak_rss_mb": max(over(program, "peak_rss_mb") for program in torch)}}
    if "trl" in rounds[0]:
        found["trl"] = {key: over("trl", key) for key in ("pairs_per_s", "tokens_per_s", "peak_rss_mb")}
    return found


def apart(rounds):
    """The largest difference between our losses of the first steps and a peer's."""
    return max(abs(ours - theirs) for results in rounds for program in results
               for ours, theirs in list(zip(results["wick"]["losses"], results[program]["losses"]))[:FIRST_STEPS])


def table(done):
    """Ratios beside goals, in Markdown; a goal that is missed stands in bold."""
    least = lambda ratio, goal: f"{ratio:.2f}× of {goal:g}×" if ratio >= goal else f"**{ratio:.2f}× of {goal:g}×**"
    most = lambda ratio, goal: f"{ratio:.2f}× of {goal:g}×" if ratio <= goal else f"**{ratio:.2f}× of {goal:g}×**"
    lines = ["| workload | pairs/s to PyTorch (goal: at least) | tokens/s | pairs/s to TRL (at least) | memory to PyTorch (at most) | losses within |",
             "|---|---|---|---|---|---|"]
    for name, results in done.items():
        workload, torch, trl = WORKLOADS[name], results["ratios"]["torch"], results["ratios"].get("trl")
        lines.append(f"| {name}: {workload.title} | {least(torch['pairs_per_s'], workload.torch)} ({torch['form']}) "
                     f"| {torch['tokens_per_s']:.2f}× | {least(trl['pairs_per_s'], workload.trl) if trl else '–'} "
                     f"| {most(torch['peak_rss_mb'], workload.memory)} | {results['largest_loss_difference']:.0e} |")
    return "\n".join(lines)


def made_model(name, args):
    """A seeded model of that shape with gpt2's tokenizer, made once."""
    model = PLACE / (f"{name}-quick" if args.quick else name)
    if not (model / "config.json").exists():
        shape = (QUICK if args.quick else MODELS)[name]
        words = [word for key, value in shape.items() for word in (f"--{key}", value)]
        run([args.python, args.peers / "trl_step.py", "--make-model", model, "--tokenizer", tokenizer(), *words])
    return model


def tokenizer():
    source, place = SHARED / "assets/tokenizers/gpt2", PLACE / "gpt2"
    place.mkdir(parents=True, exist_ok=True)
    (place / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    shutil.copyfile(source / "tokenizer_config.json", place / "tokenizer_config.json")
    return place


def rows(name):
    """The file of that name, generated where it is none of the ready ones."""
    if name not in GENERATED:
        return SHARED / "assets/ready" / name
    seed, prompt, completion = GENERATED[name]
    draw = random.Random(seed)
    between = lambda few, many: few + int(draw.random() * (many - few + 1))
    text = lambda lengths: " ".join(WORDS[int(draw.random() * len(WORDS))] for _ in range(between(*lengths)))
    path = PLACE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ({"prompt": text(prompt), "chosen": " " + text(completion), "rejected": " " + text(completion)} for _ in range(64))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def record(args, load, done):
    today, commit = recording.today_and_commit()
    path = ROOT / "benches/record" / f"{today}-{commit}.json"
    before = json.loads(path.read_text()).get("workloads", {}) if path.exists() else {}
    document = {
        "date": today, "commit": commit, "dirty": bool(recording.said("git", "status", "--porcelain", "--untracked-files=no")),
        "machine": recording.machine(load),
        "models": MODELS, "workloads": before | done,
    }
    recording.keep(path, document)


def trl_from(adapter, program, *words):
    """trl_step.py, whose fresh adapter is replaced by the given one: TRL draws its own otherwise, and losses part at step 2."""
    from peft import PeftModel
    from trl.trainer import dpo_trainer, kto_trainer

    load = lambda model, config, **more: PeftModel.from_pretrained(model, adapter, is_trainable=True, **more)
    dpo_trainer.get_peft_model = kto_trainer.get_peft_model = load
    sys.argv = [program, *words]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    trl_from(*sys.argv[2:]) if sys.argv[1:2] == ["--trl-from"] else main()
