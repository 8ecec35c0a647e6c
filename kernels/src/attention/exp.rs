//! Exponential and tangent for the softmax of attention.

use crate::simd::Simd;

/// `exp(x)` within 2 ulp where the result is a normal number, 0 below; NaN stays NaN, `exp(0)` is 1.
#[inline(always)]
pub(super) fn exp_nonpositive<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // -88 rounds to 2^-127, which `pow2` makes 0. The operand order of `max` and `min` keeps NaN.
    let x = s.min(s.splat(88.0), s.max(s.splat(-88.0), x));
    let n = s.from_i32(s.to_i32(s.mul(x, s.splat(std::f32::consts::LOG2_E))));
    // ln 2 in two parts, of which the first times n is exact.
    let r = s.mul_add(n, s.splat(-0.693_359_4), x);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.388_888_9e-3);
    for c in [8.333_334e-3, 4.166_667e-2, 1.666_666_7e-1, 0.5, 1.0, 1.0] {
        p = s.mul_add(p, r, s.splat(c));
    }
    s.mul(p, s.pow2(n))
}

/// `tanh(x)` within 2^-22.
#[inline(always)]
pub(super) fn tanh<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let one = s.splat(1.0);
    let e = exp_nonpositive(s, s.mul(x, s.splat(-2.0)));
    s.div(s.sub(one, e), s.add(one, e))
}
