//! What every objective of the list costs beside DPO: value and gradient, statistics of the step included.
//!
//! ```console
//! cargo bench -p candlewick-losses                    # all, at 8, 512 and 65,536 items
//! cargo bench -p candlewick-losses -- --quick         # all, at 8 items: does every one run?
//! cargo bench -p candlewick-losses -- dpo             # those with `dpo` in their names
//! ```
//!
//! A time is the fastest of several repetitions, in turns with DPO's. Ratios are those of times a scored row: an item of ranked
//! completions has four of them, a pair two. One above 4 is marked with `!`; nothing here fails because of a time. What a sample
//! holds follows from what an objective needs, so a new one is timed by joining the list.
#![expect(clippy::print_stdout, reason = "a benchmark shows what it measured")]

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor, Var};
use candlewick_losses::{
    Builtin, Groups, JudgedRows, MismatchedScores, Needs, Number, Objective, Phase, RankedRows, Recipe, Result, Scored,
    Scores, Solo, StepScores, StepWide, Teacher, TeacherScores, TokenScores,
};

/// Items at once: few, so that the number of operations counts; many, so that memory does.
const ITEMS: [usize; 3] = [8, 512, 65_536];
const BASELINE: &str = "dpo";
/// Times DPO, above which an objective is marked.
const LIMIT: f64 = 4.0;
const TOKENS: usize = 4;
/// Completions in a ranked group.
const RANKED: usize = 4;
/// Tokens a slot that a teacher speaks of.
const TAUGHT: usize = 8;
/// Heads of a score model, as many as any objective reads by default; each reads rows of `HIDDEN` numbers.
const HEADS: usize = 10;
const HIDDEN: usize = 64;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_quick = words.iter().any(|word| word == "--quick");
    let wanted: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    let sizes = if is_quick { &ITEMS[..1] } else { &ITEMS[..] };

    println!("value and gradient, f32, {TOKENS} tokens a row; × is the time a scored row beside that of {BASELINE}");
    print!("{:<28}{:>10}", "objective", "rows/item");
    sizes.iter().for_each(|items| print!("{:>22}", format!("{items} items")));
    println!();
    let mut dear = 0;
    for name in Builtin::NAMES.iter().filter(|name| wanted.is_empty() || wanted.iter().any(|word| name.contains(word)))
    {
        let times = sizes.iter().map(|&items| compare(name, items)).collect::<Result<Vec<_>>>()?;
        print!("{name:<28}{:>10.1}", times[0].own.rows as f64 / sizes[0] as f64);
        for Comparison { own, baseline } in &times {
            let ratio = own.a_row() / baseline.a_row();
            dear += usize::from(ratio > LIMIT);
            let mark = if ratio > LIMIT { '!' } else { ' ' };
            print!("{:>11.1} µs {ratio:>6.2}×{mark}", own.fastest.as_secs_f64() * 1e6);
        }
        println!();
    }
    println!("{dear} times above {LIMIT}× {BASELINE} a scored row");
    Ok(())
}

/// An objective and the baseline on as many items.
struct Comparison {
    own: Timed,
    baseline: Timed,
}

/// An objective with a step to evaluate it on, and the fastest evaluation so far.
struct Timed {
    recipe: Recipe,
    step: [Scores; 1],
    rows: usize,
    fastest: Duration,
}

/// Both in turns, so that whatever else the machine does slows both.
fn compare(name: &str, items: usize) -> Result<Comparison> {
    let (mut own, mut baseline) = (Timed::new(name, items)?, Timed::new(BASELINE, items)?);
    let (begun, mut repetitions) = (now(), 0);
    while repetitions < 4 || begun.elapsed() < Duration::from_millis(300) {
        own.repeat()?;
        baseline.repeat()?;
        repetitions += 1;
    }
    Ok(Comparison { own, baseline })
}

impl Timed {
    fn new(name: &str, items: usize) -> Result<Self> {
        let recipe = Recipe::from_name(name)?;
        let step = [sample(&recipe.needs(), items)?];
        let mismatched = step[0].mismatched.as_ref().map_or(0, |mismatched| mismatched.policy.rows());
        let rows = step[0].policy.rows() + mismatched;
        Ok(Self { recipe, step, rows, fastest: Duration::MAX })
    }

    fn repeat(&mut self) -> Result<()> {
        let begun = now();
        evaluate(&mut self.recipe, &self.step)?;
        self.fastest = self.fastest.min(begun.elapsed());
        Ok(())
    }

    fn a_row(&self) -> f64 {
        self.fastest.as_secs_f64() / self.rows as f64
    }
}

/// One step of one micro-batch: statistics, value and gradient.
fn evaluate(recipe: &mut Recipe, step: &[Scores]) -> Result<()> {
    let context = recipe.prepare(&StepScores { micro: step, collective: &Solo }, Phase::Train)?.micro(0);
    let loss = recipe.evaluate(&step[0], &context)?.loss(&step[0].totals())?;
    std::hint::black_box(loss.backward()?);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// Scores of as many items as are asked for, with all that an objective needs.
fn sample(needs: &Needs, items: usize) -> Result<Scores> {
    let mut random = Random(items as u64);
    let mut groups = groups(needs, items, &mut random);
    for number in needs.numbers.iter() {
        let values = (0..items).map(|_| value_of(number, random.next())).collect();
        groups.numbers.insert(number.name.to_owned(), values);
    }
    let rows = rows_of(&groups);
    let policy = policy(needs, rows, &mut random)?;
    let reference = TokenScores::new(random.matrix(rows, -3.0, -0.1)?, policy.mask().clone())?;
    let mut scores = Scores::new(policy, needs.reference.then_some(reference), groups);
    if needs.step_wide == StepWide::Mismatched {
        let mut scored = || -> Result<TokenScores> { TokenScores::unmasked(random.matrix(items, -3.0, -0.1)?) };
        scores.mismatched = Some(MismatchedScores { policy: scored()?, reference: scored()? });
    }
    if needs.teacher != Teacher::None {
        // Eight tokens of at most e⁻³ each leave something for the rest of the vocabulary.
        let mut log_probs = || random.tensor(&[rows, TOKENS, TAUGHT], -6.0, -3.0);
        let (teacher, reference) = (log_probs()?, log_probs()?);
        let reference = (needs.teacher == Teacher::WithReference).then_some(reference);
        scores.teacher = Some(TeacherScores { log_probs: teacher, reference });
    }
    Ok(scores)
}

/// Items of the first kind of rows that the objective can use.
fn groups(needs: &Needs, items: usize, random: &mut Random) -> Groups {
    if needs.rows.demonstrations {
        Groups::of_demonstrations(items)
    } else if needs.rows.pairs {
        Groups::of_pairs(items)
    } else if needs.rows.labelled {
        let desirable: Vec<bool> = (0..items).map(|item| item % 2 == 0).collect();
        Groups::of_labelled(&desirable)
    } else if needs.rows.ranked {
        let mut group = |item: usize| RankedRows {
            rows: (item * RANKED..(item + 1) * RANKED).collect(),
            ratings: (0..RANKED).map(|_| random.next()).collect(),
        };
        Groups { ranked: (0..items).map(&mut group).collect(), ..Groups::default() }
    } else {
        let judged = |item| JudgedRows { plain: item, judged: items + item, positive: item % 2 == 0 };
        Groups { judged: (0..items).map(judged).collect(), ..Groups::default() }
    }
}

fn rows_of(groups: &Groups) -> usize {
    let ranked: usize = groups.ranked.iter().map(|group| group.rows.len()).sum();
    2 * groups.pairs.len() + groups.labelled.len() + groups.demonstrations.len() + ranked + 2 * groups.judged.len()
}

/// Scores that gradients flow to, with the statistics that are asked for.
fn policy(needs: &Needs, rows: usize, random: &mut Random) -> Result<TokenScores> {
    let variable = |values: Tensor| -> Result<Tensor> { Ok(Var::from_tensor(&values)?.as_tensor().clone()) };
    let log_probs = variable(random.matrix(rows, -3.0, -0.1)?)?;
    let mask = match needs.scored {
        Scored::All => log_probs.ones_like()?.detach(),
        Scored::Edits => {
            let edited = (0..rows * TOKENS).map(|slot| f32::from(u8::from(slot % 2 == 0))).collect();
            Tensor::from_vec(edited, (rows, TOKENS), &Device::Cpu)?
        }
    };
    let mut scores = TokenScores::new(log_probs, mask)?;
    if needs.outputs.mean_log_probs {
        scores = scores.with_mean_log_probs(variable(random.matrix(rows, -12.0, -8.0)?)?)?;
    }
    if needs.outputs.log_sum_sq_probs {
        scores = scores.with_log_sum_sq_probs(variable(random.matrix(rows, -2.0, -0.1)?)?)?;
    }
    if needs.outputs.entropy {
        scores = scores.with_entropy(variable(random.matrix(rows, 0.5, 3.0)?)?)?;
    }
    if needs.outputs.is_top1 {
        scores = scores.with_is_top1(random.matrix(rows, 0.0, 1.0)?.round()?)?;
    }
    if needs.outputs.given {
        scores = scores.with_given(variable(random.tensor(&[rows, TOKENS, TAUGHT], -6.0, -3.0)?)?)?;
    }
    if needs.outputs.values {
        scores = scores.with_values(variable(random.tensor(&[rows, HEADS], -2.0, 2.0)?)?)?;
    }
    if needs.outputs.pooled {
        scores = scores.with_pooled(random.tensor(&[rows, HIDDEN], -1.0, 1.0)?)?;
    }
    Ok(scores)
}

/// A value that a number may have, near 0 where its range has no end; `share` is in (0, 1).
fn value_of(number: &Number, share: f64) -> f64 {
    let low = if number.low > f64::from(f32::MIN) { number.low } else { number.high.min(1.0) - 2.0 };
    let high = if number.high < f64::from(f32::MAX) { number.high } else { low + 2.0 };
    let value = low + (high - low) * share;
    if number.whole { value.round() } else { value }
}

/// The same numbers in every run: a linear congruential generator, of which the upper bits are used.
struct Random(u64);

impl Random {
    /// In (0, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f64 + 0.5) / f64::from(1_u32 << 24)
    }

    fn matrix(&mut self, rows: usize, low: f64, high: f64) -> Result<Tensor> {
        self.tensor(&[rows, TOKENS], low, high)
    }

    fn tensor(&mut self, shape: &[usize], low: f64, high: f64) -> Result<Tensor> {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| (low + (high - low) * self.next()) as f32).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}
