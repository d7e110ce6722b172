#!/usr/bin/env python3
"""`wick bench step` in the words of suite.py's --ours: in bf16 with f32 masters on a GPU (a wick with the feature cuda), or in f32 on the CPU,
so that the suite can be rehearsed with every side.

    python3 benches/gpu/suite.py OUT --ours 'python3 benches/gpu/wick.py --device cuda ./wick'
    python3 benches/gpu/suite.py OUT --tiny --ours 'python3 benches/gpu/wick.py target/release/wick'

On a GPU wick multiplies by cuBLASLt, which is looked for where tools/gpu/run.sh looks: in LD_LIBRARY_PATH, CUDA_HOME, /usr/local/cuda, what
ldconfig knows, and site-packages/nvidia of this Python. A step without it is refused, since its time is not the one to compare.
"""
import argparse
import json
import os
import re
import signal
import site
import subprocess
import sys
from pathlib import Path

# wick is made for the libraries of CUDA 13.
LIBRARIES = ["libcublasLt.so.13", "libcublasLt.so", "libcublasLt.so.[0-9]*"]
PLACES = "LD_LIBRARY_PATH, CUDA_HOME, /usr/local/cuda, what ldconfig knows, and site-packages/nvidia of {}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("wick")
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--mode", choices=["full", "lora"], required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--masters", choices=["f32"], required=True, help="what wick has on a GPU; on the CPU all is f32")
    parser.add_argument("--json", type=Path, required=True)
    for name in ("--batch", "--warmup", "--steps"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    lora = []
    if args.mode == "lora":
        lora = ["--adapter", args.adapter, "--lora", json.loads((args.adapter / "adapter_config.json").read_text())["r"]]
    words = [args.wick, "bench", "step", "--model", args.model, "--data", args.rows, "--batch", args.batch, "--warmup", args.warmup,
             "--steps", args.steps, "--max-length", 1 << 14, "--device", args.device, *lora, "--json"]
    on_device, environment = args.device != "cpu", dict(os.environ)
    library = cublas_lt() if on_device else None
    if library:
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, [str(library.parent), environment.get("LD_LIBRARY_PATH")]))
    done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode < 0:
        sys.exit(f"{args.wick} was ended by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        sys.exit(done.returncode)  # wick has said why
    line = done.stdout.strip().splitlines()[-1]
    if on_device and (refusal := refused(json.loads(line), library)):
        sys.exit(refusal)
    args.json.write_text(line + "\n")


def refused(answer, library):
    """Why a step on a device does not count; None where cuBLASLt multiplied."""
    if answer.get("cublas_lt") is True:
        return None
    if "cublas_lt" not in answer:
        return "wick does not tell whether cuBLASLt multiplies (cublas_lt); build one of this commit"
    found = f"{library} was found and could not be loaded" if library else f"it was not found in {PLACES.format(sys.executable)}"
    return f"wick multiplied without cuBLASLt: {found}; name the folder of libcublasLt.so.13 in LD_LIBRARY_PATH (docs/gpu.md)"


def cublas_lt():
    """The library's file, or None. A name is looked for in all folders before the next."""
    places = folders()
    return next((file for name in LIBRARIES for folder in places if folder.is_dir() for file in sorted(folder.glob(name))), None)


def folders():
    """Where there may be CUDA libraries, the first ones first."""
    found = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), os.environ.get("USUAL_CUDA_HOME") or "/usr/local/cuda"]
    found += [f"{home}/{folder}" for home in homes if home for folder in ("lib64", "targets/x86_64-linux/lib", "lib")]
    found += re.findall(r"=> (/.*)/libcublasLt\.so\.[0-9]*$", known_to_ldconfig(), re.MULTILINE)
    packages = [*site.getsitepackages(), site.getusersitepackages(), *sys.path]
    found += [f"{folder}/nvidia/{library}/lib" for folder in packages if folder for library in ("cu13", "cublas")]
    return list(map(Path, found))


def known_to_ldconfig():
    for program in ("ldconfig", "/sbin/ldconfig"):
        try:
            done = subprocess.run([program, "-p"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            continue
        if done.returncode == 0:
            return done.stdout
    return ""


if __name__ == "__main__":
    main()
