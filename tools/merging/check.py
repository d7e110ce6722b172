"""Do transformers and peft read what `wick merge` writes, and is it what they make of the same files?

    cargo build --release -p candlewick-cli
    python tools/merging/check.py target/release/wick

Takes the small models and adapters under tests/expected/models, draws a second adapter, and compares logits with those of peft's
`merge_and_unload` and `add_weighted_adapter`. Draws a Panacea adapter too, writes `W₀ + c·U·diag(σ, s·λ)·Vᵀ` out in torch, and compares what
peft makes of `wick merge --preference`; peft must refuse the Panacea adapter itself. Exits 1 where something differs by more than 1e-5, or has no place.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

WICK = Path(sys.argv[1]).resolve()
MODELS = Path(__file__).resolve().parents[2] / "tests/expected/models"
HERE = Path(tempfile.mkdtemp())
IDS = torch.tensor([[1, 5, 30, 0, 9, 17, 4]])
failed = []


def wick(output, *words):
    subprocess.run([WICK, "merge", *map(str, words), "--output", HERE / output], check=True, stdout=subprocess.DEVNULL)
    return HERE / output


def base(name):
    return LlamaForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32)


def peft(name, adapters):
    """The model with its adapters by name, as peft reads them."""
    (first, path), *others = adapters.items()
    model = PeftModel.from_pretrained(base(name), path, adapter_name=first)
    for other, path in others:
        model.load_adapter(path, adapter_name=other)
    return model.eval()


def read(directory):
    """A whole model that was written, every tensor of which must have a place."""
    model, notes = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    wrong = {key: value for key, value in notes.items() if key in ("missing_keys", "unexpected_keys") and value}
    if wrong:
        failed.append(f"{directory.name}: {wrong}")
    return model.eval()


def placed(model, directory):
    """Every tensor of the adapter that was written has a place in peft, and the other way round."""
    ours = set(load_file(directory / "adapter_model.safetensors"))
    theirs = set(get_peft_model_state_dict(model, adapter_name="merged", save_embedding_layers=False))
    if ours != theirs:
        failed.append(f"{directory.name}: {sorted(ours ^ theirs)}")


@torch.no_grad()
def compare(what, ours, theirs):
    a, b = ours(IDS).logits.double(), theirs(IDS).logits.double()
    worst = ((a - b).abs() / b.abs().clamp(min=1)).max().item()
    print(f"{what}: {worst:.1e}")
    if not worst <= 1e-5:
        failed.append(what)


for name, first, targets in (
    ("untied_head", "adapter", ["q_proj", "up_proj", "down_proj"]),
    ("untied_head", "adapter_head", ["k_proj"]),
    ("gqa_tied", "adapter_patterns", ["o_proj", "q_proj"]),
):
    torch.manual_seed(7)
    drawn = get_peft_model(base(name), LoraConfig(r=3, lora_alpha=4, target_modules=targets))
    for parameter in drawn.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    second = HERE / f"{name} {first} second"
    drawn.save_pretrained(second)
    # peft keeps use_rslora of the first, which makes the sum too large by the root of its rank: the drawn one,
    # which is without, comes first.
    paths = {"y": second, "x": MODELS / name / first}
    both = ["--adapter", paths["y"], "--adapter", paths["x"]]
    whole = ["--base", MODELS / name]
    label = f"{name}, {first}"

    one = wick(f"{name} {first} one", *whole, "--adapter", paths["x"])
    compare(f"{label}: merge_and_unload", read(one), peft(name, {"x": paths["x"]}).merge_and_unload())

    for kind, more, theirs in (
        ("cat", "--method task_arithmetic --weight 0.75,-1.5", dict(weights=[0.75, -1.5])),
        ("svd", "--method task_arithmetic --weight 0.75,1.5 --rank 2", dict(weights=[0.75, 1.5], svd_rank=2)),
        ("ties_svd", "--method ties --density 0.5 --rank 4", dict(weights=[1.0, 1.0], svd_rank=4, density=0.5)),
    ):
        ours = wick(f"{name} {first} {kind}", *both, *more.split())
        model = peft(name, paths)
        model.add_weighted_adapter(["y", "x"], adapter_name="merged", combination_type=kind, **theirs)
        model.set_adapter("merged")
        again = peft(name, {"merged": ours})
        placed(again, ours)
        compare(f"{label}: {kind}", again, model)
    cat = read(wick(f"{name} {first} whole", *whole, *both, "--method", "task_arithmetic", "--weight", "0.75,-1.5"))
    compare(f"{label}: cat and the whole model", cat, peft(name, {"merged": HERE / f"{name} {first} cat"}))

def panacea(name, rank, alpha, preferences):
    """Draws a Panacea adapter of two linears a layer; its directory, and the model that the formula makes of it at a preference."""
    directory = HERE / f"{name} panacea"
    directory.mkdir()
    torch.manual_seed(11)
    tensors, modules = {}, ("self_attn.q_proj", "mlp.down_proj")
    weights = {key: value for key, value in base(name).named_parameters() if key.removesuffix(".weight").endswith(modules)}
    for key, weight in weights.items():
        module = "base_model.model." + key.removesuffix(".weight")
        outputs, inputs = weight.shape
        tensors[f"{module}.lora_A.weight"] = torch.randn(rank + preferences, inputs) / inputs**0.5
        tensors[f"{module}.lora_B.weight"] = torch.randn(outputs, rank + preferences) / outputs**0.5
        tensors[f"{module}.lora_sigma"], tensors[f"{module}.lora_s"] = torch.randn(rank), torch.randn(1)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "PANACEA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "bias": "none",
        "target_modules": ["q_proj", "down_proj"], "preferences": preferences, "orthogonality": 0.1,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))

    @torch.no_grad()
    def at(preference):
        model = base(name)
        for key, weight in model.named_parameters():
            module = "base_model.model." + key.removesuffix(".weight")
            if f"{module}.lora_s" not in tensors:
                continue
            values = torch.cat([tensors[f"{module}.lora_sigma"], tensors[f"{module}.lora_s"] * torch.tensor(preference)])
            b, a = tensors[f"{module}.lora_B.weight"], tensors[f"{module}.lora_A.weight"]
            weight += alpha / rank * b @ torch.diag(values) @ a
        return model.eval()

    return directory, at


for name in ("untied_head", "gqa_tied"):
    directory, at = panacea(name, 3, 4.0, 2)
    for preference in ((0.3, 0.7), (1.0, 0.0)):
        words = ["--adapter", directory, "--preference", ",".join(map(str, preference))]
        lora = wick(f"{name} panacea {preference[0]}", *words)
        model = peft(name, {"merged": lora})
        placed(model, lora)
        compare(f"{name}: panacea at {preference}", model, at(preference))
        whole = wick(f"{name} panacea {preference[0]} whole", "--base", MODELS / name, *words)
        compare(f"{name}: panacea at {preference}, the whole model", read(whole), at(preference))
    try:
        peft(name, {"x": directory})
        failed.append(f"{name}: peft took a Panacea adapter for one of its own")
    except (KeyError, ValueError) as error:
        print(f"{name}: peft refuses a Panacea adapter: {error!r}")

for name in ("sharded", "bf16", "rope_llama3", "rope_yarn"):
    compare(f"{name}: itself", read(wick(f"{name} itself", "--model", MODELS / name)), base(name))
for failure in failed:
    print("FAILED", failure)
sys.exit(bool(failed))
