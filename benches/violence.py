"""Runs that are killed again and again, written down: python3 benches/violence.py [KILLS] [--record]

KILLS times each of the runs of crates/cli/tests/violence.rs, 100 by default. The test compares what every run leaves with what one leaves that was not
killed; the record says how many kills there were, how many met a checkpoint half written, and that no bit differed.
"""
import json
import os
import subprocess
import sys

from recording import ROOT, keep, machine, said, today_and_commit

load = os.getloadavg()[0]
numbers = [word for word in sys.argv[1:] if word.isdigit()]
kills = numbers[0] if numbers else "100"
command = ["cargo", "test", "-p", "candlewick-cli", "--test", "violence", "--", "--nocapture"]
done = subprocess.run(command, cwd=ROOT, env=os.environ | {"CANDLEWICK_KILLS": kills}, stdout=subprocess.PIPE, text=True)
print(done.stdout)
if done.returncode != 0:
    sys.exit("a run did not end in the same bits")
found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
if "--record" in sys.argv:
    date, commit = today_and_commit()
    document = {"date": date, "commit": commit, "dirty": bool(said("git", "status", "--porcelain")), "machine": machine(load)}
    keep(ROOT / f"benches/record/{date}-{commit}-violence.json", document | found | {"differences": 0})
