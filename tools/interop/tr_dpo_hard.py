"""Writes tests/expected/tr_dpo_hard.json: a run of TRL's DPO whose reference becomes the policy every four steps, and its model.

    python tools/interop/tr_dpo_hard.py        (requirements.txt beside it)

The model is tests/expected/models/untied_head; rows are token ids made here by a seed, of no text. TRL packs, scores, updates and moves
the reference itself (`sync_ref_model`, alpha 1, every 4 steps). What it saw and found is written in the form that `cargo run --example
parity` replays. TRL copies after the optimizer's step: the loss of steps 5 and 9 is ln 2 again.
"""
import math
import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

import common

NAME, MODEL = "tr_dpo_hard", "untied_head"
STEPS, BATCH, EVERY, LR, BETA = 12, 4, 4, 2e-3, 0.5
OPTIMIZER = {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "max_grad_norm": 1.0, "schedule": "constant"}


def tokenizer():
    """A word for every id."""
    words = {f"w{i}": i for i in range(32)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0", bos_token="w1", eos_token="w2", pad_token="w0")


def rows(count):
    generator = torch.Generator().manual_seed(7)
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=generator))
    text = lambda length: " ".join(f"w{draw(3, 32)}" for _ in range(length))
    return [
        {"prompt": text(draw(2, 6)), "chosen": " " + text(draw(1, 6)), "rejected": " " + text(draw(1, 6))} for _ in range(count)
    ]


class Recorder(DPOTrainer):
    """Keeps the batches and the losses of micro-batches."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        kept = {name: inputs[name].tolist() for name in ("input_ids", "attention_mask", "completion_mask")}
        self.recorded.append(kept)
        result = super().compute_loss(model, inputs, *args, **kwargs)
        self.losses.append(float((result[0] if isinstance(result, tuple) else result).detach()))
        return result


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    directory = common.EXPECTED / "models" / MODEL
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    options = {"beta": BETA, "sync_ref_model": True, "ref_model_mixup_alpha": 1.0, "ref_model_sync_steps": EVERY}
    with tempfile.TemporaryDirectory() as output:
        config = DPOConfig(
            output_dir=output, max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=LR, lr_scheduler_type="constant",
            optim="adamw_torch", weight_decay=0.0, max_grad_norm=1.0, max_length=256, logging_steps=1, save_strategy="no", bf16=False,
            report_to=[], use_cpu=True, gradient_checkpointing=False, disable_dropout=True, **options,
        )
        trainer = Recorder(model=model, ref_model=AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), args=config,
                           train_dataset=Dataset.from_list(rows(STEPS * BATCH)), processing_class=tokenizer())
        trainer.recorded, trainer.losses = [], []
        trainer.train()
    logs = [{key: value for key, value in log.items() if isinstance(value, float)} for log in trainer.state.log_history if "loss" in log]
    for step in range(EVERY, STEPS, EVERY):
        assert abs(trainer.losses[step] - math.log(2)) < 1e-6 < abs(trainer.losses[step - 1] - math.log(2)), trainer.losses
    sums = {name: [p.detach().double().sum().item(), p.detach().double().square().sum().item()] for name, p in model.named_parameters()}
    fixture = {
        "name": NAME, "trainer": "dpo", "options": options, "steps": STEPS, "batch_size": BATCH, "gradient_accumulation_steps": 1,
        "lr": LR, "optimizer": OPTIMIZER, "max_length": 256, "logs": logs, "micro_losses": trainer.losses,
        "batches": trainer.recorded, "final_params_sum_sumsq": sums,
    }
    common.write(common.EXPECTED / f"{NAME}.json", {"made_by": common.made_by(__file__, "trl", "transformers", "torch"), **fixture})


main()
