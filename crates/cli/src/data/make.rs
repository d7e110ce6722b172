//! `wick data make`: rows of every kind about a little world, whose truth is known.
//!
//! All kinds speak of the same scenes ([`crate::world::grammar`]): what is preferred answers the question that was asked, in
//! agreement with the prompt. An answer's quality is 2 where it does, 1 where it says something true about another thing, 0 where
//! it contradicts the prompt; a friendly tone adds a quarter, a curt one takes it off.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candlewick::data::{EncodeOptions, Encoder, Error, Origin, Row, Text};
use candlewick::kernels::Workspace;
use candlewick::model::CausalLm;
use candlewick::train::replace_file;
use serde_json::{Map, Value, json};

use super::make_safety;
use super::words::{DataMake, World};
use crate::failure::Failure;
use crate::quickstart::recipe;
use crate::world::grammar::{ASTRAY, CAREFUL, FAMILIES, FRIENDLIER, ON_FORM, Scene, Split, pick_text, with_tone};
use crate::world::lexicon::{CURT_OPENERS, FRIENDLY_OPENERS};
use crate::world::random::{Random, mix};

/// Voters on each pair.
const VOTERS: usize = 8;
/// How clearly voters see a difference of quality: the slope of the logistic law by which they vote.
const DISCERNMENT: f64 = 1.5;
/// Tokens that a teacher names at each place.
const TAUGHT: usize = 8;
/// Scenes of the held-out side are some thousands; so many draws without a new prompt mean that there is none left.
const PATIENCE: usize = 100_000;

/// Writes the files.
pub(super) fn make(arguments: &DataMake) -> Result<()> {
    if !(0.0..=1.0).contains(&arguments.noise) {
        bail!(Failure::Usage(format!("--noise {}: expected a share between 0 and 1", arguments.noise)));
    }
    let directory = &arguments.directory;
    std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    if arguments.world == World::Safety {
        return make_safety::make(arguments);
    }
    type Draw = fn(&mut Random, &DataMake, bool) -> Value;
    let kinds: [(&str, Draw); 6] = [
        ("pairs", pair),
        ("edits", edit),
        ("labelled", labelled),
        ("ranked", ranked),
        ("judged", judged),
        ("demonstrations", demonstration),
    ];
    for (number, (name, draw)) in kinds.into_iter().enumerate() {
        let mut random = Random::new(mix(arguments.seed ^ mix(number as u64)));
        let rows = (0..arguments.rows).map(|_| {
            let flipped = random.chance(arguments.noise);
            let mut row = draw(&mut random, arguments, flipped);
            row["flipped"] = json!(flipped);
            row
        });
        write(&directory.join(format!("{name}.jsonl")), rows)?;
    }
    write(&directory.join("held_out.jsonl"), held_out(arguments)?.into_iter())?;
    if arguments.model || arguments.teacher.is_some() {
        let model = directory.join("model");
        std::fs::create_dir_all(&model).with_context(|| format!("creating {}", model.display()))?;
        recipe::write_shipped_model(&model)?;
    }
    if let Some(teacher) = &arguments.teacher {
        let rows = taught(arguments, teacher, &directory.join("model"))?;
        write(&directory.join("taught.jsonl"), rows.into_iter())?;
    }
    println!(
        "{} rows of each kind and {} held-out pairs are in {}",
        arguments.rows,
        arguments.held_out,
        directory.display()
    );
    Ok(())
}

pub(super) fn write(path: &Path, rows: impl Iterator<Item = Value>) -> Result<()> {
    let text: String = rows.map(|row| format!("{row}\n")).collect();
    Ok(replace_file(path, text.as_bytes())?)
}

/// What an answer is worth beside the truth of what it says.
fn tone(answer: &str) -> f64 {
    let begins = |openers: &[&str]| openers.iter().any(|opener| answer.starts_with(opener));
    match (begins(&FRIENDLY_OPENERS), begins(&CURT_OPENERS)) {
        (true, _) => 0.25,
        (_, true) => -0.25,
        _ => 0.0,
    }
}

/// An answer with what it is worth.
struct Answer {
    text: String,
    quality: f64,
}

impl Answer {
    fn right(random: &mut Random, scene: &Scene, friendly: f64) -> Self {
        let text = scene.right(random).to_owned();
        Self::toned(random, &text, 2.0, friendly)
    }

    fn wrong(random: &mut Random, scene: &Scene, friendly: f64) -> Self {
        let astray = random.chance(ASTRAY);
        let text = pick_text(random, if astray { &scene.astray } else { &scene.mixed_up }).to_owned();
        Self::toned(random, &text, if astray { 1.0 } else { 0.0 }, friendly)
    }

    fn toned(random: &mut Random, text: &str, truth: f64, friendly: f64) -> Self {
        let text = with_tone(random, text, friendly);
        Self { quality: truth + tone(&text), text: format!(" {text}") }
    }
}

fn scene(random: &mut Random) -> Scene {
    let family = random.pick(&FAMILIES);
    Scene::draw(random, family, Split::Train)
}

fn pair(random: &mut Random, _: &DataMake, flipped: bool) -> Value {
    let scene = scene(random);
    let better = Answer::right(random, &scene, FRIENDLIER);
    let worse = Answer::wrong(random, &scene, 1.0 - FRIENDLIER);
    let margin = better.quality - worse.quality;
    let chance = 1.0 / (1.0 + (-DISCERNMENT * margin).exp());
    let votes = (0..VOTERS).filter(|_| random.chance(chance)).count();
    // Half a vote for each side, so that no share is certain.
    let preference = (votes as f64 + 0.5) / (VOTERS as f64 + 1.0);
    let (chosen, rejected) = if flipped { (worse, better) } else { (better, worse) };
    json!({
        "prompt": scene.prompt, "chosen": chosen.text, "rejected": rejected.text, "margin": margin, "preference": preference,
        "family": format!("{:?}", scene.family).to_lowercase(),
    })
}

/// The pairs with the likeliest tokens under a teacher, at every place of each completion.
fn taught(arguments: &DataMake, teacher: &Path, before: &Path) -> Result<Vec<Value>> {
    let encoder = Encoder::from_dir(before, EncodeOptions::default())?;
    let load = |path: &Path| -> Result<CausalLm> {
        let model = CausalLm::load(path)?;
        encoder.check_vocabulary(model.config().vocab_size)?;
        Ok(model)
    };
    let (teacher, reference) = (load(teacher)?, load(before)?);
    let mut workspace = Workspace::new(crate::words::threads(0));
    // The same rows as those of the pairs, for the same seed.
    let mut random = Random::new(mix(arguments.seed ^ mix(0)));
    let mut rows = Vec::new();
    for number in 0..arguments.rows {
        let flipped = random.chance(arguments.noise);
        let mut row = pair(&mut random, arguments, flipped);
        let text = |name: &str| Text::Plain(row[name].as_str().unwrap_or_default().to_owned());
        let encoded = Row::Pair { prompt: text("prompt"), chosen: text("chosen"), rejected: text("rejected") };
        let example = encoder.encode(&encoded, &Origin::memory(number as u64)).map_err(Error::Rejected)?;
        let mut said = Map::new();
        for (name, completion) in ["chosen", "rejected"].iter().zip(&example.contexts[0].completions) {
            let prompt = &example.contexts[0].prompt;
            let ids: Vec<u32> = prompt.iter().chain(&completion.ids).copied().collect();
            let mut rows_of = |model: &CausalLm| -> Result<Vec<Vec<f32>>> {
                Ok(model.logits(&ids, &mut workspace)?.to_vec2()?.into_iter().map(log_softmax).collect())
            };
            let (ours, theirs) = (rows_of(&teacher)?, rows_of(&reference)?);
            let places = prompt.len() - 1..ids.len() - 1;
            said.insert((*name).to_owned(), places.map(|at| likeliest(&ours[at], &theirs[at])).collect());
        }
        row["teacher"] = Value::Object(said);
        row["flipped"] = json!(flipped);
        rows.push(row);
    }
    Ok(rows)
}

/// Log-probabilities of logits.
fn log_softmax(mut logits: Vec<f32>) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|x| (x - largest).exp()).sum();
    let log_partition = largest + sum.ln();
    logits.iter_mut().for_each(|x| *x -= log_partition);
    logits
}

/// The likeliest tokens of a place, with their log-probabilities under a teacher and its reference.
fn likeliest(teacher: &[f32], reference: &[f32]) -> Value {
    let mut ids: Vec<usize> = (0..teacher.len()).collect();
    ids.sort_by(|a, b| teacher[*b].total_cmp(&teacher[*a]));
    ids.truncate(TAUGHT);
    let of = |values: &[f32]| ids.iter().map(|id| values[*id]).collect::<Vec<_>>();
    json!({ "ids": ids, "log_probs": of(teacher), "reference_log_probs": of(reference) })
}

/// A pair whose better answer is the other one with the wrong words replaced.
fn edit(random: &mut Random, _: &DataMake, flipped: bool) -> Value {
    let scene = scene(random);
    let wording = random.below(scene.right.len().min(scene.mixed_up.len()));
    let opener = if random.chance(0.5) { format!("{} ", random.pick(&FRIENDLY_OPENERS)) } else { String::new() };
    let answer = |texts: &[String]| format!(" {opener}{}", texts[wording]);
    let (better, worse) = (answer(&scene.right), answer(&scene.mixed_up));
    let (chosen, rejected) = if flipped { (worse, better) } else { (better, worse) };
    json!({ "prompt": scene.prompt, "chosen": chosen, "rejected": rejected })
}

fn labelled(random: &mut Random, arguments: &DataMake, flipped: bool) -> Value {
    let scene = scene(random);
    let desirable = random.below(1 + arguments.imbalance) == 0;
    let answer = match desirable {
        true => Answer::right(random, &scene, FRIENDLIER),
        false => Answer::wrong(random, &scene, 1.0 - FRIENDLIER),
    };
    let score = if flipped { 2.0 - answer.quality } else { answer.quality };
    json!({ "prompt": scene.prompt, "completion": answer.text, "label": desirable != flipped, "score": score })
}

fn ranked(random: &mut Random, _: &DataMake, flipped: bool) -> Value {
    let scene = scene(random);
    let mut answers: Vec<Answer> = Vec::new();
    for (texts, truth) in [(&scene.right, 2.0), (&scene.right, 2.0), (&scene.astray, 1.0), (&scene.mixed_up, 0.0)] {
        let text = pick_text(random, texts).to_owned();
        let friendly = if truth > 1.0 { FRIENDLIER } else { 1.0 - FRIENDLIER };
        let answer = Answer::toned(random, &text, truth, friendly);
        if answers.iter().all(|other| other.text != answer.text) {
            answers.push(answer);
        }
    }
    let order: Vec<usize> = (0..answers.len()).collect();
    let order = random.distinct(&order, answers.len());
    let rating = |answer: &Answer| if flipped { 2.0 - answer.quality } else { answer.quality };
    json!({
        "prompt": scene.prompt,
        "completions": order.iter().map(|i| &answers[*i].text).collect::<Vec<_>>(),
        "ratings": order.iter().map(|i| rating(&answers[*i])).collect::<Vec<_>>(),
    })
}

fn judged(random: &mut Random, _: &DataMake, flipped: bool) -> Value {
    let scene = scene(random);
    let is_right = random.chance(0.5);
    let answer = match is_right {
        true => Answer::right(random, &scene, FRIENDLIER),
        false => Answer::wrong(random, &scene, 1.0 - FRIENDLIER),
    };
    let positive = is_right != flipped;
    // Made of words that the world has.
    let judgment = if positive { "that was it ." } else { "that was not it ." };
    json!({ "prompt": scene.prompt, "completion": answer.text, "judgment": judgment, "positive": positive })
}

/// A text of a careful or a careless writer, and how much one should doubt it.
fn demonstration(random: &mut Random, _: &DataMake, flipped: bool) -> Value {
    let scene = scene(random);
    let careful = random.chance(CAREFUL);
    let friendly = if careful { FRIENDLIER } else { 1.0 - FRIENDLIER };
    let is_right = random.chance(ON_FORM) == careful;
    let answer =
        if is_right { Answer::right(random, &scene, friendly) } else { Answer::wrong(random, &scene, friendly) };
    let doubt = if is_right == flipped { 0.8 } else { 0.2 };
    json!({ "prompt": scene.prompt, "completion": answer.text, "uncertainty": doubt })
}

/// Pairs about combinations that no other file speaks of, with all that may be answered.
fn held_out(arguments: &DataMake) -> Result<Vec<Value>> {
    let mut random = Random::new(mix(arguments.seed ^ u64::MAX));
    let (mut seen, mut rows, mut tries) = (HashSet::new(), Vec::new(), 0);
    while rows.len() < arguments.held_out {
        let family = random.pick(&FAMILIES);
        let scene = Scene::draw(&mut random, family, Split::HeldOut);
        let better = Answer::right(&mut random, &scene, FRIENDLIER);
        let worse = Answer::wrong(&mut random, &scene, 1.0 - FRIENDLIER);
        tries += 1;
        if !seen.insert(scene.prompt.clone()) {
            if tries > PATIENCE + rows.len() {
                bail!(Failure::Usage(format!(
                    "--held-out {}: there are only about {} such prompts",
                    arguments.held_out,
                    rows.len()
                )));
            }
            continue;
        }
        tries = 0;
        rows.push(json!({
            "prompt": scene.prompt, "chosen": better.text, "rejected": worse.text, "margin": better.quality - worse.quality,
            "family": format!("{:?}", scene.family).to_lowercase(), "right": scene.right,
            "wrong": scene.astray.iter().chain(&scene.mixed_up).collect::<Vec<_>>(),
        }));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(noise: f64) -> DataMake {
        DataMake {
            directory: "".into(),
            world: World::Scenes,
            rows: 1,
            held_out: 40,
            seed: 3,
            noise,
            imbalance: 10,
            model: false,
            teacher: None,
        }
    }

    #[test]
    fn better_answers_are_worth_more_and_noise_turns_them_round() {
        let mut random = Random::new(7);
        for _ in 0..300 {
            let row = pair(&mut random, &arguments(0.0), false);
            assert!(row["margin"].as_f64().is_some_and(|margin| margin >= 0.5), "{row}");
            let share = row["preference"].as_f64().expect("a number");
            assert!((0.0..1.0).contains(&share) && share > 0.0);
        }
        let (mut one, mut other) = (Random::new(9), Random::new(9));
        let (straight, turned) = (pair(&mut one, &arguments(0.0), false), pair(&mut other, &arguments(0.0), true));
        assert_eq!((&straight["chosen"], &straight["rejected"]), (&turned["rejected"], &turned["chosen"]));
        assert_eq!(straight["margin"], turned["margin"]);
    }

    #[test]
    fn verdicts_are_as_uneven_as_asked() {
        let mut random = Random::new(7);
        let rows: Vec<Value> = (0..5000).map(|_| labelled(&mut random, &arguments(0.0), false)).collect();
        let desirable = rows.iter().filter(|row| row["label"] == json!(true)).count();
        assert!((350..560).contains(&desirable), "{desirable} of 5000, one in eleven asked");
    }

    #[test]
    fn rankings_are_of_different_answers() {
        let mut random = Random::new(7);
        for _ in 0..200 {
            let row = ranked(&mut random, &arguments(0.0), false);
            let completions = row["completions"].as_array().expect("a list");
            let distinct: HashSet<_> = completions.iter().map(Value::to_string).collect();
            assert!(distinct.len() == completions.len() && completions.len() >= 3);
            assert_eq!(completions.len(), row["ratings"].as_array().map_or(0, Vec::len));
        }
    }

    #[test]
    fn held_out_prompts_are_distinct_and_an_impossible_number_is_told() {
        let rows = held_out(&arguments(0.0)).expect("rows");
        let prompts: HashSet<_> = rows.iter().map(|row| row["prompt"].to_string()).collect();
        assert_eq!(prompts.len(), 40);
    }
}
