//! 4-bit integers around a zero point.

#![allow(unsafe_code)]

use super::legacy::{block_pair, gather_f16, nibbles, stripe_nibbles};
use super::{Block, Rows, Scales, both_nibbles, dealt_stripe};
use crate::mutant::mutant;
use crate::quant::Format;
use crate::simd::{LANES, Simd};

const BYTES: usize = 19;
/// What stands before the quants: d and z.
const HEAD: usize = 3;

/// 4-bit integers around a zero point of their block. The minimum is `d (-z)`, exact: d has 11 bits, z has 8.
pub(crate) struct INT4;

impl Block for INT4 {
    const FORMAT: Format = Format::INT4;
    const SUB: usize = 32;
    const MAX: u8 = 15;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, n: usize) -> Scales<S> {
        let mut zeros = [0_u8; LANES];
        // SAFETY: these blocks are of the row; a block starts with d and z.
        unsafe {
            let p = row.add(sub * BYTES);
            for i in 0..n {
                zeros[i] = p.add(i * BYTES + 2).read();
            }
            let scale = gather_f16(s, p, BYTES, n);
            let zero = s.mul(s.from_i32(s.load_u8(zeros.as_ptr())), s.splat(-1.0));
            Scales { scale, min: s.mul(scale, zero) }
        }
    }

    #[inline(always)]
    unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, half: bool) -> S::Bytes {
        // SAFETY: both blocks are of the row, each ends with 16 bytes of quants.
        unsafe { nibbles(s, block_pair(row, value, half, BYTES).map(|p| p.add(HEAD))) }
    }

    #[inline(always)]
    unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> [S::Bytes; 2] {
        // SAFETY: four blocks of the row, each ends with 16 bytes of quants.
        unsafe {
            if groups < 4 {
                return dealt_stripe::<S, Self>(s, row, value, groups);
            }
            stripe_nibbles::<S, BYTES>(s, row.add(value / 32 * BYTES + HEAD))
        }
    }

    #[inline(always)]
    unsafe fn span_scales<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> S::F32 {
        /// What turns z as the last bits of a half, z 2^-24, into -z.
        const MINUS_Z: f32 = -16_777_216.0;
        const FACTORS: [f32; LANES] = {
            let mut factors = [1.0; LANES];
            let mut i = 8;
            while i < LANES {
                factors[i] = MINUS_Z;
                i += 1;
            }
            factors
        };
        // Both halves d; ones and z.
        let (mut d, mut z) = ([0_u16; LANES], [0x3c00_u16; LANES]);
        // SAFETY: these blocks are of the row, and longer than four bytes; the arrays hold sixteen.
        unsafe {
            let p = row.add(value / 32 * BYTES);
            for i in 0..groups {
                let head = u32::from_le(p.add(i * BYTES).cast::<u32>().read_unaligned());
                d[i] = head as u16;
                d[8 + i] = d[i];
                z[8 + i] = if mutant("zero points left out") { 0 } else { (head >> 16) as u16 & 0xff };
            }
            s.mul(s.load_f16(d.as_ptr()), s.mul(s.load_f16(z.as_ptr()), s.load(FACTORS.as_ptr())))
        }
    }

    #[inline(always)]
    unsafe fn half_groups<S: Simd>(s: S, rows: &Rows, value: usize, i: usize) -> [[S::Bytes; 4]; 2] {
        // SAFETY: a block of each row ends with 16 bytes of quants.
        unsafe { both_nibbles(s, s.load_columns(rows, (value / 32 + i) * BYTES + HEAD)) }
    }

    #[inline(always)]
    unsafe fn scales_across<S: Simd>(s: S, rows: &Rows, sub: usize, n: usize) -> [Scales<S>; 4] {
        let mut scales = [Scales { scale: s.splat(0.0), min: s.splat(0.0) }; 4];
        for i in 0..n {
            // SAFETY: a block of each row starts with d and z.
            let [head, ..] = unsafe { s.load_columns(rows, (sub + i) * BYTES) };
            let scale = s.widen_f16(head);
            let z = s.and(s.shift_quarters(head, [16; 4]), s.splat_cell(0xff));
            let z = s.from_i32(s.dot_i16(s.splat_i32(0), z, s.splat_cell(1)));
            scales[i] = Scales { scale, min: s.mul(scale, s.mul(z, s.splat(-1.0))) };
        }
        scales
    }
}
