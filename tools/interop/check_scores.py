"""Do Python's transformers and peft read the score models that were written here, and give the same scores?

    python check_scores.py --model DIR [--adapter DIR] [--tolerance 1e-5] SCORES.json

SCORES.json: {"sequences": [{"ids": [..], "scores": [.. K ..]}, ..]} as computed by this library for the same directories.
Compares |a - b| / max(1, |b|) and exits 1 above the tolerance. Missing or unexpected tensors are failures too, but for the heads of a
causal language model under an adapter that brings its own.
"""
import argparse
import json
import sys
from pathlib import Path

import common
import torch
from transformers import AutoModelForSequenceClassification

parser = argparse.ArgumentParser()
parser.add_argument("--model", type=Path, required=True)
parser.add_argument("--adapter", type=Path)
parser.add_argument("--tolerance", type=float, default=1e-5)
parser.add_argument("scores", type=Path)
args = parser.parse_args()

sequences = json.loads(args.scores.read_text())["sequences"]
if not sequences:
    sys.exit(f"{args.scores}: no sequence in it")
causal = "ForCausalLM" in json.loads((args.model / "config.json").read_text())["architectures"][0]
heads = {"num_labels": len(sequences[0]["scores"])} if causal else {}
model, notes = AutoModelForSequenceClassification.from_pretrained(
    args.model, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **heads)
wrong = {k: sorted(map(str, v)) for k, v in notes.items() if k in ("missing_keys", "unexpected_keys", "mismatched_keys") and v}
if wrong and not (causal and args.adapter):
    sys.exit(f"{args.model}: transformers found {wrong}")
if args.adapter:
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    model = PeftModel.from_pretrained(model, args.adapter)
    placed = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    stored = set(safe_open(args.adapter / "adapter_model.safetensors", "pt").keys())
    if placed != stored:  # peft itself only warns
        sys.exit(f"{args.adapter}: only in the file {sorted(stored - placed)}, only in peft {sorted(placed - stored)}")
worst = 0.0
with torch.no_grad():
    for sequence in sequences:
        theirs = model.eval()(torch.tensor([sequence["ids"]]), use_cache=False).logits[0].double()
        ours = torch.tensor(sequence["scores"], dtype=torch.float64)
        if ours.shape != theirs.shape:
            sys.exit(f"scores are {tuple(ours.shape)}; {tuple(theirs.shape)} expected")
        worst = max(worst, ((ours - theirs).abs() / theirs.abs().clamp(min=1)).max().item())
what = f"{args.model.resolve().parent.name}/{args.model.name}{' + ' + args.adapter.name if args.adapter else ''}"
labels = list(model.config.id2label.values())
print(f"{what}: heads {labels}, {len(sequences)} sequences, largest deviation {worst:.2e} (tolerance {args.tolerance:.0e})")
sys.exit(not worst <= args.tolerance)
