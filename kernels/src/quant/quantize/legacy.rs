//! Blocks of 32 values with one scale, and one minimum in some.
//!
//! Without weights, these are the reference formulas, rounding for rounding. With weights, scale and minimum come from
//! the least-squares searches, and the integers are then the nearest under the scale as it is stored.

use super::search::{Integers, Levels, Nonlinear, affine, nearest, symmetric};
use super::{F16_MAX, Format};
use half::f16;

const LEN: usize = 32;
type Block = [f32; LEN];

/// A block before it is packed: `w = d (q - middle) + m`.
struct Quants {
    d: f16,
    m: f16,
    middle: f32,
    q: [u8; LEN],
}

impl Quants {
    fn error(&self, x: &Block, w: &Block) -> f32 {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        let off = |i: usize| x[i] - (d * (f32::from(self.q[i]) - self.middle) + m);
        (0..LEN).map(|i| w[i] * off(i) * off(i)).sum()
    }
}

/// A row in Q4_0, Q4_1, Q5_0 or Q5_1.
pub(super) fn row(format: Format, x: &[f32], weights: Option<&[f32]>, out: &mut [u8]) {
    let (with_min, bits) = match format {
        Format::Q4_0 => (false, 4),
        Format::Q4_1 => (true, 4),
        Format::Q5_0 => (false, 5),
        _ => (true, 5),
    };
    let weights = weights.map(|w| w.as_chunks::<LEN>().0);
    for (i, (out, x)) in out.chunks_exact_mut(format.block_bytes()).zip(x.as_chunks().0).enumerate() {
        let plain = if with_min { shifted(x, bits) } else { centred(x, bits) };
        // Rarely, the plain rounding is the better one; then importance shall do no harm.
        let quants = match weights.and_then(|w| w.get(i)) {
            None => plain,
            Some(w) => {
                let searched =
                    if with_min { shifted_weighted(x, w, bits) } else { centred_weighted(x, w, bits) };
                if searched.error(x, w) < plain.error(x, w) { searched } else { plain }
            }
        };
        let Quants { d, m, q, .. } = quants;
        let (head, rest) = out.split_at_mut(if with_min { 4 } else { 2 });
        head[..2].copy_from_slice(&d.to_le_bytes());
        if with_min {
            head[2..].copy_from_slice(&m.to_le_bytes());
        }
        pack(&q, bits, rest);
    }
}

/// Fifth bits where there are five, then nibbles: value i in the low, value i + 16 in the high one of byte i.
pub(super) fn pack(q: &[u8; LEN], bits: u32, out: &mut [u8]) {
    let (high, low) = out.split_at_mut(if bits == 5 { 4 } else { 0 });
    if bits == 5 {
        let fifth = (0..LEN).fold(0_u32, |bits, i| bits | u32::from(q[i] >> 4) << i);
        high.copy_from_slice(&fifth.to_le_bytes());
    }
    for (i, byte) in low.iter_mut().enumerate() {
        *byte = (q[i] & 15) | q[i + LEN / 2] << 4;
    }
}

/// The nearest f16, but never infinity.
fn half(x: f32) -> f16 {
    f16::from_f32(x.clamp(-F16_MAX, F16_MAX))
}

/// `1 / d`, where that is of use: beyond f32, the scale is stored as zero.
fn inverse(d: f32) -> f32 {
    // A scale that is clipped must be the one that the integers are made with.
    let inverse = 1.0 / d.clamp(-F16_MAX, F16_MAX);
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// `w = d (q - 2^(bits - 1))`: the largest magnitude becomes the lowest integer.
fn centred(x: &Block, bits: u32) -> Quants {
    let middle = (1_u32 << (bits - 1)) as f32;
    let mut extreme = x[0];
    for x in x {
        if x.abs() > extreme.abs() {
            extreme = *x;
        }
    }
    let d = extreme / -middle;
    let id = inverse(d);
    let q = x.map(|x| (x * id + (middle + 0.5)).clamp(0.0, 2.0 * middle - 1.0) as u8);
    Quants { d: half(d), m: f16::ZERO, middle, q }
}

/// `w = d q + m`: the range's ends become the ends of the integers.
fn shifted(x: &Block, bits: u32) -> Quants {
    let top = ((1_u32 << bits) - 1) as f32;
    let (min, max) = x.iter().fold((x[0], x[0]), |(min, max), x| (min.min(*x), max.max(*x)));
    let d = (max - min) / top;
    let id = inverse(d);
    let q = x.map(|x| ((x - min) * id + 0.5).clamp(0.0, top) as u8);
    Quants { d: half(d), m: half(min), middle: 0.0, q }
}

fn centred_weighted(x: &Block, w: &Block, bits: u32) -> Quants {
    let middle = (1_u32 << (bits - 1)) as f32;
    let levels = Integers(-middle, middle - 1.0);
    let d = half(symmetric(x, w, levels));
    let id = inverse(d.to_f32());
    let q = x.map(|x| (levels.nearest(x * id) + middle) as u8);
    Quants { d, m: f16::ZERO, middle, q }
}

fn shifted_weighted(x: &Block, w: &Block, bits: u32) -> Quants {
    let top = ((1_u32 << bits) - 1) as f32;
    let fit = affine(x, w, top, f32::INFINITY);
    let (d, m) = (half(fit.scale), half(fit.min));
    let id = inverse(d.to_f32());
    let q = x.map(|x| nearest((x - m.to_f32()) * id, 0.0, top) as u8);
    Quants { d, m, middle: 0.0, q }
}

/// A row in IQ4_NL: `w = d t[q]`.
pub(super) fn iq4_nl(x: &[f32], weights: &[f32], out: &mut [u8]) {
    let blocks = x.as_chunks::<LEN>().0.iter().zip(weights.as_chunks::<LEN>().0);
    for (out, (x, w)) in out.as_chunks_mut::<{ 2 + LEN / 2 }>().0.iter_mut().zip(blocks) {
        let d = half(symmetric(x, w, Nonlinear));
        let id = inverse(d.to_f32());
        let (head, rest) = out.split_at_mut(2);
        head.copy_from_slice(&d.to_le_bytes());
        pack(&x.map(|x| Nonlinear::index(Nonlinear.nearest(x * id))), 4, rest);
    }
}

/// A row in Q8_0: `w = d q`, ties away from zero.
pub(super) fn q8_0(x: &[f32], out: &mut [u8]) {
    for (out, x) in out.as_chunks_mut::<{ 2 + LEN }>().0.iter_mut().zip(x.as_chunks::<LEN>().0) {
        let d = x.iter().fold(0.0_f32, |max, x| max.max(x.abs())) / 127.0;
        let id = inverse(d);
        let (head, q) = out.split_at_mut(2);
        head.copy_from_slice(&half(d).to_le_bytes());
        for (q, x) in q.iter_mut().zip(x) {
            *q = ((x * id).round().clamp(-127.0, 127.0) as i8).cast_unsigned();
        }
    }
}
