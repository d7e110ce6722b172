//! Examples gathered into the micro-batches of optimizer steps.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::encode::{Encoder, ScoredTokens};
use crate::error::{Error, Rejection};
use crate::mismatch;
use crate::order::Order;
use crate::report::Report;
use crate::row::{Annotation, Batch, Example};
use crate::source::Source;
use crate::stratify::{LOOK_AHEAD, Window};
use crate::stream::{Cursor, Stream};

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
        }
    }
}

/// The batches of a run, step by step.
#[derive(Debug)]
pub struct Batches {
    stream: Stream,
    options: BatchOptions,
    window: Window,
    steps_of_epoch: u64,
    began_inside_epoch: bool,
}

impl Batches {
    /// Batches from the start of the source.
    ///
    /// # Errors
    /// An option outside its range.
    pub fn new(source: Source, encoder: Arc<Encoder>, options: BatchOptions) -> Result<Self, Error> {
        for (name, value) in [("examples", options.examples), ("micro_batches", options.micro_batches)] {
            if value == 0 {
                return Err(Error::Option { name, got: "0".to_owned(), expected: "at least 1" });
            }
        }
        if options.stratified && options.examples == 1 && options.micro_batches == 1 {
            return Err(Error::Option {
                name: "stratified",
                got: "true with steps of one example".to_owned(),
                expected: "at least two examples a step, one of each label",
            });
        }
        if options.mismatched && encoder.options().scored == ScoredTokens::Edits {
            return Err(Error::Option {
                name: "scored",
                got: "edits, with mismatched completions".to_owned(),
                expected: "all: edits tell a completion from another of its own prompt",
            });
        }
        let stream = Stream::new(source, encoder, options.order)?;
        Ok(Self { stream, options, window: Window::default(), steps_of_epoch: 0, began_inside_epoch: false })
    }

    /// The micro-batches of the next optimizer step; None after the last epoch.
    ///
    /// # Errors
    /// Reading fails, a row cannot be used and the source is strict, a whole epoch gives no step, or mismatched completions
    /// are asked of a step with one prompt only.
    pub fn next_step(&mut self) -> Result<Option<Vec<Batch>>, Error> {
        let full = self.options.examples.saturating_mul(self.options.micro_batches);
        while self.options.epochs.is_none_or(|epochs| self.stream.cursor().epoch < epochs) {
            let mut examples = if self.options.stratified { self.both_labels(full)? } else { self.in_order(full)? };
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
                    self.stream.count_one_label_step();
                }
                return self.gather(examples).map(Some);
            }
        }
        Ok(None)
    }

    /// Where the next step begins; saved with a checkpoint.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let cursor = self.stream.cursor();
        Cursor { held: self.window.spans(cursor.consumed), ..cursor }
    }

    /// Goes to a saved place: the steps from there on are those of a run that was never interrupted. Rows are read again from
    /// the start of the epoch; only those among which some waited for their step are encoded again.
    ///
    /// # Errors
    /// Reading fails, the source has fewer rows than the cursor says, or rows of stratified steps wait and these are not.
    pub fn resume(&mut self, cursor: Cursor) -> Result<(), Error> {
        if !self.options.stratified && cursor.held != [0; 2] {
            return Err(Error::Option {
                name: "stratified",
                got: "false".to_owned(),
                expected: "true, as in the run that this position was saved from: rows of it wait for their step",
            });
        }
        self.window.clear();
        let encoded = cursor.held[0].max(cursor.held[1]);
        self.stream.resume(Cursor { consumed: cursor.consumed.saturating_sub(encoded), ..cursor })?;
        while self.stream.cursor().consumed < cursor.consumed {
            let Some(example) = self.stream.meet_again(cursor)? else { continue };
            let drawn = self.stream.cursor().consumed;
            let desirable = label(&example)?;
            if cursor.consumed - drawn < cursor.held[usize::from(desirable)] {
                self.window.push(drawn, desirable, example);
            }
        }
        self.steps_of_epoch = 0;
        self.began_inside_epoch = cursor.consumed > 0;
        Ok(())
    }

    /// What became of the rows met so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        self.stream.report()
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
        while self.window.len() < full.saturating_add(LOOK_AHEAD) {
            let Some(example) = self.stream.next_example()? else { break };
            self.window.push(self.stream.cursor().consumed, label(&example)?, example);
        }
        Ok(self.window.take(full))
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

    fn gather(&self, examples: Vec<Example>) -> Result<Vec<Batch>, Error> {
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
