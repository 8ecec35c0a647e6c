//! The K-formats of two and three bits: sixteen sub-blocks of 16 values.

#![allow(unsafe_code)]

use super::{Block, Rows, Scales, add_byte, both_f16, splat_f16};
use crate::quant::Format;
use crate::simd::Simd;

/// The 2-bit integers of 64 values: bits 2t and 2t + 1 of the 32 bytes at `p` belong to values 32t..32t + 32 of their
/// half block, and `upper` tells whether t is 2 and 3 or 0 and 1.
///
/// # Safety
/// 32 bytes must be readable at `p`.
#[inline(always)]
unsafe fn pairs_of_bits<S: Simd>(s: S, p: *const u8, upper: i32) -> S::Bytes {
    // SAFETY: the caller's promise.
    let v = unsafe { s.load_quarters([p, p.add(16), p, p.add(16)]) };
    let (a, b) = (4 * upper, 4 * upper + 2);
    s.and(s.shift_quarters(v, [a, a, b, b]), s.splat_cell(0x0303_0303))
}

/// The 2-bit integers of a stripe, from the 32 bytes at `p`.
///
/// # Safety
/// 32 bytes must be readable at `p`.
#[inline(always)]
unsafe fn stripe_pairs<S: Simd>(s: S, p: *const u8) -> [S::Bytes; 2] {
    let pair = s.splat_cell(0x0303_0303);
    // SAFETY: the caller's promise.
    let [low, high] = unsafe { [s.load_quarters([p; 4]), s.load_quarters([p.add(16); 4])] };
    [s.and(s.shift_quarters(low, [0, 2, 4, 6]), pair), s.and(s.shift_quarters(high, [0, 2, 4, 6]), pair)]
}

/// The 2-bit integers of two half groups, as [`Block::half_groups`] gives them, of 64 bytes from byte `quants` of the rows on.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn pairs_across<S: Simd>(s: S, rows: &Rows, quants: usize, i: usize) -> [[S::Bytes; 4]; 2] {
    let pair = s.splat_cell(0x0303_0303);
    // SAFETY: 16 of these bytes.
    let v = unsafe { s.load_columns(rows, quants + (i / 4 * 2 + i % 2) * 16) };
    let mut both = [v; 2];
    for j in 0..8 {
        // Bits 2t and 2t + 1 belong to group t of the stripe.
        let group = (i % 4 / 2 * 2 + j / 4) as i32;
        both[j / 4][j % 4] = s.and(s.shift_quarters(v[j % 4], [2 * group; 4]), pair);
    }
    both
}

/// 256 values, 2 bits, scales and mins of 4 bits for every 16.
#[allow(non_camel_case_types)]
pub(crate) struct Q2_K;

impl Block for Q2_K {
    const FORMAT: Format = Format::Q2_K;
    const SUB: usize = 16;
    const MAX: u8 = 3;
    const HAS_MIN: bool = true;
    const APART: usize = 2;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, _n: usize) -> Scales<S> {
        // SAFETY: a chunk is one block: 16 scales and mins, d at byte 80, dmin at byte 82.
        unsafe {
            let block = row.add(sub / 16 * 84);
            // A byte has the scale in its low and the minimum in its high nibble.
            let both = u128::from_le_bytes(block.cast::<[u8; 16]>().read());
            let nibble = u128::from_le_bytes([15; 16]);
            let scales = s.from_i32(s.load_u8((both & nibble).to_le_bytes().as_ptr()));
            let mins = s.from_i32(s.load_u8((both >> 4 & nibble).to_le_bytes().as_ptr()));
            let (d, dmin) = (splat_f16(s, block.add(80)), splat_f16(s, block.add(82)));
            Scales { scale: s.mul(d, scales), min: s.mul(s.mul(s.splat(-1.0), dmin), mins) }
        }
    }

    #[inline(always)]
    unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, _half: bool) -> S::Bytes {
        // SAFETY: 32 bytes inside the block.
        unsafe {
            let p = row.add(value / 256 * 84 + 16 + value % 256 / 128 * 32);
            pairs_of_bits(s, p, (value % 128 / 64) as i32)
        }
    }

    #[inline(always)]
    unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, _groups: usize) -> [S::Bytes; 2] {
        // SAFETY: half a block of the row.
        unsafe { stripe_pairs(s, row.add(value / 256 * 84 + 16 + value % 256 / 4)) }
    }

    #[inline(always)]
    unsafe fn half_groups<S: Simd>(s: S, rows: &Rows, value: usize, i: usize) -> [[S::Bytes; 4]; 2] {
        // SAFETY: a block of each row.
        unsafe { pairs_across(s, rows, value / 256 * 84 + 16, i) }
    }

    #[inline(always)]
    unsafe fn scales_across<S: Simd>(s: S, rows: &Rows, sub: usize, _n: usize) -> [Scales<S>; 4] {
        let block = sub / 16 * 84;
        // SAFETY: a block begins with 16 scales and mins and ends with d and dmin.
        let (bytes, [.., end]) =
            unsafe { (s.load_columns(rows, block)[sub % 16 / 4], s.load_columns(rows, block + 68)) };
        let [d, dmin] = both_f16(s, end);
        let minus_dmin = s.mul(s.splat(-1.0), dmin);
        let nibble = s.splat_cell(0x0f0f_0f0f);
        let (integers, minima) = (s.and(bytes, nibble), s.and(s.shift_quarters(bytes, [4; 4]), nibble));
        let mut scales = [Scales { scale: d, min: minus_dmin }; 4];
        for i in 0..4 {
            scales[i].scale = s.mul(d, s.from_i32(add_byte(s, s.splat_i32(0), integers, i)));
            scales[i].min = s.mul(minus_dmin, s.from_i32(add_byte(s, s.splat_i32(0), minima, i)));
        }
        scales
    }
}

/// The scales of a Q3_K block as bytes: low nibbles of bytes 0..8 and then their high nibbles, and above them bits 2t and
/// 2t + 1 of bytes 8..12 for scales 4t..4t + 4.
#[inline(always)]
fn unpack_scales(p: [u8; 12]) -> [u32; 4] {
    let a = u32::from_le_bytes([p[0], p[1], p[2], p[3]]);
    let b = u32::from_le_bytes([p[4], p[5], p[6], p[7]]);
    let c = u32::from_le_bytes([p[8], p[9], p[10], p[11]]);
    let (nibble, pair) = (0x0f0f_0f0f, 0x3030_3030);
    let scales = [
        (a & nibble) | (c << 4 & pair),
        (b & nibble) | (c << 2 & pair),
        (a >> 4 & nibble) | (c & pair),
        (b >> 4 & nibble) | (c >> 2 & pair),
    ];
    // As they lie in memory.
    [scales[0].to_le(), scales[1].to_le(), scales[2].to_le(), scales[3].to_le()]
}

/// 256 values, 3 bits around 4, scales of 6 bits for every 16.
#[allow(non_camel_case_types)]
pub(crate) struct Q3_K;

impl Block for Q3_K {
    const FORMAT: Format = Format::Q3_K;
    const SUB: usize = 16;
    const MAX: u8 = 7;
    const OFFSET: u8 = 4;
    const HAS_MIN: bool = false;
    const APART: usize = 2;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, _n: usize) -> Scales<S> {
        // SAFETY: a chunk is one block: twelve bytes of scales at byte 96, then d.
        unsafe {
            let block = row.add(sub / 16 * 110);
            let scales = s.load_u8(unpack_scales(block.add(96).cast::<[u8; 12]>().read()).as_ptr().cast());
            let scales = s.sub_i32(scales, s.splat_i32(32));
            let d = splat_f16(s, block.add(108));
            Scales { scale: s.mul(d, s.from_i32(scales)), min: s.splat(0.0) }
        }
    }

    #[inline(always)]
    unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, _half: bool) -> S::Bytes {
        // SAFETY: 32 bytes of low bits and 32 bytes of third bits inside the block.
        let (low, high) = unsafe {
            let h = row.add(value / 256 * 110);
            let p = h.add(32 + value % 256 / 128 * 32);
            let low = pairs_of_bits(s, p, (value % 128 / 64) as i32);
            (low, s.load_quarters([h, h.add(16), h, h.add(16)]))
        };
        // Bit t of a byte belongs to values 32t..32t + 32 and goes to bit 2.
        let a = (value % 256 / 32) as i32 - 2;
        s.or(low, s.and(s.shift_quarters(high, [a, a, a + 1, a + 1]), s.splat_cell(0x0404_0404)))
    }
    #[inline(always)]
    unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, _groups: usize) -> [S::Bytes; 2] {
        let second = !value.is_multiple_of(256);
        let third = s.splat_cell(0x0404_0404);
        // SAFETY: half a block of the row, and the third bits of all of it.
        unsafe {
            let h = row.add(value / 256 * 110);
            let mut bytes = stripe_pairs(s, h.add(if second { 64 } else { 32 }));
            for i in 0..2 {
                // Bit b of these bytes belongs to group b of the block.
                let high = s.load_quarters([h.add(16 * i); 4]);
                let bit = if second {
                    s.shift_quarters(high, [2, 3, 4, 5])
                } else {
                    s.shift_quarters(high, [-2, -1, 0, 1])
                };
                bytes[i] = s.or(bytes[i], s.and(bit, third));
            }
            bytes
        }
    }

    #[inline(always)]
    unsafe fn half_groups<S: Simd>(s: S, rows: &Rows, value: usize, i: usize) -> [[S::Bytes; 4]; 2] {
        let block = value / 256 * 110;
        // SAFETY: a block of each row, which begins with 32 bytes of third bits.
        let (mut both, high) =
            unsafe { (pairs_across(s, rows, block + 32, i), s.load_columns(rows, block + i % 2 * 16)) };
        let third = s.splat_cell(0x0404_0404);
        for j in 0..8 {
            // Bit b of these bytes belongs to group b of the block.
            let group = (i / 2 * 2 + j / 4) as i32;
            let bit = s.and(s.shift_quarters(high[j % 4], [group - 2; 4]), third);
            both[j / 4][j % 4] = s.or(both[j / 4][j % 4], bit);
        }
        both
    }

    #[inline(always)]
    unsafe fn scales_across<S: Simd>(s: S, rows: &Rows, sub: usize, _n: usize) -> [Scales<S>; 4] {
        let block = sub / 16 * 110;
        // SAFETY: a block ends with twelve bytes of scales and d; 16 bytes are readable from 14 before and 18 before its end.
        let ([_, a, b, c], [.., end]) =
            unsafe { (s.load_columns(rows, block + 92), s.load_columns(rows, block + 94)) };
        let [_, d] = both_f16(s, end);
        // As in `unpack_scales`.
        let quarter = sub % 16 / 4;
        let low = s.shift_quarters([a, b][quarter % 2], [if quarter < 2 { 0 } else { 4 }; 4]);
        let high = s.shift_quarters(c, [2 * quarter as i32 - 4; 4]);
        let integers = s.or(s.and(low, s.splat_cell(0x0f0f_0f0f)), s.and(high, s.splat_cell(0x3030_3030)));
        let mut scales = [Scales { scale: d, min: s.splat(0.0) }; 4];
        for i in 0..4 {
            scales[i].scale = s.mul(d, s.from_i32(add_byte(s, s.splat_i32(-32), integers, i)));
        }
        scales
    }
}
