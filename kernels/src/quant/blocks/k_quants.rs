//! The K-formats of four to six bits: 256 values to a block, scales that are themselves quantized.

#![allow(unsafe_code)]

use super::{Block, Rows, STEP, Scales, add_byte, both_f16, both_nibbles, splat_f16};
use crate::mutant::mutant;
use crate::quant::Format;
use crate::simd::{LANES, Simd};

/// The 6-bit scales and mins of a Q4_K or Q5_K block, as bytes: 8 scales, then 8 mins.
///
/// Twelve bytes: 0..4 hold scales 0..4, 4..8 mins 0..4 (low 6 bits each), 8..12 the low nibbles of scales 4..8 and,
/// in their high nibbles, of mins 4..8, whose upper two bits sit atop bytes 0..4 and 4..8.
#[inline(always)]
fn unpack_scales_6bit(p: [u8; 12]) -> [u32; 4] {
    let word = |i: usize| u32::from_le_bytes([p[i], p[i + 1], p[i + 2], p[i + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    [
        a & 0x3f3f_3f3f,
        (c & 0x0f0f_0f0f) | ((a >> 6) & 0x0303_0303) << 4,
        b & 0x3f3f_3f3f,
        ((c >> 4) & 0x0f0f_0f0f) | ((b >> 6) & 0x0303_0303) << 4,
    ]
}

/// Scales `d s` and minima `-(dmin m)` of up to two Q4_K or Q5_K blocks.
///
/// # Safety
/// `n / 8` blocks of `block_bytes` must be readable at `p`.
#[inline(always)]
unsafe fn k_scales<S: Simd>(s: S, p: *const u8, block_bytes: usize, n: usize) -> Scales<S> {
    let mut heads = [0_u16; LANES];
    let (mut scales, mut mins) = ([0_u32; 4], [0_u32; 4]);
    for i in 0..n / 8 {
        // SAFETY: the block begins with d, dmin and twelve bytes of scales.
        let bits = unsafe {
            let p = p.add(i * block_bytes);
            heads[i] = p.cast::<u16>().read_unaligned();
            heads[2 + i] = p.add(2).cast::<u16>().read_unaligned();
            unpack_scales_6bit(p.add(4).cast::<[u8; 12]>().read())
        };
        scales[2 * i..2 * i + 2].copy_from_slice(&bits[..2]);
        mins[2 * i..2 * i + 2].copy_from_slice(&bits[2..]);
    }
    let mut d = [0.0; LANES];
    // SAFETY: the arrays hold 16 elements, 16 bytes, 2 elements.
    unsafe {
        s.store(d.as_mut_ptr(), s.load_f16(heads.as_ptr()));
        let scale = s.mul(s.spread2(d.as_ptr()), s.from_i32(s.load_u8(scales.as_ptr().cast())));
        // Adding the negated product is subtracting the product, down to the sign of a zero.
        let sign = if mutant("minimum not subtracted but added") { 1.0 } else { -1.0 };
        let dmin = s.mul(s.splat(sign), s.spread2(d.as_ptr().add(2)));
        Scales { scale, min: s.mul(dmin, s.from_i32(s.load_u8(mins.as_ptr().cast()))) }
    }
}

/// [`Block::span_scales`] of the Q4_K or Q5_K block that begins at `p`.
///
/// # Safety
/// The 16 bytes before the block's quants must be readable.
#[inline(always)]
unsafe fn k_span_scales<S: Simd>(s: S, p: *const u8) -> S::F32 {
    // The minima are subtracted: adding the negated product is the same, down to the sign of a zero.
    const SIGNS: [f32; LANES] =
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0];
    // SAFETY: the block begins with d, dmin and twelve bytes of scales.
    unsafe {
        let integers = unpack_scales_6bit(p.add(4).cast::<[u8; 12]>().read());
        let d = s.mul(s.spread_half_pair(p), s.load(SIGNS.as_ptr()));
        s.mul(d, s.from_i32(s.load_u8(integers.as_ptr().cast())))
    }
}

/// [`Block::scales_across`] of Q4_K or Q5_K blocks of `BYTES` bytes.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn k_scales_across<S: Simd, const BYTES: usize>(s: S, rows: &Rows, sub: usize) -> [Scales<S>; 4] {
    // SAFETY: the block begins with d, dmin and twelve bytes of scales.
    let [head, a, b, c] = unsafe { s.load_columns(rows, sub / 8 * BYTES) };
    let [d, dmin] = both_f16(s, head);
    let minus_dmin = s.mul(s.splat(-1.0), dmin);
    // As in `unpack_scales_6bit`.
    let (six, nibble, two) =
        (s.splat_cell(0x3f3f_3f3f), s.splat_cell(0x0f0f_0f0f), s.splat_cell(0x3030_3030));
    let [integers, minima] = if sub.is_multiple_of(8) {
        [s.and(a, six), s.and(b, six)]
    } else {
        let [a, b] = [s.shift_quarters(a, [2; 4]), s.shift_quarters(b, [2; 4])];
        let [lower, upper] = [s.and(c, nibble), s.and(s.shift_quarters(c, [4; 4]), nibble)];
        [s.or(lower, s.and(a, two)), s.or(upper, s.and(b, two))]
    };
    let mut scales = [Scales { scale: d, min: minus_dmin }; 4];
    for i in 0..4 {
        scales[i].scale = s.mul(d, s.from_i32(add_byte(s, s.splat_i32(0), integers, i)));
        scales[i].min = s.mul(minus_dmin, s.from_i32(add_byte(s, s.splat_i32(0), minima, i)));
    }
    scales
}

/// The nibbles of 64 bytes, of which each half holds two groups of 32, one in the low and one in the high nibbles.
///
/// # Safety
/// 64 bytes must be readable.
#[inline(always)]
unsafe fn k_stripe_nibbles<S: Simd>(s: S, p: *const u8) -> [S::Bytes; 2] {
    let nibble = s.splat_cell(0x0f0f_0f0f);
    // SAFETY: the caller's promise.
    let v = unsafe { s.load_bytes(p) };
    s.zip_quarters(s.and(v, nibble), s.and(s.shift_quarters(v, [4; 4]), nibble))
}

/// 256 values, 4 bits, scales and mins of 6 bits.
#[allow(non_camel_case_types)]
pub(crate) struct Q4_K;

impl Block for Q4_K {
    const FORMAT: Format = Format::Q4_K;
    const SUB: usize = 32;
    const MAX: u8 = 15;
    const HAS_MIN: bool = true;
    const APART: usize = 2;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, n: usize) -> Scales<S> {
        // SAFETY: whole blocks of the row, by the caller's promise.
        unsafe { k_scales(s, row.add(sub / 8 * 144), 144, n) }
    }

    #[inline(always)]
    unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, _half: bool) -> S::Bytes {
        // SAFETY: 32 bytes hold the 64 values of two sub-blocks.
        let v = unsafe {
            let p = row.add(value / 256 * 144 + 16 + value % 256 / 2);
            s.load_quarters([p, p.add(16), p, p.add(16)])
        };
        s.and(s.shift_quarters(v, [0, 0, 4, 4]), s.splat_cell(0x0f0f_0f0f))
    }

    #[inline(always)]
    unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, _groups: usize) -> [S::Bytes; 2] {
        // SAFETY: half a block of the row.
        unsafe { k_stripe_nibbles(s, row.add(value / 256 * 144 + 16 + value % 256 / 2)) }
    }

    #[inline(always)]
    unsafe fn span_scales<S: Simd>(s: S, row: *const u8, value: usize, _groups: usize) -> S::F32 {
        // SAFETY: a block of the row.
        unsafe { k_span_scales(s, row.add(value / 256 * 144)) }
    }

    #[inline(always)]
    unsafe fn half_groups<S: Simd>(s: S, rows: &Rows, value: usize, i: usize) -> [[S::Bytes; 4]; 2] {
        // SAFETY: 16 of a block's 128 bytes of quants.
        unsafe { both_nibbles(s, s.load_columns(rows, value / 256 * 144 + 16 + 16 * i)) }
    }

    #[inline(always)]
    unsafe fn scales_across<S: Simd>(s: S, rows: &Rows, sub: usize, _n: usize) -> [Scales<S>; 4] {
        // SAFETY: the caller's promise.
        unsafe { k_scales_across::<S, 144>(s, rows, sub) }
    }
}

/// 256 values, 5 bits, scales and mins of 6 bits.
#[allow(non_camel_case_types)]
pub(crate) struct Q5_K;

impl Block for Q5_K {
    const FORMAT: Format = Format::Q5_K;
    const SUB: usize = 32;
    const MAX: u8 = 31;
    const HAS_MIN: bool = true;
    const APART: usize = 2;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, n: usize) -> Scales<S> {
        // SAFETY: whole blocks of the row, by the caller's promise.
        unsafe { k_scales(s, row.add(sub / 8 * 176), 176, n) }
    }

    #[inline(always)]
    unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, _half: bool) -> S::Bytes {
        let step = (value % 256 / STEP) as i32;
        // SAFETY: 32 bytes hold the low nibbles of the step's 64 values, 32 more the fifth bits of all 256.
        let (low, high) = unsafe {
            let block = row.add(value / 256 * 176);
            let (p, h) = (block.add(48 + value % 256 / 2), block.add(16));
            (s.load_quarters([p, p.add(16), p, p.add(16)]), s.load_quarters([h, h.add(16), h, h.add(16)]))
        };
        let low = s.and(s.shift_quarters(low, [0, 0, 4, 4]), s.splat_cell(0x0f0f_0f0f));
        // Bit 2 step of the first sub-block and bit 2 step + 1 of the second both go to bit 4.
        let (a, b) = (2 * step - 4, 2 * step - 3);
        s.or(low, s.and(s.shift_quarters(high, [a, a, b, b]), s.splat_cell(0x1010_1010)))
    }

    #[inline(always)]
    unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, _groups: usize) -> [S::Bytes; 2] {
        let second = !value.is_multiple_of(256);
        // SAFETY: half a block of the row.
        unsafe {
            let p = row.add(value / 256 * 176);
            let mut bytes = k_stripe_nibbles(s, p.add(if second { 112 } else { 48 }));
            // Bit b of these 32 bytes belongs to group b of the block.
            let h = p.add(16);
            let high = [s.load_quarters([h; 4]), s.load_quarters([h.add(16); 4])];
            let fifth = s.splat_cell(0x1010_1010);
            for i in 0..2 {
                let bit = if second {
                    s.shift_quarters(high[i], [0, 1, 2, 3])
                } else {
                    s.shift_quarters(high[i], [-4, -3, -2, -1])
                };
                bytes[i] = s.or(bytes[i], s.and(bit, fifth));
            }
            bytes
        }
    }

    #[inline(always)]
    unsafe fn span_scales<S: Simd>(s: S, row: *const u8, value: usize, _groups: usize) -> S::F32 {
        // SAFETY: a block of the row.
        unsafe { k_span_scales(s, row.add(value / 256 * 176)) }
    }

    #[inline(always)]
    unsafe fn half_groups<S: Simd>(s: S, rows: &Rows, value: usize, i: usize) -> [[S::Bytes; 4]; 2] {
        let block = value / 256 * 176;
        // SAFETY: 16 of a block's 128 bytes of nibbles, and of its 32 bytes of fifth bits.
        let (mut both, high) = unsafe {
            (
                both_nibbles(s, s.load_columns(rows, block + 48 + 16 * i)),
                s.load_columns(rows, block + 16 + i % 2 * 16),
            )
        };
        let fifth = s.splat_cell(0x1010_1010);
        for j in 0..8 {
            // Bit b of these bytes belongs to group b of the block.
            let group = (i / 2 * 2 + j / 4) as i32;
            let bit = s.and(s.shift_quarters(high[j % 4], [group - 4; 4]), fifth);
            both[j / 4][j % 4] = s.or(both[j / 4][j % 4], bit);
        }
        both
    }

    #[inline(always)]
    unsafe fn scales_across<S: Simd>(s: S, rows: &Rows, sub: usize, _n: usize) -> [Scales<S>; 4] {
        // SAFETY: the caller's promise.
        unsafe { k_scales_across::<S, 176>(s, rows, sub) }
    }
}

/// 256 values, 6 bits around 32, signed 8-bit scales for every 16.
#[allow(non_camel_case_types)]
pub(crate) struct Q6_K;

impl Block for Q6_K {
    const FORMAT: Format = Format::Q6_K;
    const SUB: usize = 16;
    const MAX: u8 = 63;
    const OFFSET: u8 = 32;
    const HAS_MIN: bool = false;
    const APART: usize = 4;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, _n: usize) -> Scales<S> {
        // SAFETY: a chunk is one block: 16 scales at byte 192, then d.
        unsafe {
            let block = row.add(sub / 16 * 210);
            let scales = s.load_i8(block.add(192).cast());
            let d = splat_f16(s, block.add(208));
            Scales { scale: s.mul(d, s.from_i32(scales)), min: s.splat(0.0) }
        }
    }

    #[inline(always)]
    unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, _half: bool) -> S::Bytes {
        // Of each half block of 128 values, the low nibbles of its 64 bytes are values 0..64 and the high nibbles
        // values 64..128; bits 2t and 2t + 1 of the 32 upper-bit bytes belong to values 32t..32t + 32.
        let (half_block, upper) = (value % 256 / 128, (value % 128 / 64) as i32);
        // SAFETY: 64 and 32 bytes inside the block.
        let (low, high) = unsafe {
            let block = row.add(value / 256 * 210);
            let h = block.add(128 + 32 * half_block);
            (s.load_bytes(block.add(64 * half_block)), s.load_quarters([h, h.add(16), h, h.add(16)]))
        };
        let low = s.and(s.shift_quarters(low, [4 * upper; 4]), s.splat_cell(0x0f0f_0f0f));
        let (a, b) = (4 * upper - 4, 4 * upper - 2);
        s.or(low, s.and(s.shift_quarters(high, [a, a, b, b]), s.splat_cell(0x3030_3030)))
    }

    #[inline(always)]
    unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, _groups: usize) -> [S::Bytes; 2] {
        let second = usize::from(!value.is_multiple_of(256));
        let (nibble, upper_bits) = (s.splat_cell(0x0f0f_0f0f), s.splat_cell(0x3030_3030));
        // SAFETY: half a block of the row: 64 bytes of nibbles, 32 of upper bits.
        unsafe {
            let p = row.add(value / 256 * 210);
            let v = s.load_bytes(p.add(64 * second));
            let mut bytes = s.deal_quarters(s.and(v, nibble), s.and(s.shift_quarters(v, [4; 4]), nibble));
            let h = p.add(128 + 32 * second);
            for i in 0..2 {
                let high = s.shift_quarters(s.load_quarters([h.add(16 * i); 4]), [-4, -2, 0, 2]);
                bytes[i] = s.or(bytes[i], s.and(high, upper_bits));
            }
            bytes
        }
    }

    #[inline(always)]
    unsafe fn half_groups<S: Simd>(s: S, rows: &Rows, value: usize, i: usize) -> [[S::Bytes; 4]; 2] {
        let block = value / 256 * 210;
        // SAFETY: 16 of a block's 128 bytes of nibbles, and of its 64 bytes of upper bits.
        let (mut both, high) = unsafe {
            let high = block + 128 + (i / 4 * 2 + i % 2) * 16;
            (both_nibbles(s, s.load_columns(rows, block + 16 * i)), s.load_columns(rows, high))
        };
        let upper_bits = s.splat_cell(0x3030_3030);
        for j in 0..8 {
            // Bits 2t and 2t + 1 of these bytes belong to group t of the stripe.
            let group = (i % 4 / 2 + j / 4 * 2) as i32;
            let bits = s.and(s.shift_quarters(high[j % 4], [2 * group - 4; 4]), upper_bits);
            both[j / 4][j % 4] = s.or(both[j / 4][j % 4], bits);
        }
        both
    }

    #[inline(always)]
    unsafe fn scales_across<S: Simd>(s: S, rows: &Rows, sub: usize, _n: usize) -> [Scales<S>; 4] {
        let block = sub / 16 * 210;
        // SAFETY: a block has 16 scales at byte 192, then d, its last bytes.
        let (integers, [.., end]) =
            unsafe { (s.load_columns(rows, block + 192)[sub % 16 / 4], s.load_columns(rows, block + 194)) };
        let [_, d] = both_f16(s, end);
        let mut scales = [Scales { scale: d, min: s.splat(0.0) }; 4];
        for i in 0..4 {
            let integer = s.dot_i8i8(s.splat_i32(0), integers, s.splat_cell(1 << (8 * i)));
            scales[i].scale = s.mul(d, s.from_i32(integer));
        }
        scales
    }
}
