"""What the interop scripts share: provenance, seeded ids, exact Llama arithmetic, the file of expected logits.

transformers computes RMSNorm and the rotary angles in f32 whatever the model's type is. `exact` undoes that, so that an f64 model is
f64 throughout and its logits are a truth to compare with, not one more rounding.
"""
import importlib.metadata
import json
import math
import os
import random
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import LlamaForCausalLM
from transformers.utils import logging
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

logging.disable_progress_bar()
EXPECTED = Path(__file__).resolve().parents[2] / "tests" / "expected"


def made_by(script, *packages, **facts):
    """The header every stored expectation begins with: the program, the versions it ran with, what it was given."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions["python"] = ".".join(map(str, sys.version_info[:3]))
    return {"script": f"tools/interop/{Path(script).name}", "versions": versions, **facts}


def write(path, document):
    """JSON with one item of every list of objects, and one row of every matrix, to a line: diffs stay readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(document) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size} bytes")


def render(value, depth=0):
    pad, inner = " " * depth, " " * (depth + 1)
    nested = lambda x: isinstance(x, dict) or (isinstance(x, list) and any(isinstance(y, (dict, list)) for y in x))
    if not nested(value) or (isinstance(value, dict) and not any(map(nested, value.values())) and depth > 1):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        items = [f"{inner}{json.dumps(k)}: {render(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{pad}}}"
    return "[\n" + ",\n".join(inner + render(v, depth + 1) for v in value) + f"\n{pad}]"


def draw(seed, length, vocabulary, first):
    """Seeded ids: `first` (the token that begins a text), then ids over the whole vocabulary."""
    chance = random.Random(seed)
    return [first] + [chance.randrange(vocabulary) for _ in range(length - 1)]


def load(directory, dtype, adapter=None):
    """A model of transformers in f32 as shipped, or in f64 without any step in f32; with the adapter as peft applies it."""
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    model = model.to(dtype).eval()
    if dtype == torch.float64:
        exact(model)
    return model


def exact(model):
    """Replaces what transformers does in f32 by the same equations in the model's own type."""
    from transformers.models.llama import modeling_llama

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def attend(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
        share = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
        scores = query @ key.transpose(2, 3) * scaling
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        weights = torch.softmax(scores.masked_fill(later, -torch.inf), -1)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):
            module.forward = norm.__get__(module)
        if isinstance(module, LlamaRotaryEmbedding):
            inverse, scale = frequencies(module.config)
            # Against what transformers computed, to f32.
            kept = LlamaRotaryEmbedding(module.config)
            assert torch.allclose(inverse, kept.inv_freq.double(), rtol=1e-6, atol=0), (inverse, kept.inv_freq)
            assert abs(scale - kept.attention_scaling) < 1e-6

            def angles(self, x, position_ids, inverse=inverse, scale=scale):
                turns = position_ids[..., None].to(x.dtype) * inverse.to(x.dtype)
                turns = torch.cat((turns, turns), -1)
                return turns.cos() * scale, turns.sin() * scale

            module.forward = angles.__get__(module)
    modeling_llama.ALL_ATTENTION_FUNCTIONS["exact"] = attend
    model.config._attn_implementation = "exact"


def frequencies(config):
    """Rotary frequencies in f64, `[head_dim / 2]`, and the factor on cosines and sines."""
    rope = config.rope_parameters
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    base, kind = float(rope["rope_theta"]), rope.get("rope_type", "default")
    plain = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    if kind == "default":
        return plain, 1.0
    factor = float(rope["factor"])
    if kind == "linear":
        return plain / factor, 1.0
    original = float(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
    if kind == "llama3":
        turns = original * plain / (2 * math.pi)
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        return plain * keep + plain / factor * (1 - keep), 1.0
    if kind == "yarn":
        at = lambda turns: width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))
        low = max(math.floor(at(float(rope.get("beta_fast") or 32))), 0)
        high = min(math.ceil(at(float(rope.get("beta_slow") or 1))), width - 1)
        span = high - low if high > low else 0.001
        ramp = ((torch.arange(width // 2, dtype=torch.float64) - low) / span).clamp(0, 1)
        scale = rope.get("attention_factor") or (0.1 * math.log(factor) + 1 if factor > 1 else 1.0)
        return plain * (1 - ramp) + plain / factor * ramp, scale
    raise ValueError(f"no f64 formula for rope_type {kind}")


@torch.no_grad()
def expectation(directory, cases, vocab_ids, adapter=None):
    """Logits of the ids in `vocab_ids` and log-sum-exp over all, at chosen positions: `[(ids, positions)] -> list`."""
    single, double = load(directory, torch.float32, adapter), load(directory, torch.float64, adapter)
    out = []
    for ids, positions in cases:
        entry = {"ids": ids, "positions": positions}
        rows = {}
        for name, model in (("f64", double), ("f32", single)):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, positions]
            assert logits.dtype == (torch.float64 if name == "f64" else torch.float32)
            rows[name] = logits.double()
            shown = logits[:, vocab_ids]
            entry[name] = {
                "logits": [[number(x) for x in row] for row in shown],
                "log_sum_exp": [number(x) for x in logits.logsumexp(-1)],
            }
        entry["f32_deviation"] = (rows["f32"] - rows["f64"]).abs().max().item()
        assert entry["f32_deviation"] < 1e-4, entry["f32_deviation"]
        out.append(entry)
    return out


@torch.no_grad()
def greedy(directory, prompt, tokens, adapter=None):
    """Greedy continuation, in f64 and without a cache, checked against `generate`; no token ends it."""
    model, ids, lead = load(directory, torch.float64, adapter), list(prompt), math.inf
    for _ in range(tokens):
        first, second = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2).values.tolist()
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        lead = min(lead, first - second)
    shipped = load(directory, torch.float32, adapter)
    shipped.generation_config.eos_token_id = None
    theirs = shipped.generate(
        input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False, max_new_tokens=tokens, pad_token_id=0,
    )[0].tolist()
    assert theirs == ids, (theirs, ids)
    return {"prompt": prompt, "generated": ids[len(prompt):], "smallest_lead": lead}


def number(x):
    """A tensor's scalar as the shortest decimal that gives the same bits back in its own type."""
    return float(str(x.numpy())) if x.dtype == torch.float32 else x.item()
