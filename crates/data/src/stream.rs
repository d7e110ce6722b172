//! One epoch of examples.

use std::sync::Arc;

use crate::cursor::Cursor;
use crate::encode::Encoder;
use crate::error::{Error, Reason, Rejection};
use crate::order::{Order, Ordered};
use crate::part::{Look, Met};
use crate::pass::{Item, Pass};
use crate::place::Place;
use crate::report::{Counts, Report};
use crate::row::Example;
use crate::shape::SafetyCounts;
use crate::source::Source;
use crate::workers::{MOST_WORKERS, Pool};

/// The examples of one pass over a source: rows are read, ordered, encoded; what cannot be used goes to the report. An
/// iterator that ends with the pass.
#[derive(Debug)]
pub struct Stream {
    source: Arc<Source>,
    encoder: Arc<Encoder>,
    order: Order,
    workers: usize,
    epoch: u64,
    consumed: u64,
    rows: Option<Ordered>,
    pool: Option<Pool<Item, Seen>>,
    /// Reading failed at a row that is not due yet.
    failed: Option<Error>,
    /// Reading failed, here or for the threads that are ahead: no more rows are drawn until the stream goes elsewhere.
    broken: bool,
    /// Rows drawn before the oldest one that may have to be read again; those handed out, unless someone holds rows back.
    needed: Option<u64>,
    report: Report,
    fresh: Option<Vec<Rejection>>,
}

/// A row after encoding.
#[derive(Debug)]
struct Seen {
    part: usize,
    safety: SafetyCounts,
    made: Made,
}

#[derive(Debug)]
enum Made {
    Example(Example, Counts),
    Rejection(Rejection),
    Elsewhere,
    Nothing,
}

impl Stream {
    /// A stream at the start of epoch 0.
    ///
    /// # Errors
    /// An order that cannot be.
    pub fn new(source: Source, encoder: Arc<Encoder>, order: Order) -> Result<Self, Error> {
        order.check()?;
        Ok(Self {
            source: Arc::new(source),
            encoder,
            order,
            workers: 0,
            epoch: 0,
            consumed: 0,
            rows: None,
            pool: None,
            failed: None,
            broken: false,
            needed: None,
            report: Report::default(),
            fresh: None,
        })
    }

    /// The same stream, whose rows are encoded by so many threads ahead of their turn; 0, as at first, for none. Examples,
    /// report and cursors are the same whatever the number.
    ///
    /// # Errors
    /// More than 256.
    pub fn with_workers(mut self, workers: usize) -> Result<Self, Error> {
        if workers > MOST_WORKERS {
            let expected = "at most 256; about one for each core";
            return Err(Error::Option { name: "workers", got: workers.to_string(), expected });
        }
        self.workers = workers;
        Ok(self)
    }

    /// The next example of this epoch; None at its end, and after reading has failed, until the stream goes to another
    /// place.
    ///
    /// # Errors
    /// Reading fails, a conversation meets a tokenizer without a chat template, or a row cannot be used and the source is strict.
    pub fn next_example(&mut self) -> Result<Option<Example>, Error> {
        while let Some(Seen { part, safety, made }) = self.next_seen()? {
            self.report.safety += safety;
            let example = match made {
                Made::Nothing => continue,
                Made::Example(example, counts) => {
                    self.report.keep(counts);
                    Some(example)
                }
                Made::Rejection(rejection) => {
                    self.set_aside(part, rejection)?;
                    None
                }
                Made::Elsewhere => {
                    self.report.count_elsewhere();
                    None
                }
            };
            if self.source.parts().len() > 1 {
                self.report.count_of_part(&self.source.parts()[part].name, example.is_some());
            }
            if example.is_some() {
                return Ok(example);
            }
        }
        Ok(None)
    }

    /// Where the stream stands.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let (epoch, consumed) = (self.epoch, self.consumed);
        Cursor { epoch, consumed, place: self.place(consumed), ..Cursor::default() }
    }

    /// Goes to a saved position. With a [`Place`], rows are read again from there; else from the start of the epoch. They are
    /// not encoded. A stream holds no rows back: `held` and `skip` are not looked at.
    ///
    /// # Errors
    /// Reading fails, the source has fewer rows than the cursor says, or other rows than those the place was taken of.
    pub fn resume(&mut self, cursor: Cursor) -> Result<(), Error> {
        self.go_on_from(&cursor, cursor.consumed)
    }

    /// Goes to where so many rows of the cursor's epoch were drawn.
    pub(crate) fn go_on_from(&mut self, cursor: &Cursor, consumed: u64) -> Result<(), Error> {
        self.begin(cursor.epoch);
        let went = self.draw_up_to(cursor, consumed);
        if went.is_err() {
            self.stop();
        }
        went
    }

    fn draw_up_to(&mut self, cursor: &Cursor, consumed: u64) -> Result<(), Error> {
        if let Some(place) = cursor.place.as_ref().filter(|place| place.consumed <= consumed) {
            self.rows = Some(self.go_to(place, cursor)?);
            self.consumed = place.consumed;
        }
        while self.consumed < consumed {
            if self.draw()?.is_none() {
                return Err(self.too_short(cursor));
            }
            self.consumed += 1;
        }
        Ok(())
    }

    /// Encodes the next row of a window that was filled before: no example if it was set aside, and None at the end of the
    /// epoch. It is in no report.
    pub(crate) fn meet_again(&mut self) -> Result<Option<Option<Example>>, Error> {
        let Some(item) = self.draw()? else { return Ok(None) };
        self.consumed += 1;
        match see(&self.source, &self.encoder, &item).made {
            Made::Example(example, _) => Ok(Some(Some(example))),
            _ => Ok(Some(None)),
        }
    }

    /// Whether reading failed, and that was said.
    pub(crate) fn has_failed(&self) -> bool {
        self.broken && self.failed.is_none()
    }

    /// Gives no more rows until it goes elsewhere.
    pub(crate) fn stop(&mut self) {
        self.broken = true;
    }

    /// The epoch ended here, before the position.
    pub(crate) fn too_short(&self, cursor: &Cursor) -> Error {
        self.only(cursor, self.consumed)
    }

    /// Goes to the start of the next epoch.
    pub fn next_epoch(&mut self) {
        self.begin(self.epoch.saturating_add(1));
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

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The newest place at or before so many drawn rows.
    pub(crate) fn place(&self, consumed: u64) -> Option<Place> {
        self.rows.as_ref().and_then(|rows| rows.place(consumed)).cloned()
    }

    /// Someone holds rows back, the oldest of them after so many drawn ones.
    pub(crate) fn need(&mut self, consumed: u64) {
        self.needed = Some(consumed);
        if let Some(rows) = &mut self.rows {
            rows.release(consumed);
        }
    }

    pub(crate) fn report_mut(&mut self) -> &mut Report {
        &mut self.report
    }

    /// The next row in order, encoded here or by threads that are ahead.
    fn next_seen(&mut self) -> Result<Option<Seen>, Error> {
        let seen = if self.workers == 0 {
            self.draw()?.map(|item| see(&self.source, &self.encoder, &item))
        } else {
            self.seen_by_workers()?
        };
        self.consumed += u64::from(seen.is_some());
        if self.needed.is_none()
            && let Some(rows) = &mut self.rows
        {
            rows.release(self.consumed);
        }
        Ok(seen)
    }

    fn seen_by_workers(&mut self) -> Result<Option<Seen>, Error> {
        let mut pool = match self.pool.take() {
            Some(pool) => pool,
            None => self.start_workers()?,
        };
        while self.failed.is_none() && pool.has_room() {
            match self.draw() {
                Ok(Some(item)) => {
                    let bytes = item.bytes();
                    pool.give(item, bytes);
                }
                Ok(None) => break,
                Err(error) => self.failed = Some(error),
            }
        }
        let seen = pool.take();
        self.pool = Some(pool);
        match seen {
            Ok(None) => self.failed.take().map_or(Ok(None), Err),
            Ok(seen) => Ok(seen),
            Err(error) => {
                // The row is drawn, though nothing came of it.
                self.consumed += 1;
                Err(error)
            }
        }
    }

    fn start_workers(&self) -> Result<Pool<Item, Seen>, Error> {
        let (source, encoder) = (self.source.clone(), self.encoder.clone());
        Pool::new(self.workers, move |item: Item| see(&source, &encoder, &item))
    }

    fn draw(&mut self) -> Result<Option<Item>, Error> {
        if self.broken {
            return Ok(None);
        }
        let drawn = self.draw_item();
        self.broken = drawn.is_err();
        drawn
    }

    fn draw_item(&mut self) -> Result<Option<Item>, Error> {
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => none.insert(Ordered::new(Pass::new(self.source.clone())?, self.order, self.epoch)),
        };
        rows.next_item()
    }

    /// The start of an epoch.
    fn begin(&mut self, epoch: u64) {
        self.rows = None;
        // Rows that were read ahead are not those of another place.
        self.pool.take_if(|pool| !pool.is_idle());
        self.failed = None;
        self.broken = false;
        self.needed = None;
        (self.epoch, self.consumed) = (epoch, 0);
    }

    fn go_to(&self, place: &Place, cursor: &Cursor) -> Result<Ordered, Error> {
        let pass = Pass::at(self.source.clone(), &place.pass)?;
        let ordered = pass.map(|pass| Ordered::new(pass, self.order, cursor.epoch).go_to(place)).transpose()?;
        ordered.flatten().map_or_else(|| Err(self.other_source(cursor)), Ok)
    }

    /// Why a place does not fit: too few rows, or other ones.
    fn other_source(&self, cursor: &Cursor) -> Error {
        let count = || -> Result<u64, Error> {
            let mut pass = Pass::new(self.source.clone())?;
            while pass.items() < cursor.consumed && pass.next_item()?.is_some() {}
            Ok(pass.items())
        };
        match count() {
            Ok(rows) if rows < cursor.consumed => self.only(cursor, rows),
            _ => Error::Changed { file: self.source.name().clone(), epoch: cursor.epoch, consumed: cursor.consumed },
        }
    }

    fn only(&self, cursor: &Cursor, rows: u64) -> Error {
        let file = self.source.name().clone();
        Error::Cursor { file, epoch: cursor.epoch, consumed: cursor.consumed, rows }
    }

    fn set_aside(&mut self, part: usize, rejection: Rejection) -> Result<(), Error> {
        if rejection.reason == Reason::NoChatTemplate {
            return Err(Error::NoChatTemplate { origin: rejection.origin });
        }
        if self.source.parts()[part].strict || rejection.reason.ends_run() {
            return Err(Error::Rejected(rejection));
        }
        if let Some(fresh) = self.fresh.as_mut().filter(|_| self.epoch == 0) {
            fresh.push(rejection.clone());
        }
        self.report.reject(rejection);
        Ok(())
    }
}

fn see(source: &Source, encoder: &Encoder, item: &Item) -> Seen {
    let Look { met, safety } = source.look_into(item);
    let made = match met {
        Ok(Met::Example(example)) => Made::Example(example, Counts::default()),
        Ok(Met::Record(origin, record)) => match encoder.encode_counted(&record, &origin) {
            Ok((example, counts)) => Made::Example(example, counts),
            Err(rejection) => Made::Rejection(rejection),
        },
        Ok(Met::Elsewhere) => Made::Elsewhere,
        Ok(Met::Told) => Made::Nothing,
        Err(rejection) => Made::Rejection(rejection),
    };
    Seen { part: item.part, safety, made }
}

impl Iterator for Stream {
    type Item = Result<Example, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_example().transpose()
    }
}
