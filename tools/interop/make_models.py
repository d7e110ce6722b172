"""Tiny seeded Llama models, one for each option of the architecture and of the file layout, with their logits.

    python make_models.py        -> tests/expected/models/NAME/{config.json, model*.safetensors, expected.json}

The weights stand beside the numbers (about 20 KB a model), so the comparison runs on any checkout. Configurations are written in both
generations of the format: `rope_parameters` as transformers 5 does, `rope_scaling` and `rope_theta` as version 4 did.
"""
import json
import shutil

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import common

ROOT = common.EXPECTED / "models"
BASE = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=32,
    max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.3, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2, pad_token_id=None,
)
rope = lambda kind, theta=10000.0, **more: {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}
# name -> (options, form of config.json, how the weights are stored)
MODELS = {
    "gqa_tied": (rope("default"), 5, {}),
    "untied_head": ({"tie_word_embeddings": False, "head_dim": 8, "num_key_value_heads": 1, **rope("default", 500000.0)}, 4, {}),
    "rope_linear": ({"head_dim": 8, **rope("linear", factor=4.0)}, 4, {}),
    "rope_llama3": ({"head_dim": 8, "max_position_embeddings": 256, **rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)}, 4, {}),
    "rope_yarn": ({"head_dim": 8, "max_position_embeddings": 256, **rope(
        "yarn", factor=4.0, original_max_position_embeddings=64)}, 5, {}),
    "sharded": ({"tie_word_embeddings": False, **rope("default")}, 5, {"max_shard_size": "9KB"}),
    "bf16": (rope("default"), 5, {"dtype": torch.bfloat16}),
}
ADAPTERS = {
    "untied_head": {
        "adapter": dict(r=2, lora_alpha=6, target_modules=["q_proj", "o_proj", "down_proj"]),
        "adapter_head": dict(r=2, lora_alpha=4, target_modules=["lm_head", "v_proj"]),
    },
    "gqa_tied": {"adapter_patterns": dict(
        r=2, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"],
        rank_pattern={"up_proj": 3}, alpha_pattern={"v_proj": 1})},
}


def version_4(directory):
    """The same configuration under the keys of transformers 4."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    settings = config.pop("rope_parameters")
    config["rope_theta"] = settings.pop("rope_theta")
    config["rope_scaling"] = None if settings["rope_type"] == "default" else settings
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.41.2"
    path.write_text(json.dumps(config, indent=2) + "\n")


def stirred(model, seed):
    """Norms away from one and B away from zero: a test on neutral values would pass without them."""
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=draw)
        if "lora_B" in name:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=draw)
    return model


def expect(path, directory, adapter=None):
    cases = [(common.draw(11, 9, 32, 1), list(range(9))), (common.draw(12, 56, 32, 1), [31, 47, 55])]
    vocab_ids = list(range(32))
    common.write(path, {
        "made_by": common.made_by(__file__, "torch", "transformers", *(["peft"] if adapter else []),
                                  model=directory.name, adapter=adapter.name if adapter else None),
        "vocab_ids": vocab_ids,
        "sequences": common.expectation(directory, cases, vocab_ids, adapter),
        "greedy": common.greedy(directory, common.draw(13, 4, 32, 1), 12, adapter),
    })


shutil.rmtree(ROOT, ignore_errors=True)
for seed, (name, (options, form, storage)) in enumerate(MODELS.items()):
    directory = ROOT / name
    torch.manual_seed(seed)
    model = stirred(LlamaForCausalLM(LlamaConfig(**{**BASE, **options})), seed)
    storage = dict(storage)
    model.to(storage.pop("dtype", torch.float32)).save_pretrained(directory, **storage)
    (directory / "generation_config.json").unlink()
    if form == 4:
        version_4(directory)
    expect(directory / "expected.json", directory)
    for label, lora in ADAPTERS.get(name, {}).items():
        torch.manual_seed(seed)
        base = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
        tuned = stirred(get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **lora)), 40 + seed)
        tuned.peft_config["default"].base_model_name_or_path = name
        tuned.save_pretrained(directory / label, save_embedding_layers=False)
        (directory / label / "README.md").unlink()
        path = directory / label / "adapter_config.json"  # peft writes a set in whatever order
        settings = json.loads(path.read_text())
        settings["target_modules"] = sorted(settings["target_modules"])
        path.write_text(json.dumps(settings, indent=2) + "\n")
        expect(directory / label / "expected.json", directory, directory / label)
