//! The candidates for joining, best first.
//!
//! A plain heap would do, but over a long text it is many megabytes that every operation walks through from top to bottom,
//! out of the cache. Candidates come in waves: all pairs of the text, then the pairs that their joins have made, and so on.
//! So a wave is sorted at once (which costs next to nothing where it is in order already, as with a text of one letter)
//! and then read from front to back:
//!
//! ```text
//! wave     sorted, read in order                            priorities up to `bound`
//! soon     heap of what came up since and belongs within    priorities up to `bound`
//! later    unsorted, becomes the next wave                  priorities beyond `bound`
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A pair of neighbours that may be joined. Ordered by priority, then by place: the order of the fields matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// Lower goes first.
    pub(super) priority: u32,
    /// The left symbol.
    pub(super) left: u32,
    /// Bytes of both.
    pub(super) len: u32,
    /// The token that they become.
    pub(super) id: u32,
}

/// A priority queue for candidates.
#[derive(Default)]
pub(super) struct Queue {
    wave: Vec<Candidate>,
    read: usize,
    bound: Option<u32>,
    soon: BinaryHeap<Reverse<Candidate>>,
    later: Vec<Candidate>,
    /// Candidates added and taken, which the tests hold against the length of the text.
    operations: u64,
}

impl Queue {
    /// Empties the queue.
    pub(super) fn clear(&mut self) {
        self.wave.clear();
        (self.read, self.bound) = (0, None);
        self.soon.clear();
        self.later.clear();
    }

    /// Adds a candidate.
    pub(super) fn push(&mut self, candidate: Candidate) {
        self.operations += 1;
        if self.bound.is_some_and(|bound| candidate.priority <= bound) {
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
            std::mem::swap(&mut self.wave, &mut self.later);
            self.wave.sort_unstable();
            (self.read, self.bound) = (0, self.wave.last().map(|last| last.priority));
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

    /// Candidates added and taken since the queue was made.
    #[cfg(test)]
    pub(super) fn operations(&self) -> u64 {
        self.operations
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_best_candidate_comes_first(
            steps in prop::collection::vec(prop::option::weighted(0.6, (0u32..6, 0u32..50)), 0..200),
        ) {
            let (mut queue, mut model) = (Queue::default(), BinaryHeap::new());
            for step in steps {
                match step {
                    Some((priority, left)) => {
                        let candidate = Candidate { priority, left, len: 2, id: 0 };
                        queue.push(candidate);
                        model.push(Reverse(candidate));
                    }
                    None => prop_assert!(queue.pop() == model.pop().map(|best| best.0)),
                }
            }
        }
    }
}
