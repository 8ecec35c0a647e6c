//! Byte-pair merging in n log n.
//!
//! A piece starts as a list of symbols, and the best pair of neighbours is joined until no pair can be. Searching the
//! list for the best pair each time would cost n² (a prompt of one megabyte of `a` would never end), so candidates wait
//! in a queue, ordered by priority and then from left to right:
//!
//! ```text
//! symbols   t ⇄ h ⇄ e ⇄ r ⇄ e        linked both ways, by their first byte
//! queue     (he, 1) (re, 3) (th, 7)  takes he: t ⇄ he ⇄ r ⇄ e, adds (t,he) and (he,r)
//! ```
//!
//! A join does not look for the candidates it has made void. They are recognised when they come up: the pair that then
//! begins at the place, if there is one, is looked up again, and another priority means that it is another pair. (With
//! the same priority it is as good: its own candidate says the same.)
//!
//! Each join removes a symbol and adds at most two candidates: n symbols cause fewer than 3 n additions and as many
//! removals.

use super::queue::{Candidate, Queue};

/// A run of the piece's bytes that is, or may become part of, one token.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    /// Its first byte in the piece.
    pub(super) begin: u32,
    /// Its bytes.
    pub(super) len: u32,
    /// Its token, where it is one.
    pub(super) id: Option<u32>,
}

impl Symbol {
    /// Its bytes, as a range of the piece.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.begin as usize..self.end() as usize
    }

    fn end(&self) -> u32 {
        self.begin + self.len
    }
}

/// What a pair of neighbours becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Join {
    /// Lower goes first.
    pub(super) priority: u32,
    /// The token that both together are.
    pub(super) id: u32,
}

/// What is kept of the symbol that begins at a byte: symbols lie end to end, so the next begins where this one ends.
#[derive(Clone, Copy)]
struct Slot {
    /// Where the symbol before begins; `NONE` for the first.
    before: u32,
    /// Bytes; 0 where no symbol begins.
    len: u32,
    /// Token, or `NONE`.
    id: u32,
}

const NONE: u32 = u32::MAX;
const NO_SYMBOL: Slot = Slot { before: NONE, len: 0, id: NONE };

/// The list and the queue, kept between pieces so that they need not be allocated again.
#[derive(Default)]
pub(super) struct Merger {
    /// One for each byte of the piece.
    slots: Vec<Slot>,
    last: Option<u32>,
    queue: Queue,
}

impl Merger {
    /// Begins a piece of so many bytes.
    pub(super) fn clear(&mut self, bytes: usize) {
        self.slots.clear();
        self.slots.reserve(bytes);
        self.last = None;
        self.queue.clear(bytes);
    }

    /// Appends a symbol of `len` bytes, at least one. A piece must be shorter than 4 GiB.
    pub(super) fn push(&mut self, len: u32, id: Option<u32>) {
        let begin = self.slots.len();
        let before = self.last.unwrap_or(NONE);
        self.slots.resize(begin + len as usize, NO_SYMBOL);
        self.set(begin as u32, Slot { before, len, id: id.unwrap_or(NONE) });
        self.last = Some(begin as u32);
    }

    /// Joins pairs until none is left that `join` has an answer for.
    pub(super) fn run(&mut self, join: impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        let mut left = self.symbol(0);
        while let Some(symbol) = left {
            let right = self.symbol(symbol.end());
            self.consider(Some(symbol), right, &join);
            left = right;
        }
        while let Some(best) = self.queue.pop() {
            let Some(left) = self.symbol(best.left()) else { continue };
            let Some(right) = self.symbol(left.end()) else { continue };
            let Some(Join { id, .. }) = join(&left, &right).filter(|j| j.priority == best.priority()) else {
                continue;
            };
            let joined = Symbol { begin: left.begin, len: left.len + right.len, id: Some(id) };
            let before = self.slots.get(left.begin as usize).map_or(NONE, |slot| slot.before);
            self.set(right.begin, NO_SYMBOL);
            self.set(left.begin, Slot { before, len: joined.len, id });
            let next = self.symbol(joined.end());
            if let Some(slot) = next.and_then(|next| self.slots.get_mut(next.begin as usize)) {
                slot.before = joined.begin;
            }
            self.consider(self.symbol(before), Some(joined), &join);
            self.consider(Some(joined), next, &join);
        }
    }

    fn consider(
        &mut self,
        left: Option<Symbol>,
        right: Option<Symbol>,
        join: impl Fn(&Symbol, &Symbol) -> Option<Join>,
    ) {
        if let (Some(left), Some(right)) = (left, right)
            && let Some(Join { priority, .. }) = join(&left, &right)
        {
            self.queue.push(Candidate::new(priority, left.begin));
        }
    }

    /// The symbols that are left, in order.
    pub(super) fn symbols(&self) -> impl Iterator<Item = Symbol> {
        std::iter::successors(self.symbol(0), |symbol| self.symbol(symbol.end()))
    }

    /// The symbol that begins there, if one does.
    fn symbol(&self, begin: u32) -> Option<Symbol> {
        let &Slot { len, id, .. } = self.slots.get(begin as usize).filter(|slot| slot.len > 0)?;
        Some(Symbol { begin, len, id: (id != NONE).then_some(id) })
    }

    fn set(&mut self, begin: u32, to: Slot) {
        if let Some(slot) = self.slots.get_mut(begin as usize) {
            *slot = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length of each symbol after merging `count` one-byte symbols, where runs of up to `longest` join.
    fn merge_letters(count: usize, longest: u32) -> (Vec<u32>, u64) {
        let mut merger = Merger::default();
        merger.clear(count);
        (0..count).for_each(|_| merger.push(1, None));
        merger.run(|a, b| {
            let len = a.len + b.len;
            (len <= longest).then(|| Join { priority: longest - len, id: 0 })
        });
        (merger.symbols().map(|symbol| symbol.len).collect(), merger.queue.operations())
    }

    #[test]
    fn symbols_cover_the_piece() {
        for count in [0, 1, 2, 7, 1000] {
            let (lens, _) = merge_letters(count, 16);
            assert_eq!(lens.iter().sum::<u32>() as usize, count);
        }
    }

    #[test]
    fn equal_priorities_join_from_the_left() {
        let mut merger = Merger::default();
        (0..5).for_each(|_| merger.push(1, None));
        merger.run(|a, b| (a.len + b.len == 2).then_some(Join { priority: 0, id: 9 }));
        assert_eq!(merger.symbols().map(|s| s.range()).collect::<Vec<_>>(), [0..2, 2..4, 4..5]);
    }

    /// What a candidate costs does not grow with the text: sixteen times the text, sixteen times the steps.
    #[test]
    fn queue_operations_grow_in_step_with_the_text() {
        for longest in [2, 3, 32, u32::MAX] {
            let steps = |count: usize| merge_letters(count, longest).1 as f64;
            let (short, long) = (steps(1 << 16), steps(1 << 20));
            assert!(long < 10.0 * f64::from(1 << 20), "{long} steps, runs up to {longest}");
            assert!(long < 16.1 * short, "{short} steps, then {long}, runs up to {longest}");
        }
    }
}
