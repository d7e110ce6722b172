"""Tiny seeded score models with their scores, one of them with an adapter that peft made.

    python make_score_models.py        -> tests/expected/score_models/NAME/{config.json, model.safetensors, expected.json}

Texts are scored one by one and as one batch, padded on the right: transformers finds the last token of each by the padding token.
"""
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForSequenceClassification

import common

ROOT = common.EXPECTED / "score_models"
BASE = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=32,
    max_position_embeddings=64, initializer_range=0.3, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
MODELS = {
    "reward_cost": dict(id2label={0: "reward", 1: "cost"}, label2id={"reward": 0, "cost": 1}, tie_word_embeddings=True),
    "one_head": dict(num_labels=1, problem_type="regression", tie_word_embeddings=False),
    # transformers writes no labels where there are as many as it takes by default.
    "default_labels": dict(tie_word_embeddings=False),
}
ADAPTER = dict(task_type="SEQ_CLS", r=2, lora_alpha=6, target_modules=["q_proj", "o_proj", "down_proj"], modules_to_save=["score"])
PAD = 0


def texts():
    """Seeded ids that end in the end of a text, and hold no padding."""
    return [[x or 3 for x in common.draw(seed, length, 32, 1)] + [2] for seed, length in ((5, 3), (6, 9), (7, 24))]


def load(directory, dtype, adapter):
    model = LlamaForSequenceClassification.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    model = model.to(dtype).eval()
    if dtype == torch.float64:
        common.exact(model)
    return model


@torch.no_grad()
def expectation(directory, adapter=None):
    sequences = [{"ids": ids} for ids in texts()]
    for name, dtype in (("f64", torch.float64), ("f32", torch.float32)):
        model = load(directory, dtype, adapter)
        for sequence in sequences:
            scores = model(torch.tensor([sequence["ids"]]), use_cache=False).logits[0]
            sequence[name] = [common.number(x) for x in scores]
    width = max(len(sequence["ids"]) for sequence in sequences)
    padded = torch.tensor([sequence["ids"] + [PAD] * (width - len(sequence["ids"])) for sequence in sequences])
    batch = load(directory, torch.float32, adapter)(padded, attention_mask=(padded != PAD).long(), use_cache=False).logits
    alone = torch.tensor([sequence["f32"] for sequence in sequences])
    assert torch.allclose(batch, alone, atol=2e-5), (batch, alone)
    return sequences


def save(directory, options, seed):
    torch.manual_seed(seed)
    model = LlamaForSequenceClassification(LlamaConfig(**BASE, **options))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    return model


if __name__ == "__main__":
    shutil.rmtree(ROOT, ignore_errors=True)
    for seed, (name, options) in enumerate(MODELS.items()):
        directory = ROOT / name
        model = save(directory, options, seed)
        facts = dict(f64="RMSNorm, softmax, rotary frequencies and angles in f64 too", f32="as shipped, eager attention")
        made_by = common.made_by(__file__, "torch", "transformers", **facts)
        common.write(directory / "expected.json", {"made_by": made_by, "sequences": expectation(directory)})
        if name == "reward_cost":
            adapted = get_peft_model(model, LoraConfig(**ADAPTER))
            for parameter_name, parameter in adapted.named_parameters():
                if "lora_B" in parameter_name or "modules_to_save" in parameter_name:
                    parameter.data = 0.3 * torch.randn_like(parameter)
            adapted.save_pretrained(directory / "adapter")
            (directory / "adapter" / "README.md").unlink(missing_ok=True)
            made_by = common.made_by(__file__, "torch", "transformers", "peft", **facts)
            document = {"made_by": made_by, "sequences": expectation(directory, directory / "adapter")}
            common.write(directory / "adapter" / "expected.json", document)
