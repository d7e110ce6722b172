//! Steps that hold both labels as long as there are both.
//!
//! Rows wait in two queues, one a label. Of each a step takes the oldest, and so many that the steps behind it, as far as
//! they can be foreseen, keep one each. With steps of three and `+ + - - + +` in wait, the first is `+ + -` and the second
//! `- + +`; with `+ + + - - -`, `+ + -` and `+ - -`.

use std::collections::VecDeque;

use crate::row::Example;

/// How many examples are held, beyond those of the step, to find the other label in.
pub const LOOK_AHEAD: usize = 1024;

/// An example and the number of its row among those drawn in the epoch, from 1.
#[derive(Debug)]
struct Held {
    drawn: u64,
    example: Example,
}

/// Examples that were drawn and not yet given out: the undesirable and the desirable ones.
#[derive(Debug, Default)]
pub(crate) struct Window([VecDeque<Held>; 2]);

impl Window {
    pub(crate) fn push(&mut self, drawn: u64, desirable: bool, example: Example) {
        self.0[usize::from(desirable)].push_back(Held { drawn, example });
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(VecDeque::len).sum()
    }

    pub(crate) fn clear(&mut self) {
        self.0.iter_mut().for_each(VecDeque::clear);
    }

    /// For each label how many of the rows drawn so far reach back to the oldest example that waits; 0 if none does.
    pub(crate) fn spans(&self, drawn: u64) -> [u64; 2] {
        [0, 1].map(|label| self.0[label].front().map_or(0, |oldest| drawn + 1 - oldest.drawn))
    }

    /// The next `full` examples, or all if there are fewer, in the order they were drawn.
    pub(crate) fn take(&mut self, full: usize) -> Vec<Example> {
        let counts = [0, 1].map(|label| self.0[label].len());
        let size = full.min(self.len());
        let desirable = desirable_share(counts, size, full, self.desirable_among_oldest(size));
        let mut step: Vec<Held> = self.0[0].drain(..size - desirable).collect();
        step.extend(self.0[1].drain(..desirable));
        step.sort_by_key(|held| held.drawn);
        step.into_iter().map(|held| held.example).collect()
    }

    fn desirable_among_oldest(&self, size: usize) -> usize {
        let mut places: Vec<(u64, usize)> = [0, 1]
            .iter()
            .flat_map(|&label| self.0[label].iter().take(size).map(move |held| (held.drawn, label)))
            .collect();
        places.sort_unstable();
        places.iter().take(size).map(|(_, label)| label).sum()
    }
}

/// How many desirable examples a step of `size` takes of `counts` (undesirable, desirable) in wait: as near to `wish` as
/// leaves one of each label for this step, and then one for each of those that follow.
fn desirable_share(counts: [usize; 2], size: usize, full: usize, wish: usize) -> usize {
    let rest = counts[0] + counts[1] - size;
    // A last step of one example cannot hold both.
    let following = rest / full + usize::from(rest % full >= 2);
    let most = counts.map(|count| count.min(count.saturating_sub(following).max(1)));
    let least = counts.map(|count| count.min(1));
    let low = least[1].max(size.saturating_sub(most[0]));
    let high = most[1].min(size.saturating_sub(least[0]));
    wish.min(high).max(low).min(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All steps of so many in wait, each as (undesirable, desirable).
    fn steps(mut counts: [usize; 2], full: usize, wish: impl Fn(usize) -> usize) -> Vec<[usize; 2]> {
        let mut steps = Vec::new();
        while counts != [0, 0] {
            let size = full.min(counts[0] + counts[1]);
            let desirable = desirable_share(counts, size, full, wish(size).min(counts[1]));
            let step = [size - desirable, desirable];
            assert!(step[0] <= counts[0] && step[1] <= counts[1], "{counts:?} {step:?}");
            counts = [counts[0] - step[0], counts[1] - step[1]];
            steps.push(step);
        }
        steps
    }

    /// Of every mixture, as many steps hold both labels as can: one for each example of the rarer label, up to all of two
    /// examples or more.
    #[test]
    fn as_many_steps_hold_both_as_can() {
        for full in 2..6 {
            for undesirable in 0..20 {
                for desirable in 0..20 {
                    for wish in [0, 1, usize::MAX] {
                        let steps = steps([undesirable, desirable], full, |size| wish.min(size));
                        let both = steps.iter().filter(|step| step[0] > 0 && step[1] > 0).count();
                        let can = steps.iter().filter(|step| step[0] + step[1] > 1).count();
                        assert_eq!(
                            both,
                            can.min(undesirable).min(desirable),
                            "{full} {undesirable} {desirable} {steps:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_order_is_kept_where_nothing_forbids_it() {
        assert_eq!(desirable_share([50, 50], 8, 8, 6), 6);
        assert_eq!(desirable_share([50, 50], 8, 8, 8), 7);
        assert_eq!(desirable_share([50, 50], 8, 8, 0), 1);
        // Twelve steps follow and thirteen are there: one for this.
        assert_eq!(desirable_share([87, 13], 8, 8, 5), 1);
        assert_eq!(desirable_share([0, 13], 8, 8, 5), 8);
        assert_eq!(desirable_share([13, 0], 8, 8, 5), 0);
    }
}
