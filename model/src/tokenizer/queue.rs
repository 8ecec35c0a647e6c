//! The candidates for joining, best first.
//!
//! A plain heap would do, but over a long text it is many megabytes that every operation walks through from top to bottom,
//! out of the cache. Candidates come in waves: all pairs of the text, then the pairs that their joins have made, and so on.
//! So a wave is put in order at once and then read from front to back:
//!
//! ```text
//! wave     sorted, read in order                            priorities up to `bound`
//! soon     heap of what came up since and belongs within    priorities up to `bound`
//! later    unsorted, becomes the next wave                  priorities beyond `bound`
//! ```
//!
//! A long wave is not sorted by comparing: that alone would cost n log n steps, each out of the cache. Candidates come up
//! from left to right, so they are dealt out by priority, digit by digit, which keeps that order; what then stands in
//! order, and that is nearly all, is left as it is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A pair of neighbours that may be joined: its priority, lower goes first, then the place of the left symbol.
///
/// Eight bytes and nothing that can be looked up again: on a text of a megabyte, memory is what this costs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(u64);

impl Candidate {
    pub(super) fn new(priority: u32, left: u32) -> Candidate {
        Candidate(u64::from(priority) << 32 | u64::from(left))
    }

    pub(super) fn priority(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Where the left symbol begins.
    pub(super) fn left(self) -> u32 {
        self.0 as u32
    }
}

/// A priority queue for candidates.
#[derive(Default)]
pub(super) struct Queue {
    wave: Vec<Candidate>,
    read: usize,
    bound: Option<u32>,
    soon: BinaryHeap<Reverse<Candidate>>,
    later: Vec<Candidate>,
    /// Candidates added, taken and moved, which the tests hold against the length of the text.
    operations: u64,
}

impl Queue {
    /// Empties the queue, for a text of so many symbols: as many pairs are the first to come.
    pub(super) fn clear(&mut self, symbols: usize) {
        self.wave.clear();
        (self.read, self.bound) = (0, None);
        self.soon.clear();
        self.later.clear();
        self.later.reserve(symbols);
    }

    /// Adds a candidate.
    pub(super) fn push(&mut self, candidate: Candidate) {
        self.operations += 1;
        if self.bound.is_some_and(|bound| candidate.priority() <= bound) {
            self.soon.push(Reverse(candidate));
        } else {
            self.later.push(candidate);
        }
    }

    /// Takes the best candidate.
    pub(super) fn pop(&mut self) -> Option<Candidate> {
        self.operations += 1;
        if self.read == self.wave.len() && self.soon.is_empty() {
            self.wave.clear();
            self.operations += arrange(&mut self.later, &mut self.wave);
            (self.read, self.bound) = (0, self.wave.last().map(|last| last.priority()));
        }
        let first = self.wave.get(self.read).copied();
        match (first, self.soon.peek().map(|soon| soon.0)) {
            (Some(first), Some(soon)) if soon < first => self.soon.pop().map(|soon| soon.0),
            (Some(first), _) => {
                self.read += 1;
                Some(first)
            }
            (None, _) => self.soon.pop().map(|soon| soon.0),
        }
    }

    /// Candidates added, taken and moved since the queue was made.
    #[cfg(test)]
    pub(super) fn operations(&self) -> u64 {
        self.operations
    }
}

/// Shorter lists are sorted by comparing.
const LONG: usize = 1 << 10;
/// Bits of a digit.
const DIGIT: u32 = 11;

/// Moves what is in `from` to `to`, which is empty, in order. Gives how often a candidate was moved or compared.
fn arrange(from: &mut Vec<Candidate>, to: &mut Vec<Candidate>) -> u64 {
    let len = from.len();
    let mut steps = len as u64;
    if from.is_sorted() {
        std::mem::swap(from, to);
        return steps;
    }
    let comparing = |list: &mut [Candidate]| {
        list.sort_unstable();
        list.len() as u64 * u64::from(list.len().max(2).ilog2())
    };
    if len < LONG {
        std::mem::swap(from, to);
        return steps + comparing(to);
    }
    for shift in (0..u32::BITS).step_by(DIGIT as usize) {
        let digit = |candidate: &Candidate| (candidate.priority() >> shift) as usize & ((1 << DIGIT) - 1);
        let mut places = [0_usize; 1 << DIGIT];
        from.iter().for_each(|candidate| places[digit(candidate)] += 1);
        steps += len as u64;
        if places.contains(&len) {
            continue; // the same digit everywhere
        }
        let mut place = 0;
        for count in &mut places {
            place += std::mem::replace(count, place);
        }
        to.resize(len, Candidate(0));
        for candidate in &*from {
            let place = &mut places[digit(candidate)];
            if let Some(to) = to.get_mut(*place) {
                *to = *candidate;
            }
            *place += 1;
        }
        steps += len as u64;
        std::mem::swap(from, to);
    }
    std::mem::swap(from, to);
    from.clear();
    for group in to.chunk_by_mut(|a, b| a.priority() == b.priority()) {
        if !group.is_sorted() {
            steps += comparing(group);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn long_lists_come_into_order_however_they_are_dealt_out(
            keys in prop::collection::vec((prop::sample::select(vec![0, 1, 2047, 2048, 1 << 22, u32::MAX]), 0u32..3000), 0..1500),
            in_order in any::<bool>(),
        ) {
            let mut list: Vec<Candidate> =
                keys.iter().map(|&(priority, left)| Candidate::new(priority, left)).collect();
            if in_order {
                list.sort_unstable_by_key(|candidate| candidate.left());
            }
            let (mut sorted, mut arranged) = (list.clone(), Vec::new());
            sorted.sort_unstable();
            arrange(&mut list, &mut arranged);
            prop_assert!(arranged == sorted && list.is_empty());
        }

        #[test]
        fn the_best_candidate_comes_first(
            steps in prop::collection::vec(prop::option::weighted(0.6, (0u32..6, 0u32..50)), 0..200),
        ) {
            let (mut queue, mut model) = (Queue::default(), BinaryHeap::new());
            for step in steps {
                match step {
                    Some((priority, left)) => {
                        let candidate = Candidate::new(priority, left);
                        queue.push(candidate);
                        model.push(Reverse(candidate));
                    }
                    None => prop_assert!(queue.pop() == model.pop().map(|best| best.0)),
                }
            }
        }
    }
}
