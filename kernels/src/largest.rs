//! The largest of many numbers: each is looked at once, and most are turned away 64 at a time.

use crate::error::KernelError;
use std::cmp::Ordering;

/// Numbers that are turned away by one comparison.
const CHUNK: usize = 64;
/// Numbers that are compared at the same time.
const LANES: usize = 16;

/// A number and where it stood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// Not NaN; of those that [`Largest::take`] finds neither `-inf` nor negative zero.
    pub value: f32,
    /// Its place.
    pub index: u32,
}

impl Entry {
    /// The larger first, among equals the one that stood first.
    pub fn larger_first(&self, other: &Entry) -> Ordering {
        other.value.partial_cmp(&self.value).unwrap_or(Ordering::Equal).then(self.index.cmp(&other.index))
    }
}

/// The `k` largest of the numbers it was given, and of equal ones those that stood first.
///
/// ```
/// use gable_kernels::largest::Largest;
/// let mut largest = Largest::new(2)?;
/// largest.take(0, &[1.0, f32::NEG_INFINITY, 5.0]);
/// largest.take(3, &[5.0, 7.0]);
/// largest.finish();
/// let places: Vec<u32> = largest.entries().unwrap().iter().map(|e| e.index).collect();
/// assert_eq!(places, [2, 4]);
/// # Ok::<(), gable_kernels::KernelError>(())
/// ```
#[derive(Debug, Default)]
pub struct Largest {
    k: usize,
    /// `2 k` at most, `k` once finished.
    entries: Vec<Entry>,
    /// The k-th largest so far: what is not above it cannot be among them.
    least: Option<f32>,
    /// Where the first NaN stood.
    nan: Option<u32>,
}

impl Largest {
    /// For the `k` largest, with all the memory it needs.
    ///
    /// # Errors
    /// [`KernelError::Memory`] if the system refuses.
    pub fn new(k: usize) -> Result<Self, KernelError> {
        let (mut entries, room) = (Vec::new(), k.saturating_mul(2));
        entries.try_reserve_exact(room).map_err(|_| KernelError::Memory {
            what: "the largest numbers",
            bytes: room.saturating_mul(size_of::<Entry>()),
        })?;
        Ok(Largest { k, entries, least: None, nan: None })
    }

    /// How many it finds.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.least = None;
        self.nan = None;
    }

    /// Looks at `numbers`, which stand from `first` on, behind all that were taken before.
    pub fn take(&mut self, first: u32, numbers: &[f32]) {
        for (first, chunk) in (first..).step_by(CHUNK).zip(numbers.chunks(CHUNK)) {
            let (largest, has_nan) = largest(chunk);
            if has_nan && self.nan.is_none() {
                self.nan = chunk.iter().zip(first..).find_map(|(x, at)| x.is_nan().then_some(at));
            }
            if largest <= self.least.unwrap_or(f32::NEG_INFINITY) {
                continue;
            }
            for (x, index) in chunk.iter().zip(first..).filter(|(x, _)| **x > f32::NEG_INFINITY) {
                self.offer(Entry { value: x + 0.0, index }); // -0 becomes +0: they are equal
            }
        }
    }

    /// Looks at one more, which stands behind all that came before.
    pub fn offer(&mut self, entry: Entry) {
        // Places ascend, so of equals the ones that come later lose.
        if self.least.is_none_or(|least| entry.value > least) {
            self.push(entry);
        }
    }

    /// Takes what another one found elsewhere.
    pub(crate) fn merge(&mut self, other: &Largest) {
        self.nan = [self.nan, other.nan].into_iter().flatten().min();
        other.entries.iter().for_each(|entry| self.push(*entry));
    }

    fn push(&mut self, entry: Entry) {
        if self.k > 0 {
            self.entries.push(entry);
        }
        if self.entries.len() >= self.k.saturating_mul(2) {
            self.shorten();
        }
    }

    /// Keeps the k largest, in any order.
    fn shorten(&mut self) {
        if self.k > 0 && self.entries.len() > self.k {
            let (_, last, _) = self.entries.select_nth_unstable_by(self.k - 1, Entry::larger_first);
            self.least = Some(last.value);
            self.entries.truncate(self.k);
        }
    }

    /// Nothing more comes.
    pub fn finish(&mut self) {
        self.shorten();
        self.entries.sort_unstable_by_key(|entry| entry.index);
    }

    /// After [`finish`](Largest::finish): the largest, in the order in which they stood.
    ///
    /// # Errors
    /// Where the first NaN stood.
    pub fn entries(&self) -> Result<&[Entry], u32> {
        match self.nan {
            Some(at) => Err(at),
            None => Ok(&self.entries),
        }
    }
}

/// The largest of a chunk, and whether there is a NaN, which counts as nothing.
fn largest(chunk: &[f32]) -> (f32, bool) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut nan = [false; LANES];
    let (vectors, rest) = chunk.as_chunks::<LANES>();
    for vector in vectors {
        for ((largest, nan), x) in largest.iter_mut().zip(&mut nan).zip(vector) {
            *largest = if *x > *largest { *x } else { *largest };
            *nan |= x.is_nan();
        }
    }
    let all = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m });
    (all, nan.contains(&true) || rest.iter().any(|x| x.is_nan()))
}
