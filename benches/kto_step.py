#!/usr/bin/env python3
"""One KTO step in plain PyTorch, written to be fast: what `wick bench step --objective kto` is measured against.

    python benches/kto_step.py --model DIR --data rows.jsonl --batch 16 --steps 8      # one JSON line
    python benches/kto_step.py --model DIR --data rows.jsonl --trl                     # the same rows by TRL's KTOTrainer

Rows have a prompt, a completion (or response) and a label. transformers' Llama with SDPA attention, right-padded batches, the head on
completion positions only, a frozen copy (or the adapter switched off, or cached log-probabilities) as reference, fused AdamW.
KTO needs four forward passes: the policy's and the reference's on the rows, and both on as many mismatched ones, which only estimate
how far the policy has drifted; all but the first run without a graph, and the reference takes rows and mismatched rows as one batch.

Tokens, boundaries and mismatched completions are those of TRL 1.16 (`KTOTrainer._prepare_dataset`): the completion begins where the
tokens of the prompt and those of the whole text part, and within a batch every prompt meets the completion of the row before it,
the first the last row's. `--trl` hands over to `trl_step.py --trainer kto` with the same words.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("CANDLEWICK_SHARED", ROOT.parent / "shared"))
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def words():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--lora", type=int, default=0, help="rank; 0 = full fine-tuning")
    parser.add_argument("--adapter", help="with --lora: start from this PEFT adapter, or write the seeded start there")
    parser.add_argument("--precompute", action="store_true", help="the reference's log-probabilities before the clock starts")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--trl", action="store_true", help="TRL's KTOTrainer instead")
    parser.add_argument("--peers", type=Path, default=SHARED / "peers", help="where trl_step.py is")
    args = parser.parse_args()
    if args.batch < 2:
        parser.error("a mismatched completion is another row's: --batch must be at least 2")
    return args


def by_trl(args):
    """Becomes `trl_step.py --trainer kto`."""
    command = [
        sys.executable, args.peers / "trl_step.py", "--trainer", "kto", "--model", args.model, "--data", args.data,
        "--batch", args.batch, "--steps", args.steps, "--warmup", args.warmup, "--max-length", args.max_length,
        "--threads", args.threads, "--lora", args.lora, *(["--precompute"] if args.precompute else []),
    ]
    os.execv(sys.executable, list(map(str, command)))


def main():
    args = words()
    if args.trl:
        by_trl(args)
    import torch
    import torch.nn.functional as F
    from transformers import AutoTokenizer, LlamaForCausalLM

    if args.threads:
        torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    load = lambda: LlamaForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="sdpa")
    policy, frozen = load(), None
    if args.lora:
        policy = adapted(policy, args)
    else:
        frozen = load().eval().requires_grad_(False)
    trainable = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-5, weight_decay=0.0, fused=True)

    def padded(sequences):
        """Ids, attention and which tokens belong to a completion, `[rows, longest]` each, of (prompt, completion) pairs."""
        longest = max(len(prompt) + len(completion) for prompt, completion in sequences)
        ids = torch.full((len(sequences), longest), tokenizer.eos_token_id)
        attention, scored = torch.zeros_like(ids), torch.zeros(ids.shape, dtype=torch.bool)
        for i, (prompt, completion) in enumerate(sequences):
            whole = len(prompt) + len(completion)
            ids[i, :whole] = torch.tensor(prompt + completion)
            attention[i, :whole] = 1
            scored[i, len(prompt):whole] = True
        return ids, attention, scored

    def log_probs(model, ids, attention, scored):
        """The sum over each completion, `[rows]`."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        hidden = base.model(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state[:, :-1]
        after = scored[:, 1:]
        tokens = -F.cross_entropy(base.lm_head(hidden[after]), ids[:, 1:][after], reduction="none")
        return torch.zeros(after.shape).masked_scatter(after, tokens).sum(1)

    def reference(both):
        with torch.no_grad():
            if frozen is not None:
                return log_probs(frozen, *both)
            with policy.disable_adapter():
                return log_probs(policy, *both)

    batches = []
    for rows in chunks(encoded(args, tokenizer), args.batch):
        mismatched = [(own[0], other[1][: args.max_length - len(own[0])]) for own, other in zip(rows, rows[-1:] + rows[:-1])]
        matched = [row[:2] for row in rows]
        sign = torch.tensor([1.0 if row[2] else -1.0 for row in rows])
        batches.append((padded(matched), padded(mismatched), padded(matched + mismatched), sign))
    cached = [reference(both) if args.precompute else None for _, _, both, _ in batches]
    if args.compile:
        log_probs = torch.compile(log_probs, dynamic=True)

    seconds, losses, tokens = [], [], []
    for (matched, mismatched, both, sign), known in zip(batches, cached):
        start = time.perf_counter()
        of_reference, of_mismatched = (reference(both) if known is None else known).chunk(2)
        with torch.no_grad():
            drift = (log_probs(policy, *mismatched) - of_mismatched).mean().clamp(min=0)
        ratio = log_probs(policy, *matched) - of_reference
        loss = (1 - torch.sigmoid(sign * args.beta * (ratio - drift))).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        tokens.append(int(matched[1].sum()))
    step = statistics.median(seconds[args.warmup:])
    print(json.dumps({
        "peer": "torch", "trainer": "kto", "device": "cpu", "batch": args.batch, "lora": args.lora, "precompute": args.precompute,
        "compile": args.compile, "step_s": step, "pairs_per_s": args.batch / step,
        "tokens_per_s": sum(tokens[args.warmup:]) / sum(seconds[args.warmup:]),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "losses": losses,
    }))


def adapted(model, args):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    if args.adapter and os.path.exists(args.adapter):
        return PeftModel.from_pretrained(model, args.adapter, is_trainable=True)
    torch.manual_seed(0)
    config = LoraConfig(r=args.lora, lora_alpha=2 * args.lora, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=LINEARS)
    model = get_peft_model(model, config)
    if args.adapter:
        model.save_pretrained(args.adapter)
    return model


def encoded(args, tokenizer):
    """(prompt, completion, verdict) of as many rows as the steps need, from the start again when the file ends."""
    need = (args.steps + args.warmup) * args.batch
    rows = []
    with open(args.data) as lines:
        for line in lines:
            row = json.loads(line)
            answer = row["completion"] if "completion" in row else row["response"]
            prompt, whole = tokenizer(row["prompt"])["input_ids"], tokenizer(row["prompt"] + answer)["input_ids"]
            if not whole or whole[-1] != tokenizer.eos_token_id:
                whole = whole + [tokenizer.eos_token_id]
            boundary = next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), min(len(prompt), len(whole)))
            if not 0 < boundary < min(len(whole), args.max_length):
                sys.exit(f"{args.data}:{len(rows) + 1}: the prompt or the completion has no token")
            rows.append((whole[:boundary], whole[boundary:args.max_length], row["label"]))
            if len(rows) == need:
                break
    return (rows * (need // len(rows) + 1))[:need]


def chunks(rows, size):
    return [rows[i:i + size] for i in range(0, len(rows), size)]


if __name__ == "__main__":
    main()
