//! Rotary position embedding (Su et al. 2021).
//!
//! Each head's first `n_rot` values are taken in pairs, and pair `i` of a token at position `p` is turned by the angle
//! `p f_i`, with frequencies `f_i = base^(-2i / n_rot)` that a model may slow down to reach further
//! ([`RopeScaling`]). Which values form a pair is the file's convention, not the architecture's:
//!
//! ```text
//! Interleaved   x0 x1 | x2 x3 | ...           Halves   x0 .. x3 | x4 .. x7
//!               '--'    '--'                           '---------'  (0,4) (1,5) (2,6) (3,7)
//! ```
//!
//! Sines and cosines of every position up to the context length would be tens of megabytes, so none are stored.
//! [`RopeAngles`] holds those of one batch of tokens, computed once per forward pass and used by every layer. The
//! angle is an f64: at position 131072 an f32 would be off by 0.004.

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, for_rows};
use crate::memory::{Buffer, zeros};
use crate::mutant::mutant;
use crate::pool::Team;
use crate::rowwise::{load, load_tail, require, store, store_tail};
use crate::simd::{LANES, Simd};

/// Which two values of a head are turned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopePairing {
    /// `(2i, 2i + 1)`: Q and K of `llama` GGUF files.
    Interleaved,
    /// `(i, i + n_rot / 2)`: Hugging Face checkpoints, and GGUF files of the other families ("neox").
    Halves,
}

/// How a model's frequencies were changed to reach beyond the context it was first trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency is divided by `factor` (position interpolation, Chen et al. 2023).
    Linear {
        /// How much longer the context is.
        factor: f32,
    },
    /// Wavelengths above `original_context / low_freq_factor` are divided by `factor`, those below
    /// `original_context / high_freq_factor` stay, those between get a mixture (Llama 3.1).
    Llama3 {
        /// How much longer the context is.
        factor: f32,
        /// Turns within the original context below which a frequency is fully scaled.
        low_freq_factor: f32,
        /// Turns within the original context above which a frequency is kept.
        high_freq_factor: f32,
        /// Context length of the first training.
        original_context: u32,
    },
    /// Pairs that turn more than `beta_fast` times within the original context stay, those that turn less than
    /// `beta_slow` times are divided by `factor`, those between get a mixture that is linear in the pair's number; turned
    /// vectors become `attention_factor` times as long (YaRN, Peng et al. 2023, arXiv 2309.00071).
    Yarn {
        /// How much longer the context is.
        factor: f32,
        /// Context length of the first training.
        original_context: u32,
        /// Turns within the original context above which a pair is kept; usually 32.
        beta_fast: f32,
        /// Turns within the original context below which a pair is fully scaled; usually 1.
        beta_slow: f32,
        /// Whether the mixture begins and ends at whole pairs, as in most models.
        truncate: bool,
        /// What cosines and sines are multiplied with; usually `1 + ln(factor) / 10`.
        attention_factor: f32,
    },
    /// Every frequency is divided by a number of its own, which [`Rope::with_factors`] is given; turned vectors become
    /// `attention_factor` times as long (LongRoPE, Ding et al. 2024, arXiv 2402.13753).
    LongRope {
        /// Context length up to which a model's factors for short texts hold.
        original_context: u32,
        /// What cosines and sines are multiplied with.
        attention_factor: f32,
    },
}

impl RopeScaling {
    /// The frequency of pair `i` of `n_rot / 2`.
    fn frequency(self, i: usize, n_rot: usize, base: f64) -> f64 {
        let frequency = base.powf(-((2 * i) as f64) / n_rot as f64);
        match self {
            RopeScaling::None | RopeScaling::LongRope { .. } => frequency,
            RopeScaling::Linear { factor } => frequency / f64::from(factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let turns = f64::from(original_context) * frequency / std::f64::consts::TAU;
                let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / f64::from(factor))
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
                // The pair, as a real number, that turns so often within the original context.
                let pair_with = |turns: f32| {
                    let longest = f64::from(original_context) / (f64::from(turns) * std::f64::consts::TAU);
                    n_rot as f64 * longest.ln() / (2.0 * base.ln())
                };
                let (mut first, mut last) = (pair_with(beta_fast), pair_with(beta_slow));
                if truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, last) = (first.max(0.0), last.min(n_rot as f64 - 1.0));
                let width = if first == last { 0.001 } else { last - first };
                let scaled = ((i as f64 - first) / width).clamp(0.0, 1.0);
                frequency * (1.0 - scaled + scaled / f64::from(factor))
            }
        }
    }

    /// What cosines and sines are multiplied with.
    fn magnitude(self) -> f64 {
        match self {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                f64::from(attention_factor)
            }
            _ => 1.0,
        }
    }

    fn check(self) -> Result<(), KernelError> {
        let value = |what, found: f32, allowed| {
            Err(KernelError::Value { op: "rope", what, found: found.to_string(), allowed })
        };
        match self {
            RopeScaling::Linear { factor }
            | RopeScaling::Llama3 { factor, .. }
            | RopeScaling::Yarn { factor, .. }
                if !(factor.is_finite() && factor > 0.0) =>
            {
                value("scaling factor", factor, "positive finite numbers")
            }
            RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. }
                if !(low_freq_factor < high_freq_factor
                    && (high_freq_factor - low_freq_factor).is_finite()) =>
            {
                value("high_freq_factor", high_freq_factor, "finite numbers above low_freq_factor")
            }
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. }
                if !(attention_factor.is_finite() && attention_factor > 0.0) =>
            {
                value("attention_factor", attention_factor, "positive finite numbers")
            }
            RopeScaling::Yarn { beta_fast, beta_slow, .. }
                if !(beta_slow > 0.0 && beta_slow < beta_fast && beta_fast.is_finite()) =>
            {
                value("beta_fast", beta_fast, "finite numbers above beta_slow, which is positive")
            }
            _ => Ok(()),
        }
    }
}

/// A model's rotary embedding: pairing, frequencies, and how far they reach.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    pairing: RopePairing,
    frequencies: Vec<f64>, // [n_rot / 2], radians per position
    magnitude: f64,
    max_positions: usize,
}

impl Rope {
    /// `n_rot / 2` frequencies `base^(-2i / n_rot)`, scaled.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `n_rot` is odd or 0, [`KernelError::Value`] if a number is not one that can be meant.
    pub fn new(
        pairing: RopePairing,
        n_rot: usize,
        base: f32,
        scaling: RopeScaling,
        max_positions: usize,
    ) -> Result<Self, KernelError> {
        if n_rot == 0 || !n_rot.is_multiple_of(2) {
            let (expected, found) = (2, n_rot);
            return Err(KernelError::Shape { op: "rope", what: "n_rot (a multiple of)", expected, found });
        }
        if !(base.is_finite() && base > 0.0) {
            let (found, allowed) = (base.to_string(), "positive finite numbers");
            return Err(KernelError::Value { op: "rope", what: "base", found, allowed });
        }
        scaling.check()?;
        let frequencies = (0..n_rot / 2).map(|i| scaling.frequency(i, n_rot, f64::from(base))).collect();
        Ok(Rope { pairing, frequencies, magnitude: scaling.magnitude(), max_positions })
    }

    /// Divides frequency `i` by `factors[i]`, as the tensor `rope_freqs.weight` of a GGUF file prescribes, or LongRoPE.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if there is not one factor per pair, [`KernelError::Value`] if one is not positive.
    pub fn with_factors(mut self, factors: &[f32]) -> Result<Self, KernelError> {
        require("rope", "factors.len", self.frequencies.len(), factors.len())?;
        for (frequency, &factor) in self.frequencies.iter_mut().zip(factors) {
            if !(factor.is_finite() && factor > 0.0) {
                let (found, allowed) = (factor.to_string(), "positive finite numbers");
                return Err(KernelError::Value { op: "rope", what: "frequency factor", found, allowed });
            }
            *frequency /= f64::from(factor);
        }
        Ok(self)
    }

    /// How many values of each head are turned.
    pub fn n_rot(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// The first position that is refused.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Radians per position, pair by pair.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// How much longer vectors become when they are turned: 1 but for YaRN and LongRoPE.
    pub fn magnitude(&self) -> f64 {
        self.magnitude
    }
}

/// Cosines and sines for the tokens of one batch.
#[derive(Debug)]
pub struct RopeAngles {
    pairing: RopePairing,
    pairs: usize,
    rows: usize,
    values: Buffer<f32>, // [capacity, 2 * pairs]: a row's cosines, then its sines
}

impl RopeAngles {
    /// Room for batches of up to `max_rows` tokens; the only allocation.
    ///
    /// # Panics
    /// If there is no memory for them; [`try_new`](RopeAngles::try_new) gives an error instead.
    pub fn new(rope: &Rope, max_rows: usize) -> Self {
        Self::try_new(rope, max_rows).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Room for batches of up to `max_rows` tokens; the only allocation.
    ///
    /// # Errors
    /// [`KernelError::Memory`] if the system refuses.
    pub fn try_new(rope: &Rope, max_rows: usize) -> Result<Self, KernelError> {
        let pairs = rope.frequencies.len();
        let values = zeros("the angles of a batch", (2 * pairs).saturating_mul(max_rows))?;
        Ok(RopeAngles { pairing: rope.pairing, pairs, rows: 0, values })
    }

    /// Computes the angles of tokens at these positions: row `i` belongs to `positions[i]`.
    ///
    /// # Errors
    /// [`KernelError::PositionOutOfRange`] for a position beyond the model's reach, [`KernelError::Shape`] if there
    /// are more tokens than room or `rope` has another shape than the one this was made for. The angles that were
    /// there stay.
    pub fn set(&mut self, rope: &Rope, positions: &[u32]) -> Result<(), KernelError> {
        require("RopeAngles::set", "rope.n_rot", 2 * self.pairs, rope.n_rot())?;
        let room = self.values.len() / (2 * self.pairs);
        if positions.len() > room {
            let (what, expected, found) = ("positions.len (at most)", room, positions.len());
            return Err(KernelError::Shape { op: "RopeAngles::set", what, expected, found });
        }
        if let Some(&position) = positions.iter().find(|&&p| p as usize >= rope.max_positions) {
            return Err(KernelError::PositionOutOfRange { position, max_positions: rope.max_positions });
        }
        for (row, &position) in self.values.chunks_exact_mut(2 * self.pairs).zip(positions) {
            let (cos, sin) = row.split_at_mut(self.pairs);
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&rope.frequencies) {
                let (s, c) = (f64::from(position) * frequency).sin_cos();
                (*cos, *sin) = ((rope.magnitude * c) as f32, (rope.magnitude * s) as f32);
            }
        }
        self.pairing = rope.pairing;
        self.rows = positions.len();
        Ok(())
    }

    /// Number of tokens.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A token's cosines, then its sines.
    pub(crate) fn row(&self, i: usize) -> &[f32] {
        &self.values[i * 2 * self.pairs..][..2 * self.pairs]
    }

    /// Which elements make a pair.
    pub(crate) fn pairing(&self) -> RopePairing {
        self.pairing
    }

    /// Whether they turn so many rows of heads of this size.
    pub(crate) fn check(&self, op: &'static str, rows: usize, head_dim: usize) -> Result<(), KernelError> {
        require(op, "angles.rows", rows, self.rows)?;
        if head_dim < 2 * self.pairs {
            let (expected, found) = (2 * self.pairs, head_dim);
            return Err(KernelError::Shape { op, what: "head_dim (at least)", expected, found });
        }
        Ok(())
    }
}

/// Turns `(a_i, b_i)` by the angles.
#[inline(always)]
fn turn<S: Simd>(s: S, [a, b, cos, sin]: [S::F32; 4]) -> (S::F32, S::F32) {
    let minus_sin =
        if mutant("turned by a matrix that is no rotation") { sin } else { s.sub(s.splat(0.0), sin) };
    (s.mul_add(b, minus_sin, s.mul(a, cos)), s.mul_add(b, cos, s.mul(a, sin)))
}

/// Turns the pairs `(first_i, second_i)`.
#[inline(always)]
fn turn_halves<S: Simd>(s: S, first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a_body, a_tail) = first.as_chunks_mut::<LANES>();
    let (b_body, b_tail) = second.as_chunks_mut::<LANES>();
    let (cos_body, cos_tail) = cos.as_chunks::<LANES>();
    let (sin_body, sin_tail) = sin.as_chunks::<LANES>();
    for (((a, b), cos), sin) in a_body.iter_mut().zip(b_body).zip(cos_body).zip(sin_body) {
        let (x, y) = turn(s, [load(s, a), load(s, b), load(s, cos), load(s, sin)]);
        store(s, a, x);
        store(s, b, y);
    }
    if !a_tail.is_empty() {
        let [cos, sin] = [cos_tail, sin_tail].map(|t| load_tail(s, t, 0.0));
        let (x, y) = turn(s, [load_tail(s, a_tail, 0.0), load_tail(s, b_tail, 0.0), cos, sin]);
        store_tail(s, a_tail, x);
        store_tail(s, b_tail, y);
    }
}

/// Turns the pairs `(x_2i, x_2i+1)`. The vocabulary has no shuffles; the compiler vectorises this by itself.
#[inline(always)]
fn turn_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (pairs, _) = x.as_chunks_mut::<2>();
    for (([a, b], cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

/// Turns every head of one token's row. `angles` are the token's cosines, then its sines.
#[inline(always)]
pub(crate) fn row<S: Simd>(s: S, x: &mut [f32], head_dim: usize, angles: &[f32], pairing: RopePairing) {
    let pairs = angles.len() / 2;
    let (cos, sin) = angles.split_at(pairs);
    for head in x.chunks_exact_mut(head_dim) {
        let rotated = &mut head[..2 * pairs];
        match pairing {
            RopePairing::Interleaved => turn_interleaved(rotated, cos, sin),
            RopePairing::Halves => {
                let (first, second) = rotated.split_at_mut(pairs);
                turn_halves(s, first, second, cos, sin);
            }
        }
    }
}

/// # Rotary position embedding
impl Kernels {
    /// Turns the heads of every row to the row's position, in place.
    ///
    /// `(a, b) = (a cos t - b sin t, a sin t + b cos t)` for pair `i` of each head, `t = position * frequency_i`
    ///
    /// **Shapes:** `x` is `[tokens, n_heads * head_dim]`, typically the Q or the K strip of a fused projection;
    /// `angles` has a row per token. If the rotary dimension is below `head_dim`, the rest of each head stays.
    /// With YaRN and LongRoPE, cosines and sines are multiplied with [`Rope::magnitude`].
    /// **Accuracy:** absolute `2^-21 sqrt(a^2 + b^2)` at positions up to 131072, times the magnitude.
    /// **Special values:** a NaN or infinity reaches its own pair only.
    /// **Errors:** [`KernelError::Shape`] if the tokens, or the columns and heads, do not match.
    /// **Threads:** rows are spread over the team; a row's bits depend on that row alone.
    /// **Source:** Su et al. 2021, arXiv 2104.09864.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team, rope::*};
    /// let rope = Rope::new(RopePairing::Halves, 2, 10000.0, RopeScaling::None, 4096)?;
    /// let mut angles = RopeAngles::new(&rope, 1);
    /// angles.set(&rope, &[1])?;
    /// let mut x = [1.0, 0.0];
    /// Kernels::best().rope(&Team::serial(), &angles, 2, MatMut::from_rows(&mut x, 2))?;
    /// assert_eq!(x, [1f32.cos(), 1f32.sin()]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn rope(
        self,
        team: &Team<'_>,
        angles: &RopeAngles,
        head_dim: usize,
        x: MatMut<'_>,
    ) -> Result<(), KernelError> {
        const OP: &str = "rope";
        angles.check(OP, x.rows(), head_dim)?;
        if !x.cols().is_multiple_of(head_dim) {
            let (expected, found) = (head_dim, x.cols());
            return Err(KernelError::Shape { op: OP, what: "x.cols (a multiple of)", expected, found });
        }
        for_rows(team, x, |rows, mut x| {
            for (i, row) in rows.enumerate() {
                self.table.rope_row(x.row_mut(i), head_dim, angles.row(row), angles.pairing);
            }
        });
        Ok(())
    }
}
