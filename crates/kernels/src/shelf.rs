//! Buffers that wait to be lent again.

/// What a [`Shelf`] lends: a buffer, or the size of one where none exists.
pub trait Lendable {
    /// Elements it has room for.
    fn capacity(&self) -> usize;
    /// Elements it was asked to hold.
    fn len(&self) -> usize;
    /// Whether it was asked to hold none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Lendable for Vec<T> {
    fn capacity(&self) -> usize {
        self.capacity()
    }

    fn len(&self) -> usize {
        self.len()
    }
}

/// Returned buffers, and how many elements are lent.
///
/// Steps of many sizes would each leave buffers of their own behind. So what lies idle longest is let go before a new buffer
/// would bring all of them, lent and idle, above nine eighths of the most elements that were ever asked for at once.
#[derive(Debug, Clone)]
pub struct Shelf<B> {
    /// Those that were returned last stand last.
    idle: Vec<B>,
    /// Capacities of what is idle and of what is lent.
    capacity_idle: usize,
    capacity_lent: usize,
    /// Elements that were asked for of what is lent, now and at most.
    asked: usize,
    most_asked: usize,
}

impl<B> Default for Shelf<B> {
    fn default() -> Self {
        Self { idle: Vec::new(), capacity_idle: 0, capacity_lent: 0, asked: 0, most_asked: 0 }
    }
}

impl<B: Lendable> Shelf<B> {
    /// Lends a returned buffer for `len` elements: the least that is large enough, of several the one returned last, unless more
    /// than half of it would lie idle. None where a new one has to be made; then `let_go` gets, each by itself, the largest that
    /// is too small but at least half as large, and what is above the bound.
    pub fn take(&mut self, len: usize, mut let_go: impl FnMut(B)) -> Option<B> {
        self.asked += len;
        self.most_asked = self.most_asked.max(self.asked);
        let usable = self.idle.iter().map(B::capacity).enumerate().rev();
        let usable = usable.filter(|(_, capacity)| capacity / 2 <= len && *capacity >= len / 2);
        let best = usable.min_by_key(|(_, capacity)| match *capacity >= len {
            true => (0, *capacity),
            false => (1, usize::MAX - capacity),
        });
        if let Some((i, capacity)) = best {
            let buffer = self.idle.remove(i);
            self.capacity_idle -= capacity;
            if capacity >= len {
                self.capacity_lent += capacity;
                return Some(buffer);
            }
            let_go(buffer);
        }
        self.capacity_lent += len;
        let most = self.most_asked + self.most_asked / 8;
        let mut above = (self.capacity_idle + self.capacity_lent).saturating_sub(most);
        let enough = self.idle.iter().take_while(|buffer| {
            let is_above = above > 0;
            above = above.saturating_sub(buffer.capacity());
            is_above
        });
        let count = enough.count();
        for buffer in self.idle.drain(..count) {
            self.capacity_idle -= buffer.capacity();
            let_go(buffer);
        }
        None
    }

    /// Takes a buffer back.
    pub fn give_back(&mut self, buffer: B) {
        let capacity = buffer.capacity();
        // What was not lent from here, or grew meanwhile, is welcome too.
        self.asked = self.asked.saturating_sub(buffer.len());
        self.capacity_lent = self.capacity_lent.saturating_sub(capacity);
        if capacity > 0 {
            self.capacity_idle += capacity;
            self.idle.push(buffer);
        }
    }

    /// What [`take`](Self::take) found none for, and could not be made, is not lent.
    pub fn take_back(&mut self, len: usize) {
        self.asked = self.asked.saturating_sub(len);
        self.capacity_lent = self.capacity_lent.saturating_sub(len);
    }

    /// Frees all returned buffers.
    pub fn let_all_go(&mut self) {
        self.idle.clear();
        self.capacity_idle = 0;
    }

    /// Elements of all returned buffers.
    pub fn idle_elements(&self) -> usize {
        self.capacity_idle
    }

    /// Elements of all lent buffers.
    pub fn lent_elements(&self) -> usize {
        self.capacity_lent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(shelf: &mut Shelf<Vec<u8>>, len: usize) -> (Vec<u8>, bool) {
        let found = shelf.take(len, drop);
        let is_new = found.is_none();
        let mut buffer = found.unwrap_or_else(|| vec![0; len]);
        buffer.resize(len, 0);
        (buffer, is_new)
    }

    #[test]
    fn steps_of_one_size_make_buffers_once() {
        let mut shelf = Shelf::default();
        let mut made = Vec::new();
        for _ in 0..4 {
            let sizes = [100, 300, 300, 70, 900, 31];
            let lent = sizes.map(|len| take(&mut shelf, len));
            made.push(lent.iter().filter(|(_, is_new)| *is_new).count());
            lent.into_iter().for_each(|(buffer, _)| shelf.give_back(buffer));
        }
        assert_eq!(made, [6, 0, 0, 0]);
        assert_eq!((shelf.lent_elements(), shelf.idle_elements()), (0, 1701));
    }

    #[test]
    fn steps_of_many_sizes_stay_within_the_bound() {
        let mut shelf = Shelf::default();
        let mut most = 0;
        for step in 0..200_usize {
            let tokens = 50 + step * 7919 % 950;
            let lent: Vec<_> = (1..9).map(|part| take(&mut shelf, part * tokens).0).collect();
            most = most.max(36 * tokens);
            let held = shelf.lent_elements() + shelf.idle_elements();
            lent.into_iter().for_each(|buffer| shelf.give_back(buffer));
            // A lent buffer may be up to twice as large as what was asked for.
            assert!(held <= 2 * most && shelf.idle_elements() <= held, "step {step}: {held} of {most}");
            assert_eq!(shelf.lent_elements(), 0);
        }
        assert!(shelf.idle_elements() <= most + most / 8, "{} of {most}", shelf.idle_elements());
    }

    #[test]
    fn of_equal_buffers_the_one_returned_last_is_lent() {
        let mut shelf = Shelf::default();
        let lent = [10, 10].map(|len| take(&mut shelf, len).0);
        let last = lent[1].as_ptr();
        lent.into_iter().for_each(|buffer| shelf.give_back(buffer));
        assert_eq!(take(&mut shelf, 10).0.as_ptr(), last);
    }
}
