//! The formats whose 4-bit integers are indices into a table.

#![allow(unsafe_code)]

use super::legacy::{block_pair, gather_f16, legacy_scales, legacy_scales_across, nibbles, stripe_nibbles};
use super::{Block, Rows, Scales, add_byte, both_nibbles, dealt_stripe, splat_f16};
use crate::quant::Format;
use crate::simd::{LANES, Simd};

/// [`Format::NONLINEAR`] as bytes.
const NONLINEAR: [u8; 16] = {
    let mut bytes = [0; 16];
    let mut i = 0;
    while i < 16 {
        bytes[i] = Format::NONLINEAR[i].cast_unsigned();
        i += 1;
    }
    bytes
};

/// What the indices of both nibbles stand for.
#[inline(always)]
fn look_up_both<S: Simd>(s: S, v: [S::Bytes; 4]) -> [[S::Bytes; 4]; 2] {
    let mut both = both_nibbles(s, v);
    for j in 0..8 {
        both[j / 4][j % 4] = s.lookup16(NONLINEAR, both[j / 4][j % 4]);
    }
    both
}

/// 4-bit indices into a table of signed bytes.
#[allow(non_camel_case_types)]
pub(crate) struct IQ4_NL;

impl Block for IQ4_NL {
    const FORMAT: Format = Format::IQ4_NL;
    const SUB: usize = 32;
    const SIGNED: bool = true;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, n: usize) -> Scales<S> {
        // SAFETY: a block starts with d.
        Scales { scale: unsafe { gather_f16(s, row.add(sub * 18), 18, n) }, min: s.splat(0.0) }
    }

    #[inline(always)]
    unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, half: bool) -> S::Bytes {
        // SAFETY: both blocks are of the row, each holds 16 bytes after d.
        let index = unsafe { nibbles(s, block_pair(row, value, half, 18).map(|p| p.add(2))) };
        s.lookup16(NONLINEAR, index)
    }

    #[inline(always)]
    unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> [S::Bytes; 2] {
        // SAFETY: four blocks of the row, each with 16 bytes after d.
        unsafe {
            if groups < 4 {
                return dealt_stripe::<S, Self>(s, row, value, groups);
            }
            let [low, high] = stripe_nibbles::<S, 18>(s, row.add(value / 32 * 18 + 2));
            [s.lookup16(NONLINEAR, low), s.lookup16(NONLINEAR, high)]
        }
    }

    #[inline(always)]
    unsafe fn span_scales<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> S::F32 {
        // SAFETY: these blocks are of the row; a block starts with d.
        unsafe { legacy_scales::<S, 18, false>(s, row.add(value / 32 * 18), groups) }
    }

    #[inline(always)]
    unsafe fn half_groups<S: Simd>(s: S, rows: &Rows, value: usize, i: usize) -> [[S::Bytes; 4]; 2] {
        // SAFETY: a block of each row, with 16 bytes after d.
        unsafe { look_up_both(s, s.load_columns(rows, (value / 32 + i) * 18 + 2)) }
    }

    #[inline(always)]
    unsafe fn scales_across<S: Simd>(s: S, rows: &Rows, sub: usize, n: usize) -> [Scales<S>; 4] {
        // SAFETY: the caller's promise.
        unsafe { legacy_scales_across::<S, 18, false>(s, rows, sub, n) }
    }
}

/// The scales of an IQ4_XS block, whose d is at `p`, as bytes around 32: bits 2i and 2i + 1 of two bytes atop nibble i of
/// four.
///
/// # Safety
/// 8 bytes must be readable at `p`.
#[inline(always)]
unsafe fn unpack_scales(p: *const u8) -> u64 {
    // SAFETY: the caller's promise.
    let (upper, lower) = unsafe {
        (
            u16::from_le_bytes(p.add(2).cast::<[u8; 2]>().read()),
            u32::from_le_bytes(p.add(4).cast::<[u8; 4]>().read()),
        )
    };
    // Halves move apart until each piece has a byte of its own.
    let (mut lower, mut upper) = (u64::from(lower), u64::from(upper));
    lower = (lower | lower << 16) & 0x0000_ffff_0000_ffff;
    lower = (lower | lower << 8) & 0x00ff_00ff_00ff_00ff;
    lower = (lower | lower << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    upper = (upper | upper << 24) & 0x0000_00ff_0000_00ff;
    upper = (upper | upper << 12) & 0x000f_000f_000f_000f;
    upper = (upper | upper << 6) & 0x0303_0303_0303_0303;
    (lower | upper << 4).to_le()
}

/// 256 values, 4-bit indices into a table of signed bytes, scales of 6 bits.
#[allow(non_camel_case_types)]
pub(crate) struct IQ4_XS;

impl Block for IQ4_XS {
    const FORMAT: Format = Format::IQ4_XS;
    const SUB: usize = 32;
    const SIGNED: bool = true;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, n: usize) -> Scales<S> {
        let (mut heads, mut scales) = ([0_u16; LANES], [0_u64; 2]);
        for block in 0..n / 8 {
            // SAFETY: the block begins with d and its scales.
            unsafe {
                let p = row.add((sub / 8 + block) * 136);
                heads[block] = p.cast::<u16>().read_unaligned();
                scales[block] = unpack_scales(p);
            }
        }
        let mut d = [0.0; LANES];
        // SAFETY: the arrays hold 16 elements, 16 bytes, 2 elements.
        unsafe {
            s.store(d.as_mut_ptr(), s.load_f16(heads.as_ptr()));
            let scales = s.sub_i32(s.load_u8(scales.as_ptr().cast()), s.splat_i32(32));
            Scales { scale: s.mul(s.spread2(d.as_ptr()), s.from_i32(scales)), min: s.splat(0.0) }
        }
    }

    #[inline(always)]
    unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, _half: bool) -> S::Bytes {
        // SAFETY: 32 bytes hold the 64 values of two sub-blocks.
        let index = unsafe {
            let p = row.add(value / 256 * 136 + 8 + value % 256 / 2);
            nibbles(s, [p, p.add(16)])
        };
        s.lookup16(NONLINEAR, index)
    }
    #[inline(always)]
    unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, _groups: usize) -> [S::Bytes; 2] {
        let nibble = s.splat_cell(0x0f0f_0f0f);
        // SAFETY: half a block of the row: 64 bytes, a quarter for each group.
        let v = unsafe { s.load_bytes(row.add(value / 256 * 136 + 8 + value % 256 / 2)) };
        let high = s.shift_quarters(v, [4; 4]);
        [s.lookup16(NONLINEAR, s.and(v, nibble)), s.lookup16(NONLINEAR, s.and(high, nibble))]
    }

    #[inline(always)]
    unsafe fn span_scales<S: Simd>(s: S, row: *const u8, value: usize, _groups: usize) -> S::F32 {
        // SAFETY: a block of the row; the array holds 16 bytes, of which the upper half becomes zeros.
        unsafe {
            let p = row.add(value / 256 * 136);
            let scales = [unpack_scales(p), 0x2020_2020_2020_2020];
            let scales = s.sub_i32(s.load_u8(scales.as_ptr().cast()), s.splat_i32(32));
            s.mul(splat_f16(s, p), s.from_i32(scales))
        }
    }

    #[inline(always)]
    unsafe fn half_groups<S: Simd>(s: S, rows: &Rows, value: usize, i: usize) -> [[S::Bytes; 4]; 2] {
        // SAFETY: 16 of a block's 128 bytes of quants.
        unsafe { look_up_both(s, s.load_columns(rows, value / 256 * 136 + 8 + 16 * i)) }
    }

    #[inline(always)]
    unsafe fn scales_across<S: Simd>(s: S, rows: &Rows, sub: usize, _n: usize) -> [Scales<S>; 4] {
        // SAFETY: a block begins with d, sixteen upper and 32 lower bits of scales, and has more than 16 bytes.
        let [head, lower, ..] = unsafe { s.load_columns(rows, sub / 8 * 136) };
        let d = s.widen_f16(head);
        // The sixteen bits of four scales from `sub` on; the eight upper ones move apart until each byte has its two.
        let first = (sub % 8) as i32;
        let lower = s.and(s.shift_quarters(lower, [4 * first; 4]), s.splat_cell(0xffff));
        let upper = s.and(s.shift_quarters(head, [16 + 2 * first; 4]), s.splat_cell(0xff));
        let lower = s.or(lower, s.shift_quarters(lower, [-8; 4]));
        let upper = s.or(upper, s.shift_quarters(upper, [-12; 4]));
        let lower = s.and(lower, s.splat_cell(0x00ff_00ff));
        let upper = s.and(upper, s.splat_cell(0x000f_000f));
        let lower = s.and(s.or(lower, s.shift_quarters(lower, [-4; 4])), s.splat_cell(0x0f0f_0f0f));
        let upper = s.and(s.or(upper, s.shift_quarters(upper, [-6; 4])), s.splat_cell(0x0303_0303));
        let integers = s.or(lower, s.shift_quarters(upper, [-4; 4]));
        let mut scales = [Scales { scale: d, min: s.splat(0.0) }; 4];
        for i in 0..4 {
            scales[i].scale = s.mul(d, s.from_i32(add_byte(s, s.splat_i32(-32), integers, i)));
        }
        scales
    }
}
