//! Memory, read and written as fast as it goes.
//!
//! What a CPU fetches ahead by itself depends on the steps that a loop takes, and on how many places it is at: so there are
//! several loops, and the best counts.

use crate::simd::{Simd, VECTOR_BYTES};

/// In which order memory is gone through: which one is fastest depends on what the CPU fetches by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOrder {
    /// One vector after another.
    Narrow,
    /// Four neighbouring vectors at a time.
    Wide,
    /// Four vectors at a time, one from each quarter.
    Apart,
}

/// How memory is gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeWalk {
    /// In which order.
    pub order: ProbeOrder,
    /// Whether what comes is asked for, as the kernels do that stream weights; else that is left to the CPU.
    pub ahead: bool,
}

/// A walk in steps of some vectors at a time: the i-th of round r lies at `i * distance + r * advance`.
#[derive(Clone, Copy)]
struct Steps {
    distance: usize,
    advance: usize,
    rounds: usize,
    ahead: bool,
}

/// Vectors at a time, where it is not one.
const AT_ONCE: usize = 4;
/// Loads wait for stores before them whose addresses end alike, in so many bytes.
const ALIASES: usize = 4096;

impl Steps {
    /// One vector at a time.
    fn narrow(len: usize, ahead: bool) -> Steps {
        Steps { distance: 0, advance: VECTOR_BYTES, rounds: len / VECTOR_BYTES, ahead }
    }

    /// Four at a time; what is left behind them goes one at a time. Ends at most at `len`.
    fn four(len: usize, walk: ProbeWalk) -> Steps {
        let (step, ahead) = (AT_ONCE * VECTOR_BYTES, walk.ahead);
        let quarter = len / step * VECTOR_BYTES;
        match walk.order {
            // A whole number of pages less, and some lines more.
            ProbeOrder::Apart if quarter > ALIASES => {
                let quarter = (quarter / ALIASES - 1) * ALIASES + 5 * VECTOR_BYTES;
                Steps { distance: quarter, advance: VECTOR_BYTES, rounds: quarter / VECTOR_BYTES, ahead }
            }
            ProbeOrder::Narrow => Steps { distance: 0, advance: 0, rounds: 0, ahead },
            _ => Steps { distance: VECTOR_BYTES, advance: step, rounds: len / step, ahead },
        }
    }

    /// Bytes that [`Steps::four`] covers.
    fn covered(&self) -> usize {
        self.rounds * AT_ONCE * VECTOR_BYTES
    }
}

/// Reads `N` vectors at a time.
///
/// # Safety
/// All vectors of the walk must be readable.
#[inline(always)]
unsafe fn load<S: Simd, const N: usize>(s: S, from: *const u8, steps: Steps) -> S::Bytes {
    let mut acc = [s.splat_cell(0); N];
    let mut at = from;
    for _ in 0..steps.rounds {
        for i in 0..N {
            let place = at.wrapping_add(i * steps.distance);
            // SAFETY: the caller's promise; a prefetch may point anywhere.
            unsafe {
                if steps.ahead {
                    s.read_ahead(place, VECTOR_BYTES);
                }
                acc[i] = s.or(acc[i], s.load_bytes(place));
            }
        }
        at = at.wrapping_add(steps.advance);
    }
    let mut all = acc[0];
    for i in 1..N {
        all = s.or(all, acc[i]);
    }
    all
}

/// Stores the vectors of `from` to `to`, `N` at a time: combined with those of another buffer if `JOIN`, else with a zero that
/// the optimiser does not know of.
///
/// # Safety
/// All vectors of the walk must be readable at `from` and, if `JOIN`, at `other`, and writable at `to`, which may be `from`.
#[inline(always)]
unsafe fn stream<S: Simd, const N: usize, const JOIN: bool>(
    s: S,
    [from, other]: [*const u8; 2],
    to: *mut u8,
    steps: Steps,
) {
    let zero = s.splat_cell(std::hint::black_box(0));
    for round in 0..steps.rounds {
        let mut vectors = [zero; N];
        for i in 0..N {
            let at = round * steps.advance + i * steps.distance;
            // SAFETY: the caller's promise; a prefetch may point anywhere.
            unsafe {
                if steps.ahead {
                    s.read_ahead(from.wrapping_add(at), VECTOR_BYTES);
                    s.read_ahead(to.cast_const().wrapping_add(at), VECTOR_BYTES);
                    if JOIN {
                        s.read_ahead(other.wrapping_add(at), VECTOR_BYTES);
                    }
                }
                let with = if JOIN { s.load_bytes(other.add(at)) } else { zero };
                vectors[i] = s.or(s.load_bytes(from.add(at)), with);
            }
        }
        for i in 0..N {
            // SAFETY: as above.
            unsafe { s.store_bytes(to.add(round * steps.advance + i * steps.distance), vectors[i]) };
        }
    }
}

/// Leaf: reads all whole vectors.
#[inline(always)]
pub(crate) fn read<S: Simd>(s: S, bytes: &[u8], walk: ProbeWalk) {
    let four = Steps::four(bytes.len(), walk);
    let covered = four.covered();
    // SAFETY: both walks end within the slice: `covered` is at most its length.
    let all = unsafe {
        let rest = Steps::narrow(bytes.len() - covered, walk.ahead);
        s.or(load::<S, AT_ONCE>(s, bytes.as_ptr(), four), load::<S, 1>(s, bytes.as_ptr().add(covered), rest))
    };
    let mut sink = [0_u8; VECTOR_BYTES];
    // SAFETY: 64 bytes.
    unsafe { s.store_bytes(sink.as_mut_ptr(), all) };
    std::hint::black_box(sink);
}

/// Both walks of [`stream`].
///
/// # Safety
/// All must be valid for `len` bytes, `other` only if `JOIN`; `from` and `to` may be the same.
#[inline(always)]
unsafe fn stream_all<S: Simd, const JOIN: bool>(
    s: S,
    [from, other]: [*const u8; 2],
    to: *mut u8,
    len: usize,
    walk: ProbeWalk,
) {
    let four = Steps::four(len, walk);
    let covered = four.covered();
    // SAFETY: both walks end within `len` bytes.
    unsafe {
        stream::<S, AT_ONCE, JOIN>(s, [from, other], to, four);
        let rest = Steps::narrow(len - covered, walk.ahead);
        let other = if JOIN { other.add(covered) } else { other };
        stream::<S, 1, JOIN>(s, [from.add(covered), other], to.add(covered), rest);
    }
}

/// Leaf: copies all whole vectors of `from`, as far as `to` goes.
#[inline(always)]
pub(crate) fn copy<S: Simd>(s: S, from: &[u8], to: &mut [u8], walk: ProbeWalk) {
    let len = from.len().min(to.len());
    // SAFETY: the shorter length.
    unsafe { stream_all::<S, false>(s, [from.as_ptr(); 2], to.as_mut_ptr(), len, walk) };
}

/// Leaf: stores what all whole vectors of two buffers have in them together, as far as the shortest goes.
#[inline(always)]
pub(crate) fn join<S: Simd>(s: S, a: &[u8], b: &[u8], to: &mut [u8], walk: ProbeWalk) {
    let len = a.len().min(b.len()).min(to.len());
    // SAFETY: the shortest length.
    unsafe { stream_all::<S, true>(s, [a.as_ptr(), b.as_ptr()], to.as_mut_ptr(), len, walk) };
}

/// Leaf: loads and stores all whole vectors, whose bytes stay as they are.
#[inline(always)]
pub(crate) fn update<S: Simd>(s: S, bytes: &mut [u8], walk: ProbeWalk) {
    let at = bytes.as_mut_ptr();
    // SAFETY: one slice, its own length.
    unsafe { stream_all::<S, false>(s, [at.cast_const(); 2], at, bytes.len(), walk) };
}
