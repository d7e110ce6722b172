#!/usr/bin/env python3
"""The suite's own tests, on a machine without a GPU: just gpu-side-by-side-check

The twins, with tiny models in f32, beside transformers' Llama and PEFT on one unpadded sequence after the other: the same loss
and the same gradients, with all weights and with an adapter, and the same losses of later steps. Then what the numbers rest on:
the models' bits, the rows, the counted operations, the optimizer with masters, the head in chunks, the masks, and the table.
Needs what tools/interop/requirements.txt names.
"""
import argparse
import contextlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import types
import unittest
import warnings
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))
warnings.filterwarnings("ignore")

import torch
import torch.nn.functional as F
import transformers

import attention
import flex_twin
import flops
import models
import packed_twin
import rows
import suite
import twin
import wick

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
TWINS = [packed_twin.TWIN, flex_twin.TWIN]
BATCH, STEPS, RATE = 3, 3, 2e-2


def setUpModule():
    global FOLDER, PLACE
    FOLDER = tempfile.TemporaryDirectory()
    PLACE = Path(FOLDER.name)
    for name in ("tiny", "tiny-untied"):
        models.make(name, PLACE / name)
        models.make_adapter(name, PLACE / f"{name}-lora", 4, PLACE / name)
    rows.write("hh", PLACE / "rows.jsonl", BATCH * STEPS, 1 / 16, 512)


def tearDownModule():
    FOLDER.cleanup()


def run_of(spec, model, *more):
    words = ["--model", str(PLACE / model), "--rows", str(PLACE / "rows.jsonl"), "--float32", "--rate", str(RATE),
             "--batch", str(BATCH), "--chunk", "17"]
    torch.manual_seed(0)
    return twin.Run(spec, twin.words(spec, "").parse_args([*words, *map(str, more)]))


def read():
    return rows.read(PLACE / "rows.jsonl", BATCH * STEPS)


def close(case, found, expected, bound=2e-5):
    error = ((found - expected).norm() / expected.norm()).item()
    case.assertLessEqual(error, bound)


class Straight:
    """The same steps by transformers and PEFT, each sequence alone."""

    def __init__(self, model, adapter=None):
        from peft import PeftModel
        from transformers import LlamaForCausalLM

        load = lambda: LlamaForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
        self.policy, self.frozen = load(), load().requires_grad_(False)
        if adapter:
            self.policy = PeftModel.from_pretrained(self.policy, adapter, is_trainable=True)
        self.trained = {name: p for name, p in self.policy.named_parameters() if p.requires_grad}
        self.adamw, self.first_norm = torch.optim.AdamW(self.trained.values(), lr=RATE, weight_decay=0.0), None

    @staticmethod
    def sum_of(model, prompt, completion):
        logps = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0].log_softmax(-1)
        return sum(logps[len(prompt) - 1 + i, token] for i, token in enumerate(completion))

    def loss(self, pairs):
        margins = []
        for prompt, chosen, rejected in pairs:
            gain = [self.sum_of(self.policy, prompt, c) - self.sum_of(self.frozen, prompt, c) for c in (chosen, rejected)]
            margins.append(0.1 * (gain[0] - gain[1]))
        return torch.stack([torch.log1p(torch.exp(-margin)) for margin in margins]).mean()

    def step(self, pairs):
        loss = self.loss(pairs)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0).item()
        self.first_norm = self.first_norm or norm
        self.adamw.step()
        self.adamw.zero_grad()
        return loss.item()

    def gradient(self, *parts):
        """Of the tensor whose name has all these parts."""
        found = [p.grad for name, p in self.trained.items() if all(part in name for part in parts)]
        assert len(found) == 1, (parts, len(found))
        return found[0]


PARTS = {"qkv": ["q_proj", "k_proj", "v_proj"], "o": ["o_proj"], "gate_up": ["gate_proj", "up_proj"], "down": ["down_proj"]}


class Twins(unittest.TestCase):
    def test_losses_and_gradients_are_those_of_one_sequence_after_the_other(self):
        for model in ("tiny", "tiny-untied"):
            for adapted in (False, True):
                adapter = PLACE / f"{model}-lora" if adapted else None
                if adapted:
                    self.grown(adapter)
                straight = Straight(PLACE / model, adapter)
                pairs = read()[:BATCH]
                expected = straight.loss(pairs)
                expected.backward()
                for spec in TWINS:
                    for head in ("keep", "recompute"):
                        with self.subTest(model=model, adapted=adapted, twin=spec.name, head=head):
                            run = run_of(spec, model, "--head", head, *(["--adapter", adapter] if adapted else []))
                            loss = run.loss(*run.batches(read())[0])
                            loss.backward()
                            self.assertAlmostEqual(loss.item(), expected.item(), delta=1e-6)
                            compared = self.compare_adapter(run, straight) if adapted else self.compare_all(run, straight)
                            self.assertEqual(compared, len(straight.trained), "every trained tensor has been compared")

    @staticmethod
    def grown(adapter):
        """B = 0 hides A's gradients, and a policy that is its reference hides the reference."""
        from safetensors.torch import load_file, save_file

        tensors = load_file(adapter / "adapter_model.safetensors")
        grown = {name: models.drawn(f"grown {name}", tuple(x.shape), "cpu") * 0.1 for name, x in tensors.items()}
        save_file(grown, adapter / "adapter_model.safetensors")

    def compare_all(self, run, straight):
        policy, count = run.policy, 0
        pairs = [(policy.embedding, "embed_tokens"), (policy.norm, "model.norm")]
        pairs += [(policy.head, "lm_head")] if policy.head is not policy.embedding else []
        for i, layer in enumerate(policy.layers):
            pairs += [(layer.before_attention, f"layers.{i}.input_layernorm"), (layer.before_mlp, f"layers.{i}.post_attention_layernorm")]
            for maps, names in PARTS.items():
                maps = getattr(layer, maps)
                for name, gradient in zip(names, maps.weight.grad.split(maps.sizes)):
                    close(self, gradient, straight.gradient(f"layers.{i}.", name))
                    count += 1
        for parameter, name in pairs:
            close(self, parameter.grad, straight.gradient(name))
        return count + len(pairs)

    def compare_adapter(self, run, straight):
        trained = {name.rsplit(".", 1)[-1] for name, p in run.policy.named_parameters() if p.requires_grad}
        self.assertEqual(trained, {"a", "b"})
        count = 0
        for i, layer in enumerate(run.policy.layers):
            for maps, names in PARTS.items():
                maps = getattr(layer, maps)
                for name, a, b in zip(names, maps.a.grad.chunk(len(names)), maps.b.grad.split(maps.sizes)):
                    close(self, a, straight.gradient(f"layers.{i}.", name, "lora_A"))
                    close(self, b, straight.gradient(f"layers.{i}.", name, "lora_B"))
                    count += 2
        return count

    def test_later_steps_have_the_same_losses(self):
        straight = Straight(PLACE / "tiny")
        expected = [straight.step(pairs) for pairs in rows.batches(read(), BATCH)]
        self.assertGreater(min(abs(loss - math.log(2)) for loss in expected[1:]), 1e-3, "the rate moves the model")
        for spec in TWINS:
            for more in ([], ["--compile"], ["--precompute"]):
                with self.subTest(twin=spec.name, more=more):
                    run = run_of(spec, "tiny", *more)
                    batches = run.batches(read())
                    known = [run.reference_sums(*batch) if more == ["--precompute"] else None for batch in batches]
                    norms = []
                    for batch, reference, loss in zip(batches, known, expected):
                        found, norm = run.step(*batch, reference)
                        self.assertAlmostEqual(found.item(), loss, delta=1e-5)
                        norms.append(norm.item())
                    self.assertAlmostEqual(norms[0], straight.first_norm, delta=1e-5 * straight.first_norm)

    def test_padded_torch_has_the_losses_of_the_twins_in_f32(self):
        """What the suite itself cannot tell of torch_step.py, which says losses alone: the same rows, boundaries and steps."""
        program = suite.PEERS / "torch_step.py"
        if not program.exists():
            self.skipTest(f"{program} is missing")
        again = rows.write("hh", PLACE / "again.jsonl", BATCH, 1 / 16, 512)  # the same rows in every step: a loss that goes down
        for adapted in (False, True):
            with self.subTest(adapted=adapted):
                adapter = PLACE / "tiny-untied-lora"
                if adapted:
                    self.grown(adapter)
                words = [sys.executable, program, "--model", PLACE / "tiny-untied", "--data", again, "--max-length", 1 << 14,
                         "--batch", BATCH, "--warmup", 1, "--steps", STEPS - 1, *(["--lora", 4, "--adapter", adapter] if adapted else [])]
                done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)
                losses = json.loads(done.stdout.splitlines()[-1])["losses"]
                apart = 2e-6
                self.assertGreater(losses[0] - losses[-1], 20 * apart, f"the losses tell something: {losses}")
                for spec in TWINS:
                    run = run_of(spec, "tiny-untied", "--rate", 1e-5, *(["--adapter", adapter] if adapted else []))
                    for batch, loss in zip(run.batches(rows.read(again, BATCH * STEPS)), losses, strict=True):
                        self.assertAlmostEqual(run.step(*batch)[0].item(), loss, delta=apart)

    def test_without_masters_and_with_them_bf16_stays_near(self):
        for spec in TWINS:
            for masters in ("f32", "none"):
                with self.subTest(twin=spec.name, masters=masters):
                    exact, near = run_of(spec, "tiny"), run_of(spec, "tiny", "--masters", masters)
                    args = types.SimpleNamespace(**vars(near.args) | {"float32": False})
                    near = twin.Run(spec, args)
                    self.assertEqual({p.dtype for p in near.policy.parameters()}, {torch.bfloat16})
                    self.assertEqual(near.optimizer.masters is None, masters == "none")
                    for a, b in zip(exact.batches(read()), near.batches(read())):
                        self.assertAlmostEqual(exact.step(*a)[0].item(), near.step(*b)[0].item(), delta=2e-2)


class Masks(unittest.TestCase):
    def test_a_token_sees_its_own_sequence_alone(self):
        pairs = read()[:BATCH]
        for spec in TWINS:
            layout = twin.layout_of(spec, pairs, 0, "cpu")
            mask = attention.Dense.mask(layout)
            seen = [tuple(layout.ids[row].tolist()) for row in mask]
            for row, target, sequence in zip(layout.rows, layout.targets, layout.sequences):
                prompt, *completions = pairs[sequence % BATCH]
                completion = completions[sequence // BATCH]
                context = list(seen[row]) + [target.item()]
                self.assertEqual(context, (prompt + completion)[:len(context)])
                self.assertEqual(layout.positions[row].item(), len(context) - 2)
            self.assertEqual(len(layout.targets), sum(len(c) + len(r) for _, c, r in pairs))

    def test_flex_attention_goes_by_the_same_mask(self):
        torch._dynamo.reset()
        way = attention.Flex()
        for size in (1, 2, 3):
            layout = twin.layout_of(flex_twin.TWIN, read()[:size], 0, "cpu")
            total, generator = len(layout.ids), torch.Generator().manual_seed(size)
            q, k, v = (torch.randn(total, heads, 32, generator=generator) for heads in (4, 2, 2))
            with torch.no_grad():
                expected = attention.Dense.attend(q, k, v, attention.Dense.mask(layout))
                close(self, way.attend(q, k, v, way.mask(layout)), expected)
                repeated = attention.FlexRepeated()
                close(self, repeated.attend(q, k, v, repeated.mask(layout)), expected)

    def test_a_way_that_is_wrong_or_lacks_something_is_refused(self):
        class Blind(attention.Dense):
            name = "blind"
            mask = staticmethod(lambda layout: torch.ones(len(layout.ids), len(layout.ids), dtype=torch.bool))

        cpu = torch.device("cpu")
        ways = [Blind, attention.Varlen, attention.FlashAttn, attention.Flex, attention.Dense]
        way, refused = attention.choose(ways, (4, 2, 16), torch.float32, cpu, True)
        self.assertEqual(way.name, "dense")
        self.assertIn("wrong by", refused["blind"])
        with self.assertRaises(SystemExit):
            attention.choose([Blind], (4, 2, 16), torch.float32, cpu, True)


class Pieces(unittest.TestCase):
    def test_the_optimizer_with_masters_is_adamw_in_f32(self):
        torch.manual_seed(0)
        start = [torch.randn(5, 3).bfloat16(), torch.randn(7).bfloat16(), torch.randn(2, 2).bfloat16()]
        halves = [torch.nn.Parameter(x.clone()) for x in start]
        plain = [x.float().requires_grad_() for x in start]
        ours, adamw = twin.Optimizer([halves[:2], halves[2:]], 1e-4, True), torch.optim.AdamW(plain, lr=1e-4, weight_decay=0.0)
        for _ in range(20):
            gradients = [torch.randn(x.shape).bfloat16() * 0.01 for x in start]  # below the clip
            for half, whole, gradient in zip(halves, plain, gradients):
                half.grad, whole.grad = gradient.clone(), gradient.float()
            ours.step()
            adamw.step()
        masters = [master for group in ours.masters for master in group]
        for half, master, whole in zip(halves, masters, plain):
            close(self, master, whole.detach(), 1e-6)
            self.assertTrue(torch.equal(half.detach(), master.bfloat16()))
            self.assertIsNone(half.grad)

    def test_the_gradient_is_clipped_over_all_tensors(self):
        parameters = [torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(4))]
        optimizer = twin.Optimizer([[p] for p in parameters], 1.0, True)
        for p in parameters:
            p.grad = torch.full((4,), 10.0)
        seen = []
        played = lambda masters: types.SimpleNamespace(step=lambda: seen.append(masters[0].grad.clone()), zero_grad=lambda: None)
        optimizer.adamw = list(map(played, optimizer.masters))
        optimizer.step()
        self.assertAlmostEqual(torch.cat(seen).norm().item(), 1.0, places=5)

    def test_the_head_in_chunks_is_cross_entropy(self):
        torch.manual_seed(0)
        hidden, weight, targets = torch.randn(23, 8), torch.randn(31, 8), torch.randint(31, (23,))
        upstream = torch.randn(23)
        def gradients(ops):
            inputs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
            out = ops(*inputs)
            return [out, *torch.autograd.grad(out, inputs, upstream)]
        expected = gradients(lambda h, w: -F.cross_entropy(h @ w.t(), targets, reduction="none"))
        for keep in (True, False):
            for chunk in (1, 7, 23, 64):
                ops = (twin.log_normalizers, twin.logits_gradient)
                found = gradients(lambda h, w: twin.TokenLogProbs.apply(h, w, targets, chunk, keep, ops))
                for a, b in zip(found, expected):
                    close(self, a, b)

    def test_rotary_frequencies_are_those_of_transformers(self):
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        for name, config in models.MODELS.items():
            with self.subTest(model=name):
                theirs = LlamaRotaryEmbedding(LlamaConfig(**config)).inv_freq
                close(self, twin.frequencies(config), theirs, 1e-6)


class Numbers(unittest.TestCase):
    def test_weights_are_the_same_bits_everywhere(self):
        """SplitMix64 by Python's integers."""
        def splitmix(x):
            x = (x ^ (x >> 30)) * models.FIRST % 2**64
            x = (x ^ (x >> 27)) * models.SECOND % 2**64
            return x ^ (x >> 31)
        name = "model.layers.0.mlp.up_proj.weight"
        drawn = models.drawn(name, (1000,), "cpu")
        for i in (0, 1, 2, 500, 999):
            bits = splitmix((models.start(name, models.SEED) + (i + 1) * models.GOLDEN) % 2**64)
            total = sum((bits >> by) & 0xFFFF for by in (0, 16, 32, 48))
            self.assertAlmostEqual(drawn[i].item(), (total - 2 * 0xFFFF) / models.SUM_DEVIATION, places=5)
        self.assertEqual(splitmix(models.GOLDEN), 0xE220A8397B1DCDAF, "the first number of the published generator from 0")
        many = models.drawn("many", (200_000,), "cpu")
        self.assertLess(abs(many.mean().item()), 0.01)
        self.assertLess(abs(many.std().item() - 1), 0.01)
        self.assertLess(many.abs().max().item(), 3.47)
        self.assertFalse(torch.equal(models.drawn("a", (9,), "cpu"), models.drawn("b", (9,), "cpu")))

    def test_models_have_the_published_sizes(self):
        """Parameters as the models' pages state them; of Qwen2.5-0.5B less the biases of q, k and v."""
        biases = 24 * (896 + 2 * 128)
        self.assertEqual(models.parameters(models.MODELS["0.5b"]), 494_032_768 - biases)
        self.assertEqual(models.parameters(models.MODELS["1b"]), 1_235_814_400)
        self.assertEqual(models.parameters(models.MODELS["8b"]), 8_030_261_248)

    def test_shards_are_read_back(self):
        with mock.patch.object(models, "SHARD", 50_000):
            models.make("tiny", PLACE / "sharded")
        self.assertGreater(len(list((PLACE / "sharded").glob("model-*.safetensors"))), 1)
        whole, parts = (twin.reader(PLACE / name, torch.float32, "cpu") for name in ("tiny", "sharded"))
        for name, shape in models.tensors(models.MODELS["tiny"]):
            self.assertEqual(tuple(parts(name).shape), shape)
            self.assertTrue(torch.equal(whole(name), parts(name)))

    def test_texts_are_the_ids(self):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(PLACE / "tiny")
        for line in (PLACE / "rows.jsonl").read_text().splitlines():
            row = json.loads(line)
            for key in ("chosen", "rejected"):
                self.assertEqual(tokenizer(row["prompt"] + row[key])["input_ids"], row["prompt_ids"] + row[f"{key}_ids"])
                self.assertEqual(row[f"{key}_ids"][-1], tokenizer.eos_token_id)
            self.assertEqual(tokenizer(row["prompt"])["input_ids"], row["prompt_ids"])

    def test_lengths_have_the_proportions_they_are_named_for(self):
        proportion = lambda of: 2 * sum(p for p, _, _ in of) / sum(c + r for _, c, r in of)
        of = {name: rows.lengths(name, 400) for name in rows.SETS}
        self.assertEqual(set(of["dense-1k"]), {(512, 512, 512)})
        self.assertEqual(set(of["4k"]), {(2048, 2048, 2048)})
        self.assertAlmostEqual(proportion(of["ultrafeedback"]), 0.4, delta=0.05)
        self.assertGreaterEqual(proportion(of["hh"]), 2)
        self.assertTrue(all(p >= 1.5 * max(c, r) for p, c, r in of["hh"]))
        self.assertEqual(of["hh"][:100], rows.lengths("hh", 100), "more rows do not change the first")
        skewed = sorted(p for p, _, _ in of["ultrafeedback"])
        self.assertGreater(sum(skewed) / len(skewed), 1.2 * skewed[len(skewed) // 2])

    def test_operations_are_those_that_pytorch_counts(self):
        """Matrix products of a packed step by torch's own counter, and the attention's visible pairs one by one."""
        from torch.utils.flop_counter import FlopCounterMode

        pairs = read()[:BATCH]
        lengths = [tuple(map(len, pair)) for pair in pairs]
        for spec, name in zip(TWINS, ("prompts_twice", "prompts_once")):
            for adapter, rank in ((None, 0), (PLACE / "tiny-lora", 4)):
                with self.subTest(twin=spec.name, rank=rank):
                    run = run_of(spec, "tiny", *(["--adapter", adapter] if adapter else []))
                    layout, mask = run.batches(read())[0]
                    attended = []
                    def nothing(q, k, v, mask):  # leaves the products of the maps to the counter
                        attended.append((2 if q.requires_grad else 0) + 1)
                        return q + (k.repeat_interleave(2, 1) + v.repeat_interleave(2, 1))
                    run.attention = types.SimpleNamespace(attend=nothing, name="nothing")
                    with FlopCounterMode(display=False) as counter:
                        run.loss(layout, mask).backward()
                    config = run.config
                    visible = attention.Dense.mask(layout).sum().item()
                    heads = config["num_attention_heads"] * config["head_dim"]
                    of_attention = 4 * heads * visible * sum(attended)
                    counted = flops.of_step(config, lengths, rank)[name] - of_attention
                    # The first layer's input asks for no gradient when an adapter is trained.
                    spared = 0 if not rank else self.first_layer(config, rank, len(layout.ids))
                    self.assertEqual(counter.get_total_flops(), counted - spared)
                    self.assertEqual(sum(attended), 4 * config["num_hidden_layers"])

    @staticmethod
    def first_layer(config, rank, tokens):
        q, k, v = (models.linears(config)[f"self_attn.{name}_proj"] for name in "qkv")
        return 2 * tokens * sum((outputs + rank) * inputs for outputs, inputs in (q, k, v))


class Suite(unittest.TestCase):
    def arguments(self, **more):
        parsed = dict(only=None, without=None, ours="x", list=False, tiny=False, steps=20, warmup=5, flops=790e12)
        return argparse.Namespace(**parsed | more)

    def test_arms_are_chosen_by_patterns(self):
        names = lambda **more: ["/".join(arm) for arm in suite.arms(self.arguments(**more))]
        self.assertEqual(len(names()), 3 * 4 * 15)
        self.assertEqual(len(names(ours=None)), 3 * 4 * 14)
        self.assertEqual(names(only="1b/full/hh/ours*"), ["1b/full/hh/ours-masters"], "f32 masters are all that wick has on a GPU")
        self.assertEqual(names(only="1b/lora/4k/*", without="*-compiled,ours-*,padded*"),
                         [f"1b/lora/4k/{side}" for side in ("packed-bf16", "packed-masters", "shared-bf16", "shared-masters")])

    def result(self, step, losses=(0.6931, 0.69, 0.68), memory=1024, **more):
        arm = ("1b", "full", "hh", "x")
        said = {"step_s": step, "losses": list(losses), "peak_device_mb": memory} | more
        machine = {"machine": {"gpu": "G", "torch": "T"}, "begun": "2026-01-01T00:00:00Z"}
        return suite.derived(arm, said, self.arguments()) | machine

    OUT = {"failed": suite.OUT_OF_MEMORY, "machine": {"gpu": "G", "torch": "T"}, "begun": "2026-01-01"}

    def test_rates_and_bars(self):
        arm = lambda side: ("1b", "full", "hh", side)
        results = {arm("padded-amp"): self.result(2.0, memory=4096), arm("shared-masters-compiled"): self.result(0.9, memory=2048),
                   arm("packed-bf16"): self.result(1.5), arm("ours-masters"): self.result(1.0, memory=1024),
                   arm("padded-bf16"): self.OUT}
        text = suite.table(results, [], self.arguments())
        self.assertEqual(results[arm("ours-masters")]["pairs_per_s"], 16)
        self.assertIn("| tokens/s to the fastest padded (`padded-amp`) | 2.00× | ≥ 1.4 |", text)
        self.assertIn("| tokens/s to the fastest that shares prompts (`shared-masters-compiled`) | 0.90× | ≥ 1 **missed** |", text)
        self.assertIn("| memory to the smallest that keeps masters (`shared-masters-compiled`) | 0.50× | – |", text)
        self.assertIn("| padded-bf16 | out of memory |", text)
        self.assertNotIn("| 1b/full/hh | MFU, prompts once", text, "a step of fewer than 16 thousand tokens has no such bar")
        dense = suite.bars(("1b", "full", "dense-1k"), {"ours-masters": results[arm("ours-masters")],
                                                        "packed-masters": results[arm("padded-amp")]}, self.arguments())
        self.assertIn("(`packed-masters`) | 2.00× | ≥ 1.1 |", dense[0])
        self.assertIn("(`packed-masters`) | 0.25× | ≤ 0.8 |", dense[1])
        self.assertIn("| MFU, prompts once |", dense[2])
        self.assertNotIn("more than one sitting", text)
        results[arm("packed-bf16")]["machine"] = {"gpu": "other", "torch": "T"}
        self.assertIn("more than one sitting", suite.table(results, [], self.arguments()))

    def test_no_bar_disappears(self):
        """What cannot be computed says which side is missing."""
        bars = lambda lengths, **sides: "\n".join(suite.bars(("1b", "full", lengths), {side.replace("_", "-"): x for side, x in sides.items()},
                                                             self.arguments()))
        fine = self.result(1.0)
        dense = bars("dense-1k", packed_bf16=fine, packed_masters=self.OUT, ours_masters=fine)
        self.assertIn("| tokens/s to the fastest torch (`packed-bf16`) | 1.00× | ≥ 1.1 **missed** |", dense)
        self.assertIn("| memory to the smallest that keeps masters | not measured: `packed-masters` (out of memory) | ≤ 0.8 |", dense)
        for ours, why in (({"ours_masters": self.OUT}, "out of memory"), ({}, "not run")):
            dense = bars("4k", packed_bf16=fine, **ours)
            self.assertIn(f"| tokens/s to the fastest torch | not measured: `ours-masters` ({why}) | ≥ 1.1 |", dense)
            self.assertIn(f"| not measured: `ours-masters` ({why}), a side that keeps masters (not run) | ≤ 0.8 |", dense)
            self.assertIn(f"| MFU, prompts once | not measured: `ours-masters` ({why}) | ≥ 50% |", dense)
        self.assertIn("`ours-masters` (it tells no peak_device_mb)", bars("4k", packed_masters=fine, ours_masters=self.result(1.0, memory=None)))
        heavy = bars("hh", packed_bf16=fine, ours_masters=fine)
        self.assertIn("| tokens/s to the fastest padded | not measured: a padded side (not run) | ≥ 1.4 |", heavy)
        self.assertIn("| tokens/s to the fastest that shares prompts | not measured: a side that shares prompts (not run) | ≥ 1 |", heavy)
        text = suite.table({("8b", "lora", "ultrafeedback", "ours-masters"): fine}, [], self.arguments())
        for bar in ("dense-1k, 4k | tokens/s to the fastest torch", "dense-1k, 4k | memory to the smallest that keeps masters",
                    "hh | tokens/s to the fastest padded", "hh | tokens/s to the fastest that shares prompts", "MFU, prompts once",
                    "attention, forward / backward"):
            self.assertIn(f"{bar} | not measured", text)

    def test_what_keeps_masters(self):
        kept = lambda mode: [side for side in suite.SIDES if suite.keeps_masters(side, mode) and "compiled" not in side]
        self.assertEqual(kept("full"), ["padded-amp", "packed-masters", "shared-masters", "ours-masters"])
        self.assertEqual(kept("lora"), ["padded-bf16", *kept("full")], "PEFT's adapters are in f32")
        line = suite.bars(("8b", "lora", "4k"), {"padded-bf16": self.result(1.0, memory=2048), "packed-masters": self.result(1.0, memory=4096),
                                                 "ours-masters": self.result(1.0)}, self.arguments())[2]
        self.assertIn("keeps masters (`padded-bf16`) | 0.50× |", line)

    def test_memory_says_how_it_was_measured(self):
        arm = lambda side: ("1b", "full", "hh", side)
        results = {arm("packed-masters"): self.result(1.0, memory=1024, peak_reserved_mb=1536), arm("padded-amp"): self.result(1.0, memory=2048),
                   arm("ours-masters"): self.result(1.0, memory=3072)}
        text = suite.table(results, [], self.arguments())
        for cell in ("| 1.0 / 1.5 |", "| 2.0 / – |", "| – / 3.0 |", "peak GiB live / held"):
            self.assertIn(cell, text)

    def test_losses_that_part_are_told(self):
        arm = lambda side: ("1b", "full", "hh", side)
        said = lambda **sides: suite.disagreements({arm(side.replace("_", "-")): result for side, result in sides.items()})
        fine = self.result(1.0)
        self.assertEqual(said(padded_amp=fine, ours_masters=self.result(1.0, (0.695, 0.70, 0.67))), [])
        self.assertIn("first losses", said(padded_amp=fine, ours_masters=self.result(1.0, (0.71, 0.69, 0.68)))[0])
        self.assertEqual(said(padded_bf16=fine, ours_masters=self.result(1.0, (0.6931, 0.8, 0.68))), [], "later ones may part")
        self.assertIn("first losses", said(padded_amp=fine, ours_masters=self.result(1.0, (math.nan, 0.69, 0.68)))[0])
        norms = said(packed_bf16=self.result(1.0, first_gradient_norm=2.0), ours_masters=self.result(1.0, first_gradient_norm=1.8))
        self.assertIn("norms of the first gradient", norms[0])
        sums = said(packed_masters=self.result(1.0, first_reference_sums=[-100, -200]),
                    ours_masters=self.result(1.0, first_reference_sums=[-100, -202]))
        self.assertIn("log-probabilities", sums[0])
        fewer = said(packed_masters=self.result(1.0, first_reference_sums=[-100, -200]), ours_masters=self.result(1.0, first_reference_sums=[-100]))
        self.assertIn("of 1, 2 completions", fewer[0])
        self.assertIn("of 0 completions", said(ours_masters=self.result(1.0, first_reference_sums=[]))[0])
        self.assertEqual(said(packed_masters=self.result(1.0, first_reference_sums=[-100, -200], first_gradient_norm=2.0),
                              ours_masters=self.result(1.0, first_reference_sums=None, first_gradient_norm=None)), [], "null tells nothing")

    def test_an_answer_is_looked_at(self):
        args = self.arguments(steps=1, warmup=1)
        understood = lambda text: suite.understood([text] if text else [], args)
        self.assertEqual(understood('{"step_s": 0.5, "losses": [1, 2]}'), ({"step_s": 0.5, "losses": [1, 2]}, ""))
        for wrong in (None, "[]", '{"losses": [1, 2]}', '{"step_s": 0, "losses": [1, 2]}', '{"step_s": true, "losses": [1, 2]}'):
            self.assertIn("step_s", understood(wrong)[1])
        for wrong in ('{"step_s": 1, "losses": [1]}', '{"step_s": 1, "losses": [1, null]}', '{"step_s": 1}'):
            self.assertIn("2 losses", understood(wrong)[1])

    def test_a_suite_that_was_cut_off_goes_on(self):
        """Our side played by a program that notes its calls; one arm runs out of memory, one takes too long, one fails."""
        work, calls = PLACE / "work", PLACE / "calls"
        models.make("tiny", work / "tiny")
        models.make_adapter("tiny", work / f"tiny-lora{suite.RANK}", suite.RANK, "")
        program = PLACE / "ours.py"
        program.write_text(f"""
import json, sys, time
words = dict(zip(sys.argv[3::2], sys.argv[4::2]))
open({str(calls)!r}, "a").write(json.dumps([sys.argv[1:3], words]) + "\\n")
lines = open(sys.argv[2]).readlines()
assert len(lines) == (int(words["--steps"]) + int(words["--warmup"])) * int(words["--batch"])
if "dense" in sys.argv[2]: sys.exit("wick: error: Cuda::unwritten: 8 MiB of device memory are wanted for a buffer and 6 MiB are free; ask for "
    "smaller buffers, or free others")
if "ultra" in sys.argv[2]: time.sleep(60)
if "4k" in sys.argv[2]: sys.exit("it broke")
if "lora" in sys.argv and "hh" in sys.argv[2]: print("{{"); sys.exit()
open(words["--json"], "w").write(json.dumps(dict(step_s=0.5, losses=[0.6931] * (int(words["--steps"]) + int(words["--warmup"])), peak_device_mb=512)))
""")
        told = io.StringIO()
        def main(*more):
            words = ["suite.py", str(PLACE / "out"), "--tiny", "--work", str(work), "--ours", f"{sys.executable} {program}",
                     "--limit", "2", "--only", "tiny/*/ours-masters", *map(str, more)]
            before = calls.read_text().count("\n") if calls.exists() else 0
            told.seek(0), told.truncate()
            with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
                try:
                    said = suite.main()
                except SystemExit as end:
                    said = end.code
            return said, calls.read_text().count("\n") - before

        said, ran = main()
        self.assertEqual(ran, 8)
        self.assertIn("tiny/full/4k/ours-masters: it broke", said)
        self.assertIn("tiny/lora/ultrafeedback/ours-masters: no end within 2 s", said)
        self.assertNotIn("out of memory", said)
        self.assertIn("tiny/lora/hh/ours-masters: its answer is not JSON", said)
        self.assertNotIn("tiny/full/hh", said)
        self.assertEqual(main()[1], 0, "nothing runs twice")
        self.assertEqual(main("--again")[1], 7, "but what failed, when asked")
        self.assertEqual(main("--steps", 4)[1], 8, "and what was made with other settings")
        self.assertIn("tiny/full/hh/ours-masters: what", told.getvalue())
        self.assertIn("steps 3 there, 4 here", told.getvalue())
        left, ran = main("--steps", 5, "--minutes", 0.01)
        self.assertEqual((left, ran), (None, 0), "an arm that could end too late is left")
        main()
        record = json.loads((PLACE / "out/side-by-side.json").read_text())
        self.assertEqual(len(record["arms"]), 8)
        (PLACE / "earlier.json").write_text(json.dumps(record))
        shutil.rmtree(work / "arms")
        self.assertEqual(main("--resume", PLACE / "earlier.json")[1], 0, "what an earlier record has counts")
        stale = work / "arms/tiny.full.hh.ours-masters.json"
        stale.write_text(stale.read_text().replace('"steps": 3', '"steps": 2'))
        self.assertEqual(main("--resume", PLACE / "earlier.json")[1], 0, "and comes before what counts no more")
        self.resumed_elsewhere(main, record, work, told)
        first = json.loads(calls.read_text().splitlines()[0])[1]
        self.assertEqual((first["--mode"], first["--masters"], first["--batch"]), ("full", "f32", "4"))

    def resumed_elsewhere(self, main, record, work, told):
        """What another commit, GPU, torch or program has made does not count, and is not measured again in silence."""
        for key, value in (("commit", "0123456789"), ("gpu", "another"), ("torch", "0.1"), ("ours", "older")):
            other = json.loads(json.dumps(record))
            for result in other["arms"].values():
                result["settings"][key] = value
            (PLACE / "other.json").write_text(json.dumps(other))
            shutil.rmtree(work / "arms")
            said, ran = main("--resume", PLACE / "other.json")
            self.assertEqual(ran, 0)
            self.assertIn("no chosen arm was made as it would be here", said)
            self.assertIn(f"{key} {value} there", said)
            work.joinpath("arms").mkdir(exist_ok=True)
        other["arms"]["tiny/full/hh/ours-masters"] = record["arms"]["tiny/full/hh/ours-masters"]
        other["arms"] = {name: result for name, result in other["arms"].items() if "/hh/" in name}
        (PLACE / "other.json").write_text(json.dumps(other))
        self.assertEqual(main("--resume", PLACE / "other.json", "--without", "*/ultra*,*/dense*,*/4k*")[1], 1)
        self.assertIn("1 of 2 arms do not count and run again", told.getvalue())
        self.assertIn("tiny/lora/hh/ours-masters: ours older there", told.getvalue())

    def test_memory_that_is_lacking_is_known_in_all_words(self):
        wick = "wick: error: {}"
        for words in ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
                      wick.format("Cuda::unwritten: 8 MiB of device memory are wanted for a buffer and 6 MiB are free; ask for smaller buffers, or "
                                  "free others"),
                      wick.format("after step 7: cuda has no memory left, 2.0 GiB were wanted and 1.5 GiB are free; the plan; nothing is kept")):
            self.assertTrue(suite.NO_MEMORY.search(words), words)
        for words in ("it broke", "error: cuda driver: an illegal memory access", "rows.jsonl: 8 rows are wanted and 6 are free"):
            self.assertFalse(suite.NO_MEMORY.search(words), words)

    def test_a_package_has_its_own_side(self):
        folder = PLACE / "package"
        folder.mkdir()
        args = self.arguments(ours=None, python="/a b/python")
        with mock.patch.object(suite, "ROOT", folder):
            (folder / "wick").touch()
            self.assertIsNone(suite.packaged(args), "a checkout is no package")
            (folder / "ABOUT").touch()
            words = lambda **more: suite.shlex.split(suite.packaged(argparse.Namespace(**vars(args) | more)))
            adapter = str(suite.HERE / "wick.py")
            self.assertEqual(words(), ["/a b/python", adapter, "--device", "cuda", str(folder / "wick")])
            self.assertEqual(words(tiny=True), ["/a b/python", adapter, str(folder / "wick")])


class Wick(unittest.TestCase):
    """wick.py around a program that is not wick."""

    def called(self, body, *more, **environment):
        program, out = PLACE / "played-wick", PLACE / "played.json"
        out.unlink(missing_ok=True)
        program.write_text(f"#!{sys.executable}\nimport json, os, sys\n{body}\n")
        program.chmod(0o755)
        words = [sys.executable, suite.HERE / "wick.py", *more, program, "MODEL", "ROWS", "--mode", "full", "--masters", "f32", "--batch", "2",
                 "--warmup", "1", "--steps", "2", "--json", out]
        done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
        return done.returncode, done.stderr, json.loads(out.read_text()) if out.exists() else None

    def test_its_failure_is_wicks(self):
        code, said, answer = self.called('sys.exit("wick: error: no memory")')
        self.assertEqual((code, said, answer), (1, "wick: error: no memory\n", None))
        self.assertEqual(self.called("sys.exit(4)")[:2], (4, ""))
        self.assertIn("was ended by SIGKILL", self.called("os.kill(os.getpid(), 9)")[1])

    def test_on_a_device_cublas_lt_is_found_or_the_step_refused(self):
        says = lambda **more: f"print(json.dumps(dict(words=sys.argv[1:], path=os.environ.get('LD_LIBRARY_PATH'), **{more!r})))"
        folder = PLACE / "toolkit" / "lib64"
        folder.mkdir(parents=True)
        (folder / "libcublasLt.so.13").touch()
        cuda = dict(CUDA_HOME=str(folder.parent), LD_LIBRARY_PATH="/nothing")
        code, said, answer = self.called(says(cublas_lt=True), "--device", "cuda", **cuda)
        self.assertEqual((code, said, answer["path"]), (0, "", f"{folder}:/nothing"))
        self.assertEqual(answer["words"][answer["words"].index("--device") + 1], "cuda")
        code, said, answer = self.called(says(cublas_lt=False), "--device", "cuda", **cuda)
        self.assertEqual((code, answer), (1, None))
        self.assertIn(f"{folder / 'libcublasLt.so.13'} was found and could not be loaded", said)
        self.assertIn("LD_LIBRARY_PATH (docs/gpu.md)", said)
        self.assertIn("does not tell whether cuBLASLt multiplies", self.called(says(), "--device", "cuda", **cuda)[1])
        for more in ({}, {"cublas_lt": None}):
            self.assertEqual(self.called(says(**more), LD_LIBRARY_PATH="/nothing")[2]["path"], "/nothing", "the cpu needs none")
        self.assertIn("not found in LD_LIBRARY_PATH, CUDA_HOME, ", wick.refused({"cublas_lt": False}, None))

    def test_the_library_of_cuda_13_comes_before_folders(self):
        first, second = PLACE / "first", PLACE / "second"
        for folder, name in ((first, "libcublasLt.so.12"), (second, "libcublasLt.so.13")):
            folder.mkdir()
            (folder / name).touch()
        with mock.patch.dict(os.environ, {"LD_LIBRARY_PATH": f"{first}::{second}"}), mock.patch.object(wick, "known_to_ldconfig", lambda: ""):
            self.assertEqual(wick.cublas_lt(), second / "libcublasLt.so.13")
            self.assertEqual(wick.folders()[:2], [first, second])
        said = "\tlibcublasLt.so.13 (libc6,x86-64) => /some where/libcublasLt.so.13\n\tlibcublas.so.13 (libc6) => /no/libcublas.so.13\n"
        with mock.patch.object(wick, "known_to_ldconfig", lambda: said):
            self.assertIn(Path("/some where"), wick.folders())
            self.assertNotIn(Path("/no"), wick.folders())
        packages = [folder for folder in wick.folders() if str(folder).endswith("site-packages/nvidia/cu13/lib")]
        self.assertTrue(packages, "wheels of this Python")


if __name__ == "__main__":
    unittest.main(verbosity=1)
