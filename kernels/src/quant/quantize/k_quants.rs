//! Blocks of 256 values whose sub-blocks' scales are small integers themselves.
//!
//! First every sub-block gets the scale (and minimum) that suits it best. The largest of them sets the block's f16
//! scale; then the integers are settled in turns, each time against what is *stored*: sub-block scales by trying the
//! neighbours of the rounded ones, f16 scales by least squares over the whole block. What is kept is the best of all
//! rounds, so a turn never makes a block worse.

use super::legacy;
use super::search::{Integers, LANES, Lanes, Levels, Nonlinear, affine, extreme, nearest, symmetric};
use super::{F16_MAX, F16_TINY, Format};
use half::f16;

const LEN: usize = 256;
/// Turns of settling.
const ROUNDS: usize = 3;

/// A row in Q4_K, Q5_K, Q6_K or IQ4_XS.
pub(super) fn row(format: Format, x: &[f32], weights: &[f32], out: &mut [u8]) {
    let blocks = x.as_chunks::<LEN>().0.iter().zip(weights.as_chunks::<LEN>().0);
    for (out, (x, w)) in out.chunks_exact_mut(format.block_bytes()).zip(blocks) {
        out.fill(0);
        let Some((x, unit)) = in_units(x) else { continue };
        match format {
            Format::Q4_K => pack_4(&shifted(&x, w, unit, 15.0), out),
            Format::Q5_K => pack_5(&shifted(&x, w, unit, 31.0), out),
            Format::Q6_K => {
                pack_6(&centred::<16>(&x, w, unit, Integers(-32.0, 31.0), Integers(-128.0, 127.0)), out);
            }
            _ => pack_nonlinear(&centred::<32>(&x, w, unit, Nonlinear, Integers(-32.0, 31.0)), out),
        }
    }
}

/// The values over a power of two, so that the largest is between 1 and 2 and no square overflows. `None` for a block
/// whose values are nearer to zero than to the smallest value of any of the formats.
fn in_units(x: &[f32; LEN]) -> Option<([f32; LEN], f32)> {
    let largest = extreme(x).abs();
    if largest < F16_TINY / 2.0 {
        return None;
    }
    let unit = f32::from_bits(largest.to_bits() & 0x7f80_0000);
    Some((x.map(|x| x / unit), unit))
}

/// The scale as f16 holds it, in units again. A scale that is not zero stays so, and none becomes infinite.
fn stored(scale: f32, unit: f32) -> (f16, f32) {
    let scale = scale * unit;
    let magnitude = if scale == 0.0 { 0.0 } else { scale.abs().clamp(F16_TINY, F16_MAX) };
    let half = f16::from_f32(magnitude.copysign(scale));
    (half, half.to_f32() / unit)
}

/// `x / y`, zero where y is.
fn ratio(x: f32, y: f32) -> f32 {
    if y == 0.0 { 0.0 } else { x / y }
}

/// The lane with the smallest error.
fn smallest(errors: &Lanes) -> usize {
    (1..LANES).fold(0, |best, l| if errors[l] < errors[best] { l } else { best })
}

/// A block of Q4_K or Q5_K: `w = d scale q - dmin min`.
struct Shifted {
    d: f16,
    dmin: f16,
    scales: [u8; 8],
    mins: [u8; 8],
    q: [u8; LEN],
}

fn shifted(x: &[f32; LEN], w: &[f32; LEN], unit: f32, top: f32) -> Shifted {
    let (x, w) = (x.as_chunks::<32>().0, w.as_chunks::<32>().0);
    let (mut scales, mut mins) = ([0.0_f32; 8], [0.0_f32; 8]);
    for (j, (x, w)) in x.iter().zip(w).enumerate() {
        let fit = affine(x, w, top, 0.0);
        (scales[j], mins[j]) = (fit.scale, -fit.min);
    }
    let mut wanted = (extreme(&scales) / 63.0, extreme(&mins) / 63.0);
    let mut best = Shifted { d: f16::ZERO, dmin: f16::ZERO, scales: [0; 8], mins: [0; 8], q: [0; LEN] };
    let mut best_error = f32::INFINITY;
    for _ in 0..ROUNDS {
        let ((d16, d), (dmin16, dmin)) = (stored(wanted.0, unit), stored(wanted.1, unit));
        let mut block = Shifted { d: d16, dmin: dmin16, ..best };
        let mut error = 0.0;
        // Of x ~ d u - dmin v with u = scale q and v = min.
        let (mut uu, mut uv, mut vv, mut xu, mut xv) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (j, (x, w)) in x.iter().zip(w).enumerate() {
            let near = (ratio(scales[j], d), ratio(mins[j], dmin));
            let (scale, min, e) = integers(x, w, (d, dmin), near, top);
            error += e;
            (block.scales[j], block.mins[j]) = (scale as u8, min as u8);
            (scales[j], mins[j]) = (scale * d, min * dmin);
            let inverse = ratio(1.0, scales[j]);
            for (i, (x, w)) in x.iter().zip(w).enumerate() {
                let q = nearest((x + mins[j]) * inverse, 0.0, top);
                block.q[32 * j + i] = q as u8;
                let u = scale * q;
                uu += w * u * u;
                uv += w * u * min;
                vv += w * min * min;
                xu += w * x * u;
                xv += w * x * min;
            }
        }
        if error < best_error {
            (best_error, best) = (error, block);
        }
        let determinant: f32 = uu * vv - uv * uv;
        wanted = if determinant > 0.0 {
            ((xu * vv - xv * uv) / determinant, (xu * uv - xv * uu) / determinant)
        } else {
            (ratio(xu, uu), 0.0)
        };
        if !(wanted.0 > 0.0 && wanted.1 >= 0.0) {
            break;
        }
    }
    best
}

/// The six-bit scale and min near the wanted ones that suit the sub-block best, and their error.
fn integers(
    x: &[f32; 32],
    w: &[f32; 32],
    (d, dmin): (f32, f32),
    near: (f32, f32),
    top: f32,
) -> (f32, f32, f32) {
    let (scale, min) = (nearest(near.0, 0.0, 63.0), nearest(near.1, 0.0, 63.0));
    let mut trials = [[0.0_f32; LANES]; 2];
    let (mut step, mut inverse, mut shift) = ([0.0_f32; LANES], [0.0_f32; LANES], [0.0_f32; LANES]);
    for l in 0..LANES {
        // Scales -1, 0, 1 by mins -2 .. 2; the last lane is the middle again.
        let (i, j) = if l < 15 { (l / 5, l % 5) } else { (1, 2) };
        trials[0][l] = (scale + i as f32 - 1.0).clamp(0.0, 63.0);
        trials[1][l] = (min + j as f32 - 2.0).clamp(0.0, 63.0);
        step[l] = d * trials[0][l];
        inverse[l] = ratio(1.0, step[l]);
        shift[l] = dmin * trials[1][l];
    }
    let mut errors: Lanes = [0.0; LANES];
    for i in 0..32 {
        for l in 0..LANES {
            let y = x[i] + shift[l];
            let off = y - step[l] * nearest(y * inverse[l], 0.0, top);
            errors[l] += w[i] * off * off;
        }
    }
    let l = smallest(&errors);
    (trials[0][l], trials[1][l], errors[l])
}

/// A block of Q6_K or IQ4_XS: `w = d scale level`, with as many of the scales as it has sub-blocks.
struct Centred {
    d: f16,
    scales: [i8; 16],
    levels: [i8; LEN],
}

/// In sub-blocks of `SUB`.
fn centred<const SUB: usize>(
    x: &[f32; LEN],
    w: &[f32; LEN],
    unit: f32,
    levels: impl Levels,
    scale_range: Integers,
) -> Centred {
    let (x, w) = (x.as_chunks::<SUB>().0, w.as_chunks::<SUB>().0);
    let mut scales = [0.0_f32; 16];
    for (j, (x, w)) in x.iter().zip(w).enumerate() {
        scales[j] = symmetric(x, w, levels);
    }
    let mut wanted = extreme(&scales) / scale_range.0;
    let mut best = Centred { d: f16::ZERO, scales: [0; 16], levels: [levels.nearest(0.0) as i8; LEN] };
    let mut best_error = f32::INFINITY;
    for _ in 0..ROUNDS {
        let (d16, d) = stored(wanted, unit);
        let mut block = Centred { d: d16, ..best };
        let (mut error, mut uu, mut xu) = (0.0, 0.0, 0.0);
        for (j, (x, w)) in x.iter().zip(w).enumerate() {
            let (scale, e) = signed_scale(x, w, d, ratio(scales[j], d), levels, scale_range);
            error += e;
            block.scales[j] = scale as i8;
            scales[j] = scale * d;
            let inverse = ratio(1.0, scales[j]);
            for (i, (x, w)) in x.iter().zip(w).enumerate() {
                let level = levels.nearest(x * inverse);
                block.levels[SUB * j + i] = level as i8;
                let u = scale * level;
                uu += w * u * u;
                xu += w * x * u;
            }
        }
        if error < best_error {
            (best_error, best) = (error, block);
        }
        wanted = ratio(xu, uu);
        if wanted == 0.0 {
            break;
        }
    }
    best
}

/// The scale in its range near the wanted one that suits the sub-block best, and its error.
fn signed_scale<const SUB: usize>(
    x: &[f32; SUB],
    w: &[f32; SUB],
    d: f32,
    near: f32,
    levels: impl Levels,
    range: Integers,
) -> (f32, f32) {
    let near = range.nearest(near);
    let (mut trial, mut step, mut inverse) = ([0.0_f32; LANES], [0.0_f32; LANES], [0.0_f32; LANES]);
    for l in 0..LANES {
        trial[l] = (near + l as f32 - 8.0).clamp(range.0, range.1);
        step[l] = d * trial[l];
        inverse[l] = ratio(1.0, step[l]);
    }
    let mut errors: Lanes = [0.0; LANES];
    for i in 0..SUB {
        for l in 0..LANES {
            let off = x[i] - step[l] * levels.nearest(x[i] * inverse[l]);
            errors[l] += w[i] * off * off;
        }
    }
    let l = smallest(&errors);
    (trial[l], errors[l])
}

/// Eight scales and mins of six bits in twelve bytes; see `unpack_scales_6bit` for the order.
fn pack_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut out = [0; 12];
    for i in 0..4 {
        out[i] = scales[i] | scales[i + 4] >> 4 << 6;
        out[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
        out[i + 8] = scales[i + 4] & 15 | (mins[i + 4] & 15) << 4;
    }
    out
}

fn pack_heads(block: &Shifted, out: &mut [u8]) {
    out[..2].copy_from_slice(&block.d.to_le_bytes());
    out[2..4].copy_from_slice(&block.dmin.to_le_bytes());
    out[4..16].copy_from_slice(&pack_scales(&block.scales, &block.mins));
}

/// Nibbles: sub-block 2c in the low, 2c + 1 in the high ones of 32 bytes.
fn pack_nibbles(q: &[u8; LEN], out: &mut [u8]) {
    for (i, byte) in out.iter_mut().enumerate() {
        let first = i / 32 * 64 + i % 32;
        *byte = q[first] & 15 | (q[first + 32] & 15) << 4;
    }
}

fn pack_4(block: &Shifted, out: &mut [u8]) {
    pack_heads(block, out);
    pack_nibbles(&block.q, &mut out[16..144]);
}

fn pack_5(block: &Shifted, out: &mut [u8]) {
    pack_heads(block, out);
    for (i, q) in block.q.iter().enumerate() {
        out[16 + i % 32] |= (q >> 4) << (i / 32);
    }
    pack_nibbles(&block.q, &mut out[48..176]);
}

fn pack_6(block: &Centred, out: &mut [u8]) {
    for (i, level) in block.levels.iter().enumerate() {
        let (half, t, l) = (i / 128, i % 128 / 32, i % 32);
        let q = (level + 32).cast_unsigned();
        out[64 * half + 32 * (t % 2) + l] |= (q & 15) << (t / 2 * 4);
        out[128 + 32 * half + l] |= (q >> 4) << (2 * t);
    }
    for (out, scale) in out[192..208].iter_mut().zip(block.scales) {
        *out = scale.cast_unsigned();
    }
    out[208..210].copy_from_slice(&block.d.to_le_bytes());
}

fn pack_nonlinear(block: &Centred, out: &mut [u8]) {
    out[..2].copy_from_slice(&block.d.to_le_bytes());
    let (scales, indices) = out[2..].split_at_mut(6);
    let (mut high, mut low) = (0_u16, 0_u32);
    for (j, scale) in block.scales[..8].iter().enumerate() {
        let scale = (scale + 32).cast_unsigned();
        high |= u16::from(scale >> 4) << (2 * j);
        low |= u32::from(scale & 15) << (4 * j);
    }
    scales[..2].copy_from_slice(&high.to_le_bytes());
    scales[2..].copy_from_slice(&low.to_le_bytes());
    for (out, levels) in indices.chunks_exact_mut(16).zip(block.levels.as_chunks::<32>().0) {
        legacy::pack(&levels.map(|level| Nonlinear::index(f32::from(level))), 4, out);
    }
}
