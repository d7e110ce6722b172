"""Writes crates/model/tests/expected/merging.json: what other programs make of the same small tensors.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install -r tools/merging/requirements.txt
    /tmp/venv/bin/python tools/merging/make.py

| entry | made by |
|---|---|
| ties with equal weights | peft.utils.merge_utils, in float64 |
| ties with other weights | below, element by element |
| dare | below: the draw as crates/model/src/merge/dare.rs describes it, in Python's integers |
| slerp | below, by rotating in the plane of the two vectors, not by the formula with sines |
| iso_c, iso_cts | below, with torch.linalg.svd in float64, every direction kept |
| adapters | below: products of LoRA pairs, and the best approximation of their sum by torch.linalg.svd |
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from peft.utils import merge_utils

torch.set_default_dtype(torch.float64)
EXPECTED = Path(__file__).resolve().parents[2] / "crates/model/tests/expected/merging.json"
MASK = (1 << 64) - 1


def tensors(seed, count, shape):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for _ in range(count)]


def ties_peft():
    deltas = tensors(1, 3, (6, 7))
    cases = []
    for density in (0.2, 0.5, 1.0):
        given = [torch.tensor(delta) for delta in deltas]
        # PEFT returns the tensor itself at density 1.
        merged = merge_utils.ties(given, torch.ones(3), density)
        trimmed = [merge_utils.prune(delta, density, method="magnitude") for delta in given]
        cases.append(dict(density=density, merged=flat(merged), trimmed=[flat(t) for t in trimmed]))
    return dict(deltas=[flat(d) for d in deltas], cases=cases)


def ties_weighted():
    """Weights in the election and in the average."""
    deltas, weights, density = tensors(2, 3, (40,)), [0.7, 0.2, 1.9], 0.4
    kept = int(density * 40)
    trimmed = []
    for delta in deltas:
        order = sorted(range(40), key=lambda i: -abs(delta[i]))
        trimmed.append([delta[i] if i in order[:kept] else 0.0 for i in range(40)])
    mean, total = [], []
    for i in range(40):
        votes = math.fsum(w * t[i] for w, t in zip(weights, trimmed))
        agree = [(w, t[i]) for w, t in zip(weights, trimmed) if t[i] != 0 and (t[i] > 0) == (votes >= 0)]
        top, bottom = math.fsum(w * x for w, x in agree), math.fsum(w for w, _ in agree)
        total.append(top)
        mean.append(top / bottom if agree else 0.0)
    return dict(deltas=[flat(d) for d in deltas], weights=weights, density=density, mean=mean, total=total)


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def dare():
    name, seed, density, weights = "model.layers.3.mlp.up_proj.weight", 11, 0.3, [0.5, 2.0]
    deltas = tensors(3, 2, (50,))
    digest = 0xCBF29CE484222325
    for byte in name.encode():
        digest = ((digest ^ byte) * 0x100000001B3) & MASK
    masks = []
    for model in range(2):
        key = (mix((mix(seed) + model) & MASK) + digest) & MASK
        draws = [mix((key + (i + 1) * 0x9E3779B97F4A7C15) & MASK) >> 11 for i in range(50)]
        masks.append([int(draw < density * 2**53) for draw in draws])
    dropped = [np.array(mask) * delta / density for mask, delta in zip(masks, deltas)]
    stacked = torch.tensor(np.array(dropped))
    return dict(
        name=name, seed=seed, density=density, weights=weights, deltas=[flat(d) for d in deltas], masks=masks,
        linear=flat(weights[0] * dropped[0] + weights[1] * dropped[1]),
        ties=flat(merge_utils.disjoint_merge(stacked, merge_utils.calculate_majority_sign_mask(stacked))),
    )


def slerp():
    a, b = tensors(4, 2, (30,))
    cases = []
    for t in (0.0, 0.25, 0.5, 1.0):
        # An orthonormal pair in their plane: the unit vectors turn from one to the other at a constant rate, and an
        # interpolated vector has the coordinates of a and b along the two that frame it.
        x = a / np.linalg.norm(a)
        y = b / np.linalg.norm(b) - x * np.dot(x, b / np.linalg.norm(b))
        y /= np.linalg.norm(y)
        angle = math.atan2(np.dot(b, y), np.dot(b, x))
        direction = math.cos(t * angle) * x + math.sin(t * angle) * y
        # direction = p·a/|a| + q·b/|b|, solved in the plane.
        frame = np.array([[1.0, math.cos(angle)], [0.0, math.sin(angle)]])
        p, q = np.linalg.solve(frame, [np.dot(direction, x), np.dot(direction, y)])
        cases.append(dict(t=t, merged=flat(p * a + q * b)))
    return dict(a=flat(a), b=flat(b), cases=cases)


def iso():
    cases = []
    settings = [(5, (6, 9), 3, 0.8), (6, (9, 6), 2, 0.5), (7, (9, 9), 3, 0.0), (8, (7, 10), 2, 1.0)]
    for seed, shape, count, fraction in settings:
        deltas = tensors(seed, count, shape)
        total = torch.tensor(sum(deltas))
        u, s, vt = torch.linalg.svd(total, full_matrices=False)
        iso_c = s.mean() * u @ vt
        rank = min(shape)
        own = round((rank - int(rank * fraction)) / count)
        common = rank - own * count
        left, right, values = [u[:, :common]], [vt[:common].T], [s[:common]]
        for delta in deltas:
            delta = torch.tensor(delta)
            rest = (torch.eye(shape[0]) - u[:, :common] @ u[:, :common].T) @ delta
            ru, rs, rvt = torch.linalg.svd(rest, full_matrices=False)
            left.append(ru[:, :own])
            right.append(rvt[:own].T)
            values.append(rs[:own])
        # A polar factor by the inverse square root of the Gram matrix.
        left, right = polar(torch.cat(left, 1)), polar(torch.cat(right, 1))
        iso_cts = torch.cat(values).mean() * left @ right.T
        cases.append(dict(
            shape=shape, fraction=fraction, deltas=[flat(d) for d in deltas], iso_c=flat(iso_c), iso_cts=flat(iso_cts)))
    return cases


def polar(m):
    values, vectors = torch.linalg.eigh(m.T @ m)
    return m @ vectors @ torch.diag(values**-0.5) @ vectors.T


def adapters():
    """Two LoRA pairs [outputs 8, inputs 10], ranks 2 and 3, scales 2 and 0.5, weights 0.75 and 1.5."""
    generator = np.random.default_rng(9)
    pairs = [(generator.standard_normal((r, 10)), generator.standard_normal((8, r))) for r in (2, 3)]
    total = sum(w * s * b @ a for (a, b), w, s in zip(pairs, (0.75, 1.5), (2.0, 0.5)))
    u, s, vt = torch.linalg.svd(torch.tensor(total), full_matrices=False)
    nearest = (u[:, :3] * s[:3]) @ vt[:3]
    return dict(
        a=[flat(a) for a, _ in pairs], b=[flat(b) for _, b in pairs], sum=flat(total), nearest=flat(nearest),
        share=float((s[:3] ** 2).sum() / (s**2).sum()))


def flat(x):
    return [float(v) for v in np.asarray(x).reshape(-1)]


made = dict(
    made_by="tools/merging/make.py (numpy, torch and peft, float64)",
    ties_peft=ties_peft(), ties_weighted=ties_weighted(), dare=dare(), slerp=slerp(), iso=iso(), adapters=adapters(),
)
EXPECTED.write_text(json.dumps(made, separators=(",", ":")) + "\n")
print(EXPECTED)
