"""A DPO step in plain PyTorch without padding: what the twins share. They differ in how tokens lie and in the attention over them.

All tokens of a step are one row. Maps that have the same input are one product (q, k, v; gate, up; likewise the adapters' A).
The head sees the places alone that predict a token of a completion, in chunks; log-probabilities, losses and sums are f32. The
reference is a frozen copy, or the model without its adapter, and its pass is part of the step, unless --precompute. AdamW is
fused. The losses stay on the device until the end, and a step's time is the device's own, between events, so that the host
waits for nothing. Ids, places and masks are made before the clock.

`--masters f32`: weights, activations and gradients in bf16, AdamW on f32 masters, a layer at a time, so that only one layer's
gradients are widened at once. `--masters none`: everything of the weights in bf16, AdamW's moments too. `--compile` compiles a
layer, which all layers share, and what follows the logits.
"""
import argparse
import json
import math
import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from safetensors import safe_open

import attention
import flops
import rows
from attention import Layout

FLOPS = 790e12


@dataclass(frozen=True)
class Twin:
    name: str
    place: Callable[[list], dict]  # the rows of a step, as the lists of a Layout
    branches: bool
    attention: list


def words(twin, description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="of rows.py")
    parser.add_argument("--adapter", type=Path, help="train this PEFT adapter, as models.py makes it, in place of all weights")
    parser.add_argument("--masters", choices=["f32", "none"], default="f32")
    parser.add_argument("--batch", type=int, default=8, help="pairs in a step")
    parser.add_argument("--steps", type=int, default=20, help="measured steps")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precompute", action="store_true", help="the reference's log-probabilities before the clock")
    parser.add_argument("--head", choices=["keep", "recompute"], default="keep",
                        help="keep the logits of completions in bf16 for the backward, or compute them again")
    parser.add_argument("--chunk", type=int, default=2048, help="tokens the head takes at once")
    parser.add_argument("--attention", choices=[kind.name for kind in twin.attention], help="this one and no other")
    parser.add_argument("--float32", action="store_true", help="everything in f32, for checking")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=1e-5)
    parser.add_argument("--flops", type=float, default=FLOPS, help="operations a second that MFU is of")
    return parser


def layout_of(twin, pairs, longest, device):
    placed = twin.place(pairs)
    tensor = lambda key: torch.tensor(placed[key], device=device)
    return Layout(**{key: tensor(key) for key in ("ids", "positions", "documents", "branches", "rows", "targets", "sequences")},
                  pairs=len(pairs), ends=placed["ends"], longest=longest)


# ---------------------------------------------------------------------------------------------------------------------------------
# The model.


class Maps(torch.nn.Module):
    """Linear maps of one input: weights `[outputs, inputs]`, stacked, each with its adapter where there are any."""

    def __init__(self, weights, adapters, scale):
        super().__init__()
        self.sizes, self.scale = [len(weight) for weight in weights], scale
        self.weight = torch.nn.Parameter(torch.cat(weights), requires_grad=not adapters)
        self.a = torch.nn.Parameter(torch.cat([a for a, _ in adapters])) if adapters else None
        self.b = torch.nn.Parameter(torch.cat([b for _, b in adapters])) if adapters else None

    def forward(self, x, adapted):
        out = F.linear(x, self.weight).split(self.sizes, -1)
        if not adapted:
            return out
        inner = F.linear(x, self.a).chunk(len(self.sizes), -1)
        return [torch.addmm(y, z, b.t(), alpha=self.scale) for y, z, b in zip(out, inner, self.b.split(self.sizes))]


class Layer(torch.nn.Module):
    def __init__(self, config, read, adapter, scale):
        super().__init__()
        adapters = lambda names: [adapter(name) for name in names] if adapter else None
        maps = lambda *names: Maps([read(f"{name}.weight") for name in names], adapters(names), scale)
        self.qkv, self.o = maps("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), maps("self_attn.o_proj")
        self.gate_up, self.down = maps("mlp.gate_proj", "mlp.up_proj"), maps("mlp.down_proj")
        self.before_attention = torch.nn.Parameter(read("input_layernorm.weight"), requires_grad=not adapter)
        self.before_mlp = torch.nn.Parameter(read("post_attention_layernorm.weight"), requires_grad=not adapter)
        self.width, self.eps = config["head_dim"], config["rms_norm_eps"]

    def forward(self, x, cos, sin, attend, mask, adapted):
        normed = F.rms_norm(x, x.shape[-1:], self.before_attention, self.eps)
        q, k, v = (part.unflatten(-1, (-1, self.width)) for part in self.qkv(normed, adapted))
        attended = attend(rotated(q, cos, sin), rotated(k, cos, sin), v, mask)
        x = x + self.o(attended.flatten(1), adapted)[0]
        gate, up = self.gate_up(F.rms_norm(x, x.shape[-1:], self.before_mlp, self.eps), adapted)
        return x + self.down(F.silu(gate) * up, adapted)[0]


def rotated(x, cos, sin):
    """Rotary positions, the halves of a head together; `x` `[T, heads, width]`, `cos` and `sin` `[T, 1, width]`."""
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


class Model(torch.nn.Module):
    def __init__(self, directory, dtype, device, trained=True, adapter=None):
        super().__init__()
        self.config = json.loads((directory / "config.json").read_text())
        read, adapter_of, scale = reader(directory, dtype, device), None, 0.0
        if adapter:
            settings = json.loads((adapter / "adapter_config.json").read_text())
            scale, of_adapter = settings["lora_alpha"] / settings["r"], reader(adapter, dtype, device, "adapter_model.safetensors")
            place = "base_model.model.model.layers.{}.{}.lora_{}.weight".format
            adapter_of = lambda layer: lambda name: tuple(of_adapter(place(layer, name, which)) for which in "AB")
        whole = trained and not adapter
        self.embedding = torch.nn.Parameter(read("model.embed_tokens.weight"), requires_grad=whole)
        self.layers = torch.nn.ModuleList(
            Layer(self.config, lambda name, layer=layer: read(f"model.layers.{layer}.{name}"), adapter_of and adapter_of(layer), scale)
            for layer in range(self.config["num_hidden_layers"]))
        self.norm = torch.nn.Parameter(read("model.norm.weight"), requires_grad=whole)
        self.head = self.embedding
        if not self.config["tie_word_embeddings"]:
            self.head = torch.nn.Parameter(read("lm_head.weight"), requires_grad=whole)
        if not trained:
            self.requires_grad_(False)
        angles = torch.outer(torch.arange(rotary_positions(self.config), dtype=torch.float32), frequencies(self.config)).repeat(1, 2)
        self.cos, self.sin = angles.cos().to(device, dtype), angles.sin().to(device, dtype)

    def forward(self, layout, mask, attend, adapted):
        """Hidden states `[C, H]` at the places that predict a token of a completion."""
        x = F.embedding(layout.ids, self.embedding)
        cos, sin = self.cos[layout.positions].unsqueeze(1), self.sin[layout.positions].unsqueeze(1)
        for layer in self.layers:
            x = layer(x, cos, sin, attend, mask, adapted)
        return F.rms_norm(x.index_select(0, layout.rows), x.shape[-1:], self.norm, self.config["rms_norm_eps"])


def reader(directory, dtype, device, single="model.safetensors"):
    """A function from a tensor's name to the tensor, of one file or of shards."""
    index = directory / f"{single}.index.json"
    places = json.loads(index.read_text())["weight_map"] if index.exists() else {}
    files = {}

    def read(name):
        file = places.get(name, single)
        if file not in files:
            files[file] = safe_open(directory / file, framework="pt", device=str(device))
        return files[file].get_tensor(name).to(dtype)

    return read


def rotary_positions(config):
    return min(config["max_position_embeddings"], 16_384)


def frequencies(config):
    """Rotary frequencies `[width / 2]`, stretched as Llama 3.1 does where the model says so."""
    width, scaling = config["head_dim"], config["rope_scaling"]
    plain = 1.0 / config["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    if scaling is None:
        return plain
    assert scaling["rope_type"] == "llama3", scaling
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return plain * (kept + (1 - kept) / factor)


# ---------------------------------------------------------------------------------------------------------------------------------
# The head and the loss.


def log_normalizers(logits):
    """`[C]`, f32."""
    return torch.logsumexp(logits.float(), -1)


def logits_gradient(logits, normalizers, targets, upstream):
    """The gradient of Σ upstream · log-probability with respect to the logits, in their type."""
    own = torch.arange(logits.shape[-1], device=logits.device) == targets[:, None]
    gradient = logits.float().sub_(normalizers[:, None]).exp_().mul_(-upstream[:, None])
    return gradient.add_(own * upstream[:, None]).to(logits.dtype)


class TokenLogProbs(torch.autograd.Function):
    """Log-probabilities `[C]` of targets `[C]`, from hidden states `[C, H]` and the head `[V, H]`, a chunk of tokens at a time."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk, keep, ops):
        of_logits, ctx.of_gradient = ops
        kept, logps, normalizers = [], [], []
        for part, target in zip(hidden.split(chunk), targets.split(chunk)):
            logits = F.linear(part, weight)
            normalizers.append(of_logits(logits))
            logps.append(logits.gather(1, target[:, None])[:, 0].float() - normalizers[-1])
            kept += [logits] if keep else []
        # Not saved as tensors that autograd watches: the backward writes over nothing, and frees each when it is used.
        ctx.kept, ctx.chunk = kept, chunk
        ctx.save_for_backward(hidden, weight, targets, torch.cat(normalizers))
        return torch.cat(logps)

    @staticmethod
    def backward(ctx, upstream):
        hidden, weight, targets, normalizers = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if ctx.needs_input_grad[1] else None
        parts = [x.split(ctx.chunk) for x in (hidden, of_hidden, targets, normalizers, upstream)]
        for i, (part, of_part, target, normalizer, up) in enumerate(zip(*parts)):
            logits = ctx.kept[i] if ctx.kept else F.linear(part, weight)
            gradient = ctx.of_gradient(logits, normalizer, target, up)
            torch.mm(gradient, weight, out=of_part)
            if of_weight is not None:
                of_weight += gradient.t() @ part
            if ctx.kept:
                ctx.kept[i] = None
        return of_hidden, None if of_weight is None else of_weight.to(weight.dtype), None, None, None, None


def dpo_loss(policy, reference, beta):
    """Mean over pairs of −log σ(β · (what chosen gained − what rejected gained)); `[2 B]` sums of log-probabilities each."""
    chosen, rejected = (policy - reference).chunk(2)
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


# ---------------------------------------------------------------------------------------------------------------------------------
# The optimizer.


class Optimizer:
    """Clip at norm 1, then AdamW: on the parameters themselves, or on f32 masters, a layer at a time."""

    def __init__(self, groups, rate, masters):
        self.groups = [[p for p in group if p.requires_grad] for group in groups]
        self.parameters = [p for group in self.groups for p in group]
        adamw = lambda parameters: torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, fused=True)
        self.masters = None
        if masters:
            self.masters = [[p.detach().float() for p in group] for group in self.groups]
            self.adamw = [adamw(group) for group in self.masters]
        else:
            self.adamw = [adamw(self.parameters)]

    @torch.no_grad()
    def step(self):
        """Returns the gradient's norm before the clip, on the device."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if self.masters is None:
            self.adamw[0].step()
        else:
            for group, masters, adamw in zip(self.groups, self.masters, self.adamw):
                for parameter, master in zip(group, masters):
                    master.grad = parameter.grad.float()
                    parameter.grad = None
                adamw.step()
                adamw.zero_grad()
                torch._foreach_copy_(group, masters)
        for parameter in self.parameters:
            parameter.grad = None
        return norm


# ---------------------------------------------------------------------------------------------------------------------------------
# The run.


class Run:
    """A model, its reference and what steps of a twin need."""

    def __init__(self, twin, args):
        self.twin, self.args = twin, args
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.float32 if args.float32 else torch.bfloat16
        self.policy = Model(args.model, self.dtype, self.device, adapter=args.adapter)
        self.reference = None if args.adapter else Model(args.model, self.dtype, self.device, trained=False)
        self.config = self.policy.config
        shape = (self.config["num_attention_heads"], self.config["num_key_value_heads"], self.config["head_dim"])
        wanted = [kind for kind in twin.attention if args.attention in (None, kind.name)]
        if not args.attention and self.device.type == "cuda":
            wanted = [kind for kind in wanted if kind is not attention.Dense]  # it would make all scores
        self.attention, self.refused = attention.choose(wanted, shape, self.dtype, self.device, twin.branches)
        self.ops = (log_normalizers, logits_gradient)
        if args.compile:
            # Shapes of every step, with and without gradients and adapter, are forms of the same code.
            torch._dynamo.config.recompile_limit = 64
            self.ops = tuple(map(torch.compile, self.ops))
            for layer in [*self.policy.layers, *(self.reference.layers if self.reference else [])]:
                layer.compile()
        ends = [self.policy.embedding, self.policy.norm, *([] if self.policy.head is self.policy.embedding else [self.policy.head])]
        groups = [*([p] for p in ends), *(list(layer.parameters()) for layer in self.policy.layers)]
        self.optimizer = Optimizer([g for g in groups if any(p.requires_grad for p in g)], args.rate,
                                   args.masters == "f32" and not args.float32)

    def batches(self, all_rows):
        batches = rows.batches(all_rows, self.args.batch)
        longest = max(len(p) + len(c) + (len(r) if self.twin.branches else 0) for p, c, r in all_rows)
        longest = max(longest, max(len(p) + len(r) for p, _, r in all_rows))
        layouts = [layout_of(self.twin, batch, longest, self.device) for batch in batches]
        return [(layout, self.attention.mask(layout)) for layout in layouts]

    def sums(self, model, layout, mask, adapted):
        """Log-probabilities of whole completions, `[2 B]`: all chosen, then all rejected."""
        hidden = model(layout, mask, self.attention.attend, adapted)
        keep = torch.is_grad_enabled() and self.args.head == "keep"
        tokens = TokenLogProbs.apply(hidden, model.head, layout.targets, self.args.chunk, keep, self.ops)
        return torch.zeros(2 * layout.pairs, device=self.device).index_add(0, layout.sequences, tokens)

    @torch.no_grad()
    def reference_sums(self, layout, mask):
        return self.sums(self.reference or self.policy, layout, mask, adapted=False)

    def loss(self, layout, mask, known=None):
        reference = self.reference_sums(layout, mask) if known is None else known
        return dpo_loss(self.sums(self.policy, layout, mask, adapted=self.args.adapter is not None), reference, self.args.beta)

    def step(self, layout, mask, known=None):
        """Loss and norm of the gradient, on the device."""
        loss = self.loss(layout, mask, known)
        loss.backward()
        return loss.detach(), self.optimizer.step()

    def clock(self):
        """A moment: an event of the device's stream, or the time."""
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, moments):
        if self.device.type == "cpu":
            return [b - a for a, b in zip(moments, moments[1:])]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in zip(moments, moments[1:])]


def main(twin, description):
    args = words(twin, description).parse_args()
    run = Run(twin, args)
    all_rows = rows.read(args.rows, args.batch * (args.steps + args.warmup))
    batches = run.batches(all_rows)
    first = run.reference_sums(*batches[0])
    known = [run.reference_sums(*batch) if args.precompute else None for batch in batches]
    if run.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    said, moments = [], [run.clock()]
    for batch, reference in zip(batches, known):
        said.append(run.step(*batch, reference))
        moments.append(run.clock())
    seconds = run.seconds(moments)
    losses, norms = ([x.item() for x in column] for column in zip(*said))
    print(json.dumps(report(run, all_rows, seconds, losses, first) | {"first_gradient_norm": norms[0]}))


def report(run, all_rows, seconds, losses, first):
    args = run.args
    measured = seconds[args.warmup:]
    step = statistics.median(measured)
    lengths = [tuple(map(len, row)) for row in all_rows[args.warmup * args.batch:]]
    rank = len(run.policy.layers[0].o.a) if args.adapter else 0
    counted = flops.of_step(run.config, lengths, rank, reference=not args.precompute)
    counted = {name: count / args.steps for name, count in counted.items()}
    on_device = run.device.type == "cuda"
    mebibytes = lambda bytes: bytes / 2**20 if on_device else None
    return {
        "peer": run.twin.name, "device": torch.cuda.get_device_name() if on_device else "cpu", "torch": torch.__version__,
        "attention": run.attention.name, "attention_refused": run.refused, "mode": "lora" if args.adapter else "full", "rank": rank,
        "masters": "f32" if args.masters == "f32" or args.float32 else "none", "type": str(run.dtype).removeprefix("torch."),
        "compile": args.compile, "head": args.head, "precompute": args.precompute, "batch": args.batch, "steps": args.steps,
        "warmup": args.warmup, "first_loss": losses[0], "losses": losses, "first_reference_sums": first.tolist(),
        "step_s": step, "step_s_quartiles": statistics.quantiles(measured, n=4)[::2] if len(measured) > 1 else [step, step],
        "pairs_per_s": args.batch / step, "tokens_per_s": flops.tokens(lengths) / args.steps / step,
        "flops_per_s": {name: count / step for name, count in counted.items()},
        "mfu": {name: count / step / args.flops for name, count in counted.items()}, "mfu_of": args.flops,
        "peak_device_mb": mebibytes(torch.cuda.max_memory_allocated() if on_device else 0),
        "peak_reserved_mb": mebibytes(torch.cuda.max_memory_reserved() if on_device else 0),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
