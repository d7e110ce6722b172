"""Fronts and hypervolumes of random points by moocore (Fonseca, López-Ibáñez and others), for crates/evaluate/tests/pareto_agreement.rs.

    pip install moocore==0.3.2
    python tools/pareto_fronts.py > crates/evaluate/tests/pareto.json

More is better in every objective. Every second cloud lies on a coarse grid, so that there are ties and equal points.
"""
import json
import random

import moocore
import numpy as np

draw = random.Random(7)
cases = []
for objectives in (2, 3, 4, 5, 6):
    for number in range(6):
        digits = 1 if number % 2 else 6
        count = (3, 12, 40)[number // 2]
        points = [[round(draw.random(), digits) for _ in range(objectives)] for _ in range(count)]
        reference = [0.1] * objectives
        array = np.array(points)
        front = moocore.is_nondominated(array, maximise=True, keep_weakly=True)
        volume = moocore.hypervolume(array, ref=np.array(reference), maximise=True)
        cases.append({
            "points": points,
            "reference": reference,
            "front": [i for i, best in enumerate(front) if best],
            "hypervolume": float(volume),
        })
print(json.dumps({"made_by": f"tools/pareto_fronts.py, moocore {moocore.__version__}", "cases": cases}))
