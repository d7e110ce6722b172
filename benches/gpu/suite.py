#!/usr/bin/env python3
"""Every side of the GPU comparison in one sitting: PyTorch padded, packed and with shared prompts, and ours; one table.

    python3 benches/gpu/suite.py OUT --ours PROGRAM            # OUT/side-by-side.md and .json
    python3 benches/gpu/suite.py OUT --only '1b/full/hh/*'     # some arms; patterns with commas between them
    python3 benches/gpu/suite.py OUT --tiny                    # tiny models, on any machine: does every program run, and do they agree?

An arm is MODEL/MODE/LENGTHS/SIDE, such as 1b/full/dense-1k/packed-masters-compiled; --list prints all. Sides: `padded-…` is
torch_step.py, which lies beside this repository (--peers), as it is; `packed-…` and `shared-…` are packed_twin.py and
flex_twin.py; `ours-…` is the program of --ours, called as

    PROGRAM MODEL_DIR ROWS_FILE --mode full|lora [--adapter DIR] --masters f32|none --batch N --warmup N --steps N --json OUT

It takes N rows a step from the file in their order (rows.py), warm-up first, and DPO's mean loss with beta 0.1, AdamW at 1e-5
without decay, clip at norm 1, the reference's pass in each step. OUT has an object: `step_s`, the median of the measured steps
in seconds; `losses` of all steps, warm-up too; `peak_device_mb` (2^20 bytes); and, if it likes, of the first step `first_reference_sums`,
the reference's log-probabilities of the chosen completions, then of the rejected ones, and `first_gradient_norm`, before the
clip. More keys are kept.

`-masters` keeps f32 masters of what is trained (`padded-amp` keeps all weights in f32), `-bf16` has none; PEFT keeps the
adapters of `padded-bf16` in f32 all the same. `-compiled` is torch.compile. `-lean` makes the logits again in the backward, for
less memory.

Arms are processes of their own, none longer than --limit seconds. Each leaves a file in --work, where a later call finds it: a
suite that was cut off goes on, and --minutes ends it in time; --resume takes arms out of an earlier side-by-side.json. First
losses have to agree (at the first step they are log 2, since the policy is the reference), and so have the reference's sums and
the gradient's norm of all that tell them, or the exit status is 1. Later losses are shown and not compared: where weights are
bf16, steps of 1e-5 are mostly rounded away, in each precision otherwise.
"""
import argparse
import fnmatch
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

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
SIDES += ["packed-masters-lean-compiled", "shared-masters-lean-compiled", "ours-bf16", "ours-masters"]

FIRST = 1e-2          # first losses may differ by so much
FIRST_STEPS = 3
SUMS = 2e-3           # sums of log-probabilities of the first step, in parts of the largest
NORMS = 5e-2          # norms of the first gradient, in parts of the largest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the table and the record")
    parser.add_argument("--ours", help="the program of this project and words before its arguments; without it the peers run alone")
    parser.add_argument("--only", metavar="PATTERN,…", help=f"arms to run, by default {USUAL}")
    parser.add_argument("--without", metavar="PATTERN,…", help="arms to leave out; with --tiny '*-compiled' unless given")
    parser.add_argument("--steps", type=int, help="measured steps, by default 20; with --tiny 3")
    parser.add_argument("--warmup", type=int, help="steps before them, by default 5; with --tiny 1")
    parser.add_argument("--limit", type=float, default=300, help="seconds that an arm may take")
    parser.add_argument("--minutes", type=float, help="start no arm that could end later than this")
    parser.add_argument("--again", action="store_true", help="run arms again that failed before")
    parser.add_argument("--resume", type=Path, help="an earlier side-by-side.json, whose arms count as run")
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
    if args.resume:
        resume(args, json.loads(args.resume.read_text()))

    commit, begun, results, left = commit_here(), time.monotonic(), {}, []
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


def place(arm, args):
    return args.work / "arms" / (".".join(arm) + ".json")


def settings(arm, commit, args):
    """What an earlier result must have been made with to count."""
    return {"batch": batch(arm, args), "steps": args.steps, "warmup": args.warmup, "commit": commit}


def kept(arm, commit, args):
    path = place(arm, args)
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    return result if result["settings"] == settings(arm, commit, args) else None


def keep(arm, result, args):
    path = place(arm, args)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    beside.rename(path)


def resume(args, record):
    for name, result in record["arms"].items():
        arm = tuple(name.split("/"))
        if not place(arm, args).exists():
            keep(arm, result, args)


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
        memory = any(words in problem for words in ("OutOfMemoryError", "CUDA out of memory", "CUDA_ERROR_OUT_OF_MEMORY", "OutOfMemory"))
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


def machine(args):
    """The GPU and its driver, asked once, and the interpreter's torch."""
    if not hasattr(args, "machine"):
        asked = lambda *words: subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()
        try:
            gpu = asked("nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader")
        except OSError:
            gpu = ""
        args.machine = {"gpu": gpu or None, "torch": asked(args.python, "-c", "import torch; print(torch.__version__)"),
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
        sums = [result["first_reference_sums"] for result in sides.values() if "first_reference_sums" in result]
        if sums and not (apart := largest(map(spread, zip(*sums))) / max(map(abs, sums[0]))) <= SUMS:
            troubles.append(f"{name}: the reference's log-probabilities are {apart:.1e} of the largest apart, more than {SUMS:g}")
        norms = [result["first_gradient_norm"] for result in sides.values() if "first_gradient_norm" in result]
        if norms and not (apart := spread(norms) / max(norms)) <= NORMS:
            troubles.append(f"{name}: norms of the first gradient are {apart:.1e} of the largest apart, more than {NORMS:g}")
    return troubles


def spread(values):
    """NaN where a value is: it is near to nothing."""
    return max(values) - min(values) if all(map(math.isfinite, values)) else math.nan


def largest(spreads):
    spreads = list(spreads)
    return math.nan if any(map(math.isnan, spreads)) else max(spreads)


def keeps_masters(side):
    return "amp" in side or "masters" in side


def brief(result):
    if "failed" in result:
        return result["failed"]
    memory = "" if result.get("peak_device_mb") is None else f" {result['peak_device_mb'] / 1024:7.1f} GiB"
    return f"{result['step_s']:9.4f} s a step {result['tokens_per_s']:9.0f} tokens/s{memory}"


# With --tiny alone.
REHEARSED = ["**A rehearsal with tiny models: no number of it is a measurement, and no bar is compared.**", ""]


def table(results, left, args):
    """Markdown: a line an arm, then our ratios beside their bars."""
    lines = [
        "# Side by side on a GPU", "", *(REHEARSED if args.tiny else []),
        f"{args.steps} measured steps after {args.warmup}, medians. Tokens are those of the rows, prompts counted twice, without padding. "
        f"TFLOP/s and MFU (of {args.flops / 1e12:g} TFLOP/s) are of the operations that a step needs, with prompts counted once / twice "
        "(`benches/gpu/flops.py`). Memory is the peak of the allocator's live bytes.", "",
        "| model, mode, lengths | side | pairs/s | tokens/s | TFLOP/s once / twice | MFU once / twice | peak GiB | losses of the first steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for workload, sides in workloads(results).items():
        for side, result in sides.items():
            start = f"| {'/'.join(workload)} | {side} |"
            if "failed" in result:
                lines.append(f"{start} {result['failed'].replace('|', '/')} | | | | | |")
                continue
            of = lambda key, factor, form: " / ".join(format(result[key][name] * factor, form) for name in ("prompts_once", "prompts_twice"))
            memory = "–" if result.get("peak_device_mb") is None else f"{result['peak_device_mb'] / 1024:.1f}"
            losses = ", ".join(f"{loss:.4f}" for loss in result["losses"][:FIRST_STEPS])
            lines.append(f"{start} {result['pairs_per_s']:.2f} | {result['tokens_per_s']:,.0f} | {of('flops_per_s', 1e-12, '.1f')} "
                         f"| {of('mfu', 1, '.1%')} | {memory} | {losses} |")
    compared = [line for workload, sides in workloads(results).items() for line in bars(workload, worked(sides))]
    if compared and not args.tiny:
        lines += ["", "| model, mode, lengths | `ours-masters` | ratio | bar |", "|---|---|---|---|", *compared]
    sittings = {json.dumps([result["machine"]["gpu"], result["machine"]["torch"], result["begun"][:10]]) for result in results.values()}
    if len(sittings) > 1:
        lines += ["", f"**These arms are of more than one sitting**: {'; '.join(sorted(sittings))}."]
    if left:
        lines += ["", f"{len(left)} arms have not run yet: {', '.join(left)}."]
    return "\n".join(lines) + "\n"


def bars(workload, sides):
    """Lines of our ratios; a bar that is missed stands in bold, and – where there is none for these lengths."""
    ours = sides.get("ours-masters")
    if ours is None:
        return []
    name, dense, heavy = "/".join(workload), workload[2] in ("dense-1k", "4k"), workload[2] == "hh"
    peers = {side: result for side, result in sides.items() if not side.startswith("ours")}

    def line(what, among, key, bar, least):
        among = {side: result for side, result in among.items() if result.get(key)}
        if not among or not ours.get(key):
            return []
        best = (max if least else min)(among, key=lambda side: among[side][key])
        ratio = ours[key] / among[best][key]
        met = bar is None or (ratio >= bar if least else ratio <= bar)
        said = "–" if bar is None else f"{'≥' if least else '≤'} {bar:g}" + ("" if met else " **missed**")
        return [f"| {name} | {what} (`{best}`) | {ratio:.2f}× | {said} |"]

    starting = lambda start: {side: result for side, result in peers.items() if side.startswith(start)}
    lines = line("tokens/s to the fastest torch", peers, "tokens_per_s", 1.1 if dense else None, True)
    lines += line("tokens/s to the fastest padded", starting("padded"), "tokens_per_s", 1.4 if heavy else None, True)
    lines += line("tokens/s to the fastest that shares prompts", starting("shared"), "tokens_per_s", 1.0 if heavy else None, True)
    with_masters = {side: result for side, result in peers.items() if keeps_masters(side)}
    lines += line("memory to the smallest that keeps masters", with_masters, "peak_device_mb", 0.8 if dense else None, False)
    if workload[:2] == ("1b", "full") and ours["tokens_a_step"] >= 16_000:
        mfu = ours["mfu"]["prompts_once"]
        lines.append(f"| {name} | MFU, prompts once | {mfu:.1%} | ≥ 50 %{'' if mfu >= 0.5 else ' **missed**'} |")
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
