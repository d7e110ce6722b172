"""Writes crates/train/tests/expected/bema.json: the references that TRL's own callback makes of a policy's weights.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install -r tools/references/requirements.txt
    /tmp/venv/bin/python tools/references/make.py

`trl.experimental.bema_for_ref_model.BEMACallback` runs in float64 over a model of one tensor, whose weights after each of 20 steps are
made by `numbers` and not written down: both sides make them. After every step the reference is written down.
"""

import json
from pathlib import Path

import torch
import transformers
import trl
from transformers import TrainerControl, TrainerState
from trl.experimental.bema_for_ref_model.callback import BEMACallback

STEPS, COUNT = 20, 12
MASK = (1 << 64) - 1
EXPECTED = Path(__file__).resolve().parents[2] / "crates/train/tests/expected/bema.json"


def numbers(seed, count):
    """Numbers in [-0.5, 0.5), the upper bits of a linear congruential generator."""
    state, out = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) & MASK
        out.append((state >> 33) / 2**31 - 0.5)
    return out


class Model(torch.nn.Module):
    """One tensor, made of a configuration as transformers' models are."""

    def __init__(self, config=None):
        super().__init__()
        self.config = config
        self.weights = torch.nn.Parameter(torch.tensor(numbers(1, COUNT), dtype=torch.float64))


def references(bema):
    policy, reference = Model(), Model()
    after = bema.get("update_after", 0)
    words = {name: value for name, value in bema.items() if name != "every"}
    callback = BEMACallback(
        update_freq=bema["every"],
        update_ref_model=True,
        ref_model_update_freq=bema["every"],
        ref_model_update_after=after,
        **words,
    )
    state, control = TrainerState(), TrainerControl()
    callback.on_train_begin(None, state, control, policy)
    seen = []
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            policy.weights.copy_(torch.tensor(numbers(1 + step, COUNT), dtype=torch.float64))
        state.global_step = step
        callback.on_step_end(None, state, control, policy, ref_model=reference)
        seen.append(reference.weights.tolist())
    return seen


CASES = [
    {"every": 1},
    {"every": 3},
    {"every": 2, "update_after": 5},
    {"every": 1, "lag": 0, "multiplier": 2.5, "bias_power": 0.7},
    {"every": 4, "ema_power": 0.9, "min_ema_multiplier": 0.3, "lag": 3},
    {"every": 1, "ema_power": 0.0, "bias_power": 8.0},
]

made_by = f"tools/references/make.py with trl {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
cases = [{"bema": bema, "references": references(bema)} for bema in CASES]
lines = ",\n".join(json.dumps(case) for case in cases)
EXPECTED.write_text(f'{{"made_by": {json.dumps(made_by)}, "cases": [\n{lines}\n]}}\n')
print(EXPECTED)
