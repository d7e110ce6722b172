//! The rows of a source before tokenization.

use std::sync::Arc;

use crate::error::{Error, Rejection};
use crate::part::{Look, Met};
use crate::pass::Pass;
use crate::row::{Origin, Record};
use crate::shape::SafetyCounts;
use crate::source::Source;

/// The rows of a source in file order, each as a [`Record`] or with the reason why it cannot be used. An iterator: an `Err`
/// outside says that reading failed, after which there is no more to come.
///
/// ```
/// use candlewick_data::{Row, Source, Text};
/// let text = |text: &str| Text::Plain(text.to_owned());
/// let row = Row::Demonstration { prompt: text("p"), completion: text(" a") };
/// let rows = Source::from_rows(vec![row]);
/// for row in rows.records()? {
///     let (origin, record) = row?.expect("rows in memory can be used");
///     assert_eq!((origin.line, record.tools.len()), (1, 0));
/// }
/// # Ok::<(), candlewick_data::Error>(())
/// ```
#[derive(Debug)]
pub struct Records {
    source: Arc<Source>,
    pass: Option<Pass>,
    safety: SafetyCounts,
}

impl Records {
    pub(crate) fn new(source: Arc<Source>) -> Result<Self, Error> {
        if source.holds_examples() {
            return Err(Error::Option {
                name: "records",
                got: "a source of encoded examples".to_owned(),
                expected: "rows: of a file, or from Source::from_rows or Source::from_records",
            });
        }
        let pass = Some(Pass::new(source.clone())?);
        Ok(Self { source, pass, safety: SafetyCounts::default() })
    }
}

impl Records {
    /// What the flags of safety said of the rows given so far, and of those that could not be used.
    #[must_use]
    pub fn safety(&self) -> SafetyCounts {
        self.safety
    }
}

impl Iterator for Records {
    type Item = Result<Result<(Origin, Record), Rejection>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let item = match self.pass.as_mut()?.next_item() {
                Ok(item) => item?,
                Err(error) => {
                    self.pass = None;
                    return Some(Err(error));
                }
            };
            let Look { met, safety } = self.source.look_into(&item);
            self.safety += safety;
            match met {
                Ok(Met::Record(origin, record)) => return Some(Ok(Ok((origin, record)))),
                Ok(Met::Elsewhere | Met::Told | Met::Example(_)) => {}
                Err(rejection) => return Some(Ok(Err(rejection))),
            }
        }
    }
}
