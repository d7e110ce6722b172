//! The rows of a source before tokenization.

use crate::error::{Error, Rejection};
use crate::row::{Origin, Record};
use crate::source::{Parsed, Pass, Source};

/// The rows of a source in file order, each as a [`Record`] or with the reason why it cannot be used. An iterator: an `Err`
/// outside says that reading failed, after which there is no more to come.
#[derive(Debug)]
pub struct Records {
    source: Source,
    pass: Option<Pass>,
}

impl Source {
    /// The rows in file order, as they are before tokenization. Encoded examples, which have no texts, are passed over.
    ///
    /// # Errors
    /// A reader that was read before, or a file that is gone.
    pub fn records(&self) -> Result<Records, Error> {
        Ok(Records { source: self.clone(), pass: Some(self.pass()?) })
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
            match self.source.parse(item) {
                Ok(Parsed::Record(origin, record)) => return Some(Ok(Ok((origin, record)))),
                Ok(Parsed::Example(_)) => {}
                Err(rejection) => return Some(Ok(Err(rejection))),
            }
        }
    }
}
