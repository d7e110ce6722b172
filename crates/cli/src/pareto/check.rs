//! What is wrong, found before the first run.

use std::path::Path;

use anyhow::{Result, bail};
use candlewick::data::{EncodeOptions, Encoder, EndOfSequence};
use candlewick::model::Config as ModelConfig;
use candlewick::train::Prompt;

use super::policies::Named;
use super::words::Pareto;
use crate::data::name;
use crate::failure::Failure;

/// That the words go together, as far as they alone tell.
pub(super) fn words(arguments: &Pareto) -> Result<()> {
    arguments.draws.check()?;
    let Pareto { common, course, .. } = arguments;
    if arguments.sweep.is_empty() && arguments.policies.is_empty() {
        bail!(Failure::Usage(
            "nothing to compare: sweep a key, as --sweep 'objective.lambda=[0],[0.5],[1]', or name --policies DIR DIR"
                .into()
        ));
    }
    let of_training = [
        ("--config", common.config.is_some()),
        ("--adapter", common.adapter.is_some()),
        ("--data", common.data.is_some()),
        ("--subset", common.subset.is_some()),
        ("--split", common.split.is_some()),
        ("--objective", common.objective.is_some()),
        ("--batch", common.batch.is_some()),
        ("--max-length", common.max_length.is_some()),
        ("--set", !common.set.is_empty()),
        ("--steps", course.steps.is_some()),
        ("--epochs", course.epochs.is_some()),
        ("--lr", course.lr.is_some()),
        ("--lora", course.lora.is_some()),
    ];
    if let Some((flag, _)) = of_training.iter().find(|(_, given)| *given && arguments.sweep.is_empty()) {
        bail!(Failure::Usage(format!(
            "{flag}: it is for training, and nothing is swept; add --sweep, or leave it out"
        )));
    }
    let points = &arguments.reference_point;
    let is_again = |number: usize| points[..number].iter().any(|(name, _)| *name == points[number].0);
    if let Some(number) = (0..points.len()).find(|number| is_again(*number)) {
        let name = &points[number].0;
        bail!(Failure::Usage(format!("--reference-point {name}: given twice; leave one of them out")));
    }
    if arguments.end_of_sequence.is_some() && arguments.score.is_empty() {
        bail!(Failure::Usage(
            "--end-of-sequence: it is how score models read answers, and there are none; add --score, or leave it out"
                .into()
        ));
    }
    let draws = &arguments.draws;
    let is_as_it_is = (draws.temperature - 1.0).abs() < f64::EPSILON && draws.top_k.is_none() && draws.top_p.is_none();
    if arguments.reference.is_some() && !is_as_it_is {
        bail!(Failure::Usage(
            "--reference: kl is of the policy as it is; leave --temperature, --top-k and --top-p out, or --reference"
                .into()
        ));
    }
    Ok(())
}

/// That every policy can be asked every prompt, and has the tokens of the reference.
pub(super) fn policies(
    policies: &[Named],
    asked: &[Prompt],
    reference: Option<&Path>,
    arguments: &Pareto,
) -> Result<()> {
    for (number, policy) in policies.iter().enumerate() {
        if policies[..number].iter().any(|other| other.tokens_of() == policy.tokens_of()) {
            continue;
        }
        let (encoder, tokens) = policy.tokens()?;
        prompts(asked, &encoder, &policy.name, arguments)?;
        if let Some(reference) = reference {
            same_tokens(policy, &encoder, tokens, reference)?;
        }
    }
    Ok(())
}

/// That every prompt can be encoded by the tokenizer of `whose`.
pub(super) fn prompts(prompts: &[Prompt], encoder: &Encoder, whose: &str, arguments: &Pareto) -> Result<()> {
    for (number, prompt) in prompts.iter().enumerate() {
        let reason = match prompt.ids(encoder) {
            Ok(ids) if !ids.is_empty() => continue,
            Ok(_) => "it has no token to go on from".to_owned(),
            Err(error) => error.to_string(),
        };
        bail!(Failure::Data(format!(
            "{}: prompt {number}, counted from 0, cannot be read by {whose}: {reason}; leave the prompt out, or that model",
            arguments.prompts.display()
        )));
    }
    Ok(())
}

/// That the reference has as many tokens as a policy and, by the tokenizer beside it, if there is one, the same.
fn same_tokens(policy: &Named, encoder: &Encoder, tokens: usize, reference: &Path) -> Result<()> {
    let refuse = |reason: String| -> Result<()> {
        let reference = name(reference);
        bail!(Failure::Usage(format!(
            "--reference {reference}: {reason}; name the model that the policies were trained from"
        )));
    };
    let theirs = ModelConfig::from_dir(reference)?.vocab_size;
    if theirs != tokens {
        return refuse(format!("it has {theirs} tokens, and {} has {tokens}", policy.name));
    }
    if !reference.join("tokenizer.json").is_file() {
        return Ok(());
    }
    let options = EncodeOptions { end_of_sequence: EndOfSequence::Keep, ..EncodeOptions::default() };
    let other = Encoder::from_dir(reference, options)?;
    let texts = |id: u32| (encoder.decode(&[id]), other.decode(&[id]));
    let last = encoder.vocab_size().max(other.vocab_size());
    match (0..last as u32).map(|id| (id, texts(id))).find(|(_, (ours, theirs))| ours != theirs) {
        Some((id, (ours, theirs))) => {
            refuse(format!("its token {id} is {theirs:?}, and that of {} is {ours:?}", policy.name))
        }
        None => Ok(()),
    }
}
