//! One epoch of examples.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::encode::Encoder;
use crate::error::{Error, Reason, Rejection};
use crate::order::{Order, Ordered};
use crate::report::{Counts, Report};
use crate::row::Example;
use crate::source::{Item, Parsed, Source};

/// A place in the data that can be saved and returned to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Passes finished.
    pub epoch: u64,
    /// Rows of the source drawn in this pass, rejected ones included.
    pub consumed: u64,
    /// Under [`BatchOptions::stratified`](crate::BatchOptions::stratified), for either label (undesirable, desirable) how many
    /// of the rows drawn last reach back to the oldest one that waits for its step; else 0, and then left out when written.
    #[serde(default, skip_serializing_if = "nothing_waits")]
    pub held: [u64; 2],
}

fn nothing_waits(held: &[u64; 2]) -> bool {
    *held == [0; 2]
}

/// The examples of one pass over a source: rows are read, ordered, encoded one at a time; what cannot be used goes to the
/// report. An iterator that ends with the pass.
#[derive(Debug)]
pub struct Stream {
    source: Source,
    encoder: Arc<Encoder>,
    order: Order,
    cursor: Cursor,
    rows: Option<Ordered>,
    report: Report,
    fresh: Option<Vec<Rejection>>,
}

impl Stream {
    /// A stream at the start of epoch 0.
    ///
    /// # Errors
    /// An order that cannot be.
    pub fn new(source: Source, encoder: Arc<Encoder>, order: Order) -> Result<Self, Error> {
        order.check()?;
        Ok(Self {
            source,
            encoder,
            order,
            cursor: Cursor::default(),
            rows: None,
            report: Report::default(),
            fresh: None,
        })
    }

    /// The next example of this epoch; None at its end.
    ///
    /// # Errors
    /// Reading fails, a conversation meets a tokenizer without a chat template, or a row cannot be used and the source is strict.
    pub fn next_example(&mut self) -> Result<Option<Example>, Error> {
        while let Some(item) = self.draw()? {
            match self.encode(item) {
                Ok((example, counts)) => {
                    self.report.keep(counts);
                    return Ok(Some(example));
                }
                Err(rejection) => self.set_aside(rejection)?,
            }
        }
        Ok(None)
    }

    /// Where the stream stands.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes to a place: rows before it are read again and left unencoded. A stream holds no rows back: `held` is not looked
    /// at.
    ///
    /// # Errors
    /// Reading fails, or the source has fewer rows than the cursor says.
    pub fn resume(&mut self, cursor: Cursor) -> Result<(), Error> {
        self.rows = None;
        self.cursor = Cursor { epoch: cursor.epoch, ..Cursor::default() };
        while self.cursor.consumed < cursor.consumed {
            self.draw_again(cursor)?;
        }
        Ok(())
    }

    /// Encodes the next row on the way to a place: None if it was set aside; it is in no report.
    pub(crate) fn meet_again(&mut self, cursor: Cursor) -> Result<Option<Example>, Error> {
        let item = self.draw_again(cursor)?;
        Ok(self.encode(item).ok().map(|(example, _)| example))
    }

    /// Goes to the start of the next epoch.
    pub fn next_epoch(&mut self) {
        self.rows = None;
        self.cursor = Cursor { epoch: self.cursor.epoch + 1, ..Cursor::default() };
    }

    /// What became of the rows met so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// From now on, holds every row of the first pass that is set aside until [`take_rejections`](Self::take_rejections);
    /// the report lists only the first [`LISTED_REJECTIONS`](crate::LISTED_REJECTIONS).
    pub fn hold_rejections(&mut self) {
        self.fresh.get_or_insert_default();
    }

    /// The rows set aside since the last call, in the order they were met; none unless they are held.
    pub fn take_rejections(&mut self) -> Vec<Rejection> {
        self.fresh.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    pub(crate) fn count_one_label_step(&mut self) {
        self.report.one_label_steps += 1;
    }

    fn encode(&self, item: Item) -> Result<(Example, Counts), Rejection> {
        match self.source.parse(item)? {
            Parsed::Example(example) => Ok((example, Counts::default())),
            Parsed::Record(origin, record) => self.encoder.encode_counted(&record, &origin),
        }
    }

    /// The next row on the way to a place that was reached before.
    fn draw_again(&mut self, cursor: Cursor) -> Result<Item, Error> {
        let rows = self.cursor.consumed;
        self.draw()?.ok_or_else(|| Error::Cursor {
            file: self.source.name().clone(),
            epoch: cursor.epoch,
            consumed: cursor.consumed,
            rows,
        })
    }

    fn draw(&mut self) -> Result<Option<Item>, Error> {
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => none.insert(Ordered::new(self.source.pass()?, self.order, self.cursor.epoch)),
        };
        let item = rows.next_item()?;
        self.cursor.consumed += u64::from(item.is_some());
        Ok(item)
    }

    fn set_aside(&mut self, rejection: Rejection) -> Result<(), Error> {
        if rejection.reason == Reason::NoChatTemplate {
            return Err(Error::NoChatTemplate { origin: rejection.origin });
        }
        if self.source.is_strict() || rejection.reason.ends_run() {
            return Err(Error::Rejected(rejection));
        }
        if let Some(fresh) = self.fresh.as_mut().filter(|_| self.cursor.epoch == 0) {
            fresh.push(rejection.clone());
        }
        self.report.reject(rejection);
        Ok(())
    }
}

impl Iterator for Stream {
    type Item = Result<Example, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_example().transpose()
    }
}
