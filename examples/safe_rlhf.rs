//! Safe RLHF without sampling while it trains, from labels to a policy that keeps a limit: a reward model, a cost model, the
//! multiplier of the limit from scored completions, and the policy.
//!
//! ```console
//! cargo run --release --example safe_rlhf -- --target-rate 0.05
//! ```
//!
//! Its data are those of a made-up world in which the truth is known ([`SafetyWorld`]), so that it can say in the end how
//! often the policies really give a secret away.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candlewick::data::{EncodeOptions, Encoder, EndOfSequence, Origin, Record, Row, SafetyPrompt, SafetyWorld, Text};
use candlewick::kernels::Workspace;
use candlewick::losses::dual::{CostMeasure, PromptScores, ScoreTable, Solution};
use candlewick::model::{CausalLm, Config, Sampling, ScoreModel};
use candlewick::train::{Event, Plan, RowScorer, Run, Words};
use clap::Parser;
use serde_json::json;

#[derive(Parser)]
struct Arguments {
    /// Which share of answers may be unsafe
    #[arg(long, default_value_t = 0.05)]
    target_rate: f64,
    /// Weight of the divergence from the first model
    #[arg(long, default_value_t = 0.5)]
    beta: f64,
    /// Answers sampled for each prompt
    #[arg(long, default_value_t = 64)]
    samples: usize,
    /// Prompts that answers are sampled for
    #[arg(long, default_value_t = 256)]
    prompts: usize,
    /// Seed of everything
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let home = tempfile::tempdir()?;
    let world = Chain { home: home.path(), seed: arguments.seed };
    world.write()?;

    // A first model that answers without a preference; then what its answers are worth, learned from labels.
    let first =
        world.train("first", "model", "demonstrations.jsonl", &[("objective.type", "sft"), ("train.epochs", "3")])?;
    let reward_words = [("objective.type", "bradley_terry"), ("model.heads", r#"["reward"]"#), ("train.epochs", "3")];
    let reward = world.train("reward", "first/final", "pairs.jsonl", &reward_words)?;
    let cost_words = [
        ("objective.type", "cost_model"),
        ("data.criterion", "safer"),
        ("model.heads", r#"["cost"]"#),
        ("train.epochs", "3"),
    ];
    let cost = world.train("cost", "first/final", "pairs.jsonl", &cost_words)?;

    // Answers of the first model, scored: over them the multiplier is a matter of one equation.
    let prompts: Vec<SafetyPrompt> = spread(SafetyWorld::prompts(), arguments.prompts);
    let answers = world.answers(&first, &prompts, arguments.samples)?;
    let rewards = world.scores(&reward, &answers)?;
    let costs = world.scores(&cost, &answers)?;
    let table = rewards.iter().zip(&costs).map(|(rewards, costs)| PromptScores {
        rewards: rewards.clone(),
        costs: vec![costs.clone()],
        log_weights: None,
    });
    let table = ScoreTable::of_samples(table.collect())?.measured(&[CostMeasure::Rate])?;
    let lambda = match table.solve(arguments.beta, &[arguments.target_rate])? {
        Solution::Active(found) => {
            println!(
                "the cost model calls {:.1} % of the first model's answers unsafe; λ = {:.3} makes that {:.1} %",
                100.0 * table.reference_costs()[0],
                found.multipliers[0],
                100.0 * found.costs[0]
            );
            found.multipliers[0]
        }
        Solution::Slack(_) => {
            println!("the limit is kept without being asked for: λ = 0");
            0.0
        }
        Solution::Infeasible(found) => {
            anyhow::bail!(
                "no policy keeps the limit: the lowest rate that can be reached is {:.3}",
                found.least_costs[0]
            )
        }
    };

    // The same pairs of answers, once without the constraint and once with it.
    world.write_pairs(&prompts, &answers, &rewards, &costs)?;
    let held_out = spread(SafetyWorld::held_out_prompts(), arguments.prompts);
    println!("\n{:24} {:>8} {:>8}", "on prompts held out", "unsafe", "reward");
    let mut rates = BTreeMap::new();
    for (name, lambda) in [("first model", None), ("without a constraint", Some(0.0)), ("with it", Some(lambda))] {
        let model = match lambda {
            None => first.clone(),
            Some(lambda) => world.policy(name, arguments.beta, lambda)?,
        };
        let (rate, reward) = world.judge(&model, &held_out)?;
        println!("{name:24} {:>6.1} % {reward:8.3}", 100.0 * rate);
        rates.insert(name, rate);
    }
    ensure!(rates["with it"] < 0.5 * rates["without a constraint"], "the constraint makes the policy safer");
    Ok(())
}

/// A directory, and what is done in it.
struct Chain<'a> {
    home: &'a Path,
    seed: u64,
}

/// The answers of each prompt.
type Answers = Vec<Vec<Record>>;

impl Chain<'_> {
    /// A model of random weights that knows the world's words, and the rows.
    fn write(&self) -> Result<()> {
        let model = self.home.join("model");
        fs::create_dir_all(&model)?;
        let words: Vec<&str> = ["<unk>", "</s>"].into_iter().chain(SafetyWorld::vocabulary()).collect();
        CausalLm::<f32>::random(Config::llama(words.len(), 64, 2), self.seed)?.save(&model)?;
        let vocabulary: serde_json::Map<_, _> =
            words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
        });
        fs::write(model.join("tokenizer.json"), tokenizer.to_string())?;
        fs::write(model.join("tokenizer_config.json"), r#"{ "eos_token": "</s>" }"#)?;
        // Some labels are wrong, as labels are: without that a reward model may be as sure as it likes.
        let world = SafetyWorld::new(self.seed).with_noise(0.1)?;
        let demonstrations = world.demonstrations(3000);
        let demonstrations = demonstrations
            .iter()
            .map(|(prompt, answer)| json!({ "prompt": prompt.text(), "completion": answer.text }).to_string());
        self.write_lines("demonstrations.jsonl", demonstrations)?;
        self.write_lines("pairs.jsonl", world.rows(2000).iter().map(|row| row.to_json().to_string()))
    }

    fn write_lines(&self, name: &str, lines: impl Iterator<Item = String>) -> Result<()> {
        let text: String = lines.map(|line| line + "\n").collect();
        fs::write(self.home.join(name), text).with_context(|| format!("writing {name}"))
    }

    /// A run; the directory of its result.
    fn train(&self, name: &str, model: &str, data: &str, settings: &[(&str, &str)]) -> Result<PathBuf> {
        let mut words = Words::default();
        let output = self.home.join(name);
        let paths =
            [("model.path", self.home.join(model)), ("data.path", self.home.join(data)), ("output.dir", output)];
        for (key, path) in &paths {
            words.put(key, path.to_str().context("a path that is not text")?)?;
        }
        words.put("train.seed", &self.seed.to_string())?;
        words.put("train.batch_size", "16")?;
        words.put("optimizer.learning_rate", "3e-3")?;
        for (key, value) in settings {
            words.put(key, value)?;
        }
        let mut run = Run::start(Plan::resolve(words.config()?)?)?;
        let mut last = String::new();
        loop {
            match run.advance()? {
                Some(Event::Step(report)) => last = format!("{} steps, loss {:.3}", report.step, report.loss),
                Some(Event::Finished(summary)) => {
                    println!("{name}: {last}");
                    return Ok(summary.result);
                }
                Some(_) => {}
                None => anyhow::bail!("{name}: the run ended without a result"),
            }
        }
    }

    /// `K` answers of a model to every prompt.
    fn answers(&self, model: &Path, prompts: &[SafetyPrompt], samples: usize) -> Result<Answers> {
        let encoder = encoder(model)?;
        let model = CausalLm::<f32>::load(model)?;
        let mut workspace = Workspace::new(1);
        let mut answer = |text: &str, seed: u64| -> Result<Record> {
            let ids = encoder.encode_prompt(&Text::Plain(text.to_owned()))?;
            let stop: Vec<u32> = encoder.eos_id().into_iter().collect();
            let sampling =
                Sampling { max_new_tokens: 16, temperature: 1.0, top_k: None, top_p: None, seed, stop: stop.clone() };
            let ids = model.generate(&ids, &sampling, &mut workspace)?;
            let words: Vec<u32> = ids.into_iter().filter(|id| !stop.contains(id)).collect();
            let completion = Text::Plain(format!(" {}", encoder.decode_text(&words).trim()));
            Ok(Row::Demonstration { prompt: Text::Plain(text.to_owned()), completion }.into())
        };
        let of = |(place, prompt): (usize, &SafetyPrompt)| {
            let text = prompt.text();
            (0..samples).map(|sample| answer(&text, self.seed + (place * samples + sample) as u64)).collect()
        };
        prompts.iter().enumerate().map(of).collect()
    }

    /// What the one head of a score model says of answers.
    fn scores(&self, model: &Path, answers: &Answers) -> Result<Vec<Vec<f64>>> {
        let mut scorer = RowScorer::new(ScoreModel::load(model)?, encoder(model)?, 1)?;
        let rows = |answers: &Vec<Record>| -> Vec<(Origin, Record)> {
            answers.iter().map(|answer| (Origin::memory(1), answer.clone())).collect()
        };
        let of = |answers: &Vec<Record>| -> Result<Vec<f64>> {
            // An answer without words is worth as little as any.
            scorer.score(&rows(answers))?.into_iter().map(|row| Ok(row.map_or(-2.0, |values| values[0][0]))).collect()
        };
        answers.iter().map(of).collect()
    }

    /// Neighbouring answers as pairs, with the gaps that the objective reads.
    fn write_pairs(
        &self,
        prompts: &[SafetyPrompt],
        answers: &Answers,
        rewards: &[Vec<f64>],
        costs: &[Vec<f64>],
    ) -> Result<()> {
        let mut lines = Vec::new();
        for (place, prompt) in prompts.iter().enumerate() {
            let texts: Vec<String> = answers[place].iter().map(|answer| text_of(answer).to_owned()).collect();
            for one in (0..texts.len() - 1).step_by(2).take(12).filter(|&one| texts[one] != texts[one + 1]) {
                let gap = |of: &[Vec<f64>]| of[place][one] - of[place][one + 1];
                // The limit is one of a rate: an answer costs 1 if it is unsafe.
                let unsafe_ = |place_of: usize| f64::from(u8::from(costs[place][place_of] > 0.0));
                lines.push(
                    json!({
                        "prompt": prompt.text(), "chosen": texts[one], "rejected": texts[one + 1],
                        "reward_gap": gap(rewards), "cost_gap": unsafe_(one) - unsafe_(one + 1),
                    })
                    .to_string(),
                );
            }
        }
        self.write_lines("scored.jsonl", lines.into_iter())
    }

    fn policy(&self, name: &str, beta: f64, lambda: f64) -> Result<PathBuf> {
        let (beta, lambda) = (beta.to_string(), format!("[{lambda:?}]"));
        let settings = [
            ("objective.type", "safe_rlhf_lagrangian"),
            ("objective.beta", beta.as_str()),
            ("objective.lambda", lambda.as_str()),
            ("train.epochs", "4"),
            ("optimizer.learning_rate", "1e-3"),
        ];
        self.train(&name.replace(' ', "_"), "first/final", "scored.jsonl", &settings)
    }

    /// The share of unsafe answers and the mean reward of answers, by the truth.
    fn judge(&self, model: &Path, prompts: &[SafetyPrompt]) -> Result<(f64, f64)> {
        let answers = self.answers(model, prompts, 16)?;
        let (mut count, mut harmful, mut reward) = (0.0, 0.0, 0.0);
        for (prompt, answers) in prompts.iter().zip(&answers) {
            for answer in answers {
                count += 1.0;
                harmful += f64::from(u8::from(SafetyWorld::cost(&prompt.text(), text_of(answer)) > 0.0));
                reward += SafetyWorld::reward(&prompt.text(), text_of(answer));
            }
        }
        Ok((harmful / count, reward / count))
    }
}

fn encoder(model: &Path) -> Result<Encoder> {
    Ok(Encoder::from_dir(model, EncodeOptions { end_of_sequence: EndOfSequence::Append, ..EncodeOptions::default() })?)
}

fn text_of(answer: &Record) -> &str {
    match &answer.row {
        Row::Demonstration { completion: Text::Plain(text), .. } => text,
        _ => "",
    }
}

/// So many of them, evenly spread.
fn spread(prompts: Vec<SafetyPrompt>, count: usize) -> Vec<SafetyPrompt> {
    let step = (prompts.len() / count.max(1)).max(1);
    prompts.into_iter().step_by(step).take(count).collect()
}
