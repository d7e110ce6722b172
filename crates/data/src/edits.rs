//! Which tokens a revision changed.
//!
//! `a b c` revised to `a x c d`: the edit script replaces `b` by `x` and inserts `d`; of the first it touches `b`, of the
//! second `x` and `d`.

use crate::error::{Fault, Reason};
use crate::row::{Completion, Context};

/// Most cells of the table of two completions, one byte each: 8192 tokens against 8192.
const MAX_CELLS: usize = 1 << 26;

/// Of a pair, leaves only those tokens scored that the shortest edit script (Levenshtein) from rejected to chosen deletes,
/// inserts or replaces, and the end token of the chosen one.
pub(crate) fn score(context: &mut Context, eos: Option<u32>) -> Result<(), Fault> {
    let [chosen, rejected] = context.completions.as_mut_slice() else {
        return Err(Fault::new(Reason::NotAPair, "edited tokens are those in which the completions of a pair differ"));
    };
    let (mut deleted, mut inserted) = script(&rejected.ids, &chosen.ids)?;
    if let Some(last) = inserted.last_mut()
        && chosen.ids.last().copied() == eos
    {
        *last = true;
    }
    keep(rejected, &mut deleted);
    keep(chosen, &mut inserted);
    for (name, completion, what) in [("chosen", chosen, "deletes"), ("rejected", rejected, "inserts")] {
        if completion.scored_tokens() == 0 {
            let detail =
                format!("the edit script from rejected to chosen only {what}: no token of `{name}` is touched");
            return Err(Fault::new(Reason::NoEdit, detail));
        }
    }
    Ok(())
}

/// Scored are those that were and that the script touches.
fn keep(completion: &mut Completion, touched: &mut [bool]) {
    completion.scored.iter_mut().zip(touched).for_each(|(scored, touched)| *scored &= *touched);
}

/// How a cell of the table is best reached.
const MATCH: u8 = 0;
const REPLACE: u8 = 1;
const DELETE: u8 = 2;
const INSERT: u8 = 3;

/// For each token of both, whether the shortest script that turns one into the other touches it. Of scripts equally short,
/// the one that, read from the end, replaces before it deletes and deletes before it inserts.
fn script(from: &[u32], to: &[u32]) -> Result<(Vec<bool>, Vec<bool>), Fault> {
    let mut deleted = vec![false; from.len()];
    let mut inserted = vec![false; to.len()];
    // What both begin and end with belongs to some shortest script untouched.
    let start = from.iter().zip(to).take_while(|(left, right)| left == right).count();
    let ends = from[start..].iter().rev().zip(to[start..].iter().rev());
    let end = ends.take_while(|(left, right)| left == right).count();
    let (rows, columns) = (from.len() - start - end, to.len() - start - end);
    let width = columns + 1;
    if (rows + 1).saturating_mul(width) > MAX_CELLS {
        return Err(Fault::new(
            Reason::TooLongToCompare,
            format!(
                "{rows} and {columns} tokens, without what both begin and end with, are too many to be compared (about 8000 each); \
                 shorten the completions, for edits are found before max_length cuts"
            ),
        ));
    }
    let moves = table(&from[start..start + rows], &to[start..start + columns]);
    let (mut row, mut column) = (rows, columns);
    while row > 0 || column > 0 {
        match moves[row * width + column] {
            MATCH => (row, column) = (row - 1, column - 1),
            REPLACE => {
                (row, column) = (row - 1, column - 1);
                deleted[start + row] = true;
                inserted[start + column] = true;
            }
            DELETE => {
                row -= 1;
                deleted[start + row] = true;
            }
            _ => {
                column -= 1;
                inserted[start + column] = true;
            }
        }
    }
    Ok((deleted, inserted))
}

/// The best last move of every beginning of one to every beginning of the other (Wagner and Fischer 1974).
fn table(from: &[u32], to: &[u32]) -> Vec<u8> {
    let width = to.len() + 1;
    let mut moves = vec![INSERT; (from.len() + 1) * width];
    let mut above: Vec<usize> = (0..width).collect();
    let mut current = vec![0; width];
    for (row, left) in from.iter().enumerate() {
        current[0] = row + 1;
        moves[(row + 1) * width] = DELETE;
        for (column, right) in to.iter().enumerate() {
            let (diagonal, name) = if left == right { (above[column], MATCH) } else { (above[column] + 1, REPLACE) };
            let choices = [(diagonal, name), (above[column + 1] + 1, DELETE), (current[column] + 1, INSERT)];
            // The first of equals.
            let (cost, best) = choices.into_iter().min_by_key(|(cost, _)| *cost).unwrap_or((diagonal, name));
            current[column + 1] = cost;
            moves[(row + 1) * width + column + 1] = best;
        }
        std::mem::swap(&mut above, &mut current);
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(from: &str, to: &str) -> (String, String) {
        let ids = |text: &str| text.chars().map(u32::from).collect::<Vec<u32>>();
        let (deleted, inserted) = script(&ids(from), &ids(to)).unwrap();
        let shown = |text: &str, touched: Vec<bool>| -> String {
            text.chars().zip(touched).map(|(character, touched)| if touched { character } else { '.' }).collect()
        };
        (shown(from, deleted), shown(to, inserted))
    }

    #[test]
    fn scripts_worked_by_hand() {
        let case = |from: &str, to: &str, deleted: &str, inserted: &str| {
            assert_eq!(touched(from, to), (deleted.to_owned(), inserted.to_owned()), "{from} {to}");
        };
        case("abc", "axcd", ".b.", ".x.d");
        case("kitten", "sitting", "k...e.", "s...i.g");
        case("abc", "abc", "...", "...");
        case("", "ab", "", "ab");
        case("ab", "", "ab", "");
        case("abab", "ab", "..ab", "..");
        case("xay", "a", "x.y", ".");
    }

    /// The length of the shortest script, from its definition.
    fn distance(from: &[u8], to: &[u8]) -> usize {
        match (from.split_last(), to.split_last()) {
            (None, _) => to.len(),
            (_, None) => from.len(),
            (Some((left, before)), Some((right, until))) if left == right => distance(before, until),
            (Some((_, before)), Some((_, until))) => {
                1 + distance(before, until).min(distance(before, to)).min(distance(from, until))
            }
        }
    }

    #[test]
    fn scripts_are_shortest_and_leave_the_rest_alike() {
        let words: Vec<Vec<u8>> = (0..4u32.pow(4))
            .map(|code| {
                (0..4).map(|place| (code / 4u32.pow(place) % 4) as u8).take_while(|letter| *letter < 3).collect()
            })
            .collect();
        for from in &words {
            for to in &words {
                let ids = |word: &[u8]| word.iter().map(|letter| u32::from(*letter)).collect::<Vec<u32>>();
                let (deleted, inserted) = script(&ids(from), &ids(to)).unwrap();
                let rest = |word: &[u8], touched: &[bool]| -> Vec<u8> {
                    word.iter().zip(touched).filter(|(_, touched)| !**touched).map(|(letter, _)| *letter).collect()
                };
                assert_eq!(rest(from, &deleted), rest(to, &inserted), "{from:?} {to:?}");
                let count = |touched: &[bool]| touched.iter().filter(|touched| **touched).count();
                // A script of d moves touches at most d tokens of either side, and one that touches no more than d of the
                // larger side exists only if d is the distance.
                assert!(count(&deleted).max(count(&inserted)) <= distance(from, to), "{from:?} {to:?}");
                assert!(count(&deleted) + count(&inserted) >= distance(from, to), "{from:?} {to:?}");
            }
        }
    }

    #[test]
    fn completions_beyond_the_table_are_refused() {
        let (left, right) = (vec![1; 9000], vec![2; 9000]);
        let fault = script(&left, &right).unwrap_err();
        assert_eq!(fault.reason, Reason::TooLongToCompare);
        assert!(
            fault.detail.starts_with("9000 and 9000 tokens") && fault.detail.contains("shorten"),
            "{}",
            fault.detail
        );
        // What they share at both ends does not count.
        let (left, right) = ([&left[..], &[3]].concat(), [&left[..], &[4]].concat());
        assert!(script(&left, &right).unwrap().0[9000]);
    }
}
