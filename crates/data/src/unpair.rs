//! A pair as two labelled rows.

use crate::error::{Fault, Reason, Rejection};
use crate::row::{Origin, Record, Row};

/// The chosen completion as a wanted one and the rejected as an unwanted one, each with its prompt, the numbers of the pair
/// and its own share of the teacher.
pub(crate) fn unpair(record: Record, origin: &Origin) -> Result<[Record; 2], Rejection> {
    let Row::Pair { prompt, chosen, rejected } = record.row.clone() else {
        let detail = "only a pair can be unpaired; leave unpair off for rows of other forms";
        return Err(Fault::new(Reason::NotAPair, detail).at(origin));
    };
    let mut teacher = record.teacher.clone().into_iter().map(|tokens| vec![tokens]);
    let teachers = [teacher.next().unwrap_or_default(), teacher.next().unwrap_or_default()];
    let row = |completion, desirable| Row::Labelled { prompt: prompt.clone(), completion, desirable };
    let [first, second] = teachers;
    Ok([
        Record { row: row(chosen, true), teacher: first, ..record.clone() },
        Record { row: row(rejected, false), teacher: second, ..record },
    ])
}
