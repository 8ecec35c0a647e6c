//! exp, sigmoid, tanh and erf of vectors.
//!
//! All four rest on one polynomial. With `n` the integer nearest to `x log2 e`,
//!
//! ```text
//! e^x = 2^n e^r,   r = x - n ln 2,   |r| <= ln 2 / 2
//! e^r = 1 + (r + r^2 (c2 + c3 r + c4 r^2 + c5 r^3 + c6 r^4))
//! ```
//!
//! `ln 2` is split into a part of nine bits, whose product with `n` is exact even without a fused multiply, and
//! the rest (Cody and Waite 1980). The polynomial is the minimax one for the relative error of e^r, 3e-9; what
//! is left of the 0.8 ulp is rounding. Rounding to an integer is done by adding 1.5 * 2^23, after which the
//! integer stands in the low bits of the sum: two additions instead of a conversion there and back.
//!
//! `2^n` is made by building the exponent. [`exp`] covers every n from -150 to 128 by [`Simd::scale`], one instruction or two
//! factors 2^(n/2), so it ends in denormals and in infinity as it should; [`exp_nonpositive`] is what softmax needs, has one
//! factor, and ends in 0 below about -87.7, where e^x is a denormal.
//!
//! | function | error bound | enforced by |
//! |---|---|---|
//! | exp | 2 ulp | `tests/rowwise.rs`, a sample by default and all 2^32 values with `--ignored` |
//! | sigmoid, tanh | 4 ulp | same |
//! | erf | 7e-7 absolute | same |

use crate::isa::Kernels;
use crate::rowwise::{Map, map};
use crate::simd::Simd;

/// `c0 + x (c1 + x (...))`
#[inline(always)]
fn horner<S: Simd, const N: usize>(s: S, x: S::F32, c: [f32; N]) -> S::F32 {
    let mut sum = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = s.mul_add(sum, x, s.splat(c[i]));
    }
    sum
}

/// `(e^r, n)` with `x = n ln 2 + r`.
#[inline(always)]
fn exp_parts<S: Simd>(s: S, x: S::F32) -> (S::F32, S::F32) {
    let n = s.round_product(x, std::f32::consts::LOG2_E);
    let r = s.mul_add(n, s.splat(-0.693_359_4), x);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    // Estrin's scheme: half as deep as Horner's.
    let r2 = s.mul(r, r);
    let low = s.mul_add(s.splat(0.166_665_2), r, s.splat(0.499_999_94));
    let high = s.mul_add(s.splat(0.008_368_899), r, s.splat(0.041_668_404));
    let high = s.mul_add(s.splat(0.001_381_422_2), r2, high);
    let p = s.mul_add(high, r2, low);
    (s.add(s.mul_add(p, r2, r), s.splat(1.0)), n)
}

/// e^x for every x. Below -104 it is 0, above 89 infinity, of NaN it is NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // In this order a NaN passes both.
    let x = s.max(s.splat(-104.0), s.min(s.splat(89.0), x));
    let (e, n) = exp_parts(s, x);
    s.scale(e, n)
}

/// e^x for x <= 0 (up to 88 it works as well); 0 below -87.7. Of NaN it is NaN.
#[inline(always)]
pub(crate) fn exp_nonpositive<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let (e, n) = exp_parts(s, s.max(s.splat(-88.0), x));
    s.mul(e, s.pow2(n))
}

/// `log2 e / 2`
pub(crate) const HALF_LOG2_E: f32 = std::f32::consts::LOG2_E / 2.0;

/// `4^u` for u <= 0 (up to 63 it works as well): 0 below -63.25. Of NaN it is NaN.
///
/// For who multiplies by a factor anyway, with [`HALF_LOG2_E`] in it: half the exponent, so that what is a number
/// before is one after. No product needs to be taken off, as the rest `u - n/2` is exact, and `n + 127`, found by adding
/// a number whose last place is 1/2, is moved to where an exponent stands. Five coefficients behind the 1 leave a relative error
/// of 1.6 * 2^-24, rounding as much again.
#[inline(always)]
pub(crate) fn exp2_twice<S: Simd>(s: S, u: S::F32) -> S::F32 {
    const LAST_PLACE_HALF: f32 = 6_291_456.0; // 1.5 * 2^22
    let shift = s.splat(LAST_PLACE_HALF + 63.5);
    let u = s.max(s.splat(-63.5), u);
    let n = s.add(u, shift);
    let r = s.sub(u, s.sub(n, shift));
    let p = horner(s, r, [1.0, 1.386_294, 0.960_889_9, 0.444_056_87, 0.154_740_68, 0.042_462_51]);
    s.mul(p, s.low_bits_to_exponent(n))
}

/// `|x|`; of NaN it is NaN.
#[inline(always)]
fn abs<S: Simd>(s: S, x: S::F32) -> S::F32 {
    s.max(x, s.sub(s.splat(0.0), x))
}

/// `y` with the sign of `x` (`y >= 0`).
#[inline(always)]
fn signed<S: Simd>(s: S, x: S::F32, y: S::F32) -> S::F32 {
    let zero = s.splat(0.0);
    s.select_lt(x, zero, s.sub(zero, y), y)
}

/// `1 / (1 + e^-x)`: for negative x as `e^x / (1 + e^x)`, so small results keep their digits.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let e = exp(s, s.sub(zero, abs(s, x)));
    s.div(s.select_lt(x, zero, e, one), s.add(one, e))
}

/// `(1 - q) / (1 + q)` with `q = e^-2|x|`; below 0.55, where that would cancel, an odd polynomial.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // In this order, and choosing by x^2, only x lives from beginning to end: AVX2 has no register to spare.
    let q = exp_nonpositive(s, s.mul(abs(s, x), s.splat(-2.0)));
    let large = signed(s, x, s.div(s.sub(s.splat(1.0), q), s.add(s.splat(1.0), q)));
    let x2 = s.mul(x, x);
    let p = horner(s, x2, [-0.333_329_47, 0.133_207_25, -0.052_671_812, 0.016_437_58]);
    let small = s.mul(s.mul_add(p, x2, s.splat(1.0)), x);
    s.select_lt(x2, s.splat(0.55 * 0.55), small, large)
}

/// `erfc(a)` for a >= 0, 6e-8 of absolute error besides rounding: `e^(-a^2) t Q(t)` with `t = 1 / (1 + 0.4 a)`,
/// the form of Hastings (Abramowitz and Stegun 7.1.26) with one more coefficient.
#[inline(always)]
pub(crate) fn erfc_nonnegative<S: Simd>(s: S, a: S::F32) -> S::F32 {
    let one = s.splat(1.0);
    let t = s.div(one, s.mul_add(a, s.splat(0.4), one));
    let q =
        horner(s, t, [0.231_107_97, 0.167_078_87, 0.454_836_25, -0.353_883_98, 0.698_456_4, -0.197_595_45]);
    let e = exp_nonpositive(s, s.sub(s.splat(0.0), s.mul(a, a)));
    s.mul(s.mul(q, t), e)
}

/// An odd polynomial below 1, `1 - erfc` above.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let a = abs(s, x);
    let p = horner(
        s,
        s.mul(x, x),
        [
            std::f32::consts::FRAC_2_SQRT_PI,
            -0.376_123_25,
            0.112_801_805,
            -0.026_711_32,
            0.004_917_561,
            -5.631_458e-4,
        ],
    );
    let large = s.sub(s.splat(1.0), erfc_nonnegative(s, a));
    s.select_lt(a, s.splat(1.0), s.mul(p, x), signed(s, x, large))
}

#[derive(Clone, Copy)]
struct Exp;
impl Map for Exp {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        exp(s, x)
    }
}

#[derive(Clone, Copy)]
struct Sigmoid;
impl Map for Sigmoid {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        sigmoid(s, x)
    }
}

#[derive(Clone, Copy)]
struct Tanh;
impl Map for Tanh {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        tanh(s, x)
    }
}

#[derive(Clone, Copy)]
struct Erf;
impl Map for Erf {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        erf(s, x)
    }
}

/// `x = e^x`
#[inline(always)]
pub(crate) fn exp_row<S: Simd>(s: S, x: &mut [f32]) {
    map(s, x, Exp);
}

/// `x = sigmoid(x)`
#[inline(always)]
pub(crate) fn sigmoid_row<S: Simd>(s: S, x: &mut [f32]) {
    map(s, x, Sigmoid);
}

/// `x = tanh(x)`
#[inline(always)]
pub(crate) fn tanh_row<S: Simd>(s: S, x: &mut [f32]) {
    map(s, x, Tanh);
}

/// `x = erf(x)`
#[inline(always)]
pub(crate) fn erf_row<S: Simd>(s: S, x: &mut [f32]) {
    map(s, x, Erf);
}

/// # Functions of slices
///
/// On the calling thread; an element's bits depend on its value alone (and on the instruction set).
impl Kernels {
    /// Replaces every element by its exponential.
    ///
    /// `x_i = e^x_i`
    ///
    /// **Accuracy:** 2 ulp, results below 2^-126 included (gradual underflow).
    /// **Special values:** `-inf` gives 0, `inf` and everything above 88.73 gives `inf`, NaN stays NaN.
    ///
    /// ```
    /// let mut x = [0.0, 1.0, f32::NEG_INFINITY];
    /// gable_kernels::Kernels::best().exp(&mut x);
    /// assert!(x[0] == 1.0 && (x[1] - 2.7182817).abs() < 1e-6 && x[2] == 0.0);
    /// ```
    pub fn exp(self, x: &mut [f32]) {
        self.table.exp_row(x);
    }

    /// Replaces every element by its logistic function.
    ///
    /// `x_i = 1 / (1 + e^-x_i)`
    ///
    /// **Accuracy:** 4 ulp, also where the result is tiny. **Special values:** `-inf` gives 0, `inf` gives 1, NaN stays NaN.
    ///
    /// ```
    /// let mut x = [0.0, f32::INFINITY];
    /// gable_kernels::Kernels::best().sigmoid(&mut x);
    /// assert_eq!(x, [0.5, 1.0]);
    /// ```
    pub fn sigmoid(self, x: &mut [f32]) {
        self.table.sigmoid_row(x);
    }

    /// Replaces every element by its hyperbolic tangent.
    ///
    /// **Accuracy:** 4 ulp. **Special values:** infinities give -1 and 1, zeros keep their sign, NaN stays NaN.
    ///
    /// ```
    /// let mut x = [0.0, f32::NEG_INFINITY];
    /// gable_kernels::Kernels::best().tanh(&mut x);
    /// assert_eq!(x, [0.0, -1.0]);
    /// ```
    pub fn tanh(self, x: &mut [f32]) {
        self.table.tanh_row(x);
    }

    /// Replaces every element by the error function of it.
    ///
    /// `x_i = 2 / sqrt(pi) * integral of e^(-t^2) for t from 0 to x_i`
    ///
    /// **Accuracy:** 7e-7 absolute. **Special values:** infinities give -1 and 1, NaN stays NaN.
    ///
    /// ```
    /// let mut x = [1.0];
    /// gable_kernels::Kernels::best().erf(&mut x);
    /// assert!((x[0] - 0.8427008).abs() < 7e-7);
    /// ```
    pub fn erf(self, x: &mut [f32]) {
        self.table.erf_row(x);
    }
}
