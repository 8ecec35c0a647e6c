//! Scales by least squares.
//!
//! Given integers `q`, the scale `a` (and minimum `b`) that minimise `sum w (x - a q - b)^2` are known in closed form;
//! given scale and minimum, the best integers are the nearest ones. Neither tells the other where to start, so sixteen
//! starting scales are tried side by side, one per lane, and each is improved once by going round. (The idea: k-means
//! on a grid, after Lloyd 1982, with several starts.)
//!
//! Products and sums are never fused, so that every machine finds the same.

use super::Format;

/// Trials side by side.
pub(super) const LANES: usize = 16;
pub(super) type Lanes = [f32; LANES];

/// 1.5 2^23: adding it to a smaller float leaves no place for a fraction.
const NO_FRACTION: f32 = 12_582_912.0;

/// The integer in `low..=high` nearest to `x`, ties to even; `low` for a NaN.
#[inline(always)]
pub(super) fn nearest(x: f32, low: f32, high: f32) -> f32 {
    // Written as selections, which are one instruction.
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    (x + NO_FRACTION) - NO_FRACTION
}

/// The largest of the values by magnitude, with its sign.
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |extreme: f32, x| if x.abs() > extreme.abs() { *x } else { extreme })
}

/// The integers that a scale multiplies, some of them below zero.
pub(super) trait Levels: Copy {
    /// The lowest and the highest.
    fn ends(self) -> [f32; 2];
    /// How far from the next one the ends are.
    fn step(self) -> f32;
    /// The one nearest to `x`; the lowest for a NaN.
    fn nearest(self, x: f32) -> f32;
}

/// All from the first to the second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Integers(pub(super) f32, pub(super) f32);

impl Levels for Integers {
    fn ends(self) -> [f32; 2] {
        [self.0, self.1]
    }
    fn step(self) -> f32 {
        1.0
    }
    #[inline(always)]
    fn nearest(self, x: f32) -> f32 {
        nearest(x, self.0, self.1)
    }
}

/// The sixteen of [`Format::NONLINEAR`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Nonlinear;

impl Levels for Nonlinear {
    fn ends(self) -> [f32; 2] {
        [f32::from(Format::NONLINEAR[0]), f32::from(Format::NONLINEAR[15])]
    }
    fn step(self) -> f32 {
        24.0
    }
    #[inline(always)]
    fn nearest(self, x: f32) -> f32 {
        // Halfway between two levels are multiples of a half, so the number of whole halves below x tells the level.
        // It stands in the low bits of a float that has no place for a fraction.
        let halves = 2.0 * x - 0.5;
        let halves = if halves > -256.0 { halves } else { -256.0 };
        let halves = if halves < 255.0 { halves } else { 255.0 };
        NEAREST_LEVEL[((halves + NO_FRACTION).to_bits() & 511) as usize]
    }
}

impl Nonlinear {
    /// Where a level stands in the table.
    pub(super) fn index(level: f32) -> u8 {
        Format::NONLINEAR.partition_point(|t| f32::from(*t) < level) as u8
    }
}

/// The level nearest to what lies between `n` and `n + 1` halves, at `n` modulo 512.
static NEAREST_LEVEL: [f32; 512] = {
    let mut nearest = [0.0; 512];
    let (mut n, mut level) = (-256_i32, 0);
    while n < 256 {
        while level < 15 && Format::NONLINEAR[level] as i32 + Format::NONLINEAR[level + 1] as i32 <= n {
            level += 1;
        }
        nearest[(n & 511) as usize] = Format::NONLINEAR[level] as f32;
        n += 1;
    }
    nearest
};

/// A scale `a` for `x ~ a q` with `q` of the levels: close to the minimum of the weighted error. Zero for zeros.
pub(super) fn symmetric<const N: usize>(x: &[f32; N], w: &[f32; N], levels: impl Levels) -> f32 {
    let largest = extreme(x);
    if largest == 0.0 {
        return 0.0;
    }
    // Beyond the unit, squares could overflow; the inverse of a denormal does.
    let unit = 1.0 / largest;
    if !unit.is_finite() {
        return 0.0;
    }
    let x = x.map(|x| x * unit);
    let (mut best, mut scale) = (0.0, 0.0);
    for end in levels.ends() {
        // The largest value goes to the end, or somewhat beside it: what is beyond is clipped.
        let mut inverse: Lanes = [0.0; LANES];
        for l in 0..LANES {
            inverse[l] = end + end.signum() * (levels.step() * (l as f32 * 0.125 - 1.25));
        }
        for _ in 0..2 {
            let (mut xq, mut qq) = ([0.0_f32; LANES], [0.0_f32; LANES]);
            for i in 0..N {
                for l in 0..LANES {
                    let q = levels.nearest(x[i] * inverse[l]);
                    xq[l] += w[i] * x[i] * q;
                    qq[l] += w[i] * q * q;
                }
            }
            for l in 0..LANES {
                // The error is sum w x^2 less this.
                let gain = xq[l] * xq[l] / qq[l];
                if gain > best {
                    (best, scale) = (gain, xq[l] / qq[l]);
                }
                inverse[l] = qq[l] / xq[l];
            }
        }
    }
    scale * largest
}

/// What [`affine`] finds: `x ~ scale q + min`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Affine {
    pub(super) scale: f32,
    pub(super) min: f32,
}

/// Scale and minimum for `x ~ a q + b` with integers in `0..=top` and `b <= max_min`: close to the minimum of the
/// weighted error.
pub(super) fn affine<const N: usize>(x: &[f32; N], w: &[f32; N], top: f32, max_min: f32) -> Affine {
    let low = x.iter().fold(max_min, |min, x| min.min(*x));
    let high = x.iter().fold(low, |max, x| max.max(*x));
    let range = high - low;
    let unit = 1.0 / range;
    if !unit.is_finite() || range == f32::INFINITY {
        // All values are (nearly) the same, or too far apart for squares: the plain range.
        return Affine { scale: (high / top) - (low / top), min: low };
    }
    // Counted from the lowest value in units of the range, so that nothing cancels or overflows.
    let y = x.map(|x| (x - low) * unit);
    let max_c = (max_min - low) * unit;
    let (mut sw, mut sy, mut syy) = (0.0_f32, 0.0_f32, 0.0_f32);
    for i in 0..N {
        sw += w[i];
        sy += w[i] * y[i];
        syy += w[i] * y[i] * y[i];
    }
    let mut inverse: Lanes = [0.0; LANES];
    let mut offset: Lanes = [0.0; LANES];
    for l in 0..LANES {
        // The range takes from 85 to 104 % of the steps: wider steps clip nothing, narrower ones clip the ends.
        inverse[l] = top * (0.85 + l as f32 * 0.0125);
    }
    let mut best = f32::INFINITY;
    let mut found = Affine { scale: 1.0 / top, min: 0.0 };
    for _ in 0..3 {
        let (mut sq, mut sqq, mut syq) = ([0.0_f32; LANES], [0.0_f32; LANES], [0.0_f32; LANES]);
        for i in 0..N {
            for l in 0..LANES {
                let q = nearest((y[i] - offset[l]) * inverse[l], 0.0, top);
                let wq = w[i] * q;
                sq[l] += wq;
                sqq[l] += wq * q;
                syq[l] += wq * y[i];
            }
        }
        for l in 0..LANES {
            let determinant = sw * sqq[l] - sq[l] * sq[l];
            let mut a = (sw * syq[l] - sy * sq[l]) / determinant;
            let mut c = (sqq[l] * sy - sq[l] * syq[l]) / determinant;
            if c > max_c {
                c = max_c;
                a = (syq[l] - c * sq[l]) / sqq[l];
            }
            let error = syy + a * (a * sqq[l] - 2.0 * syq[l]) + c * (c * sw - 2.0 * sy + 2.0 * a * sq[l]);
            if error < best && a > 0.0 {
                best = error;
                found = Affine { scale: a, min: c };
            }
            inverse[l] = 1.0 / a;
            offset[l] = c;
        }
    }
    Affine { scale: found.scale * range, min: low + found.min * range }
}
