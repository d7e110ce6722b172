//! Buffers that wait to be lent again: which one is lent, and how many are kept.

/// Idle elements that are kept beyond the most that were ever lent at once: an eighth of those.
const SLACK: usize = 8;

/// A buffer of so many elements.
pub trait Buffer {
    /// Elements it has room for.
    fn elements(&self) -> usize;
}

impl<T> Buffer for Vec<T> {
    fn elements(&self) -> usize {
        self.capacity()
    }
}

/// The returned buffers of a [`Workspace`](crate::Workspace), of one element type. A plan of memory keeps one of buffers
/// that do not exist, so that it ends with the same ones.
#[derive(Debug, Clone)]
pub struct Shelf<B> {
    /// With the moment of their return.
    idle: Vec<(B, u64)>,
    lent: usize,
    most_lent: usize,
    returns: u64,
}

impl<B> Default for Shelf<B> {
    fn default() -> Self {
        Self { idle: Vec::new(), lent: 0, most_lent: 0, returns: 0 }
    }
}

impl<B: Buffer> Shelf<B> {
    /// A returned buffer for `len` elements; where there is none, the caller makes one of just that length.
    ///
    /// It is the least one that is large enough, unless more than half of it would lie idle; where only smaller ones of at
    /// least half the length are there, the new one takes the place of the largest of those. And where all buffers would
    /// come to more than nine eighths of the most elements that were ever lent at once, those go that were returned longest
    /// ago: steps of all sizes hold hardly more than the largest one. `discard` gets what goes.
    pub fn take(&mut self, len: usize, mut discard: impl FnMut(B)) -> Option<B> {
        let usable = |capacity: usize| capacity / 2 <= len && capacity >= len / 2;
        let best = (0..self.idle.len()).filter(|i| usable(self.idle[*i].0.elements())).min_by_key(|i| {
            let capacity = self.idle[*i].0.elements();
            if capacity >= len { (0, capacity) } else { (1, usize::MAX - capacity) }
        });
        let buffer = best.map(|i| self.idle.swap_remove(i).0);
        let (buffer, small) = match buffer {
            Some(buffer) if buffer.elements() >= len => (Some(buffer), None),
            small => (None, small),
        };
        small.into_iter().for_each(&mut discard);
        self.lent += buffer.as_ref().map_or(len, Buffer::elements);
        self.most_lent = self.most_lent.max(self.lent);
        if buffer.is_none() {
            let mut idle = self.idle_elements();
            while self.lent + idle > self.most_lent + self.most_lent / SLACK
                && let Some(oldest) = (0..self.idle.len()).min_by_key(|i| self.idle[*i].1)
            {
                let (buffer, _) = self.idle.swap_remove(oldest);
                idle -= buffer.elements();
                discard(buffer);
            }
        }
        buffer
    }

    /// Keeps a buffer for later.
    pub fn give_back(&mut self, buffer: B) {
        let elements = buffer.elements();
        if elements > 0 {
            self.lent = self.lent.saturating_sub(elements);
            self.returns += 1;
            self.idle.push((buffer, self.returns));
        }
    }

    /// Elements of all returned buffers.
    pub fn idle_elements(&self) -> usize {
        self.idle.iter().map(|(buffer, _)| buffer.elements()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_all_sizes_hold_hardly_more_than_the_largest() {
        let mut shelf: Shelf<Vec<u8>> = Shelf::default();
        let take = |shelf: &mut Shelf<Vec<u8>>, len| shelf.take(len, drop).unwrap_or_else(|| vec![0; len]);
        let mut most = 0;
        for step in 0..200usize {
            let size = 100 + (step * 7919) % 1900;
            let buffers = [size, size, size / 3, 3 * size].map(|len| take(&mut shelf, len));
            most = most.max(buffers.iter().map(Vec::capacity).sum());
            buffers.into_iter().for_each(|buffer| shelf.give_back(buffer));
            assert!(shelf.idle_elements() <= most + most / SLACK, "step {step}: {} of {most}", shelf.idle_elements());
        }
    }
}
