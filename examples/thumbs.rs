//! An application that learns from thumbs while it runs.
//!
//! ```console
//! cargo run --release --example thumbs
//! ```
//!
//! The trainer is an object that its owner drives: feedback comes through the application's own channel, training takes the
//! time slice it is given and stands still otherwise, and the application decides when an adapter goes into service and when it
//! is taken back. There is no loop, thread or clock but the application's.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]
#![expect(clippy::disallowed_methods, reason = "the clock is the application's")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candlewick::data::{BatchOptions, Batches, EncodeOptions, Encoder, Row, Source, Text, TokenizerFiles};
use candlewick::kernels::Workspace;
use candlewick::losses::Kto;
use candlewick::model::{
    Adapter, CausalLm, CompletionIds, Config, ContextIds, LoraConfig, Packed, Recompute, Statistics,
};
use candlewick::train::{AdamWOptions, CausalPolicy, Checkpoint, Reference, Trainable, Trainer, TrainerOptions};
use serde_json::json;

/// What a user thought of an answer.
struct Thumb {
    prompt: String,
    answer: String,
    up: bool,
}

fn main() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (send, feedback) = mpsc::channel();

    let base = CausalLm::<f32>::random(Config::llama(WORDS.len(), 32, 2), 3)?;
    let mut service = Service { model: base.clone(), workspace: Workspace::new(1), encoder: encoder()? };
    let mut coach = Coach::new(base, home.path())?;
    let before = service.log_prob("hello", "yes")?;

    // Users who like short answers; a time slice; then the trainer rests until it is called again.
    users(send.clone(), " yes", " well maybe no maybe yes").join().ok().context("the users left")?;
    let steps = coach.learn(&feedback, Duration::from_secs(2), 60)?;
    let first = coach.publish("monday")?;
    println!("{steps} steps in the first slice; the service is as it was: {:.3}", service.log_prob("hello", "yes")?);

    service.swap_in(&first)?;
    let after = service.log_prob("hello", "yes")?;
    println!("log p(yes | hello): {before:.3} before, {after:.3} with the new adapter");
    ensure!(after > before, "the liked answer became likelier");

    // On the next day others come, who want it the other way round. That turns out to be too much: both the service and the
    // trainer go back.
    let parameters = coach.parameters();
    users(send, " well maybe", " yes").join().ok().context("the users left")?;
    let known = coach.rows.len();
    coach.learn(&feedback, Duration::from_secs(2), 60)?;
    ensure!(coach.rows.len() == 2 * known, "the second slice had new feedback");
    ensure!(coach.parameters() != parameters, "and learnt from it");
    let second = coach.publish("tuesday")?;
    service.swap_in(&second)?;
    println!("log p(yes | hello): {:.3} on the day after", service.log_prob("hello", "yes")?);
    service.swap_in(&first)?;
    coach.roll_back(&first)?;
    let again = service.log_prob("hello", "yes")?;
    println!("rolled back: {again:.3}, {} steps", coach.trainer.steps_done());
    ensure!(again.to_bits() == after.to_bits(), "rolling back gives the very model that was in service");
    ensure!(coach.trainer.steps_done() == steps, "and the trainer goes on from there");
    ensure!(coach.parameters() == parameters, "with the parameters it had there, to the bit");
    Ok(())
}

/// A round of feedback from users who like one answer and dislike another.
fn users(send: Sender<Thumb>, liked: &'static str, disliked: &'static str) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for round in 0..40 {
            let prompt = ["hello", "thanks", "goodbye", "help"][round % 4].to_owned();
            let up = round % 8 < 4;
            let answer = if up { liked } else { disliked }.to_owned();
            if send.send(Thumb { prompt, answer, up }).is_err() {
                break;
            }
        }
    })
}

/// Answers users; knows nothing of training.
struct Service {
    model: CausalLm,
    workspace: Workspace,
    encoder: Encoder,
}

impl Service {
    /// Replaces the adapter in service.
    fn swap_in(&mut self, adapter: &Path) -> Result<()> {
        self.model.remove_adapter();
        Ok(self.model.load_adapter(adapter)?)
    }

    fn log_prob(&mut self, prompt: &str, answer: &str) -> Result<f32> {
        let prompt = self.encoder.encode_prompt(&Text::Plain(prompt.into()))?;
        let answer = self.encoder.encode_prompt(&Text::Plain(answer.into()))?;
        let completions = vec![CompletionIds::all_scored(&answer)];
        let packed = Packed::new(&[ContextIds { prompt: &prompt, prompt_scored: &[], completions }])?;
        let scores = self.model.score(&packed, Statistics::default(), Adapter::On, &mut self.workspace)?;
        Ok(scores.log_probs.iter().sum())
    }
}

/// Learns from feedback when it is told to.
struct Coach {
    trainer: Trainer<CausalPolicy>,
    encoder: Arc<Encoder>,
    rows: Vec<Row>,
    home: PathBuf,
}

impl Coach {
    fn new(mut model: CausalLm, home: &Path) -> Result<Self> {
        model.add_lora(&LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() }, 0)?;
        let policy = CausalPolicy::new(model, Recompute::Nothing, 1);
        let options = TrainerOptions {
            optimizer: AdamWOptions { learning_rate: 1e-2, ..AdamWOptions::default() }.into(),
            ..TrainerOptions::default()
        };
        let trainer = Trainer::new(policy, Reference::AdapterOff, Box::new(Kto::default()), options)?;
        Ok(Self { trainer, encoder: Arc::new(encoder()?), rows: Vec::new(), home: home.to_owned() })
    }

    /// Takes the feedback that has come and steps over it until the slice is used up; the number of steps.
    fn learn(&mut self, feedback: &Receiver<Thumb>, slice: Duration, most: u64) -> Result<u64> {
        let start = Instant::now();
        self.rows.extend(feedback.try_iter().map(|Thumb { prompt, answer, up }| Row::Labelled {
            prompt: Text::Plain(prompt),
            completion: Text::Plain(answer),
            desirable: up,
        }));
        let options = BatchOptions { mismatched: true, epochs: None, ..BatchOptions::default() };
        let mut batches = Batches::new(Source::from_rows(self.rows.clone()), Arc::clone(&self.encoder), options)?;
        let mut steps = 0;
        while steps < most && start.elapsed() < slice {
            let Some(step) = batches.next_step()? else {
                break;
            };
            self.trainer.step(&step)?;
            steps += 1;
        }
        Ok(steps)
    }

    /// Writes the adapter, and all it takes to go on from it.
    fn publish(&self, name: &str) -> Result<PathBuf> {
        let directory = self.home.join(name);
        self.trainer.save(&directory, &json!({ "rows": self.rows.len() }), &[])?;
        Ok(directory)
    }

    /// The adapter in training, bit by bit.
    fn parameters(&self) -> Vec<u32> {
        self.trainer.policy().parameters().data().iter().map(|x| x.to_bits()).collect()
    }

    fn roll_back(&mut self, directory: &Path) -> Result<()> {
        Ok(self.trainer.restore(&Checkpoint::open(directory)?)?)
    }
}

const WORDS: [&str; 11] =
    ["<unk>", "</s>", "hello", "thanks", "goodbye", "help", "yes", "no", "well", "maybe", "please"];

/// A tokenizer of eleven words.
fn encoder() -> Result<Encoder> {
    let vocabulary: serde_json::Map<_, _> =
        WORDS.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    })
    .to_string();
    let files = TokenizerFiles {
        tokenizer: tokenizer.as_bytes(),
        tokenizer_config: Some(br#"{ "eos_token": "</s>" }"#),
        ..TokenizerFiles::default()
    };
    Ok(Encoder::from_files(&files, EncodeOptions::default())?)
}
