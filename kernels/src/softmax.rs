//! Softmax of rows.
//!
//! ```text
//! t = scale x + mask          (recomputed when needed rather than stored)
//! m = max t                   pass 1: reads
//! e = exp(t - m), Z = sum e   pass 2: reads, writes e
//! out = e / Z                 pass 3: reads, writes        log-softmax: (t - m) - ln Z, and pass 2 writes nothing
//! ```
//!
//! Subtracting the maximum keeps exp in range whatever the logits are. `t - m` is one fused operation per
//! element; where the CPU fuses, `m` is the rounded maximum of `t`, and the difference that makes is one factor
//! common to the row, which cancels in `e / Z`.
//!
//! # Chunks
//!
//! A row is cut into chunks of 4096 elements, longer ones if that were more than 64 of them. Passes 1 and 2 are made chunk by
//! chunk, while it is in the first-level cache, with a maximum of its own; the pairs (maximum, sum) are then merged in the
//! order of the row (Milakov and Gimelshein 2018), and pass 3 multiplies each chunk by `exp(m_chunk - m) / Z`. Where the
//! cuts are depends on the row's length alone: whether a thread takes a whole row or several take chunks of one, the bits
//! are the same.
//!
//! # What binds
//!
//! Of each vector the three passes ask [`MULTIPLIES`] multiplications or multiply-adds, 7 operations of the units that add,
//! compare and shift, 3 loads and 2 stores. So rows of one chunk are taken in turn, three at a time: what is stored of one
//! row, computed of the next and compared of the one behind it keeps every unit busy. A positive scale is left
//! out of pass 1: it changes nothing about which element is the largest.
//!
//! # Special values
//!
//! NaN needs no test: the maximum ignores it, its own `e` is NaN, and so are the sum and the row. The same holds for
//! `inf - inf`, hence for a row of nothing but `-inf`: as in IEEE arithmetic and in PyTorch it gives NaN. (Fused
//! attention, where such rows are ordinary, defines them as zero.) A chunk of nothing but `-inf` in another row adds zero.

mod passes;

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef, for_columns, for_rows};
use crate::mutant::mutant;
use crate::pool::Team;
use crate::rowwise::require;
use crate::simd::LANES;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use passes::{LogShift, chunk, log_chunk, log_shift, rows};

/// Multiplications and multiply-adds of [`Kernels::softmax`] without a mask, for each element (or vector of them): what can bind
/// it where memory does not. One for `t - m`, one for the base of the exponential, five for its polynomial, one for its power of
/// two, one for `1 / Z`.
pub const MULTIPLIES: usize = 9;

/// Elements of a chunk, a quarter or half of a first-level cache.
const CHUNK: usize = 4096;
/// Chunks of a row at most.
const MAX_CHUNKS: usize = 64;

/// Elements of each chunk but the last.
fn chunk_len(cols: usize) -> usize {
    cols.div_ceil(MAX_CHUNKS).next_multiple_of(LANES).max(CHUNK)
}

/// A chunk's part in its row: its largest `t`, and the sum of its `exp(t - max)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Part {
    max: f32,
    sum: f32,
}

impl Part {
    fn to_bits(self) -> u64 {
        u64::from(self.max.to_bits()) << 32 | u64::from(self.sum.to_bits())
    }

    fn from_bits(bits: u64) -> Part {
        Part { max: f32::from_bits((bits >> 32) as u32), sum: f32::from_bits(bits as u32) }
    }
}

/// A row's maximum and sum.
#[derive(Debug, Clone, Copy)]
struct Total {
    max: f32,
    sum: f64,
}

impl Total {
    /// In the order of the row.
    fn of(parts: &[Part]) -> Total {
        let max =
            parts.iter().fold(f32::NEG_INFINITY, |max, part| if part.max > max { part.max } else { max });
        let mut total = Total { max, sum: 0.0 };
        for part in parts {
            total.sum += total.share(*part) * f64::from(part.sum);
        }
        total
    }

    /// `exp(m_chunk - m)`; 1 also where both are infinite.
    fn share(&self, part: Part) -> f64 {
        if part.max == self.max || mutant("chunks of a row not rescaled") {
            1.0
        } else {
            (f64::from(part.max) - f64::from(self.max)).exp()
        }
    }

    /// What the exponentials of a chunk are to be multiplied with.
    fn factor(&self, part: Part) -> f32 {
        (self.share(part) / self.sum) as f32
    }

    fn log_shift(&self, scale: f32) -> LogShift {
        LogShift { scale, m: self.max, log_sum: self.sum.ln() as f32 }
    }
}

/// Which of the two, and by whose kernels.
#[derive(Clone, Copy)]
struct Softmax {
    kernels: Kernels,
    log: bool,
    scale: f32,
}

impl Softmax {
    /// All rows: as many as every thread gets equally many of by themselves, and the others by all threads together if
    /// they have several chunks.
    fn run(self, team: &Team<'_>, mask: Option<MatRef<'_>>, mut x: MatMut<'_>) {
        let several = x.cols() > chunk_len(x.cols());
        let (rows, threads) = (x.rows(), team.threads());
        let shared = if several { rows % threads } else { 0 };
        for_rows(team, x.row_range_mut(0..rows - shared), |range, mut x| {
            if !(self.log || several) && mask.is_none() && self.scale > 0.0 {
                return self.kernels.table.softmax_rows(x, self.scale);
            }
            for (i, row) in range.enumerate() {
                self.row(&Team::serial(), x.row_mut(i), mask_row(mask, row));
            }
        });
        for row in rows - shared..rows {
            self.row(team, x.row_mut(row), mask_row(mask, row));
        }
    }

    /// One row, its chunks spread over the team.
    fn row(self, team: &Team<'_>, x: &mut [f32], mask: Option<&[f32]>) {
        let len = chunk_len(x.len());
        if x.len() <= len {
            let part = self.part(x, mask);
            return self.finish(x, mask, part, Total::of(&[part]));
        }
        let chunk_mask = |i: usize, len_of: usize| mask.map(|mask| &mask[i * len..][..len_of]);
        let parts = [const { AtomicU64::new(0) }; MAX_CHUNKS];
        for_chunks(team, x, len, |i, chunk| {
            let part = self.part(chunk, chunk_mask(i, chunk.len()));
            // Relaxed: the team orders the data.
            parts[i].store(part.to_bits(), Ordering::Relaxed);
        });
        let parts = parts.map(|part| Part::from_bits(part.into_inner()));
        let total = Total::of(&parts[..x.len().div_ceil(len)]);
        for_chunks(team, x, len, |i, chunk| {
            self.finish(chunk, chunk_mask(i, chunk.len()), parts[i], total);
        });
    }

    /// Passes 1 and 2 of a chunk.
    fn part(self, x: &mut [f32], mask: Option<&[f32]>) -> Part {
        match self.log {
            false => self.kernels.table.softmax_chunk(x, self.scale, mask),
            true => self.kernels.table.log_softmax_chunk(x, self.scale, mask),
        }
    }

    /// Pass 3 of a chunk.
    fn finish(self, x: &mut [f32], mask: Option<&[f32]>, part: Part, total: Total) {
        match self.log {
            false => self.kernels.table.scale_row(x, total.factor(part)),
            true => self.kernels.table.log_softmax_shift(x, mask, total.log_shift(self.scale)),
        }
    }
}

/// Calls `f` for every chunk of a row with its number.
fn for_chunks(team: &Team<'_>, x: &mut [f32], len: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let (cols, threads) = (x.len(), team.threads());
    let row = MatMut::from_rows(x, cols);
    for_columns(team, [row], len, threads.min(cols.div_ceil(len)), |_, cols, mut strip| {
        for (i, chunk) in strip.row_mut(0).chunks_mut(len).enumerate() {
            f(cols.start / len + i, chunk);
        }
    });
}

/// The mask's row for a row of `x`: its own, or the only one.
fn mask_row<'a>(mask: Option<MatRef<'a>>, i: usize) -> Option<&'a [f32]> {
    mask.map(|mask| mask.row(if mask.rows() == 1 { 0 } else { i }))
}

fn check(op: &'static str, scale: f32, mask: Option<MatRef<'_>>, x: &MatMut<'_>) -> Result<(), KernelError> {
    if !scale.is_finite() {
        return Err(KernelError::Value {
            op,
            what: "scale",
            found: scale.to_string(),
            allowed: "finite numbers",
        });
    }
    if let Some(mask) = mask {
        require(op, "mask.cols", x.cols(), mask.cols())?;
        if mask.rows() != 1 {
            require(op, "mask.rows (if not 1)", x.rows(), mask.rows())?;
        }
    }
    Ok(())
}

/// # Softmax
impl Kernels {
    /// Softmax of every row, in place.
    ///
    /// `x_ij = exp(t_ij) / sum_k exp(t_ik)` with `t = scale x + mask`; `scale` is one over the temperature.
    ///
    /// **Shapes:** `x` is `[rows, cols]`; `mask`, added after scaling, is `[rows, cols]` or `[1, cols]` for all rows.
    /// **Accuracy:** relative `(12 + cols / 16 + 2 |t| + 2 |t - max|) 2^-24`, results below 2^-126 become 0.
    /// **Special values:** `-inf` gives 0; a row with a NaN, with `+inf`, or of nothing but `-inf` becomes NaN; an
    /// empty row stays empty.
    /// **Errors:** [`KernelError::Shape`] if the mask does not fit, [`KernelError::Value`] if the scale is not finite.
    /// **Threads:** rows are spread over the team, and chunks of a row where there are more threads than rows; a row's bits
    /// depend on that row alone.
    /// **Source:** Milakov and Gimelshein 2018, arXiv 1805.02867.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team};
    /// let mut x = [1.0, 1.0, f32::NEG_INFINITY, 1.0];
    /// Kernels::best().softmax(&Team::serial(), 1.0, None, MatMut::from_rows(&mut x, 2))?;
    /// assert_eq!(x, [0.5, 0.5, 0.0, 1.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn softmax(
        self,
        team: &Team<'_>,
        scale: f32,
        mask: Option<MatRef<'_>>,
        x: MatMut<'_>,
    ) -> Result<(), KernelError> {
        check("softmax", scale, mask, &x)?;
        Softmax { kernels: self, log: false, scale }.run(team, mask, x);
        Ok(())
    }

    /// Logarithm of the softmax of every row, in place: log-probabilities of logits.
    ///
    /// `x_ij = t_ij - ln sum_k exp(t_ik)` with `t = scale x + mask`
    ///
    /// **Accuracy:** absolute `(12 + cols / 16) 2^-24 + 2^-23 (|t| + |result|)`; nothing underflows.
    /// **Special values:** `-inf` stays `-inf`; otherwise as [`Kernels::softmax`], as are shapes, errors and threads.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team};
    /// let mut x = [0.0, -1000.0];
    /// Kernels::best().log_softmax(&Team::serial(), 1.0, None, MatMut::from_rows(&mut x, 2))?;
    /// assert_eq!(x, [0.0, -1000.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn log_softmax(
        self,
        team: &Team<'_>,
        scale: f32,
        mask: Option<MatRef<'_>>,
        x: MatMut<'_>,
    ) -> Result<(), KernelError> {
        check("log_softmax", scale, mask, &x)?;
        Softmax { kernels: self, log: true, scale }.run(team, mask, x);
        Ok(())
    }
}
