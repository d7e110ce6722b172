//! The first step of a policy that should be its own reference: what is let pass, what is stopped, and which cause is named.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use candle_core::{DType, Device, Tensor};
use candlewick_losses::{Dpo, Mix, Objective, Outputs, Part, Recipe, TokenScores};
use candlewick_model::{CausalLm, Packed, Recompute};
use candlewick_train::{
    CausalPolicy, Element, Error, FrozenPolicy, Policy, PrecomputedReference, Reference, Result, Trainable, Trainer,
};
use support::{batches, bits, lora_model, model, options, pairs};

/// A model that says of some completions something else than it computes.
#[derive(Debug)]
struct Shifted<T: Element> {
    model: FrozenPolicy<T>,
    by: f64,
    /// Counted over the rows that are scored.
    only: Option<usize>,
    next: usize,
}

impl<T: Element> Policy for Shifted<T> {
    fn score(&mut self, batch: &Packed, want: Outputs) -> Result<TokenScores> {
        let scores = self.model.score(batch, want)?;
        let mut values = scores.log_probs().to_dtype(DType::F64)?.to_vec2::<f64>()?;
        for target in batch.targets() {
            let row = target.completion as usize;
            // The last token of the completion alone.
            let is_last = batch.targets().iter().filter(|other| other.completion == target.completion).count();
            if self.only.is_none_or(|only| only == self.next + row) && target.slot as usize + 1 == is_last {
                values[row][target.slot as usize] += self.by;
            }
        }
        self.next += batch.completions();
        let dtype = scores.log_probs().dtype();
        let values = Tensor::new(values, &Device::Cpu)?.to_dtype(dtype)?;
        Ok(TokenScores::new(values, scores.mask().clone())?)
    }
}

fn first_step<T: Element>(
    model: CausalLm<T>,
    reference: Reference<T>,
    objective: Box<dyn Objective>,
) -> std::result::Result<(), Error> {
    let policy = CausalPolicy::new(model, Recompute::Nothing, 1);
    let mut trainer = Trainer::new(policy, reference, objective, options(1e-2)).unwrap();
    let before = bits(&trainer);
    let stepped = trainer.step(&batches(&pairs(4, 1), 2));
    assert_eq!(stepped.is_err(), bits(&trainer) == before, "what is stopped has changed nothing");
    assert_eq!(trainer.steps_done(), u64::from(stepped.is_ok()));
    stepped.map(|_| ())
}

fn shifted<T: Element>(by: f64, only: Option<usize>) -> Reference<T> {
    Reference::Frozen(Box::new(Shifted { model: FrozenPolicy::new(model::<T>(1), 1), by, only, next: 0 }))
}

fn dpo() -> Box<dyn Objective> {
    Box::<Dpo>::default()
}

/// Of which the loss at the start is not known.
fn mixed() -> Box<dyn Objective> {
    let part = |name| Part { weight: 0.5, loss: Recipe::from_name(name).unwrap() };
    let mix = Mix { parts: vec![part("dpo"), part("sft")] };
    assert_eq!(mix.loss_at_zero_margin(), None);
    Box::new(mix)
}

#[test]
fn the_bound_is_1e_4_a_token_and_in_f64_1e_9() {
    for objective in [dpo, mixed] {
        first_step(model::<f32>(1), shifted(0.9e-4, None), objective()).unwrap();
        first_step(model::<f32>(1), shifted(1.2e-4, None), objective()).unwrap_err();
        first_step(model::<f32>(1), shifted(-1.2e-4, Some(3)), objective()).unwrap_err();
        first_step(model::<f64>(1), shifted(0.9e-9, None), objective()).unwrap();
        first_step(model::<f64>(1), shifted(1.2e-9, None), objective()).unwrap_err();
    }
}

#[test]
fn the_row_the_token_and_both_values_are_named() {
    // Of completion 5, the rejected one of the third pair.
    let error = first_step(model::<f64>(1), shifted(0.5, Some(5)), mixed()).unwrap_err();
    let completion = &pairs(4, 1)[2].contexts[0].completions[1];
    let Error::OtherReference { place, token, id, policy, reference, cause } = &error else { panic!("{error}") };
    assert_eq!((place.as_str(), *token, *id), ("made-up:3", completion.ids.len(), *completion.ids.last().unwrap()));
    assert!((reference - policy - 0.5).abs() < 1e-12, "{error}");
    // The value is what the model says of that token after the others.
    let mut alone = FrozenPolicy::new(model::<f64>(1), 1);
    let context = &pairs(4, 1)[2].contexts[0];
    let ids = candlewick_model::ContextIds {
        prompt: &context.prompt,
        prompt_scored: &[],
        completions: vec![candlewick_model::CompletionIds::all_scored(&completion.ids)],
    };
    let said = alone.score(&Packed::new(&[ids]).unwrap(), Outputs::default()).unwrap();
    let said = *said.log_probs().to_vec2::<f64>().unwrap()[0].last().unwrap();
    assert!((said - policy).abs() < 1e-12, "{said} and {policy}");
    assert!(cause.starts_with("7 of 8 completions agree at every token"), "{cause}");
    let text = error.to_string();
    assert!(
        text.starts_with("step 1: on made-up:3, at scored token ") && text.contains("no parameter was changed"),
        "{text}"
    );
}

fn rounded(dtype: DType) -> CausalLm<f32> {
    let mut rounded = model::<f32>(1);
    let data = rounded.trainable_mut().data_mut();
    let values = Tensor::from_slice(data, data.len(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    data.copy_from_slice(&values.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap());
    rounded
}

fn cause(model: CausalLm<f32>, reference: Reference) -> String {
    match first_step(model, reference, dpo()).unwrap_err() {
        Error::OtherReference { cause, .. } => cause,
        other => panic!("{other}"),
    }
}

fn frozen(model: CausalLm<f32>) -> Reference {
    Reference::Frozen(Box::new(FrozenPolicy::new(model, 1)))
}

#[test]
fn weights_from_files_of_a_smaller_type_are_recognised() {
    for (dtype, name) in [(DType::BF16, "bfloat16"), (DType::F16, "float16")] {
        let cause = cause(model(1), frozen(rounded(dtype)));
        assert!(cause.starts_with(&format!("with its weights rounded to {name} the policy says")), "{cause}");
    }
    // The other way round nothing can be tried, but the size of the gaps is telling.
    let cause = cause(rounded(DType::BF16), frozen(model(1)));
    assert!(cause.starts_with("every completion differs") && cause.contains("a file of a smaller type"), "{cause}");
}

#[test]
fn an_adapter_that_is_not_zero_is_recognised() {
    let trained = || {
        let mut trained = lora_model::<f32>(1);
        let b = trained.trainable().position("base_model.model.model.layers.1.mlp.up_proj.lora_B.weight").unwrap();
        trained.trainable_mut().tensor_mut(b).fill(0.1);
        trained
    };
    let base = model::<f32>(1);
    for reference in [Reference::AdapterOff, frozen(base)] {
        let cause = cause(trained(), reference);
        assert!(cause.contains("layers.1.mlp.up_proj.lora_B.weight is not zero"), "{cause}");
        assert!(cause.contains("reference.kind = \"frozen\""), "{cause}");
    }
    first_step(lora_model::<f32>(1), Reference::AdapterOff, dpo()).unwrap();
}

#[test]
fn other_weights_and_rows_that_were_computed_of_other_weights_are_told_apart() {
    let said = cause(model(1), frozen(model(2)));
    assert!(said.starts_with("every completion differs") && said.contains("has other weights"), "{said}");
    // A table under the name of the policy, of which the rows of one pair come from another model.
    let directory = tempfile::tempdir().unwrap();
    let mut table = PrecomputedReference::new("any", directory.path().join("cache"));
    for (number, batch) in batches(&pairs(4, 1), 1).iter().enumerate() {
        let mut reference = FrozenPolicy::new(model::<f32>(if number == 2 { 9 } else { 1 }), 1);
        table.add(&mut reference, batch, &Dpo::default().needs()).unwrap();
    }
    let said = cause(model(1), Reference::Precomputed(table));
    assert!(said.starts_with("6 of 8 completions agree at every token") && said.contains("template"), "{said}");
}

#[test]
fn only_the_first_step_is_compared() {
    let policy = CausalPolicy::new(model::<f32>(1), Recompute::Nothing, 1);
    let mut trainer = Trainer::new(policy, shifted(0.0, None), dpo(), options(1e-2)).unwrap();
    for _ in 0..3 {
        trainer.step(&batches(&pairs(4, 1), 2)).unwrap();
    }
    assert_ne!(trainer.policy().digest().unwrap(), trainer.starting_weights());
}
