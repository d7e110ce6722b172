"""Attention over packed tokens in the ways PyTorch has it; the first that works on this machine is taken, and it says which.

A token has a document and a branch of it. It sees what is not behind it, of its document, on branch 0 or on its own branch: so
a prompt on branch 0 serves two completions. Every way has `mask(layout)`, made before the clock starts, and takes queries `[T,
heads, width]`, keys and values `[T, kv heads, width]` and that mask.
"""
import inspect
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

BLOCK = 128


@dataclass
class Layout:
    """Where the tokens of a step lie. All on the device, int64, but `ends`."""

    ids: torch.Tensor        # [T]
    positions: torch.Tensor  # [T], from 0 in each sequence
    documents: torch.Tensor  # [T]
    branches: torch.Tensor   # [T]
    rows: torch.Tensor       # [C] places whose hidden state predicts a token of a completion
    targets: torch.Tensor    # [C] those tokens
    sequences: torch.Tensor  # [C] of which sequence: pair i's chosen is i, its rejected B + i
    pairs: int
    ends: list               # where each document ends; the last is T
    longest: int             # tokens of the longest document of the whole run


def visible(layout):
    """The rule above, as FlexAttention's mask_mod."""
    documents, branches = layout.documents, layout.branches

    def rule(batch, head, query, key):
        of_branch = (branches[key] == 0) | (branches[key] == branches[query])
        return (query >= key) & (documents[query] == documents[key]) & of_branch

    return rule


def heads_first(*tensors):
    """`[T, heads, width]` as `[1, heads, T, width]`."""
    return (x.transpose(0, 1).unsqueeze(0) for x in tensors)


class Dense:
    """SDPA under a mask of all pairs of tokens: for small steps, on any device and in any type."""

    name = "dense"

    @staticmethod
    def mask(layout):
        at = torch.arange(len(layout.ids), device=layout.ids.device)
        return visible(layout)(0, 0, at[:, None], at[None, :])

    @staticmethod
    def attend(q, k, v, mask):
        q, k, v = heads_first(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).squeeze(0).transpose(0, 1)


class Varlen:
    """torch.nn.attention.varlen (2.10 and later): FlashAttention over documents. Knows no branches."""

    name = "varlen"

    def __init__(self):
        from torch.nn.attention.varlen import varlen_attn

        self.kernel = varlen_attn
        takes = inspect.signature(varlen_attn).parameters
        # Causal was a flag before it became a window.
        self.causal = {"window_size": (-1, 0)} if "window_size" in takes else {"is_causal": True}
        if "enable_gqa" in takes:
            self.causal["enable_gqa"] = True

    def mask(self, layout):
        return torch.tensor([0, *layout.ends], dtype=torch.int32, device=layout.ids.device), layout.longest

    def attend(self, q, k, v, mask):
        ends, longest = mask
        return self.kernel(q, k, v, ends, ends, longest, longest, **self.causal)


class FlashAttn:
    """The package flash-attn, over documents. Knows no branches."""

    name = "flash-attn"

    def __init__(self):
        from flash_attn import flash_attn_varlen_func

        self.kernel = flash_attn_varlen_func

    mask = Varlen.mask

    def attend(self, q, k, v, mask):
        ends, longest = mask
        return self.kernel(q, k, v, ends, ends, longest, longest, causal=True)


class Flex:
    """FlexAttention under a block mask; always compiled, since it would make all scores otherwise."""

    name = "flex"
    repeats = False

    def __init__(self):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        self.make_mask, self.kernel = torch.compile(create_block_mask), torch.compile(flex_attention)

    def mask(self, layout):
        total = len(layout.ids)
        return self.make_mask(visible(layout), None, None, total, total, device=layout.ids.device, BLOCK_SIZE=BLOCK)

    def attend(self, q, k, v, mask):
        if self.repeats:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        q, k, v = heads_first(q, k, v)
        return self.kernel(q, k, v, block_mask=mask, enable_gqa=not self.repeats).squeeze(0).transpose(0, 1)


class FlexRepeated(Flex):
    """The same with keys and values repeated, should it not know these groups of heads."""

    name = "flex-repeated"
    repeats = True


def probe(way, shape, dtype, device, branches):
    """Why this way does not do here, or None: forward and backward of two short documents beside dense attention in f32."""
    if isinstance(way, Flex) and device.type == "cpu":
        return "FlexAttention has no backward on a CPU"
    heads, kv_heads, width = shape
    lengths = [BLOCK + 9, BLOCK - 5]
    documents = torch.repeat_interleave(torch.arange(2), torch.tensor(lengths))
    at = torch.cat([torch.arange(n) for n in lengths])
    on_branch = (at >= 40).long() + (at >= 90).long() if branches else torch.zeros_like(at)
    total = sum(lengths)
    nothing = torch.zeros(0, dtype=torch.long, device=device)
    layout = Layout(at.to(device), at.to(device), documents.to(device), on_branch.to(device), nothing, nothing, nothing, 1,
                    [lengths[0], total], max(lengths))
    generator = torch.Generator().manual_seed(0)
    drawn = lambda heads: torch.randn(total, heads, width, generator=generator).to(device, dtype)
    operands, upstream = [drawn(heads), drawn(kv_heads), drawn(kv_heads)], drawn(heads)

    def gradients(way, operands, upstream):
        operands = [x.detach().requires_grad_() for x in operands]
        out = way.attend(*operands, way.mask(layout))
        return [out, *torch.autograd.grad(out, operands, upstream)]

    try:
        found = gradients(way, operands, upstream)
        expected = gradients(Dense, [x.float() for x in operands], upstream.float())
        error = max(((a.float() - b).norm() / b.norm()).item() for a, b in zip(found, expected))
    except Exception as problem:  # whatever a version, a build or a device lacks
        return f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}"[:200]
    bound = 2e-2 if dtype == torch.bfloat16 else 1e-4
    # A NaN is no agreement.
    return None if error <= bound else f"wrong by {error:.1e}, of {bound:g}"


def choose(wanted, shape, dtype, device, branches):
    """The first of these ways that works, and why those before it did not."""
    refused = {}
    for kind in wanted:
        try:
            way = kind()
        except ImportError as problem:
            refused[kind.name] = str(problem)
            continue
        refused[kind.name] = probe(way, shape, dtype, device, branches)
        if refused[kind.name] is None:
            del refused[kind.name]
            # What was compiled for the probe would be taken for the first of many shapes.
            torch.compiler.reset()
            return kind(), refused
    raise SystemExit(f"no attention for packed tokens works here: {refused}")
