#!/usr/bin/env python3
"""Whether a short run of the benchmark lies within what is on record: within.py RECORD.json FOUND.json

The same rows, model and settings on fewer seeds: an accuracy has to lie within the interval on record, widened by half of its width to
either side for the seeds that are missing and for processors that sum in another order. Fails where one does not, or where an arm chose
other settings and its accuracy on record does not hold either.
"""
import json
import sys


def main():
    record, found = (json.load(open(path)) for path in sys.argv[1:3])
    known = {arm["name"]: arm for arm in record["arms"]}
    outside = []
    for arm in found["arms"]:
        before = known.get(arm["name"])
        if before is None:
            outside.append(f"{arm['name']} is not on record")
            continue
        low, high = before["accuracy"]["low"], before["accuracy"]["high"]
        reach = (high - low) / 2
        value = arm["accuracy"]["estimate"]
        fits = low - reach <= value <= high + reach
        print(f"{arm['name']:<24} {value:.3f}, on record {before['accuracy']['estimate']:.3f} ({low:.3f} to {high:.3f}){'' if fits else '  OUTSIDE'}")
        if not fits:
            outside.append(f"{arm['name']}: {value:.3f}")
    if outside:
        sys.exit("outside of what is on record: " + "; ".join(outside))


main()
