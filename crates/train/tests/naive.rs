//! A step of every objective, under every option, has the loss and the gradients of a computation that fuses, packs and
//! shares nothing: a Llama in candle's own operations with autograd, each completion a sequence of its own, and the whole
//! step as one batch.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};
use candlewick_data::{Annotation, Batch, Completion, Context, Example, TeacherToken};
use candlewick_losses::{
    Builtin, Groups, JudgedRows, LabelledRow, MismatchedScores, Needs, Objective, PairRows, Phase, RankedRows, Recipe,
    ReferenceUpdate, Scores, Solo, StepScores, StepWide, Teacher, TeacherScores, TokenScores,
};
use candlewick_model::{Adapter, CausalLm, Config, Gradients, LoraConfig, Parameters, Recompute, ScoreModel};
use candlewick_train::{CausalPolicy, FrozenPolicy, MovingReference, Reference, ScorePolicy, Trainer, TrainerOptions};
use serde_json::Value;
use support::{Random, batches, example, mismatched_batches, options};

#[test]
fn every_objective_has_the_loss_and_the_gradients_of_a_naive_step() {
    let policy = model(1, true);
    recipes().iter().for_each(|recipe| compare(recipe, &policy));
}

#[test]
fn every_objective_has_the_gradients_of_a_naive_step_on_an_adapter() {
    let mut policy = model(3, false);
    let targets = [LoraConfig::default().targets, vec!["lm_head".to_owned()]].concat();
    policy.add_lora(&LoraConfig { rank: 2, alpha: 2.0 * LORA_SCALE, targets, ..LoraConfig::default() }, 1).unwrap();
    // B starts at zero, where A has no gradient and the policy is its reference.
    policy.trainable_mut().data_mut().iter_mut().enumerate().for_each(|(i, x)| *x += 0.2 * (i as f64).sin());
    recipes().iter().for_each(|recipe| compare(recipe, &policy));
}

/// The policy is told the preference that its objective weighs by.
#[test]
fn panacea_has_the_loss_and_the_gradients_of_a_naive_step() {
    let mut policy = model(3, false);
    let lora = LoraConfig { rank: 2, alpha: 2.0 * LORA_SCALE, preferences: 2, ..LoraConfig::default() };
    // The penalty has a gradient of its own, which the naive step has not.
    policy.add_lora(&LoraConfig { orthogonality: Some(0.0), ..lora }, 1).unwrap();
    policy.trainable_mut().data_mut().iter_mut().enumerate().for_each(|(i, x)| *x += 0.2 * (i as f64).sin());
    let recipes: Vec<Recipe> = serde_json::from_str(PANACEA).unwrap();
    recipes.iter().for_each(|recipe| compare(recipe, &policy));
}

#[test]
fn every_option_has_the_loss_and_the_gradients_of_a_naive_step() {
    let policy = model(1, true);
    for recipe in recipes() {
        // The losses that another is made of are no options of it.
        for key in options_of(&recipe).keys().filter(|key| !["loss", "parts"].contains(&key.as_str())) {
            others(&recipe, key).iter().for_each(|recipe| compare(recipe, &policy));
        }
    }
}

#[test]
fn every_objective_of_values_has_the_loss_and_the_gradients_of_a_naive_step() {
    let policy = score_model();
    for recipe in score_recipes() {
        compare_scores(&recipe, &policy);
        for key in options_of(&recipe).keys() {
            others(&recipe, key).iter().for_each(|recipe| compare_scores(recipe, &policy));
        }
    }
}

#[test]
fn every_objective_of_values_has_the_gradients_of_a_naive_step_on_an_adapter() {
    let mut policy = score_model();
    policy.add_lora(&LoraConfig { rank: 2, alpha: 2.0 * LORA_SCALE, ..LoraConfig::default() }, 1).unwrap();
    policy.trainable_mut().data_mut().iter_mut().enumerate().for_each(|(i, x)| *x += 0.2 * (i as f64).sin());
    score_recipes().iter().for_each(|recipe| compare_scores(recipe, &policy));
}

/// Largest difference of a loss and, in the norm, of the gradient of a parameter, as a part of it.
const SAME: f64 = 1e-9;

/// Compares a step on every kind of rows that the objective can use.
fn compare(recipe: &Recipe, policy: &CausalLm<f64>) {
    let needs = recipe.needs();
    for examples in rows(&needs) {
        // Three rows and one, so that no micro-batch is the step nor as large as the other.
        compare_on(recipe, policy, &split(&needs, &examples, 3));
        if needs.step_wide == StepWide::AllRows {
            // Of a single micro-batch the trainer takes the statistic from the pass that has the gradient.
            compare_on(recipe, policy, &split(&needs, &examples, 4));
        }
    }
}

fn split(needs: &Needs, examples: &[Example], size: usize) -> Vec<Batch> {
    if needs.step_wide == StepWide::Mismatched { mismatched_batches(examples, size) } else { batches(examples, size) }
}

fn compare_on(recipe: &Recipe, policy: &CausalLm<f64>, batches: &[Batch]) {
    let (loss, trainer) = step(recipe, policy, batches).unwrap();
    let preference = recipe.clone().begin(SEED, Some(1)).unwrap_or_default();
    let weights = Naive { preference, ..Naive::new(policy, Adapter::On) };
    let reference = match policy.has_adapter() {
        true => Naive::new(policy, Adapter::Off),
        false => Naive::new(&model(2, true), Adapter::Off),
    };
    let (expected, slopes) = naive(recipe, &weights, &reference, batches).unwrap();
    let place = format!("{recipe:?} on {:?}", batches[0].examples[0].annotation);
    assert!((loss - expected).abs() <= SAME * expected.abs(), "{place}: loss {loss}, naive {expected}");
    assert_same_gradients(&place, policy.trainable(), trainer.policy().gradients(), &weights, &slopes);
}

/// As [`compare`], of an objective that reads values, whose rows are scored by the naive model alone.
fn compare_scores(recipe: &Recipe, policy: &ScoreModel<f64>) {
    let needs = recipe.needs();
    for examples in rows(&needs) {
        for size in [3, 4] {
            let batches = split(&needs, &examples, size);
            let options = TrainerOptions { starts_at_reference: false, ..options(1e-2) };
            let of_trainer = ScorePolicy::new(policy.clone(), Recompute::Nothing, 1);
            let mut trainer = Trainer::new(of_trainer, Reference::None, Box::new(recipe.clone()), options).unwrap();
            let loss = trainer.step(&batches).unwrap().loss;
            let weights = Naive::of(policy.config(), [Some(policy.parameters()), policy.adapter()]);
            let (expected, slopes) = naive(recipe, &weights, &weights, &batches).unwrap();
            let place = format!("{recipe:?} on {:?}", batches[0].examples[0].annotation);
            assert!((loss - expected).abs() <= SAME * expected.abs(), "{place}: loss {loss}, naive {expected}");
            assert_same_gradients(&place, policy.trainable(), trainer.policy().gradients(), &weights, &slopes);
        }
    }
}

fn assert_same_gradients(
    place: &str,
    trained: &Parameters<f64>,
    gradients: &Gradients<f64>,
    weights: &Naive,
    slopes: &GradStore,
) {
    for (i, name) in trained.names().enumerate() {
        let gradient = gradients.tensor(i);
        let slopes = slopes.get(&weights.tensors[name]).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let whole = norm(&mut slopes.iter().copied());
        let gap = norm(&mut gradient.iter().zip(&slopes).map(|(a, b)| a - b));
        assert!(whole > 0.0 && gap <= SAME * whole, "{place}: {name} differs by {gap:e} of {whole:e}");
    }
}

/// The loss of a step from `policy`, and the trainer that took it.
fn step(
    recipe: &Recipe,
    policy: &CausalLm<f64>,
    batches: &[Batch],
) -> candlewick_train::Result<(f64, Trainer<CausalPolicy<f64>>)> {
    let policy = CausalPolicy::new(policy.clone(), Recompute::Nothing, 1);
    let moves = recipe.reference_update() != ReferenceUpdate::Frozen;
    let reference = match (recipe.needs().reference, policy.model().has_adapter()) {
        (false, _) => Reference::None,
        (true, true) if moves => Reference::Moving(MovingReference::of_base(&policy)?),
        (true, false) if moves => {
            Reference::Moving(MovingReference::from_parameters(&policy, model(2, true).into_parameters())?)
        }
        (true, true) => Reference::AdapterOff,
        (true, false) => Reference::Frozen(Box::new(FrozenPolicy::new(model(2, true), 1))),
    };
    let options = TrainerOptions { starts_at_reference: false, ..options(1e-2) };
    let mut trainer = Trainer::new(policy, reference, Box::new(recipe.clone()), options)?;
    Ok((trainer.step(batches)?.loss, trainer))
}

/// The same by autograd, with the rows of all micro-batches as one.
fn naive(recipe: &Recipe, policy: &Naive, reference: &Naive, batches: &[Batch]) -> Result<(f64, GradStore)> {
    let examples: Vec<&Example> = batches.iter().flat_map(|batch| &batch.examples).collect();
    let contexts: Vec<&Context> = examples.iter().flat_map(|example| &example.contexts).collect();
    let mismatched: Vec<&Context> = batches.iter().flat_map(|batch| &batch.mismatched).collect();
    let has_reference = recipe.needs().reference;
    let detached = |model: &Naive, contexts: &[&Context]| model.scores(contexts).map(|scores| scores.detach());
    let anchor = has_reference.then(|| detached(reference, &contexts)).transpose()?;
    let scores = if recipe.needs().outputs.values { policy.values(&contexts)? } else { policy.scores(&contexts)? };
    let mut scores = Scores::new(scores, anchor, groups(&examples));
    scores.teacher = teacher(&contexts)?;
    let mut whole = Scores { policy: scores.policy.detach(), ..scores.clone() };
    if !mismatched.is_empty() {
        let [policy, reference] = [detached(policy, &mismatched)?, detached(reference, &mismatched)?];
        whole.mismatched = Some(MismatchedScores { policy, reference });
    }
    let step = StepScores { micro: &[whole], collective: &Solo };
    let mut begun = recipe.clone();
    begun.begin(SEED, Some(1));
    let context = begun.prepare(&step, Phase::Train).unwrap();
    let loss = recipe.evaluate(&scores, &context.micro(0)).unwrap().loss(&scores.totals()).unwrap();
    Ok((loss.to_scalar()?, loss.backward()?))
}

/// Which rows belong together, of rows in the order of the examples.
fn groups(examples: &[&Example]) -> Groups {
    let mut groups = Groups::default();
    let mut row = 0;
    for example in examples {
        let next = row + example.contexts.iter().map(|context| context.completions.len()).sum::<usize>();
        match &example.annotation {
            Annotation::Pair => groups.pairs.push(PairRows { chosen: row, rejected: row + 1 }),
            Annotation::Labelled { desirable } => groups.labelled.push(LabelledRow { row, desirable: *desirable }),
            Annotation::Demonstration => groups.demonstrations.push(row),
            Annotation::Ranked { ratings } => {
                groups.ranked.push(RankedRows { rows: (row..next).collect(), ratings: ratings.clone() });
            }
            Annotation::Judged { positive } => {
                groups.judged.push(JudgedRows { plain: row, judged: row + 1, positive: *positive });
            }
        }
        for (name, value) in &example.numbers {
            groups.numbers.entry(name.clone()).or_default().push(*value);
        }
        row = next;
    }
    groups
}

/// What the teachers say, `[N, T, K]`, in the slots of [`Naive::scores`].
fn teacher(contexts: &[&Context]) -> Result<Option<TeacherScores>> {
    let rows = || contexts.iter().flat_map(|context| &context.completions).map(|completion| &completion.teacher);
    let slots = rows().map(Vec::len).max().unwrap_or(0);
    let cube = |values: fn(&TeacherToken) -> &[f32]| {
        let token = |token: Option<&TeacherToken>| {
            let values = token.map_or(&[][..], values).iter().map(|value| f64::from(*value));
            values.chain(std::iter::repeat(f64::NEG_INFINITY)).take(GIVEN).collect::<Vec<_>>()
        };
        let cube = rows().flat_map(|row| (0..slots).flat_map(move |slot| token(row.get(slot))));
        Tensor::from_vec(cube.collect(), (rows().count(), slots, GIVEN), &Device::Cpu)
    };
    let teacher = TeacherScores {
        log_probs: cube(|token| &token.log_probs)?,
        reference: Some(cube(|token| &token.reference_log_probs)?),
    };
    Ok((slots > 0).then_some(teacher))
}

/// A Llama in candle's own operations; every weight is a variable.
struct Naive {
    config: Config,
    /// What a Panacea adapter is told.
    preference: Vec<f64>,
    tensors: BTreeMap<String, Var>,
}

impl Naive {
    fn new(model: &CausalLm<f64>, adapter: Adapter) -> Self {
        Self::of(model.config(), [Some(model.parameters()), model.adapter().filter(|_| adapter == Adapter::On)])
    }

    fn of(config: &Config, parts: [Option<&Parameters<f64>>; 2]) -> Self {
        let tensors = parts.into_iter().flatten().flat_map(|parameters| {
            (0..parameters.len()).map(|i| {
                let tensor = Tensor::from_slice(parameters.tensor(i), parameters.shape(i), &Device::Cpu).unwrap();
                (parameters.name(i).to_owned(), Var::from_tensor(&tensor).unwrap())
            })
        });
        Self { tensors: tensors.collect(), config: config.clone(), preference: Vec::new() }
    }

    /// What the heads say of the last token of every completion after a prompt of its own, and what they read of it.
    fn values(&self, contexts: &[&Context]) -> Result<TokenScores> {
        let rows =
            contexts.iter().flat_map(|context| context.completions.iter().map(|one| (&context.prompt, &one.ids)));
        let last = rows.map(|(prompt, ids)| {
            let ids = [&prompt[..], &ids[..]].concat();
            self.hidden(&ids)?.get(ids.len() - 1)
        });
        let last = Tensor::stack(&last.collect::<Result<Vec<_>>>()?, 0)?;
        let of_adapter = self.tensors.get("base_model.model.score.weight");
        let head = of_adapter.unwrap_or_else(|| &self.tensors["score.weight"]);
        let scores = TokenScores::of_values(last.matmul(&head.t()?)?).unwrap();
        Ok(scores.with_pooled(last).unwrap())
    }

    /// Scores of every completion after a prompt of its own; a row holds its scored tokens side by side.
    fn scores(&self, contexts: &[&Context]) -> Result<TokenScores> {
        let mut rows = Vec::new();
        for context in contexts {
            for completion in &context.completions {
                let ids = [&context.prompt[..], &completion.ids].concat();
                let scored = [&context.prompt_scored[..], &completion.scored].concat();
                let places = (0u32..).zip(scored).filter(|(_, scored)| *scored).map(|(place, _)| place);
                let (before, tokens): (Vec<u32>, Vec<u32>) =
                    places.map(|place| (place - 1, ids[place as usize])).unzip();
                let log_probs = self.log_probs(&ids)?.index_select(&Tensor::new(before, &Device::Cpu)?, 0)?;
                let of =
                    |ids: Vec<u32>| log_probs.gather(&Tensor::new(ids, &Device::Cpu)?.reshape((tokens.len(), ()))?, 1);
                let given = |token: &TeacherToken| [&token.ids[..], &[0; GIVEN]].concat()[..GIVEN].to_vec();
                let given: Vec<u32> = completion.teacher.iter().flat_map(given).collect();
                let given = if given.is_empty() { None } else { Some(of(given)?) };
                rows.push((of(tokens.clone())?.squeeze(1)?, log_probs.clone(), given));
            }
        }
        let slots = rows.iter().map(|(tokens, ..)| tokens.elem_count()).max().unwrap_or(0);
        let stack = |columns: Vec<Tensor>| {
            let padded = columns.iter().map(|column| column.pad_with_zeros(0, 0, slots - column.dim(0)?));
            Tensor::stack(&padded.collect::<Result<Vec<_>>>()?, 0)
        };
        let column = |of: fn(&Tensor) -> Result<Tensor>| {
            stack(rows.iter().map(|(_, log_probs, _)| of(log_probs)).collect::<Result<Vec<_>>>()?)
        };
        let tokens = stack(rows.iter().map(|(tokens, ..)| tokens.clone()).collect())?;
        let means = column(|log_probs| log_probs.mean(1))?;
        let squares = column(|log_probs| (log_probs * 2.0)?.exp()?.sum(1)?.log())?;
        let mask = column(|log_probs| log_probs.detach().sum(1)?.ones_like())?;
        let scores = TokenScores::new(tokens, mask).unwrap();
        let scores = scores.with_mean_log_probs(means).unwrap().with_log_sum_sq_probs(squares).unwrap();
        let given: Option<Vec<Tensor>> = rows.iter().map(|(.., given)| given.clone()).collect();
        Ok(match given {
            Some(given) => scores.with_given(stack(given)?).unwrap(),
            None => scores,
        })
    }

    /// Hidden states of a text after the final norm, `[T, H]`.
    fn hidden(&self, ids: &[u32]) -> Result<Tensor> {
        let embedding = &self.tensors["model.embed_tokens.weight"];
        let mut x = embedding.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        for layer in 0..self.config.num_hidden_layers {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let normed = self.norm(&x, &at("input_layernorm.weight"))?;
            x = (&x + self.attention(&normed, &at("self_attn"))?)?;
            let normed = self.norm(&x, &at("post_attention_layernorm.weight"))?;
            let gate = self.linear(&normed, &at("mlp.gate_proj"))?;
            let gate = (&gate / (gate.neg()?.exp()? + 1.0)?)?;
            let inner = (gate * self.linear(&normed, &at("mlp.up_proj"))?)?;
            x = (x + self.linear(&inner, &at("mlp.down_proj"))?)?;
        }
        self.norm(&x, "model.norm.weight")
    }

    /// Log-probabilities of the token after each of a text, `[T, V]`.
    fn log_probs(&self, ids: &[u32]) -> Result<Tensor> {
        let (x, embedding) = (self.hidden(ids)?, &self.tensors["model.embed_tokens.weight"]);
        let tied = self.config.tie_word_embeddings;
        let logits = if tied { x.matmul(&embedding.t()?)? } else { self.linear(&x, "lm_head")? };
        let logits = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
        logits.broadcast_sub(&logits.exp()?.sum_keepdim(1)?.log()?)
    }

    fn attention(&self, x: &Tensor, module: &str) -> Result<Tensor> {
        let Config { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim: width, .. } = self.config;
        let count = x.dim(0)?;
        let split = |name: &str, heads: usize| {
            let x = self.linear(x, &format!("{module}.{name}"))?;
            x.reshape((count, heads, width))?.transpose(0, 1)?.contiguous()
        };
        let of_query = Tensor::from_iter((0..heads).map(|head| (head * kv_heads / heads) as u32), &Device::Cpu)?;
        let q = self.rotate(&split("q_proj", heads)?)?;
        let k = self.rotate(&split("k_proj", kv_heads)?)?.index_select(&of_query, 0)?;
        let v = split("v_proj", kv_heads)?.index_select(&of_query, 0)?;
        let hidden =
            (0..count).flat_map(|own| (0..count).map(move |other| if other > own { f64::NEG_INFINITY } else { 0.0 }));
        let hidden = Tensor::from_iter(hidden, &Device::Cpu)?.reshape((count, count))?;
        let scores = (q.matmul(&k.t()?)? / (width as f64).sqrt())?.broadcast_add(&hidden)?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(2)?.detach())?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(2)?)?;
        let out = weights.matmul(&v)?.transpose(0, 1)?.reshape((count, heads * width))?;
        self.linear(&out, &format!("{module}.o_proj"))
    }

    /// Turns the halves of each head's rows, `[heads, T, width]`, into each other by angles of their positions.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (_, count, width) = x.dims3()?;
        let half = width / 2;
        let frequency = |i: usize| self.config.rope_theta.powf(-((2 * i) as f64) / width as f64);
        let angles = (0..count).flat_map(|place| (0..half).map(move |i| place as f64 * frequency(i)));
        let angles = Tensor::from_iter(angles, &Device::Cpu)?.reshape((count, half))?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?], 2)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let size = (x.sqr()?.mean_keepdim(1)? + self.config.rms_norm_eps)?.sqrt()?;
        x.broadcast_div(&size)?.broadcast_mul(&self.tensors[name])
    }

    fn linear(&self, x: &Tensor, module: &str) -> Result<Tensor> {
        let product = |x: &Tensor, name: &str| x.matmul(&self.tensors[name].t()?);
        let [a, b] = ["A", "B"].map(|side| format!("base_model.model.{module}.lora_{side}.weight"));
        let base = product(x, &format!("{module}.weight"))?;
        if !self.tensors.contains_key(&a) {
            return Ok(base);
        }
        let mut low = product(x, &a)?;
        let [sigma, s] =
            ["sigma", "s"].map(|value| self.tensors.get(&format!("base_model.model.{module}.lora_{value}")));
        if let (Some(sigma), Some(s)) = (sigma, s) {
            let told = Tensor::new(&self.preference[..], &Device::Cpu)?.broadcast_mul(s)?;
            low = low.broadcast_mul(&Tensor::cat(&[sigma.as_tensor(), &told], 0)?)?;
        }
        base + (product(&low, &b)? * LORA_SCALE)?
    }
}

const LORA_SCALE: f64 = 1.5;
/// That of the trainer's options.
const SEED: u64 = 0;

/// Two layers with keys and values for two query heads each, and weights far enough from zero that every gradient is.
fn model(seed: u64, tied: bool) -> CausalLm<f64> {
    let mut config = Config::llama(VOCABULARY as usize, 16, 2);
    (config.num_key_value_heads, config.tie_word_embeddings, config.initializer_range) = (2, tied, 0.25);
    CausalLm::random(config, seed).unwrap()
}

/// Heads enough for every objective, on the same kind of trunk.
fn score_model() -> ScoreModel<f64> {
    let names: Vec<String> = (0..16).map(|head| format!("head {head}")).collect();
    ScoreModel::random(model(4, true).config().clone(), &names, 4).unwrap()
}

const VOCABULARY: u64 = 40;
/// Tokens of which a teacher may speak at a slot.
const GIVEN: usize = 3;

type Make = fn(usize, &mut Random) -> Example;

/// Four rows of every kind that the objective can use, with all that it reads of them.
fn rows(needs: &Needs) -> Vec<Vec<Example>> {
    let kinds: [(bool, Make); 5] = [
        (needs.rows.pairs, |i, random| example(i, context(i, random, 2), Annotation::Pair)),
        (needs.rows.labelled, |i, random| {
            example(i, context(i, random, 1), Annotation::Labelled { desirable: i.is_multiple_of(2) })
        }),
        (needs.rows.demonstrations, |i, random| example(i, context(i, random, 1), Annotation::Demonstration)),
        (needs.rows.ranked, |i, random| {
            let ratings = [2.0, 7.0, 4.0][..2 + i % 2].to_vec();
            example(i, context(i, random, ratings.len()), Annotation::Ranked { ratings })
        }),
        (needs.rows.judged, |i, random| {
            let mut example = example(i, context(i, random, 1), Annotation::Judged { positive: i == 1 });
            let mut judged = example.contexts[0].clone();
            judged.prompt.extend([7, 5 + i as u32]);
            judged.prompt_scored.extend([false, false]);
            example.contexts.push(judged);
            example
        }),
    ];
    let kinds = kinds.into_iter().filter(|(usable, _)| *usable);
    kinds
        .map(|(_, make)| {
            let mut random = Random(5);
            let mut rows: Vec<Example> = (0..4).map(|i| make(i, &mut random)).collect();
            for (i, example) in rows.iter_mut().enumerate() {
                let numbers = needs.numbers.iter().enumerate().map(|(place, number)| {
                    let value = if number.whole {
                        ((i + place) % 2) as f64
                    } else {
                        0.05 + 0.23 * i as f64 + 0.03 * place as f64
                    };
                    (number.name.to_owned(), value)
                });
                example.numbers.extend(numbers);
                if needs.teacher != Teacher::None {
                    example.contexts.iter_mut().for_each(|context| teach(context, &mut random));
                }
            }
            rows
        })
        .collect()
}

/// A prompt of its own and completions of it. Some of their tokens are not scored, and of every other prompt one is.
fn context(i: usize, random: &mut Random, completions: usize) -> Context {
    let mut ids = |least, most| -> Vec<u32> {
        (0..least + random.below(most - least + 1)).map(|_| random.below(VOCABULARY) as u32).collect()
    };
    let prompt = [vec![i as u32], ids(1, 4)].concat();
    let completions = (0..completions).map(|_| {
        let ids = ids(2, 6);
        let scored = (1..=ids.len()).map(|place| place == ids.len() || (place + i) % 3 != 1).collect();
        Completion { ids, scored, teacher: Vec::new() }
    });
    let completions = completions.collect();
    Context { prompt_scored: (0..prompt.len()).map(|place| place == 1 && i % 2 == 1).collect(), prompt, completions }
}

/// A teacher of one to three tokens for every scored token, those of the prompt first.
fn teach(context: &mut Context, random: &mut Random) {
    let of_prompt = context.prompt_scored.iter().filter(|scored| **scored).count();
    for completion in &mut context.completions {
        let token = |_| {
            let first = random.below(VOCABULARY - GIVEN as u64) as u32;
            let ids: Vec<u32> = (first..=first + random.below(GIVEN as u64) as u32).collect();
            let mut log_probs = || ids.iter().map(|_| -1.2 - random.below(100) as f32 / 50.0).collect();
            TeacherToken { log_probs: log_probs(), reference_log_probs: log_probs(), ids }
        };
        completion.teacher = (0..of_prompt + completion.scored_tokens()).map(token).collect();
    }
}

/// Every objective that reads log-probabilities of tokens.
fn recipes() -> Vec<Recipe> {
    all_recipes().into_iter().filter(|recipe| !recipe.needs().outputs.values).collect()
}

/// Every objective that reads values of completions.
fn score_recipes() -> Vec<Recipe> {
    all_recipes().into_iter().filter(|recipe| recipe.needs().outputs.values).collect()
}

/// Every loss of the list, its presets, and objectives that wrap another.
fn all_recipes() -> Vec<Recipe> {
    let names = Builtin::NAMES.iter().copied().chain(Builtin::presets().map(|(_, preset)| preset.name));
    let listed = names.map(|name| Recipe::from_name(name).unwrap());
    listed.chain(serde_json::from_str::<Vec<Recipe>>(WRAPPED).unwrap()).collect()
}

const WRAPPED: &str = r#"[
    { "type": "mix", "parts": [ { "weight": 0.5, "loss": { "type": "dpo" } }, { "loss": { "type": "sft" } } ] },
    { "type": "mix", "parts": [ { "loss": { "type": "kto" } }, { "weight": 0.3, "loss": { "type": "kto_s" } } ] },
    { "type": "mix", "parts": [ { "loss": { "type": "aot" } }, { "weight": 0.3, "loss": { "type": "sft" } } ] },
    { "type": "wpo", "loss": { "type": "dpo" } },
    { "type": "humanline", "loss": { "type": "dpo" } },
    { "type": "humanline", "loss": { "type": "kto" } },
    { "type": "humanline", "loss": { "type": "aot" } },
    { "type": "humanline", "loss": { "type": "wpo", "loss": { "type": "apo_down" } } },
    { "type": "ordered", "by": "reward_gap", "loss": { "type": "simpo" } },
    { "type": "trust_region", "loss": { "type": "nca" } }
]"#;

const PANACEA: &str = r#"[
    { "type": "panacea",
      "mix": { "parts": [ { "loss": { "type": "dpo" } },
                          { "weight": 0.5, "loss": { "type": "ordered", "by": "safer", "loss": { "type": "ipo" } } } ] } },
    { "type": "panacea", "preference": [0.2, 0.8],
      "mix": { "parts": [ { "loss": { "type": "dpo" } }, { "loss": { "type": "sft" } } ] } },
    { "type": "panacea", "aggregate": "tchebycheff", "concentration": 4.0, "ideals": [0.1, 0.0],
      "mix": { "parts": [ { "loss": { "type": "simpo" } }, { "weight": 0.3, "loss": { "type": "aot" } } ] } }
]"#;

/// The hyperparameters by name.
fn options_of(recipe: &Recipe) -> serde_json::Map<String, Value> {
    let Value::Object(mut fields) = serde_json::to_value(recipe).unwrap() else { panic!("a loss is a table") };
    fields.remove("type").unwrap();
    fields
}

/// The same loss with other values of one hyperparameter: a number moved, a switch turned, every word that it takes.
fn others(recipe: &Recipe, key: &str) -> Vec<Recipe> {
    let value = &options_of(recipe)[key];
    let moved = |number: &Value| match number.as_u64() {
        Some(count) => Value::from(count + 1),
        None => Value::from(number.as_f64().unwrap() * 1.3 + 0.01),
    };
    let values = match value {
        Value::Number(_) => vec![moved(value)],
        Value::Bool(flag) => vec![Value::from(!flag)],
        Value::Object(fields) if fields.values().all(Value::is_number) => {
            vec![fields.iter().map(|(key, value)| (key.clone(), moved(value))).collect()]
        }
        _ => serde_json::from_str(WORDS).unwrap(),
    };
    let others = values.into_iter().filter(|other| other != value);
    let others: Vec<Recipe> = others.filter_map(|other| with(recipe, key, other).ok()).collect();
    assert!(!others.is_empty(), "{}.{key} = {value}: teach this test another value of it", recipe.name());
    others
}

fn with(recipe: &Recipe, key: &str, value: Value) -> serde_json::Result<Recipe> {
    let mut fields = serde_json::to_value(recipe)?;
    fields[key] = value;
    serde_json::from_value(fields)
}

/// Values of hyperparameters that are neither numbers nor switches.
const WORDS: &str = r#"[
    "sum", "mean", { "length_desensitized": { "alpha": 0.5 } }, { "length_desensitized_mean": { "alpha": 0.25 } },
    "reverse_kl", "forward_kl", "jensen_shannon", { "alpha": 0.5 }, "logistic", "squared", "hinge", "third_party", "sample",
    "max", "frozen", { "soft": { "alpha": 0.3, "every": 2 } }, { "hard": { "every": 3 } }, "balanced", { "balanced_ema": { "decay": 0.5 } }, { "min": 0.5, "max": 10.0 },
    "regress", "measured", "log_ratios", "labels", [2.5], "safer", "chosen", "cost", "helpfulness"
]"#;
