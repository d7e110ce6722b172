"""Do Python's transformers and peft read what was written here, and give the same logits?

    python check_logits.py --model DIR [--adapter DIR] [--tolerance 1e-5] LOGITS.json

LOGITS.json: {"sequences": [{"ids": [..], "logits": [[.. V ..] .. T ..]}, ..]} as computed by this library for the same directories.
Compares |a - b| / max(1, |b|) over all of them and exits 1 above the tolerance. Missing or unexpected tensors are failures too.
"""
import argparse
import json
import sys
from pathlib import Path

import common
import torch
from transformers import LlamaForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--model", type=Path, required=True)
parser.add_argument("--adapter", type=Path)
parser.add_argument("--tolerance", type=float, default=1e-5)
parser.add_argument("logits", type=Path)
args = parser.parse_args()

model, notes = LlamaForCausalLM.from_pretrained(
    args.model, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
wrong = {k: sorted(map(str, v)) for k, v in notes.items() if k in ("missing_keys", "unexpected_keys", "mismatched_keys") and v}
if wrong:
    sys.exit(f"{args.model}: transformers found {wrong}")
if args.adapter:
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    model = PeftModel.from_pretrained(model, args.adapter)
    placed = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    stored = set(safe_open(args.adapter / "adapter_model.safetensors", "pt").keys())
    if placed != stored:  # peft itself only warns
        sys.exit(f"{args.adapter}: only in the file {sorted(stored - placed)}, only in peft {sorted(placed - stored)}")
sequences = json.loads(args.logits.read_text())["sequences"]
if not sequences:
    sys.exit(f"{args.logits}: no sequence in it")
worst = 0.0
with torch.no_grad():
    for sequence in sequences:
        theirs = model.eval()(torch.tensor([sequence["ids"]]), use_cache=False).logits[0].double()
        ours = torch.tensor(sequence["logits"], dtype=torch.float64)
        if ours.shape != theirs.shape:
            sys.exit(f"logits are {tuple(ours.shape)}; {tuple(theirs.shape)} expected")
        worst = max(worst, ((ours - theirs).abs() / theirs.abs().clamp(min=1)).max().item())
what = f"{args.model.resolve().parent.name}/{args.model.name}{' + ' + args.adapter.name if args.adapter else ''}"
print(f"{what}: {len(sequences)} sequences, largest deviation {worst:.2e} (tolerance {args.tolerance:.0e})")
sys.exit(not worst <= args.tolerance)
