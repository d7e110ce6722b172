//! Words of other libraries, and what stands for them in a configuration here.
//!
//! Whoever moves a run from TRL, LLaMA-Factory or axolotl first writes the words of before. Where such a word is no key, the
//! error tells the key, or why there is none.

/// What a word of another library is here.
enum Here {
    /// A key, with its value where that is what the word asks for.
    Key(&'static str),
    /// No key.
    Because(&'static str),
}

use Here::{Because, Key};

/// Words of TRL and transformers, PEFT, LLaMA-Factory and axolotl that mean one thing, and what that is here.
const WORDS: &[(&[&str], Here)] = &[
    (&["model_name_or_path", "base_model"], Key("model.path")),
    (&["adapter_name_or_path"], Key("model.adapter")),
    (&["use_peft", "finetuning_type", "lora_config", "peft_config"], Key("model.lora = { rank = 16, alpha = 32.0 }")),
    (&["r", "lora_r", "lora_rank"], Key("model.lora.rank")),
    (&["lora_alpha"], Key("model.lora.alpha")),
    (&["lora_target", "lora_target_modules", "target_modules"], Key("model.lora.targets")),
    (&["use_rslora", "peft_use_rslora"], Key("model.lora.rank_stabilised = true")),
    (&["lora_dropout", "disable_dropout"], Because("nothing is dropped out here, as under disable_dropout = True")),
    (&["dataset", "dataset_name", "dataset_path", "train_dataset", "datasets"], Key("data.path")),
    (&["dataset_config", "dataset_config_name"], Key("data.subset")),
    (&["dataset_train_split"], Key("data.split")),
    (&["max_length", "cutoff_len", "sequence_len", "max_seq_length"], Key("data.max_length")),
    (&["max_prompt_length"], Key("data.max_prompt_length")),
    (&["max_completion_length", "max_target_length"], Key("data.max_completion_length")),
    (&["truncation_mode"], Key("data.truncation")),
    (&["dataloader_num_workers", "dataset_num_proc", "preprocessing_num_workers"], Key("data.workers")),
    (
        &[
            "padding_free",
            "packing",
            "sample_packing",
            "eval_sample_packing",
            "pad_to_multiple_of",
            "pad_to_sequence_len",
        ],
        Because("rows are always packed here and never padded, and a prompt is computed once for its completions"),
    ),
    (
        &["use_liger_kernel", "use_logits_to_keep", "flash_attention", "attn_implementation"],
        Because("what it saves is always saved here"),
    ),
    (&["eval_dataset", "test_datasets"], Key("evaluation.path")),
    (&["dataset_test_split"], Key("evaluation.split")),
    (&["val_size", "val_set_size"], Key("evaluation.held_out")),
    (&["eval_steps", "eval_strategy", "evals_per_epoch"], Key("evaluation.every")),
    (&["eval_on_start"], Key("evaluation.at_start = true")),
    (&["per_device_eval_batch_size", "eval_batch_size"], Key("evaluation.batch_size")),
    (&["loss_type", "pref_loss", "rl"], Key("objective.type")),
    (&["beta", "pref_beta", "rl_beta"], Key("objective.beta")),
    (
        &["loss_weights", "rpo_alpha", "pref_ftx"],
        Key(
            r#"objective.parts, as in objective = { type = "mix", parts = [{ weight = 1.0, loss = { type = "dpo" } }, { weight = 1.0, loss = { type = "sft" } }] }"#,
        ),
    ),
    (&["sync_ref_model"], Key(r#"objective.type = "tr_dpo""#)),
    (
        &["ref_model_mixup_alpha", "ref_model_sync_steps"],
        Key(
            r#"objective.update, as in objective = { type = "tr_dpo", update = { soft = { alpha = 0.6, every = 512 } } }"#,
        ),
    ),
    (
        &["reference_free"],
        Because(r#"a loss without a reference has a name of its own: objective.type = "simpo", "cpo" or "orpo""#),
    ),
    (&["ref_model", "ref_model_path"], Key("reference.path")),
    (&["precompute_ref_log_probs"], Key(r#"reference.kind = "precomputed""#)),
    (&["optim", "optimizer_type"], Key("optimizer.kind")),
    (&["lr", "learning_rate"], Key("optimizer.learning_rate")),
    (&["weight_decay"], Key("optimizer.weight_decay")),
    (&["max_grad_norm", "gradient_clipping"], Key("optimizer.max_grad_norm")),
    (&["adam_beta1"], Key("optimizer.beta1")),
    (&["adam_beta2"], Key("optimizer.beta2")),
    (&["adam_epsilon"], Key("optimizer.eps")),
    (&["loraplus_lr_ratio"], Key("optimizer.lora_plus_ratio")),
    (&["lr_scheduler", "lr_scheduler_type"], Key("schedule.kind")),
    (&["lr_scheduler_kwargs"], Because("its keys stand beside schedule.kind")),
    (&["warmup_steps"], Key("schedule.warmup_steps")),
    (&["warmup_ratio"], Key("schedule.warmup_steps, a number of steps")),
    (&["per_device_train_batch_size", "micro_batch_size"], Key("train.batch_size")),
    (&["gradient_accumulation_steps"], Key("train.micro_batches")),
    (&["auto_find_batch_size"], Key(r#"train.tokens = "auto""#)),
    (&["group_by_length", "train_sampling_strategy"], Key("train.bucket")),
    (&["gradient_checkpointing", "gradient_checkpointing_kwargs"], Key(r#"train.recompute = "layers""#)),
    (&["max_steps"], Key("train.steps")),
    (&["num_train_epochs", "num_epochs"], Key("train.epochs")),
    (&["data_seed"], Key("train.seed")),
    (&["bf16", "fp16", "torch_dtype"], Key(r#"train.dtype, "bf16" or "f32""#)),
    (&["use_cpu", "no_cuda", "device_map"], Key(r#"train.device, "cpu", "cuda" or "cuda:N""#)),
    (&["output_dir"], Key("output.dir")),
    (&["save_steps", "save_strategy", "saves_per_epoch"], Key("output.save_every")),
    (&["save_total_limit"], Key("output.keep")),
    (&["load_best_model_at_end"], Key(r#"output.result = "best""#)),
    (&["metric_for_best_model"], Key("watch.metric")),
    (&["greater_is_better"], Key(r#"watch.goal, "greatest" or "least""#)),
    (&["early_stopping_patience"], Key("watch.patience")),
    (&["early_stopping_threshold"], Key("watch.min_delta")),
    (
        &["logging_steps", "logging_strategy", "report_to", "plot_loss"],
        Because("every step is logged; `wick report` draws it"),
    ),
    (&["resume_from_checkpoint"], Because("`wick train --resume` goes on from the newest checkpoint of the run")),
    (
        &["deepspeed", "fsdp", "ddp_timeout", "load_in_4bit", "load_in_8bit", "quantization_bit"],
        Because("one process trains on one device, and weights are f32 or bf16"),
    ),
];

/// What stands here for a word of another library, as the end of a sentence; nothing of words that are not known.
pub(crate) fn here(word: &str) -> Option<String> {
    let (_, here) = WORDS.iter().find(|(theirs, _)| theirs.contains(&word))?;
    Some(match here {
        Key(key) => format!("{word} of other libraries is here {key}"),
        Because(reason) => format!("{word} of other libraries has no key here: {reason}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Words;

    #[test]
    fn every_key_is_one() {
        let error = |text: &str| Words::parse(text, "test").unwrap().config().err().map(|e| e.to_string());
        for (theirs, here) in WORDS {
            let Key(here) = here else { continue };
            let example = here.rsplit_once(", as in ").map_or(*here, |(_, example)| example);
            if example.contains(" = ") {
                assert_eq!(error(example), None, "{theirs:?}: {example}");
            } else {
                // A value that hardly a key takes: what matters is that it is the value that is refused.
                let key = here.split(',').next().unwrap();
                let said = error(&format!("{key} = {{}}")).unwrap_or_default();
                assert!(!said.contains("unknown key"), "{theirs:?}: {key}: {said}");
            }
        }
    }

    #[test]
    fn a_word_stands_once() {
        let mut all: Vec<&str> = WORDS.iter().flat_map(|(theirs, _)| *theirs).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn what_is_said_of_them() {
        let error = |text: &str| Words::parse(text, "test").unwrap().config().unwrap_err().to_string();
        for (text, expected) in [
            (
                "train.bf16 = true",
                r#"train.bf16: unknown key; bf16 of other libraries is here train.dtype, "bf16" or "f32""#,
            ),
            (
                "schedule.warmup_ratio = 0.1",
                "schedule.warmup_ratio: unknown key; warmup_ratio of other libraries is here schedule.warmup_steps, a number of steps",
            ),
            (
                "train.learning_rate = 1e-5",
                "train.learning_rate: unknown key; learning_rate of other libraries is here optimizer.learning_rate",
            ),
            ("gradient_checkpointing = true", r#"is here train.recompute = "layers""#),
            ("objective.rpo_alpha = 1.0", "rpo_alpha of other libraries is here objective.parts, as in"),
            ("train.packing = true", "packing of other libraries has no key here: rows are always packed"),
        ] {
            assert!(error(text).contains(expected), "{}", error(text));
        }
        let error = Words::default().set("bf16=true").unwrap_err().to_string();
        assert!(error.contains("train.dtype"), "{error}");
    }
}
