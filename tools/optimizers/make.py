"""Writes crates/train/tests/expected/optimizers.json and schedules.json: what other programs make of the same gradients and steps.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install -r tools/optimizers/requirements.txt
    /tmp/venv/bin/python tools/optimizers/make.py

| optimizer | made by |
|---|---|
| adamw, rmsprop, adafactor | torch.optim |
| muon | torch.optim.Muon, whose iteration is made to run in float64 instead of bfloat16, beside torch.optim.AdamW |
| lion | lion-pytorch |
| schedule_free_adamw | schedulefree, evaluated in its own way (the averaged weights) |
| adamw_8bit | below, from the text of arXiv 2110.02861: bitsandbytes steps on GPUs alone, and in float32; its maps are compared |
| all schedules | transformers |

Parameters and gradients are not written down: both sides make them by `numbers`, which is exact.
"""

import json
import math
import sys
import types
from pathlib import Path

import bitsandbytes.functional
import lion_pytorch
import numpy as np
import schedulefree
import torch
import transformers
from torch.optim import _muon

STEPS = 20
MASK = (1 << 64) - 1
EXPECTED = Path(__file__).resolve().parents[2] / "crates/train/tests/expected"


def numbers(seed, count):
    """Numbers in [-0.5, 0.5), the upper bits of a linear congruential generator."""
    state, out = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) & MASK
        out.append((state >> 33) / 2**31 - 0.5)
    return out


def gradients(step, count):
    """Those of a step, from 0, of three sizes."""
    return [g * (1 + i % 3) for i, g in enumerate(numbers(1000 + step, count))]


LAYER = "model.layers.0."
TENSORS = [
    ("model.embed_tokens.weight", [6, 4]),
    (LAYER + "self_attn.q_proj.weight", [4, 4]),
    (LAYER + "self_attn.q_proj.bias", [4]),
    (LAYER + "input_layernorm.weight", [4]),
    (LAYER + "mlp.up_proj.weight", [7, 4]),
    (LAYER + "mlp.down_proj.weight", [4, 7]),
    ("base_model.model." + LAYER + "self_attn.v_proj.lora_A.weight", [2, 4]),
    ("base_model.model." + LAYER + "self_attn.v_proj.lora_B.weight", [4, 2]),
    ("model.norm.weight", [4]),
    ("lm_head.weight", [6, 4]),
]
LARGE = [
    ("model.embed_tokens.weight", [6, 4]),
    (LAYER + "mlp.up_proj.weight", [20, 30]),
    (LAYER + "input_layernorm.weight", [30]),
    (LAYER + "mlp.down_proj.weight", [16, 16]),
]


def is_spared(name):
    return "norm" in name or name.endswith("bias")


def is_hidden(name, shape):
    return len(shape) == 2 and not any(word in name for word in ("embed_tokens", "lm_head", "lora_"))


class Case:
    """One optimizer on some tensors over all steps."""

    def __init__(self, optimizer, tensors=TENSORS, ratio=None, factors=None, bound=1e-12):
        self.optimizer, self.tensors, self.ratio, self.bound = optimizer, tensors, ratio, bound
        self.factors = factors or [1.0] * STEPS
        self.lengths = [math.prod(shape) for _, shape in tensors]
        self.count = sum(self.lengths)

    def split(self, flat):
        parts = torch.split(torch.tensor(flat, dtype=torch.float64), self.lengths)
        return [part.reshape(shape) for part, (_, shape) in zip(parts, self.tensors)]

    def rate(self, name):
        return self.ratio if self.ratio and ".lora_B." in name else 1.0

    def options(self, key, default):
        return self.optimizer.get(key, default)

    def groups(self, parameters, chosen, base):
        decay = self.options("weight_decay", 0.0)
        return [
            {
                "params": [parameter],
                "lr": base * self.rate(name),
                "base": base * self.rate(name),
                "weight_decay": 0.0 if is_spared(name) else decay,
            }
            for parameter, (name, shape) in zip(parameters, self.tensors)
            if chosen(name, shape)
        ]

    def torch_optimizers(self, parameters):
        get, lr = self.options, self.optimizer["learning_rate"]
        betas = (get("beta1", 0.9), get("beta2", 0.999))
        all_of_them = self.groups(parameters, lambda *_: True, lr)
        match self.optimizer["kind"]:
            case "adamw":
                return [torch.optim.AdamW(all_of_them, lr=lr, betas=betas, eps=get("eps", 1e-8))]
            case "lion":
                return [lion_pytorch.Lion(all_of_them, lr=lr, betas=(get("beta1", 0.9), get("beta2", 0.99)))]
            case "rmsprop":
                options = {key: get(key, default) for key, default in
                           [("alpha", 0.99), ("eps", 1e-8), ("momentum", 0.0), ("centered", False)]}
                return [torch.optim.RMSprop(all_of_them, lr=lr, **options)]
            case "adafactor":
                eps = (get("eps1", None), get("eps2", 1e-3))
                options = {"beta2_decay": get("beta2_decay", -0.8), "d": get("clip_threshold", 1.0)}
                return [torch.optim.Adafactor(all_of_them, lr=lr, eps=eps, **options)]
            case "schedule_free_adamw":
                options = {"r": get("r", 0.0), "weight_lr_power": get("weight_lr_power", 2.0)}
                optimizer = schedulefree.AdamWScheduleFree(all_of_them, lr=lr, betas=betas, eps=get("eps", 1e-8), **options)
                return [optimizer]
            case "muon":
                hidden = self.groups(parameters, is_hidden, lr)
                others = self.groups(parameters, lambda *about: not is_hidden(*about), get("adamw_learning_rate", lr))
                options = {
                    "momentum": get("momentum", 0.95),
                    "nesterov": get("nesterov", True),
                    "ns_steps": get("ns_steps", 5),
                    "adjust_lr_fn": get("adjust_lr_fn", "match_rms_adamw"),
                }
                return [
                    torch.optim.Muon(hidden, lr=lr, weight_decay=0.0, **options),
                    torch.optim.AdamW(others, lr=lr, betas=betas, eps=get("eps", 1e-8)),
                ]

    def by_torch(self):
        parameters = [torch.nn.Parameter(part.clone()) for part in self.split(numbers(1, self.count))]
        optimizers = self.torch_optimizers(parameters)
        for optimizer in optimizers:
            if hasattr(optimizer, "train"):
                optimizer.train()
        for step in range(STEPS):
            for parameter, gradient in zip(parameters, self.split(gradients(step, self.count))):
                parameter.grad = gradient.clone()
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base"] * self.factors[step]
                optimizer.step()
        for optimizer in optimizers:
            if hasattr(optimizer, "eval"):
                optimizer.eval()
        return [x for parameter in parameters for x in parameter.detach().flatten().tolist()]

    def in_eight_bits(self):
        get = self.options
        beta1, beta2, eps, decay = get("beta1", 0.9), get("beta2", 0.999), get("eps", 1e-8), get("weight_decay", 0.0)
        maps = [dynamic_map(True), dynamic_map(False)]
        parameters = [part.numpy().ravel().copy() for part in self.split(numbers(1, self.count))]
        moments = [[np.zeros_like(p), np.zeros_like(p)] for p in parameters]
        for step in range(STEPS):
            all_gradients = [part.numpy().ravel() for part in self.split(gradients(step, self.count))]
            for (name, _), p, both, g in zip(self.tensors, parameters, moments, all_gradients):
                lr = self.optimizer["learning_rate"] * self.factors[step] * self.rate(name)
                both[0] = beta1 * both[0] + (1 - beta1) * g
                both[1] = beta2 * both[1] + (1 - beta2) * g * g
                p *= 1 - lr * (0.0 if is_spared(name) else decay)
                mean = both[0] / (1 - beta1 ** (step + 1))
                p -= lr * mean / (np.sqrt(both[1] / (1 - beta2 ** (step + 1))) + eps)
                if len(p) >= self.optimizer["min_8bit_size"] and "embed_tokens" not in name:
                    both[:] = [rounded(moment, map_) for moment, map_ in zip(both, maps)]
        return [float(x) for p in parameters for x in p]

    def write(self):
        is_8bit = self.optimizer["kind"] == "adamw_8bit"
        return {
            "optimizer": self.optimizer,
            "lora_plus_ratio": self.ratio,
            "factors": self.factors,
            "bound": self.bound,
            "tensors": self.tensors,
            "parameters": self.in_eight_bits() if is_8bit else self.by_torch(),
        }


def dynamic_map(signed):
    """Figure 2 of arXiv 2110.02861: of each power of ten the middles of equal parts of its upper nine tenths."""
    values = [0.0, 1.0]
    for power in range(7):
        parts = 2**power if signed else 2 ** (power + 1)
        edges = np.linspace(0.1, 1.0, parts + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (power - 6)
        values += middles.tolist() + (-middles).tolist() * signed
    values = np.sort(np.array(values))
    theirs = bitsandbytes.functional.create_dynamic_map(signed).double().numpy()
    assert np.allclose(values, theirs, rtol=1e-6, atol=0.0)
    return values


def rounded(moment, values):
    """Each block of 256 numbers divided by its largest magnitude, the nearest values, and back."""
    out = np.empty_like(moment)
    for start in range(0, len(moment), 256):
        block = moment[start : start + 256]
        scale = np.abs(block).max()
        nearest = np.abs(block[:, None] / (scale or 1.0) - values[None, :]).argmin(axis=1)
        out[start : start + 256] = values[nearest] * scale
    return out


def warm_up(steps):
    return [min(1.0, step / steps) for step in range(STEPS)]


def optimizers():
    # Muon's iteration in the numbers of its parameters.
    _muon.torch = types.SimpleNamespace(**{**vars(torch), "bfloat16": torch.float64})
    lr, decay = {"learning_rate": 1e-2}, {"weight_decay": 0.1}
    cases = [
        Case({"kind": "adamw", **lr, **decay}, ratio=16.0, factors=warm_up(4)),
        Case({"kind": "lion", **lr, **decay}, ratio=4.0, factors=warm_up(4)),
        Case({"kind": "lion", **lr, "beta1": 0.95, "beta2": 0.98}),
        Case({"kind": "adafactor", **lr, **decay}, ratio=4.0),
        Case({"kind": "adafactor", "learning_rate": 0.5, "beta2_decay": -0.5, "eps1": 1e-3, "eps2": 0.5, "clip_threshold": 1.5}),
        Case({"kind": "adafactor", **lr}, tensors=LARGE, factors=warm_up(4)),
        Case({"kind": "rmsprop", **lr}),
        Case({"kind": "rmsprop", **lr, **decay, "alpha": 0.9, "momentum": 0.5}, ratio=4.0),
        Case({"kind": "rmsprop", **lr, **decay, "momentum": 0.5, "centered": True}, factors=warm_up(4)),
        Case({"kind": "schedule_free_adamw", **lr}),
        Case({"kind": "schedule_free_adamw", **lr, **decay, "beta1": 0.95}, ratio=4.0, factors=warm_up(4)),
        Case({"kind": "schedule_free_adamw", **lr, **decay, "r": 1.5, "weight_lr_power": 1.0}),
        Case({"kind": "muon", **lr, **decay}, ratio=4.0, factors=warm_up(4)),
        Case({"kind": "muon", **lr, "adjust_lr_fn": "original", "nesterov": False, "adamw_learning_rate": 1e-3}),
        Case({"kind": "muon", **lr, "adjust_lr_fn": "spectral_unclamped", "momentum": 0.8, "ns_steps": 7}, tensors=LARGE),
        Case({"kind": "adamw_8bit", **lr, **decay, "min_8bit_size": 0}, ratio=4.0, factors=warm_up(4)),
        Case({"kind": "adamw_8bit", **lr, "min_8bit_size": 256}, tensors=LARGE),
    ]
    made_by = [f"torch {torch.__version__}", *(version(name) for name in ("lion-pytorch", "schedulefree"))]
    return {"made_by": f"tools/optimizers/make.py with {', '.join(made_by)}", "cases": [case.write() for case in cases]}


def version(package):
    from importlib.metadata import version as of

    return f"{package} {of(package)}"


LOSSES = [1.0, 0.9, 0.8, 0.85, 0.9, 0.7, 0.7, 0.7, 0.71, 0.72, 0.6, 0.5, 0.4, 0.3, 0.3, 0.3, 0.3, 0.29999, 0.3, 0.3, 0.2]
LOSSES += [0.25] * 12 + [0.1 - 0.001 * i for i in range(12)]


def schedule(kind, total=20, peak=1e-3, warmup_steps=0, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = transformers.get_scheduler(kind, optimizer, warmup_steps, total, scheduler_specific_kwargs=options or None)
    words = {"kind": kind, **options} | ({"warmup_steps": warmup_steps} if warmup_steps else {})
    case = {"schedule": words, "total_steps": total, "peak": peak}
    if kind in ("reduce_lr_on_plateau", "greedy"):
        factors = []
        for loss in LOSSES:
            scheduler.step(loss)
            factors.append(optimizer.param_groups[0]["lr"] / peak)
        return case | {"losses": LOSSES, "factors": factors}
    factor = scheduler.lr_lambdas[0]
    return case | {"factors": [float(factor(step)) for step in range(total + 3)]}


def schedules():
    stable = {"num_decay_steps": 8}
    cases = [
        schedule("constant"),
        schedule("constant_with_warmup", warmup_steps=5),
        schedule("linear", warmup_steps=5),
        schedule("linear"),
        schedule("cosine", warmup_steps=3),
        schedule("cosine", num_cycles=1.25),
        schedule("cosine_with_restarts", warmup_steps=2),
        schedule("cosine_with_restarts", warmup_steps=2, num_cycles=3),
        schedule("polynomial", warmup_steps=4),
        schedule("polynomial", warmup_steps=4, lr_end=1e-4, power=2.5),
        schedule("inverse_sqrt", warmup_steps=4),
        schedule("inverse_sqrt"),
        schedule("inverse_sqrt", warmup_steps=4, timescale=9),
        schedule("cosine_with_min_lr", warmup_steps=4, min_lr=2e-4),
        schedule("cosine_with_min_lr", min_lr_rate=0.1, num_cycles=1.5),
        schedule("cosine_warmup_with_min_lr", warmup_steps=4, min_lr=2e-4),
        schedule("cosine_warmup_with_min_lr", warmup_steps=4, min_lr_rate=0.1, warmup_lr_rate=0.2, num_cycles=0.75),
        schedule("cosine_warmup_with_min_lr", warmup_steps=1, min_lr_rate=0.1, warmup_lr_rate=0.2),
        schedule("warmup_stable_decay", warmup_steps=4, **stable),
        schedule("warmup_stable_decay", warmup_steps=4, num_stable_steps=3, min_lr_ratio=0.1, **stable),
        schedule("warmup_stable_decay", warmup_steps=4, warmup_type="cosine", decay_type="1-sqrt", **stable),
        schedule("warmup_stable_decay", warmup_steps=4, warmup_type="1-sqrt", decay_type="linear", min_lr_ratio=0.2, **stable),
        schedule("warmup_stable_decay", warmup_steps=14, num_cycles=0.75, num_decay_steps=9),
        schedule("reduce_lr_on_plateau", patience=2),
        schedule("reduce_lr_on_plateau", patience=1, factor=0.5, cooldown=2, min_lr=2e-4),
        schedule("reduce_lr_on_plateau", patience=0, factor=0.5, threshold=0.05, threshold_mode="abs", eps=1e-5),
        schedule("greedy"),
        schedule("greedy", patience=1, factor=0.5, min_lr=1e-4, max_lr=1e-2, cooldown=1, warmup=2),
        schedule("greedy", patience=0, factor=0.5, min_lr=5e-4, max_lr=4e-3, threshold_mode="rel", threshold=0.01, reset_start=3),
        schedule("greedy", patience=0, factor=0.9, min_lr=1e-4, smooth=True, window_size=4),
    ]
    return {"made_by": f"tools/optimizers/make.py with transformers {transformers.__version__}", "cases": cases}


def main():
    for name, content in [("optimizers", optimizers()), ("schedules", schedules())]:
        lines = ",\n".join(json.dumps(case) for case in content["cases"])
        text = f'{{\n"made_by": {json.dumps(content["made_by"])},\n"cases": [\n{lines}\n]\n}}\n'
        (EXPECTED / f"{name}.json").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
