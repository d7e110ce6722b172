#!/usr/bin/env python3
"""Every side of the GPU comparison in one sitting: PyTorch padded, packed and with shared prompts, and ours; one table.

    python3 benches/gpu/suite.py OUT --ours PROGRAM            # OUT/side-by-side.md and .json; in a package OUT is enough
    python3 benches/gpu/suite.py OUT --only '1b/full/hh/*'     # some arms; patterns with commas between them
    python3 benches/gpu/suite.py OUT --tiny                    # tiny models, on any machine: does every program run, and do they agree?

An arm is MODEL/MODE/LENGTHS/SIDE, such as 1b/full/dense-1k/packed-masters-compiled; --list prints all. Sides: `padded-…` is
torch_step.py, which lies beside this repository (--peers), as it is; `packed-…` and `shared-…` are packed_twin.py and
flex_twin.py; `ours-masters` is the program of --ours (wick.py has the words of wick), called as

    PROGRAM MODEL_DIR ROWS_FILE --mode full|lora [--adapter DIR] --masters f32 --batch N --warmup N --steps N --json OUT

It takes N rows a step from the file in their order (rows.py), warm-up first, and DPO's mean loss with beta 0.1, AdamW at 1e-5
without decay, clip at norm 1, the reference's pass in each step. OUT has an object: `step_s`, the median of the measured steps
in seconds; `losses` of all steps, warm-up too; `peak_device_mb` (2^20 bytes); and, if it likes, of the first step
`first_reference_sums`, a list of the reference's log-probabilities of the chosen completions, then of the rejected ones, and
`first_gradient_norm`, before the clip; null is nothing. More keys are kept.

`-masters` keeps f32 masters of what is trained (`padded-amp` keeps all weights in f32), `-bf16` has none; PEFT keeps the
adapters of `padded-bf16` in f32 all the same. `-compiled` is torch.compile. `-lean` makes the logits again in the backward, for
less memory.

Arms are processes of their own, none longer than --limit seconds. Each leaves a file in --work, where a later call finds it: a
suite that was cut off goes on, and --minutes ends it in time; --resume takes arms out of an earlier side-by-side.json of the same
commit, GPU, torch and words of --ours. First losses have to agree (at the first step they are log 2, since the policy is the
reference), and so have the reference's sums and the gradient's norm of all that tell them, or the exit status is 1. torch_step.py
tells neither, and is held by its first loss alone. Later losses are shown and not compared: in bf16, sides part by as much as the
first steps of 1e-5 move a loss. A bar that is missed, or that cannot be computed, does not change the exit status.
"""
import argparse
import fnmatch
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

import flops
import models
import recording
import rows

SHARED = Path(os.environ.get("CANDLEWICK_SHARED", ROOT.parent / "shared"))
# A package (tools/gpu/pack.sh) has the peer beside it.
PEERS = ROOT / "peers" if (ROOT / "peers").is_dir() else SHARED / "peers"
RANK = 16
PEAK_FLOPS = 790e12
# Model and mode; pairs in a step of each set of lengths. The 8 B takes half: by estimate more does not fit padded PyTorch.
MODES = {
    "0.5b": ["full", "lora"], "1b": ["full", "lora"], "8b": ["lora"],
}
TINY_MODES = {"tiny": ["full", "lora"], "tiny-untied": ["full", "lora"]}
PAIRS = {"dense-1k": 8, "ultrafeedback": 16, "hh": 16, "4k": 2}
TINY_PAIRS = {name: 4 for name in PAIRS}
TINY_SCALE = 1 / 32
# LoRA of the small models is there to be asked for.
USUAL = "0.5b/full/*,1b/full/*,8b/lora/*"
SIDES = [f"{side}{compiled}" for side in ("padded-bf16", "padded-amp", "packed-bf16", "packed-masters", "shared-bf16", "shared-masters")
         for compiled in ("", "-compiled")]
SIDES += ["packed-masters-lean-compiled", "shared-masters-lean-compiled", "ours-masters"]

FIRST = 1e-2          # first losses may differ by so much
FIRST_STEPS = 3
SUMS = 2e-3           # sums of log-probabilities of the first step, in parts of the largest
NORMS = 5e-2          # norms of the first gradient, in parts of the largest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the table and the record")
    parser.add_argument("--ours", help="the program of this project and words before its arguments; in a package (tools/gpu/pack.sh) by default "
                        "its wick, on the GPU, or with --tiny on the CPU; elsewhere the peers run alone without it")
    parser.add_argument("--only", metavar="PATTERN,…", help=f"arms to run, by default {USUAL}")
    parser.add_argument("--without", metavar="PATTERN,…", help="arms to leave out; with --tiny '*-compiled' unless given")
    parser.add_argument("--steps", type=int, help="measured steps, by default 20; with --tiny 3")
    parser.add_argument("--warmup", type=int, help="steps before them, by default 5; with --tiny 1")
    parser.add_argument("--limit", type=float, default=300, help="seconds that an arm may take")
    parser.add_argument("--minutes", type=float, help="start no arm that could end later than this")
    parser.add_argument("--again", action="store_true", help="run arms again that failed before")
    parser.add_argument("--resume", type=Path, help="an earlier side-by-side.json: its arms of the same commit, GPU, torch, steps and "
                        "words of --ours count as run")
    parser.add_argument("--work", type=Path, default=ROOT / "target/gpu-side-by-side", help="models, rows and what each arm said")
    parser.add_argument("--peers", type=Path, default=PEERS, help="where torch_step.py is")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch, transformers, safetensors and peft")
    parser.add_argument("--flops", type=float, default=PEAK_FLOPS, help="operations a second that MFU is of")
    parser.add_argument("--tiny", action="store_true", help="tiny models and short rows; nothing worth recording")
    parser.add_argument("--record", action="store_true", help="copy table and record to benches/record as well")
    parser.add_argument("--list", action="store_true", help="print the chosen arms and end")
    args = parser.parse_args()
    args.steps = args.steps or (3 if args.tiny else 20)
    args.warmup = args.warmup if args.warmup is not None else (1 if args.tiny else 5)
    if args.tiny and args.without is None:
        args.without = "*-compiled"
    args.ours = args.ours or packaged(args)
    if args.tiny and args.record:
        parser.error("--tiny is not worth recording")
    chosen = arms(args)
    if not chosen:
        parser.error(f"--only {args.only}: no arm has such a name; --list prints all")
    if args.list:
        print("\n".join(map("/".join, chosen)))
        return
    if args.out is None:
        parser.error("OUT is missing: the folder to write into")
    if any(side.startswith("padded") for *_, side in chosen) and not (args.peers / "torch_step.py").exists():
        parser.error(f"{args.peers}/torch_step.py is missing; --peers names its folder, --without 'padded-*' leaves it out")
    args.work.mkdir(parents=True, exist_ok=True)
    commit, begun, results, left = commit_here(), time.monotonic(), {}, []
    if args.resume:
        resume(args, chosen, commit)
    for arm in chosen:
        result = kept(arm, commit, args)
        if result is None or (args.again and "failed" in result):
            if args.minutes and time.monotonic() - begun + args.limit > args.minutes * 60:
                left.append("/".join(arm))
                continue
            result = run(arm, commit, args)
        results[arm] = result
        print(f"{'/'.join(arm):<44} {brief(result)}", flush=True)
        write(results, left, args)
    write(results, left, args)
    troubles = disagreements(results) + [f"{'/'.join(arm)}: {result['failed']}" for arm, result in results.items()
                                         if result.get("failed") not in (None, OUT_OF_MEMORY)]
    print("\n" + (args.out / "side-by-side.md").read_text())
    if troubles:
        sys.exit("\n".join(troubles))


def packaged(args):
    """The words of --ours for the wick of the package that this file lies in, if it does."""
    wick = ROOT / "wick"
    if not (ROOT / "ABOUT").exists() or not wick.exists():
        return None
    return shlex.join([args.python, str(HERE / "wick.py"), *([] if args.tiny else ["--device", "cuda"]), str(wick)])


def arms(args):
    """(model, mode, lengths, side) of every arm that is asked for; those of one workload together."""
    matches = lambda name, patterns: any(matched(name, pattern) for pattern in patterns.split(","))
    every = [(model, mode, lengths, side) for model, modes in (TINY_MODES if args.tiny else MODES).items() for mode in modes
             for lengths in PAIRS for side in SIDES if args.ours or args.list or not side.startswith("ours")]
    only = args.only or ("*" if args.tiny else USUAL)
    return [arm for arm in every if matches("/".join(arm), only) and not (args.without and matches("/".join(arm), args.without))]


def matched(name, pattern):
    """A pattern without a slash is one of sides."""
    return fnmatch.fnmatchcase(name if "/" in pattern else name.rsplit("/", 1)[1], pattern)


def commit_here():
    """Of the package's ABOUT, or of the repository; with a mark where something was changed since."""
    about = ROOT / "ABOUT"
    if about.exists():
        words = about.read_text().split("\n", 1)[0].removeprefix("commit ").split(",")
        return words[0][:10] + ("+" if len(words) > 1 else "")
    changed = recording.said("git", "status", "--porcelain", "--untracked-files=no")
    return recording.today_and_commit()[1] + ("+" if changed else "")


# ---------------------------------------------------------------------------------------------------------------------------------
# An arm.

OUT_OF_MEMORY = "out of memory"
# How it is said by torch, and by wick: of a buffer, and of a run.
NO_MEMORY = re.compile(r"OutOfMemory|CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|MiB of device memory are wanted for a buffer and \d+ MiB are free"
                       r"|has no memory left, .* were wanted and .* are free")


def place(arm, args):
    return args.work / "arms" / (".".join(arm) + ".json")


def settings(arm, commit, args):
    """What an earlier result must have been made with to count."""
    gpu = machine(args)["gpu"]
    return {"batch": batch(arm, args), "steps": args.steps, "warmup": args.warmup, "commit": commit, "gpu": gpu and gpu.split(",", 1)[0],
            "torch": machine(args)["torch"], "ours": args.ours if arm[3].startswith("ours") else None}


def differences(found, wanted):
    """Settings in which an earlier result is another, as words."""
    keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return ", ".join(f"{key} {found.get(key)} there, {wanted.get(key)} here" for key in keys)


def kept(arm, commit, args):
    path = place(arm, args)
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    if other := differences(result["settings"], settings(arm, commit, args)):
        print(f"{'/'.join(arm)}: what {args.work} has of it does not count: {other}", file=sys.stderr)
        return None
    return result


def keep(arm, result, args):
    path = place(arm, args)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    beside.rename(path)


def resume(args, chosen, commit):
    """Takes the chosen arms that an earlier record has, made as they would be here; none at all is an error."""
    record, others = json.loads(args.resume.read_text())["arms"], []
    found = [arm for arm in chosen if "/".join(arm) in record]
    for arm in found:
        result, path, wanted = record["/".join(arm)], place(arm, args), settings(arm, commit, args)
        if other := differences(result["settings"], wanted):
            others.append(f"{'/'.join(arm)}: {other}")
        elif not path.exists() or differences(json.loads(path.read_text())["settings"], wanted):
            keep(arm, result, args)
    if len(others) == len(found):
        sys.exit(f"--resume {args.resume}: no chosen arm was made as it would be here; leave --resume out to measure all again"
                 + "".join(f"\n{other}" for other in others[:5]))
    if others:
        print(f"--resume {args.resume}: {len(others)} of {len(found)} arms do not count and run again:", *others, sep="\n", file=sys.stderr)


def batch(arm, args):
    model, _, lengths, _ = arm
    pairs = (TINY_PAIRS if args.tiny else PAIRS)[lengths]
    return pairs // 2 if model == "8b" else pairs


def lengths_of(arm, args):
    """Tokens of the rows of the measured steps."""
    rows_a_step = batch(arm, args)
    return rows.lengths(arm[2], rows_a_step * (args.steps + args.warmup), scale(args))[rows_a_step * args.warmup:]


def scale(args):
    return TINY_SCALE if args.tiny else 1.0


def prepared(arm, args):
    """Model, rows and adapter on the disk: made once, by processes of their own, since they may use the GPU."""
    model, mode, lengths, _ = arm
    directory, adapter = args.work / model, args.work / f"{model}-lora{RANK}"
    make = [args.python, HERE / "models.py", model]
    if not directory.exists():
        subprocess.run([*make, directory], check=True)
    if mode == "lora" and not adapter.exists():
        subprocess.run([*make, adapter, "--lora", str(RANK), "--base", directory], check=True)
    count = batch(arm, args) * (args.steps + args.warmup)
    file = args.work / f"{lengths}-{count}{'-tiny' if args.tiny else ''}.jsonl"
    if not file.exists():
        rows.write(lengths, file, count, scale(args), 512 if args.tiny else rows.LARGEST_ID)
    return directory, file, adapter if mode == "lora" else None


def command(arm, said, args):
    """The words of the process; ours writes into `said`."""
    directory, file, adapter = prepared(arm, args)
    side, *options = arm[3].split("-")
    counts = ["--batch", batch(arm, args), "--steps", args.steps, "--warmup", args.warmup]
    compiled = ["--compile"] if "compiled" in options else []
    if side == "padded":
        lora = ["--lora", RANK, "--adapter", adapter] if adapter else []
        precision = ["--amp"] if "amp" in options else ["--bf16"]
        return [args.python, args.peers / "torch_step.py", "--model", directory, "--data", file, "--max-length", 1 << 14, *counts, *lora,
                *precision, *compiled]
    masters = ["--masters", "f32" if "masters" in options else "none"]
    head = ["--head", "recompute"] if "lean" in options else []
    lora = ["--adapter", adapter] if adapter else []
    if side == "ours":
        return [*shlex.split(args.ours), directory, file, "--mode", arm[1], *lora, *masters, *counts, "--json", said]
    program = {"packed": "packed_twin.py", "shared": "flex_twin.py"}[side]
    return [args.python, HERE / program, "--model", directory, "--rows", file, *counts, *lora, *masters, *head, *compiled, "--flops",
            args.flops]


def run(arm, commit, args):
    """What the arm said, with what follows from its step time; or why it said nothing."""
    said = place(arm, args).with_suffix(".said")
    said.parent.mkdir(parents=True, exist_ok=True)
    said.unlink(missing_ok=True)
    words = list(map(str, command(arm, said, args)))
    result = {"settings": settings(arm, commit, args), "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine(args)}
    begun = time.monotonic()
    output, problem, code = ended(words, args.limit)
    result["took_s"] = round(time.monotonic() - begun, 1)
    lines = [said.read_text()] if said.exists() else [line for line in output.splitlines() if line.startswith("{")]
    answer = {}
    if code == 0:
        answer, problem = understood(lines, args)
    if answer:
        result |= derived(arm, answer, args)
    else:
        memory = NO_MEMORY.search(problem)
        last = (problem.strip().splitlines() or ["it said nothing"])[-1][:300]
        result |= {"failed": OUT_OF_MEMORY if memory else last, "status": code, "stderr": problem[-3000:], "command": words}
    said.unlink(missing_ok=True)
    keep(arm, result, args)
    return result


def ended(words, limit):
    """What a process wrote on its two streams, and its status. One that takes too long is ended with all that it started."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    except OSError as missing:
        return "", str(missing), None
    try:
        return *process.communicate(timeout=limit), process.returncode
    except subprocess.TimeoutExpired:
        return "", f"no end within {limit:g} s", None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def understood(lines, args):
    """The object of the last line, or nothing and what is wrong with it."""
    try:
        answer = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError as problem:
        return {}, f"its answer is not JSON: {problem}"
    number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)
    if not isinstance(answer, dict) or not number(answer.get("step_s")) or not answer["step_s"] > 0:
        return {}, "its answer is no object with seconds of a step, step_s"
    losses = answer.get("losses")
    if not isinstance(losses, list) or len(losses) != args.steps + args.warmup or not all(map(number, losses)):
        return {}, f"its answer has not {args.steps + args.warmup} losses, one a step"
    return answer, ""


def derived(arm, said, args):
    """What the program said, and rates by the same formulas for all: over the rows that were measured and the median step."""
    config, lengths = models.MODELS[arm[0]], lengths_of(arm, args)
    counted = flops.of_step(config, lengths, RANK if arm[1] == "lora" else 0)
    a_second = {name: count / args.steps / said["step_s"] for name, count in counted.items()}
    return said | {
        "pairs_per_s": batch(arm, args) / said["step_s"], "tokens_per_s": flops.tokens(lengths) / args.steps / said["step_s"],
        "tokens_a_step": flops.tokens(lengths) / args.steps, "flops_per_s": a_second,
        "mfu": {name: rate / args.flops for name, rate in a_second.items()}, "mfu_of": args.flops,
    }


VERSION = "from importlib.metadata import version; print(version('torch'))"


def machine(args):
    """The GPU and its driver, asked once, and the interpreter's torch."""
    if not hasattr(args, "machine"):
        asked = lambda *words: subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()
        try:
            gpu = asked("nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader")
        except OSError:
            gpu = ""
        args.machine = {"gpu": gpu or None, "torch": asked(args.python, "-c", VERSION),
                        **recording.machine(os.getloadavg()[0])}
    return args.machine


# ---------------------------------------------------------------------------------------------------------------------------------
# What is said of all.


def workloads(results):
    found = {}
    for arm, result in results.items():
        found.setdefault(arm[:3], {})[arm[3]] = result
    return found


def worked(sides):
    return {side: result for side, result in sides.items() if "failed" not in result}


def disagreements(results):
    """Sentences about sides of a workload of which first losses, the reference's sums or norms are further apart than they may be."""
    troubles = []
    for workload, sides in workloads(results).items():
        sides, name = worked(sides), "/".join(workload)
        if sides and not (apart := spread([result["losses"][0] for result in sides.values()])) <= FIRST:
            troubles.append(f"{name}: first losses are {apart:.1e} apart, more than {FIRST:g}")
        sums = told("first_reference_sums", sides)
        if len(set(map(len, sums))) > 1 or not all(sums):
            troubles.append(f"{name}: sides tell the reference's log-probabilities of {', '.join(sorted({str(len(one)) for one in sums}))} completions")
        elif sums and not (apart := largest(map(spread, zip(*sums))) / max(map(abs, sums[0]))) <= SUMS:
            troubles.append(f"{name}: the reference's log-probabilities are {apart:.1e} of the largest apart, more than {SUMS:g}")
        norms = told("first_gradient_norm", sides)
        if norms and not (apart := spread(norms) / max(norms)) <= NORMS:
            troubles.append(f"{name}: norms of the first gradient are {apart:.1e} of the largest apart, more than {NORMS:g}")
    return troubles


def told(key, sides):
    return [result[key] for result in sides.values() if result.get(key) is not None]


def spread(values):
    """NaN where a value is: it is near to nothing."""
    return max(values) - min(values) if all(map(math.isfinite, values)) else math.nan


def largest(spreads):
    spreads = list(spreads)
    return math.nan if any(map(math.isnan, spreads)) else max(spreads)


def keeps_masters(side, mode):
    """Whether all that is trained is in f32 somewhere; PEFT keeps adapters so in every precision of the model."""
    return "amp" in side or "masters" in side or (mode == "lora" and side.startswith("padded"))


def brief(result):
    if "failed" in result:
        return result["failed"]
    memory = "" if result.get("peak_device_mb") is None else f" {result['peak_device_mb'] / 1024:7.1f} GiB"
    return f"{result['step_s']:9.4f} s a step {result['tokens_per_s']:9.0f} tokens/s{memory}"


LEGEND = (
    "Memory: *live* is the peak of the bytes in tensors (`max_memory_allocated`), *held* what the allocator had of the device at most "
    "(`max_memory_reserved`), of the twins since all is loaded; `torch_step.py` tells live bytes alone, from its start. Ours is what all buffers "
    "held, with those that lie idle in the pool and with loading, without cuBLASLt's 32 MiB. Ratios take it beside the others' live bytes. Ours "
    "keeps f32 gradients of all that is trained, where `…-masters` of the twins has bf16 ones. Times: of the twins by events of the device, around "
    "steps of which ids and masks lie there; of `torch_step.py` by the host's clock, after padding; ours by the host's clock, of whole steps "
    "from token ids, with packing, tiles and upload.")


def memory_of(side, result):
    """Live and held GiB. Our peak is what is held."""
    live, held = result.get("peak_device_mb"), result.get("peak_reserved_mb")
    if side.startswith("ours"):
        live, held = None, live
    return " / ".join("–" if mebibytes is None else f"{mebibytes / 1024:.1f}" for mebibytes in (live, held))


# With --tiny alone.
REHEARSED = ["**A rehearsal with tiny models: no number of it is a measurement, and no bar is compared.**", ""]


def table(results, left, args):
    """Markdown: a line an arm, then our ratios beside their bars."""
    lines = [
        "# Side by side on a GPU", "", *(REHEARSED if args.tiny else []),
        f"{args.steps} measured steps after {args.warmup}, medians. Tokens are those of the rows, prompts counted twice, without padding. "
        f"TFLOP/s and MFU (of {args.flops / 1e12:g} TFLOP/s) are of the operations that a step needs, with prompts counted once / twice "
        "(`benches/gpu/flops.py`).", "", LEGEND, "",
        "| model, mode, lengths | side | pairs/s | tokens/s | TFLOP/s once / twice | MFU once / twice | peak GiB live / held "
        "| losses of the first steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for workload, sides in workloads(results).items():
        for side, result in sides.items():
            start = f"| {'/'.join(workload)} | {side} |"
            if "failed" in result:
                lines.append(f"{start} {result['failed'].replace('|', '/')} | | | | | |")
                continue
            of = lambda key, factor, form: " / ".join(format(result[key][name] * factor, form) for name in ("prompts_once", "prompts_twice"))
            memory = memory_of(side, result)
            losses = ", ".join(f"{loss:.4f}" for loss in result["losses"][:FIRST_STEPS])
            lines.append(f"{start} {result['pairs_per_s']:.2f} | {result['tokens_per_s']:,.0f} | {of('flops_per_s', 1e-12, '.1f')} "
                         f"| {of('mfu', 1, '.1%')} | {memory} | {losses} |")
    if not args.tiny:
        lines += ["", "The best of a ratio is that of the sides above that have an answer.", "", f"| model, mode, lengths | `{OURS}` | ratio | bar |",
                  "|---|---|---|---|", *compared(results, args)]
    sittings = {json.dumps([result["machine"]["gpu"], result["machine"]["torch"], result["begun"][:10]]) for result in results.values()}
    if len(sittings) > 1:
        lines += ["", f"**These arms are of more than one sitting**: {'; '.join(sorted(sittings))}."]
    if left:
        lines += ["", f"{len(left)} arms have not run yet: {', '.join(left)}."]
    return "\n".join(lines) + "\n"


OURS = "ours-masters"
DENSE, HEAVY = ("dense-1k", "4k"), ("hh",)


@dataclass(frozen=True)
class Bar:
    """Our number as a multiple of the best one of some sides; what it has to be, on some lengths."""

    what: str
    other: str                           # one of those sides
    counts: Callable[[str, str], bool]   # whether a side is one, in a mode
    key: str
    bound: float
    least: bool
    lengths: tuple

    def asked(self):
        return f"{'≥' if self.least else '≤'} {self.bound:g}"


BARS = [
    Bar("tokens/s to the fastest torch", "a side of torch", lambda side, mode: True, "tokens_per_s", 1.1, True, DENSE),
    Bar("tokens/s to the fastest padded", "a padded side", lambda side, mode: side.startswith("padded"), "tokens_per_s", 1.4, True, HEAVY),
    Bar("tokens/s to the fastest that shares prompts", "a side that shares prompts", lambda side, mode: side.startswith("shared"), "tokens_per_s",
        1.0, True, HEAVY),
    Bar("memory to the smallest that keeps masters", "a side that keeps masters", keeps_masters, "peak_device_mb", 0.8, False, DENSE),
]
MFU, MFU_BAR, MFU_TOKENS = "MFU, prompts once", 0.5, 16_000
ATTENTION = "| heads of 128, 1k to 4k | attention, forward / backward | not measured here: `just gpu` has it | ≥ 300 / ≥ 200 TFLOP/s |"


def compared(results, args):
    """Every bar, and further ratios; a bar of which no workload was chosen has a line of its own."""
    found = workloads(results)
    lines = [line for workload, sides in found.items() for line in bars(workload, sides, args)]
    lines += [f"| {', '.join(bar.lengths)} | {bar.what} | not measured: no arm of these lengths | {bar.asked()} |" for bar in BARS
              if not any(workload[2] in bar.lengths for workload in found)]
    if not any(has_mfu_bar(workload, args) for workload in found):
        lines.append(f"| all of 1B weights, {MFU_TOKENS:,} tokens a step | {MFU} | not measured: no such arm | ≥ {MFU_BAR:.0%} |")
    return [*lines, ATTENTION]


def has_mfu_bar(workload, args):
    return workload[:2] == ("1b", "full") and flops.tokens(lengths_of((*workload, OURS), args)) / args.steps >= MFU_TOKENS


def bars(workload, sides, args):
    """Lines of our ratios. A bar that is missed stands in bold, – where there is none for these lengths; what cannot be computed says
    what it lacks, where there is a bar."""
    name, mode, lengths = "/".join(workload), *workload[1:]
    ours, lines = sides.get(OURS, {}), []

    def lacks(side, key):
        result = sides.get(side)
        return f"`{side}` ({'not run' if result is None else result['failed'] if 'failed' in result else f'it tells no {key}'})".replace("|", "/")

    for bar in BARS:
        others = [side for side in sides if not side.startswith("ours") and bar.counts(side, mode)]
        among = {side: sides[side][bar.key] for side in others if sides[side].get(bar.key)}
        here = lengths in bar.lengths
        if among and ours.get(bar.key):
            best = (max if bar.least else min)(among, key=among.get)
            ratio = ours[bar.key] / among[best]
            met = ratio >= bar.bound if bar.least else ratio <= bar.bound
            said = "–" if not here else bar.asked() + ("" if met else " **missed**")
            lines.append(f"| {name} | {bar.what} (`{best}`) | {ratio:.2f}× | {said} |")
        elif here:
            missing = [] if ours.get(bar.key) else [lacks(OURS, bar.key)]
            missing += [] if among else [", ".join(lacks(side, bar.key) for side in others) or f"{bar.other} (not run)"]
            lines.append(f"| {name} | {bar.what} | not measured: {', '.join(missing)} | {bar.asked()} |")
    if has_mfu_bar(workload, args):
        mfu = ours["mfu"]["prompts_once"] if "mfu" in ours else None
        said = f"not measured: {lacks(OURS, 'mfu')}" if mfu is None else f"{mfu:.1%}"
        lines.append(f"| {name} | {MFU} | {said} | ≥ {MFU_BAR:.0%}{' **missed**' if mfu is not None and mfu < MFU_BAR else ''} |")
    return lines


def write(results, left, args):
    args.out.mkdir(parents=True, exist_ok=True)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    document = {"date": today, "commit": commit_here(), "models": {arm[0]: models.MODELS[arm[0]] for arm in results},
                "arms": {"/".join(arm): result for arm, result in results.items()}}
    texts = {"json": json.dumps(document, indent=1) + "\n", "md": table(results, left, args)}
    for kind, text in texts.items():
        (args.out / f"side-by-side.{kind}").write_text(text)
        if args.record:
            folder = ROOT / "benches/record"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{today}-{commit_here()}-gpu-side-by-side.{kind}").write_text(text)


if __name__ == "__main__":
    main()
