//! Examples gathered into the micro-batches of optimizer steps.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bucket::Bucket;
use crate::cursor::Cursor;
use crate::encode::{Encoder, ScoredTokens};
use crate::error::{Error, Rejection};
use crate::mismatch;
use crate::order::{Order, SplitMix};
use crate::packing;
use crate::report::Report;
use crate::row::{Annotation, Batch, Example};
use crate::source::Source;
use crate::stratify::{LOOK_AHEAD, Window};
use crate::stream::Stream;

/// What becomes of the examples at the end of an epoch that do not fill a step. No step spans two epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastStep {
    /// They make a smaller step.
    #[default]
    Keep,
    /// They are left out.
    Drop,
}

/// How examples are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Examples of a micro-batch.
    pub examples: usize,
    /// Micro-batches of an optimizer step.
    pub micro_batches: usize,
    /// The order of rows.
    pub order: Order,
    /// Passes over the source; None for no end.
    pub epochs: Option<u64>,
    /// What becomes of a step that is not full.
    pub last_step: LastStep,
    /// Whether each batch carries mismatched completions ([`Batch::mismatched`]). A step needs two different prompts for
    /// that: one that has a single prompt, such as a last step of one row, is an error and never a step without them;
    /// [`LastStep::Drop`] leaves the steps out that are not full.
    pub mismatched: bool,
    /// Whether labelled rows are rearranged so that every step holds both labels, as long as there are both: a row may come
    /// later than its place in the order, for which up to [`LOOK_AHEAD`] rows beyond the step are held in memory. Each row
    /// still comes once an epoch, and rows of one label keep their order. Steps have at least two examples then. Where one
    /// label is all that is within reach, steps go on with it and are counted
    /// ([`Report::one_label_steps`](crate::Report::one_label_steps)).
    pub stratified: bool,
    /// Most tokens of a micro-batch, each prompt counted once: a step still has `examples` times `micro_batches` examples, and
    /// is packed into as many micro-batches as they need ([`pack_step`](crate::pack_step)). An example that is longer is a
    /// micro-batch of its own ([`Report::over_budget`](crate::Report::over_budget)). Not with `mismatched`. None for
    /// micro-batches of `examples` each.
    pub tokens: Option<usize>,
    /// Gathers examples of like length in a step: those of so many steps are held in memory, sorted by length, cut into steps,
    /// and the steps given out in an order that the seed of `order` decides. Each row still comes once an epoch. Not with
    /// `stratified`. None for steps in order.
    pub bucket: Option<usize>,
    /// Threads that encode rows ahead of their step; 0 for none. Steps, report and cursors are the same whatever the number.
    pub workers: usize,
}

impl Default for BatchOptions {
    /// Micro-batches of 8, one a step, in file order, one epoch.
    fn default() -> Self {
        Self {
            examples: 8,
            micro_batches: 1,
            order: Order::File,
            epochs: Some(1),
            last_step: LastStep::Keep,
            mismatched: false,
            stratified: false,
            tokens: None,
            bucket: None,
            workers: 0,
        }
    }
}

impl BatchOptions {
    fn check(&self, encoder: &Encoder) -> Result<(), Error> {
        let counts = [
            ("examples", Some(self.examples)),
            ("micro_batches", Some(self.micro_batches)),
            ("tokens", self.tokens),
            ("bucket", self.bucket),
        ];
        let refuse = |name, got: &str, expected| Err(Error::Option { name, got: got.to_owned(), expected });
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
            return refuse(name, "0", "at least 1");
        }
        if self.stratified && self.examples == 1 && self.micro_batches == 1 {
            let expected = "at least two examples a step, one of each label";
            return refuse("stratified", "true with steps of one example", expected);
        }
        if self.mismatched && encoder.options().scored == ScoredTokens::Edits {
            let expected = "all: edits tell a completion from another of its own prompt";
            return refuse("scored", "edits, with mismatched completions", expected);
        }
        if self.mismatched && self.tokens.is_some() {
            let expected = "no token budget with `mismatched`: its completions are gathered after the micro-batches";
            return refuse("tokens", "a budget, with mismatched completions", expected);
        }
        if self.stratified && self.bucket.is_some() {
            let expected = "no bucket with `stratified`: rows are arranged by length or by label, not by both";
            return refuse("bucket", "a number of steps, with stratified steps", expected);
        }
        Ok(())
    }

    /// Examples of a step.
    fn full(&self) -> usize {
        self.examples.saturating_mul(self.micro_batches)
    }
}

/// The batches of a run, step by step.
#[derive(Debug)]
pub struct Batches {
    stream: Stream,
    options: BatchOptions,
    window: Window,
    bucket: Bucket,
    steps_of_epoch: u64,
    began_inside_epoch: bool,
}

impl Batches {
    /// Batches from the start of the source.
    ///
    /// # Errors
    /// An option outside its range.
    pub fn new(source: Source, encoder: Arc<Encoder>, options: BatchOptions) -> Result<Self, Error> {
        options.check(&encoder)?;
        let stream = Stream::new(source, encoder, options.order)?.with_workers(options.workers)?;
        let (window, bucket) = (Window::default(), Bucket::default());
        Ok(Self { stream, options, window, bucket, steps_of_epoch: 0, began_inside_epoch: false })
    }

    /// The micro-batches of the next optimizer step; None after the last epoch, and after reading has failed, until
    /// [`resume`](Self::resume).
    ///
    /// # Errors
    /// Reading fails, a row cannot be used and the source is strict, a whole epoch gives no step, or mismatched completions
    /// are asked of a step with one prompt only.
    pub fn next_step(&mut self) -> Result<Option<Vec<Batch>>, Error> {
        let full = self.options.full();
        if self.stream.has_failed() {
            return Ok(None);
        }
        while self.options.epochs.is_none_or(|epochs| self.stream.epoch() < epochs) {
            let mut examples = match self.options.bucket {
                Some(steps) => self.of_like_length(full, steps)?,
                None if self.options.stratified => self.both_labels(full)?,
                None => self.in_order(full)?,
            };
            let is_full = examples.len() == full;
            if !is_full && self.options.last_step == LastStep::Drop {
                examples.clear();
            }
            self.steps_of_epoch += u64::from(!examples.is_empty());
            if !is_full {
                self.end_epoch()?;
            }
            if !examples.is_empty() {
                // A step of one row cannot hold both.
                if self.options.stratified && examples.len() > 1 && has_one_label(&examples) {
                    self.stream.report_mut().one_label_steps += 1;
                }
                return self.gather(examples).map(Some);
            }
        }
        Ok(None)
    }

    /// Where the next step begins; saved with a checkpoint.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let (epoch, place) = (self.stream.epoch(), self.stream.place(self.oldest()));
        let (consumed, skip) = self.bucket.place().unwrap_or((self.stream.consumed(), 0));
        let bucket = if skip > 0 { self.sizes() } else { [0; 2] };
        Cursor { epoch, consumed, held: self.window.spans(consumed), skip, bucket, place }
    }

    /// Goes to a saved place: the steps from there on are those of a run that was never interrupted. Rows are read again from
    /// the cursor's [`Place`](crate::Place) on, or without one from the start of the epoch; only those among which some waited
    /// for their step are encoded again.
    ///
    /// # Errors
    /// Reading fails, the source has fewer rows than the cursor says or other ones, or rows wait for a kind of step that
    /// these are not.
    pub fn resume(&mut self, cursor: Cursor) -> Result<(), Error> {
        self.check_kind(&cursor)?;
        let went = self.go_to(cursor);
        if went.is_err() {
            self.stream.stop();
        }
        went
    }

    fn go_to(&mut self, cursor: Cursor) -> Result<(), Error> {
        self.window.clear();
        self.bucket.clear();
        let encoded = cursor.held[0].max(cursor.held[1]);
        self.stream.go_on_from(&cursor, cursor.consumed.saturating_sub(encoded))?;
        if encoded > 0 {
            self.hold_again(&cursor)?;
        }
        if let Some(steps) = self.options.bucket.filter(|_| cursor.skip > 0) {
            self.fill_again(steps)?;
            self.bucket.skip(cursor.skip);
        }
        self.steps_of_epoch = 0;
        self.began_inside_epoch = cursor.consumed > 0 || cursor.skip > 0;
        Ok(())
    }

    fn check_kind(&self, cursor: &Cursor) -> Result<(), Error> {
        let refuse = |name, got: &str, expected| Err(Error::Option { name, got: got.to_owned(), expected });
        if !self.options.stratified && cursor.held != [0; 2] {
            let expected = "true, as in the run that this position was saved from: rows of it wait for their step";
            return refuse("stratified", "false", expected);
        }
        if cursor.skip > 0 && self.sizes() != cursor.bucket {
            let sizes = |[steps, examples]: [u64; 2]| match steps {
                0 => "none".to_owned(),
                _ => format!("{steps} steps of {examples} examples"),
            };
            let got = format!("{}, the position was saved with {}", sizes(self.sizes()), sizes(cursor.bucket));
            return refuse("bucket", &got, "the same as in that run: the position lies inside a bucket");
        }
        Ok(())
    }

    /// Steps of a bucket, and examples of a step.
    fn sizes(&self) -> [u64; 2] {
        self.options.bucket.map_or([0; 2], |steps| [steps as u64, self.options.full() as u64])
    }

    /// Rows drawn before the oldest one that has to be encoded again after an interruption here.
    fn oldest(&self) -> u64 {
        let consumed = self.stream.consumed();
        let [undesirable, desirable] = self.window.spans(consumed);
        let began = self.bucket.place().map_or(consumed, |(began, _)| began);
        began.saturating_sub(undesirable.max(desirable))
    }

    /// What became of the rows met so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        self.stream.report()
    }

    /// Counts on from a report, as that of an earlier part of the same pass.
    pub fn count_on_from(&mut self, report: Report) {
        *self.stream.report_mut() = report;
    }

    /// From now on, holds every row of the first pass that is set aside, for [`take_rejections`](Self::take_rejections).
    pub fn hold_rejections(&mut self) {
        self.stream.hold_rejections();
    }

    /// The rows set aside since the last call; none unless they are held.
    pub fn take_rejections(&mut self) -> Vec<Rejection> {
        self.stream.take_rejections()
    }

    /// How examples are gathered.
    #[must_use]
    pub fn options(&self) -> &BatchOptions {
        &self.options
    }

    fn in_order(&mut self, full: usize) -> Result<Vec<Example>, Error> {
        let mut examples = Vec::new();
        while examples.len() < full {
            match self.stream.next_example()? {
                Some(example) => examples.push(example),
                None => break,
            }
        }
        Ok(examples)
    }

    fn both_labels(&mut self, full: usize) -> Result<Vec<Example>, Error> {
        self.stream.need(self.oldest());
        while self.window.len() < full.saturating_add(LOOK_AHEAD) {
            let Some(example) = self.stream.next_example()? else { break };
            self.window.push(self.stream.consumed(), label(&example)?, example);
        }
        Ok(self.window.take(full))
    }

    fn of_like_length(&mut self, full: usize, steps: usize) -> Result<Vec<Example>, Error> {
        if self.bucket.place().is_none() {
            let began = self.stream.consumed();
            self.stream.need(began);
            let examples = self.in_order(full.saturating_mul(steps))?;
            self.bucket.fill(examples, full, began, self.random(began));
        }
        Ok(self.bucket.next_step().unwrap_or_default())
    }

    /// Of a window of steps: decided by seed, epoch and where it begins.
    fn random(&self, began: u64) -> SplitMix {
        let mut of_epoch = SplitMix::new(self.options.order.seed(), self.stream.epoch());
        SplitMix::new(of_epoch.next_u64(), began)
    }

    /// The rows that wait for a step of both labels.
    fn hold_again(&mut self, cursor: &Cursor) -> Result<(), Error> {
        while self.stream.consumed() < cursor.consumed {
            let Some(met) = self.stream.meet_again()? else { return Err(self.stream.too_short(cursor)) };
            let Some(example) = met else { continue };
            let drawn = self.stream.consumed();
            let desirable = label(&example)?;
            if cursor.consumed - drawn < cursor.held[usize::from(desirable)] {
                self.window.push(drawn, desirable, example);
            }
        }
        Ok(())
    }

    /// The window of like lengths that begins here.
    fn fill_again(&mut self, steps: usize) -> Result<(), Error> {
        let (began, full) = (self.stream.consumed(), self.options.full());
        self.stream.need(began);
        let mut examples = Vec::new();
        while examples.len() < full.saturating_mul(steps) {
            let Some(met) = self.stream.meet_again()? else { break };
            examples.extend(met);
        }
        self.bucket.fill(examples, full, began, self.random(began));
        Ok(())
    }

    fn end_epoch(&mut self) -> Result<(), Error> {
        if self.steps_of_epoch == 0 && !self.began_inside_epoch {
            let report = self.report();
            let mut summary = format!("{} (selected: {})", report.summary(), self.stream.source().range());
            if let Some(first) = report.rejected.first() {
                summary.push_str(&format!("; the first: {first}"));
            }
            return Err(Error::NothingUsable {
                file: self.stream.source().name().clone(),
                what: if report.kept == 0 { "usable row" } else { "full step" },
                summary,
            });
        }
        self.stream.next_epoch();
        self.steps_of_epoch = 0;
        self.began_inside_epoch = false;
        Ok(())
    }

    fn gather(&mut self, examples: Vec<Example>) -> Result<Vec<Batch>, Error> {
        if let Some(budget) = self.options.tokens {
            let over = examples.iter().filter(|example| packing::tokens(example) > budget).count();
            self.stream.report_mut().over_budget += over as u64;
            return Ok(packing::pack(examples, budget));
        }
        let limit = self.options.mismatched.then(|| self.stream.encoder().options().max_length);
        let mut batches = split(examples, self.options.examples);
        if let Some(max_length) = limit {
            mismatch::fill(&mut batches, max_length)?;
        }
        Ok(batches)
    }
}

impl Iterator for Batches {
    type Item = Result<Vec<Batch>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_step().transpose()
    }
}

fn label(example: &Example) -> Result<bool, Error> {
    match example.annotation {
        Annotation::Labelled { desirable } => Ok(desirable),
        _ => Err(Error::NotLabelled { origin: example.origin.clone() }),
    }
}

fn has_one_label(examples: &[Example]) -> bool {
    examples.windows(2).all(|pair| pair[0].annotation == pair[1].annotation)
}

/// Cuts the examples of a step into micro-batches of at most `examples` each; for applications that gather their own.
#[must_use]
pub fn split(step: Vec<Example>, examples: usize) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for example in step {
        match batches.last_mut().filter(|batch| batch.examples.len() < examples) {
            Some(batch) => batch.examples.push(example),
            None => batches.push(Batch { examples: vec![example], mismatched: Vec::new() }),
        }
    }
    batches
}
