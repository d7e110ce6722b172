#!/usr/bin/env python3
"""Registers, shared memory and spills of every CUDA kernel, as the compiler tells them, beside those on record.

    tools/gpu/registers.py             # fails where a kernel spills, or is not as benches/record/kernels-ptxas.csv has it
    tools/gpu/registers.py --renew     # writes that file anew

No GPU is needed: ptxas says it when it compiles. nvcc is that of CUDA_HOME or PATH, of the version on record, since another one would
count otherwise. A spill is a register that is kept in memory; one that cannot be avoided is allowed by a reason in the last column,
which stays when the file is renewed.
"""
import csv
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "crates/kernels"
RECORD = ROOT / "benches/record/kernels-ptxas.csv"
# What crates/kernels/build.rs compiles: code for 9.0, and what a driver makes of the PTX for 8.0 on a device of that kind.
ARCHITECTURES = ["sm_80", "sm_90a"]
COLUMNS = ["kernel", "architecture", "registers", "shared_bytes", "stack_bytes", "spill_store_bytes", "spill_load_bytes", "spills_because"]
RENEW = "renew it by tools/gpu/registers.py --renew and look at the difference"


def main():
    words = sys.argv[1:]
    if words not in ([], ["--renew"]):
        sys.exit(f"{' '.join(words)} is not known; expected nothing or --renew")
    version = nvcc_version()
    measured = [row for source in sources() for architecture in ARCHITECTURES for row in compiled(source, architecture)]
    measured.sort(key=lambda row: (row["kernel"], row["architecture"]))
    recorded_version, recorded = read(RECORD)
    reasons = {(row["kernel"], row["architecture"]): row["spills_because"] for row in recorded}
    for row in measured:
        row["spills_because"] = reasons.get((row["kernel"], row["architecture"]), "") if spills(row) else ""

    faults = [
        f"{row['kernel']} for {row['architecture']} spills: {row['spill_store_bytes']} bytes stored, {row['spill_load_bytes']} loaded, "
        f"{row['registers']} registers; give it less to hold, or say in spills_because why it has to"
        for row in measured if spills(row) and not row["spills_because"].strip()
    ]
    if words:
        RECORD.write_text(written(version, measured))
        print(f"{RECORD.relative_to(ROOT)}: {len(measured)} lines")
    elif not recorded:
        faults = [f"{RECORD.relative_to(ROOT)} is not there: {RENEW}"]
    elif version != recorded_version:
        faults = [f"nvcc is {version}, on record is {recorded_version}: set CUDA_HOME to what tools/cuda_home.sh makes, or {RENEW}"]
    else:
        faults += differences(recorded, measured)
    if faults:
        sys.exit("\n".join(faults))
    most = max(measured, key=lambda row: int(row["registers"]))
    print(f"{len(measured)} compilations without a spill that is not allowed; most registers: {most['registers']}, {most['kernel']} for {most['architecture']}")


def nvcc():
    home = os.environ.get("CUDA_HOME")
    return str(Path(home) / "bin/nvcc") if home else "nvcc"


def nvcc_version():
    try:
        said = subprocess.run([nvcc(), "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"cannot run {nvcc()}: {error}; tools/cuda_home.sh DIR makes a CUDA_HOME")
    return re.search(r"\bV(\d+\.\d+\.\d+)", said).group(1)


def sources():
    """Every .cu file; those that build.rs names have to be the same."""
    found = sorted(path.relative_to(KERNELS) for path in (KERNELS / "src").rglob("*.cu"))
    build = (KERNELS / "build.rs").read_text()
    listed = sorted(Path(name + ".cu") for name in re.findall(r'"(src/[^"]+)"', re.search(r"SOURCES: .*?\];", build, re.S).group()))
    if found != listed:
        odd = ", ".join(str(path) for path in sorted(set(found) ^ set(listed)))
        sys.exit(f"crates/kernels/build.rs compiles other sources than there are: {odd}; SOURCES has to name every .cu file")
    return found


def unfused():
    """Sources that build.rs compiles without fused multiply-adds, without their ending."""
    build = (KERNELS / "build.rs").read_text()
    return re.findall(r'"(src/[^"]+)"', re.search(r"UNFUSED: .*?\];", build, re.S).group())


def compiled(source, architecture):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as into:
        fused = f"-fmad={str(str(source.with_suffix('')) not in unfused()).lower()}"
        how = ["-cubin", f"-arch={architecture}", fused, "-Xptxas", "-v", "-O3", "-std=c++17", "-o", into.name, str(source)]
        done = subprocess.run([nvcc(), *how], cwd=KERNELS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"nvcc does not compile {source} for {architecture}:\n{done.stdout}")
    rows = told(done.stdout, architecture)
    if not rows:
        sys.exit(f"{source} has no kernel, or ptxas does not say what it used:\n{done.stdout}")
    return rows


def told(text, architecture):
    """The rows of what ptxas has said: a kernel's name, then its frame, then what it used."""
    rows = []
    for line in text.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)'", line):
            rows.append({"kernel": entry.group(1), "architecture": architecture, "shared_bytes": "0"})
            frame_of = None
        elif function := re.search(r"Function properties for (\w+)", line):
            frame_of = function.group(1)
        elif frame := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            # Functions that a kernel calls are told of too; ptxas has none of ours, which are inlined.
            if rows and frame_of == rows[-1]["kernel"]:
                rows[-1].update(zip(["stack_bytes", "spill_store_bytes", "spill_load_bytes"], frame.groups()))
        elif used := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            rows[-1].update(registers=used.group(1), shared_bytes=shared.group(1) if shared else "0")
    return rows


def spills(row):
    return int(row["spill_store_bytes"]) + int(row["spill_load_bytes"]) > 0


def differences(recorded, measured):
    def by_kernel(rows):
        return {(row["kernel"], row["architecture"]): [row[column] for column in COLUMNS[2:-1]] for row in rows}

    before, now = by_kernel(recorded), by_kernel(measured)
    name = str(RECORD.relative_to(ROOT))
    lines = []
    for key in sorted(before.keys() | now.keys()):
        kernel = " for ".join(key)
        if key not in now:
            lines.append(f"{name} has {kernel}, the sources have not")
        elif key not in before:
            lines.append(f"{name} lacks {kernel}")
        elif before[key] != now[key]:
            told = [f"{column} {old} -> {new}" for column, old, new in zip(COLUMNS[2:-1], before[key], now[key]) if old != new]
            lines.append(f"{kernel}: {', '.join(told)}")
    return lines + [f"{name} is not what the sources give: {RENEW}"] if lines else []


def read(path):
    if not path.exists():
        return "", []
    first, _, rest = path.read_text().partition("\n")
    return first.removeprefix("# nvcc "), list(csv.DictReader(io.StringIO(rest)))


def written(version, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return f"# nvcc {version}\n{text.getvalue()}"


if __name__ == "__main__":
    main()
