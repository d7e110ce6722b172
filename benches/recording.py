"""What the records of the benchmarks have in common: when, of which commit, on what machine."""
import datetime
import json
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def said(*command):
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip()


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def today_and_commit():
    return datetime.date.today().isoformat(), said("git", "rev-parse", "--short=10", "HEAD") or "uncommitted"


def machine(load):
    """The machine; `load` is what it carried before the first program ran."""
    return {"processor": processor(), "cores": os.cpu_count(), "load_before": load, "system": platform.system()}


def keep(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(path.relative_to(ROOT))
