#!/usr/bin/env python3
"""Models of the side-by-side suite: exact shapes, seeded random weights, in Hugging Face's layout, which every side reads.

    python3 benches/gpu/models.py 1b DIR               # config.json, bf16 safetensors, a tokenizer whose words are ids
    python3 benches/gpu/models.py 1b DIR --lora 16     # PEFT adapters for it instead, B = 0

All have the `llama` layout. Qwen2.5-0.5B's published layout has biases at q, k and v, which this project does not build; here
it has the sizes of that model and no biases (27,648 fewer of 494,032,768 parameters), for all sides alike. Ids 1 and 2 begin
and end a text.

A weight is a sum of four 16-bit numbers of SplitMix64, keyed by seed, name and index: close to a normal, cut at 3.46 standard
deviations, and the same bits on every device. Norms are 1.
"""
import argparse
import hashlib
import json
import math
import os
import shutil
from pathlib import Path

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def config(vocab, hidden, layers, heads, kv_heads, head_dim, intermediate, theta, eps, tied, positions, scaling=None):
    """The keys of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "vocab_size": vocab, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": intermediate, "rope_theta": theta,
        "rope_scaling": scaling, "rms_norm_eps": eps, "tie_word_embeddings": tied, "max_position_embeddings": positions,
        "initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
    }


MODELS = {
    "0.5b": config(151_936, 896, 24, 14, 2, 64, 4864, 1e6, 1e-6, True, 32_768),
    "1b": config(128_256, 2048, 16, 32, 8, 64, 8192, 5e5, 1e-5, True, 131_072, LLAMA3 | {"factor": 32.0}),
    "8b": config(128_256, 4096, 32, 32, 8, 128, 14_336, 5e5, 1e-5, False, 131_072, LLAMA3 | {"factor": 8.0}),
    # For machines without a GPU: what the others have, in small; heads together are wider than the stream, as in no other.
    "tiny": config(512, 64, 2, 4, 2, 32, 96, 1e4, 1e-5, True, 512,
                   LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 64}),
    "tiny-untied": config(512, 64, 2, 4, 1, 16, 96, 1e4, 1e-5, False, 512),
}
SEED = 0
DEVIATION = 0.02
SHARD = 4 << 30
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def linears(config):
    """Name of each linear map of a layer, with its outputs and inputs."""
    d, f = config["hidden_size"], config["intermediate_size"]
    q, kv = config["num_attention_heads"] * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    return {
        "self_attn.q_proj": (q, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d), "self_attn.o_proj": (d, q),
        "mlp.gate_proj": (f, d), "mlp.up_proj": (f, d), "mlp.down_proj": (d, f),
    }


def tensors(config):
    """Name and shape of every tensor of the model, in the order of the file."""
    d = config["hidden_size"]
    yield "model.embed_tokens.weight", (config["vocab_size"], d)
    for layer in range(config["num_hidden_layers"]):
        for name, shape in linears(config).items():
            yield f"model.layers.{layer}.{name}.weight", shape
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", (d,)
    yield "model.norm.weight", (d,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], d)


def parameters(config):
    return sum(math.prod(shape) for _, shape in tensors(config))


GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
SUM_DEVIATION = math.sqrt((2**32 - 1) / 3)  # of four uniform 16-bit numbers


def signed(x):
    """The 64-bit integer of the same bits, as torch has it."""
    x %= 1 << 64
    return x - (1 << 64) if x >> 63 else x


def start(name, seed):
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little")


def drawn(name, shape, device, seed=SEED):
    """Numbers of mean 0 and standard deviation 1, f32, of that shape."""
    import torch

    count, piece = math.prod(shape), 1 << 24
    out = torch.empty(count, device=device)
    shifted = lambda x, by: (x >> by) & ((1 << (64 - by)) - 1)  # a logical shift; torch's is arithmetic
    for begin in range(0, count, piece):
        x = torch.arange(begin + 1, min(begin + piece, count) + 1, device=device) * signed(GOLDEN) + signed(start(name, seed))
        x = (x ^ shifted(x, 30)) * signed(FIRST)
        x = (x ^ shifted(x, 27)) * signed(SECOND)
        x = x ^ shifted(x, 31)
        total = sum((x >> by) & 0xFFFF for by in (0, 16, 32, 48))
        out[begin:begin + piece] = (2 * total - 4 * 0xFFFF).float() * (0.5 / SUM_DEVIATION)
    return out.view(shape)


def tokenizer(vocab):
    """Token 17 is the word `t17`, between spaces: texts whose ids are known, for programs that insist on texts."""
    special = ["<unk>", "<s>", "</s>"]
    words = special + [f"t{id}" for id in range(len(special), vocab)]
    added = [{"id": id, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for id, word in enumerate(special)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: id for id, word in enumerate(words)}, "unk_token": "<unk>"},
    }


def make(name, directory, device=None):
    """Writes the model where it is not there yet; the folder gets its name when it is complete."""
    import torch
    from safetensors.torch import save_file

    directory = Path(directory)
    if directory.exists():
        found = json.loads((directory / "config.json").read_text())
        if found != MODELS[name]:
            raise SystemExit(f"{directory}: config.json is not that of {name}; remove the folder or choose another")
        return directory
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    config, partial = MODELS[name], partial_of(directory)
    shards, held, size = [], {}, 0
    for tensor, shape in tensors(config):
        bytes = 2 * math.prod(shape)
        if held and size + bytes > SHARD:
            shards.append(held)
            save_file(held, partial / f"{len(shards)}.safetensors", metadata={"format": "pt"})
            shards[-1], held, size = list(held), {}, 0
        value = torch.ones(shape) if len(shape) == 1 else drawn(tensor, shape, device) * DEVIATION
        held[tensor] = value.to(torch.bfloat16).cpu()
        size += bytes
    shards.append(list(held))
    save_file(held, partial / f"{len(shards)}.safetensors", metadata={"format": "pt"})
    files = ["model.safetensors"] if len(shards) == 1 else [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for i, file in enumerate(files):
        (partial / f"{i + 1}.safetensors").rename(partial / file)
    if len(files) > 1:
        places = {tensor: file for file, names in zip(files, shards) for tensor in names}
        index = {"metadata": {"total_size": 2 * parameters(config)}, "weight_map": places}
        (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    words = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
             "add_bos_token": False, "model_max_length": config["max_position_embeddings"]}
    (partial / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (partial / "tokenizer.json").write_text(json.dumps(tokenizer(config["vocab_size"])))
    (partial / "tokenizer_config.json").write_text(json.dumps(words, indent=1) + "\n")
    os.rename(partial, directory)
    return directory


def make_adapter(name, directory, rank, base):
    """A PEFT adapter of all linears in f32: A uniform within the inverse root of the inputs, B = 0, as PEFT begins; alpha twice the rank."""
    import torch
    from safetensors.torch import save_file

    directory = Path(directory)
    if directory.exists():
        return directory
    config, partial, held = MODELS[name], partial_of(directory), {}
    for layer in range(config["num_hidden_layers"]):
        for linear, (outputs, inputs) in linears(config).items():
            place = f"base_model.model.model.layers.{layer}.{linear}"
            uniform = torch.erf(drawn(f"{place}.lora_A", (rank, inputs), "cpu") / math.sqrt(2))
            held[f"{place}.lora_A.weight"] = uniform / math.sqrt(inputs)
            held[f"{place}.lora_B.weight"] = torch.zeros(outputs, rank)
    save_file(held, partial / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": rank, "lora_alpha": 2 * rank,
                "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "target_modules": LINEARS, "inference_mode": False}
    (partial / "adapter_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    os.rename(partial, directory)
    return directory


def partial_of(directory):
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--lora", type=int, metavar="RANK", help="the adapter instead of the model")
    parser.add_argument("--base", type=Path, help="with --lora: the model's folder, as the adapter names it", default="")
    words = parser.parse_args()
    if words.lora:
        make_adapter(words.model, words.directory, words.lora, words.base)
    else:
        make(words.model, words.directory)
