//! How the block formats are read: small integers by the vector, scales by the sixteen.
//!
//! A row is a sequence of *sub-blocks* that share one scale: 32 values, or 16 in Q6_K. Leaves walk a row in
//! *chunks* of 16 sub-blocks, so that the scales of a chunk are one vector, and inside a chunk in *steps* of 64
//! values, so that the integers of a step are one vector. Everything that multiplies with blocks, unpacks them
//! into panels or dequantizes them is written once over [`Block`].
//!
//! ```text
//! Q4_1   | d m | 16 bytes: value i in the low, value i + 16 in the high nibble of byte i |          w = d q + m
//! Q5_1   | d m | 32 high bits | 16 bytes as above |                                                 w = d q + m
//! Q8_0   | d | 32 signed bytes |                                                                    w = d q
//! Q4_K   | d dmin | 12 bytes: 8 scales, 8 mins of 6 bits | 4 x 32 bytes: sub-blocks 2c and 2c+1 |   w = d s q - dmin m
//! Q5_K   | d dmin | 12 bytes | 32 bytes: bit b is the fifth bit in sub-block b | 4 x 32 bytes |     w = d s q - dmin m
//! Q6_K   | 128 bytes low nibbles | 64 bytes upper two bits | 16 signed scales | d |                 w = d s (q - 32)
//! Q2_K   | 16 bytes: scale and min of 4 bits | 64 bytes of four 2-bit integers | d dmin |            w = d s q - dmin m
//! Q3_K   | 32 bytes of third bits | 64 bytes as in Q2_K | 12 bytes: 16 scales of 6 bits | d |      w = d s (q - 4)
//! IQ4_NL | d | 16 bytes as in Q4_1 |                                                               w = d t[q]
//! IQ4_XS | d | 16 bits, 4 bytes: 8 scales of 6 bits | 8 x 16 bytes as in Q4_1 |                    w = d s t[q]
//! ```
//!
//! Q4_0 and Q5_0 are as Q4_1 and Q5_1 without `m`, with `w = d (q - 8)` and `w = d (q - 16)`.

#![allow(unsafe_code)]

mod low_bits;
mod nonlinear;

pub(crate) use low_bits::{Q2_K, Q3_K};
pub(crate) use nonlinear::{IQ4_NL, IQ4_XS};

use super::Format;
use crate::simd::{LANES, Simd};

/// Sub-blocks per chunk: one vector of scales.
pub(crate) const CHUNK_SUBS: usize = LANES;
/// Values per step: one vector of bytes.
pub(crate) const STEP: usize = 64;
/// Values per stripe: four groups of 32.
pub(crate) const STRIPE: usize = 128;
/// Values whose scales decoding makes at once: two stripes, eight groups of 32.
pub(crate) const SPAN: usize = 256;

/// Scales and minima of up to 16 sub-blocks: `w = scale * q + min`, where absent sub-blocks have zeros.
pub(crate) struct Scales<S: Simd> {
    /// Multiplies the integers, after [`Block::OFFSET`] was taken off.
    pub(crate) scale: S::F32,
    /// Is added; zero where the format has no minimum.
    pub(crate) min: S::F32,
}

/// A block format as the leaves read it.
///
/// `row` always points to the first block of a row of whole blocks, `sub` and `value` are indexes within the row.
pub(crate) trait Block {
    /// The format this is.
    const FORMAT: Format;
    /// Values that share a scale.
    const SUB: usize;
    /// What is subtracted from every unsigned integer.
    const OFFSET: u8 = 0;
    /// Whether the integers are signed bytes.
    const SIGNED: bool = false;
    /// Whether there is a minimum.
    const HAS_MIN: bool;

    /// Scales of the `n <= 16` sub-blocks from `sub`, the first of a block.
    ///
    /// # Safety
    /// The sub-blocks must lie within the row.
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, n: usize) -> Scales<S>;

    /// The integers of the 64 values from `value`, a multiple of 64. If `half`, only the first 32 are of the row;
    /// the others are any finite integers.
    ///
    /// # Safety
    /// The values (the first 32 of them if `half`) must lie within the row.
    unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, half: bool) -> S::Bytes;

    /// The integers of the stripe from `value`, a multiple of 128, of which the row has `groups` of 32 (1 to 4; the others
    /// are any finite integers): quarter i of the first vector holds the first 16 values of the stripe's i-th group,
    /// quarter i of the second the other 16, so that no lane mixes groups. Activations lie in the same order.
    ///
    /// # Safety
    /// These groups must lie within the row.
    #[inline(always)]
    unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> [S::Bytes; 2] {
        // SAFETY: the caller's promise.
        unsafe { dealt_stripe::<S, Self>(s, row, value, groups) }
    }

    /// Scales of the eight groups of 32 from `value`, a multiple of 256, in lanes 0..8, their minima in lanes 8..16; zeros
    /// for those beyond the row's `groups` from there (1 to 8). Not for formats with sub-blocks of 16.
    ///
    /// # Safety
    /// These groups must lie within the row.
    #[inline(always)]
    unsafe fn span_scales<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> S::F32 {
        let mut lanes = [0.0_f32; LANES + 8];
        // SAFETY: the caller's promise; the minima overwrite the upper lanes of the scales, which are zeros.
        unsafe {
            let of_groups = Self::scales(s, row, value / 32, groups);
            s.store(lanes.as_mut_ptr(), of_groups.scale);
            s.store(lanes.as_mut_ptr().add(8), of_groups.min);
            s.load(lanes.as_ptr())
        }
    }
}

/// [`Block::stripe`] from what every format has.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn dealt_stripe<S: Simd, B: Block + ?Sized>(
    s: S,
    row: *const u8,
    value: usize,
    groups: usize,
) -> [S::Bytes; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let low = B::bytes(s, row, value, groups == 1);
        let high = if groups > 2 { B::bytes(s, row, value + STEP, groups == 3) } else { low };
        s.deal_quarters(low, high)
    }
}

/// Gathers `n <= 16` f16 that lie `stride` bytes apart, zeros for the rest.
///
/// # Safety
/// The `n` places must be readable.
#[inline(always)]
unsafe fn gather_f16<S: Simd>(s: S, p: *const u8, stride: usize, n: usize) -> S::F32 {
    let mut bits = [0_u16; LANES];
    // SAFETY: the caller's promise; a full chunk has its own loop so that it unrolls.
    unsafe {
        if n == LANES {
            for i in 0..LANES {
                bits[i] = p.add(i * stride).cast::<u16>().read_unaligned();
            }
        } else {
            for i in 0..n {
                bits[i] = p.add(i * stride).cast::<u16>().read_unaligned();
            }
        }
        s.load_f16(bits.as_ptr())
    }
}

/// The places of two consecutive blocks' quants, the second one repeated from the first if it is not of the row.
#[inline(always)]
fn block_pair(row: *const u8, value: usize, half: bool, block_bytes: usize) -> [*const u8; 2] {
    let first = row.wrapping_add(value / 32 * block_bytes);
    [first, first.wrapping_add(if half { 0 } else { block_bytes })]
}

/// Nibbles of two legacy blocks: low nibbles are values 0..16, high nibbles 16..32.
///
/// # Safety
/// 16 bytes must be readable at each pointer.
#[inline(always)]
unsafe fn nibbles<S: Simd>(s: S, [p, q]: [*const u8; 2]) -> S::Bytes {
    // SAFETY: the caller's promise.
    let v = unsafe { s.load_quarters([p, p, q, q]) };
    s.and(s.shift_quarters(v, [0, 4, 0, 4]), s.splat_cell(0x0f0f_0f0f))
}

/// The fifth bits of two legacy blocks, in place.
///
/// # Safety
/// 4 bytes must be readable at each pointer.
#[inline(always)]
unsafe fn fifth_bits<S: Simd>(s: S, [p, q]: [*const u8; 2]) -> S::Bytes {
    // SAFETY: the caller's promise.
    let (lo, hi) = unsafe { (p.cast::<u32>().read_unaligned(), q.cast::<u32>().read_unaligned()) };
    s.expand_bits(u64::from(u32::from_le(lo)) | u64::from(u32::from_le(hi)) << 32, 0x10)
}

/// [`Block::span_scales`] of blocks that begin with d, and m where there is one.
///
/// # Safety
/// `groups` blocks must be readable.
#[inline(always)]
unsafe fn legacy_scales<S: Simd, const BYTES: usize, const HAS_MIN: bool>(
    s: S,
    p: *const u8,
    groups: usize,
) -> S::F32 {
    // SAFETY: the caller's promise.
    unsafe {
        if groups == 8 {
            return s.gather_halves::<BYTES, HAS_MIN>(p);
        }
        let mut halves = [0_u16; LANES];
        for i in 0..groups {
            halves[i] = p.add(i * BYTES).cast::<u16>().read_unaligned();
            if HAS_MIN {
                halves[8 + i] = p.add(i * BYTES + 2).cast::<u16>().read_unaligned();
            }
        }
        s.load_f16(halves.as_ptr())
    }
}

/// # Safety
/// 4 bytes must be readable.
#[inline(always)]
unsafe fn bits_of_32(p: *const u8) -> u64 {
    // SAFETY: the caller's promise.
    u64::from(u32::from_le(unsafe { p.cast::<u32>().read_unaligned() }))
}

/// The lower 16 bits of both halves, side by side.
#[inline(always)]
fn lower_halves(x: u64) -> u64 {
    x & 0xffff | x >> 16 & 0xffff_0000
}

macro_rules! legacy {
    ($(#[$doc:meta])* $Name:ident, min: $has_min:literal, high: $high:literal, offset: $offset:literal) => {
        $(#[$doc])*
        #[allow(non_camel_case_types)]
        pub(crate) struct $Name;

        impl Block for $Name {
            const FORMAT: Format = Format::$Name;
            const SUB: usize = 32;
            const OFFSET: u8 = $offset;
            const HAS_MIN: bool = $has_min;

            #[inline(always)]
            unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, n: usize) -> Scales<S> {
                const BYTES: usize = if $has_min { 4 } else { 2 } + if $high { 4 } else { 0 } + 16;
                // SAFETY: a block starts with d, and m where there is one.
                unsafe {
                    let p = row.add(sub * BYTES);
                    let min = if $has_min { gather_f16(s, p.add(2), BYTES, n) } else { s.splat(0.0) };
                    Scales { scale: gather_f16(s, p, BYTES, n), min }
                }
            }

            #[inline(always)]
            unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, half: bool) -> S::Bytes {
                const HIGH: usize = if $has_min { 4 } else { 2 };
                const LOW: usize = HIGH + if $high { 4 } else { 0 };
                let blocks = block_pair(row, value, half, LOW + 16);
                // SAFETY: both blocks are of the row; the quants end with the block.
                unsafe {
                    let low = nibbles(s, blocks.map(|p| p.add(LOW)));
                    if $high { s.or(low, fifth_bits(s, blocks.map(|p| p.add(HIGH)))) } else { low }
                }
            }

            #[inline(always)]
            unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> [S::Bytes; 2] {
                const HIGH: usize = if $has_min { 4 } else { 2 };
                const LOW: usize = HIGH + if $high { 4 } else { 0 };
                const BYTES: usize = LOW + 16;
                // SAFETY: four blocks of the row; the quants end with their block.
                unsafe {
                    if groups < 4 {
                        return dealt_stripe::<S, Self>(s, row, value, groups);
                    }
                    let p = row.add(value / 32 * BYTES);
                    let q = p.add(LOW);
                    let v = s.load_quarters([q, q.add(BYTES), q.add(2 * BYTES), q.add(3 * BYTES)]);
                    let nibble = s.splat_cell(0x0f0f_0f0f);
                    let mut bytes = [s.and(v, nibble), s.and(s.shift_quarters(v, [4; 4]), nibble)];
                    if $high {
                        let h = p.add(HIGH);
                        let ab = bits_of_32(h) | bits_of_32(h.add(BYTES)) << 32;
                        let cd = bits_of_32(h.add(2 * BYTES)) | bits_of_32(h.add(3 * BYTES)) << 32;
                        // The lower 16 bits of each block belong to its first 16 values.
                        let lower = lower_halves(ab) | lower_halves(cd) << 32;
                        let upper = lower_halves(ab >> 16) | lower_halves(cd >> 16) << 32;
                        bytes[0] = s.or(bytes[0], s.expand_bits(lower, 0x10));
                        bytes[1] = s.or(bytes[1], s.expand_bits(upper, 0x10));
                    }
                    bytes
                }
            }

            #[inline(always)]
            unsafe fn span_scales<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> S::F32 {
                const BYTES: usize = if $has_min { 4 } else { 2 } + if $high { 4 } else { 0 } + 16;
                // SAFETY: these blocks are of the row; a block starts with d, and m where there is one.
                unsafe { legacy_scales::<S, BYTES, $has_min>(s, row.add(value / 32 * BYTES), groups) }
            }
        }
    };
}

legacy!(
    /// 4-bit integers around 8.
    Q4_0, min: false, high: false, offset: 8
);
legacy!(
    /// 4-bit integers with a minimum.
    Q4_1, min: true, high: false, offset: 0
);
legacy!(
    /// 5-bit integers around 16.
    Q5_0, min: false, high: true, offset: 16
);
legacy!(
    /// 5-bit integers with a minimum.
    Q5_1, min: true, high: true, offset: 0
);

/// Signed 8-bit integers.
#[allow(non_camel_case_types)]
pub(crate) struct Q8_0;

impl Block for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    const SUB: usize = 32;
    const SIGNED: bool = true;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, n: usize) -> Scales<S> {
        // SAFETY: a block starts with d.
        Scales { scale: unsafe { gather_f16(s, row.add(sub * 34), 34, n) }, min: s.splat(0.0) }
    }

    #[inline(always)]
    unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, half: bool) -> S::Bytes {
        let [p, q] = block_pair(row, value, half, 34);
        // SAFETY: both blocks are of the row, each holds 32 bytes after d.
        unsafe { s.load_quarters([p.add(2), p.add(18), q.add(2), q.add(18)]) }
    }

    #[inline(always)]
    unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> [S::Bytes; 2] {
        // SAFETY: four blocks of the row, each with 32 bytes after d.
        unsafe {
            if groups < 4 {
                return dealt_stripe::<S, Self>(s, row, value, groups);
            }
            let a = row.add(value / 32 * 34 + 2);
            let b = a.add(16);
            [
                s.load_quarters([a, a.add(34), a.add(68), a.add(102)]),
                s.load_quarters([b, b.add(34), b.add(68), b.add(102)]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn span_scales<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> S::F32 {
        // SAFETY: these blocks are of the row; a block starts with d.
        unsafe { legacy_scales::<S, 34, false>(s, row.add(value / 32 * 34), groups) }
    }
}

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
        let dmin = s.mul(s.splat(-1.0), s.spread2(d.as_ptr().add(2)));
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
    const HAS_MIN: bool = true;

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
}

/// 256 values, 5 bits, scales and mins of 6 bits.
#[allow(non_camel_case_types)]
pub(crate) struct Q5_K;

impl Block for Q5_K {
    const FORMAT: Format = Format::Q5_K;
    const SUB: usize = 32;
    const HAS_MIN: bool = true;

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
}

/// 256 values, 6 bits around 32, signed 8-bit scales for every 16.
#[allow(non_camel_case_types)]
pub(crate) struct Q6_K;

impl Block for Q6_K {
    const FORMAT: Format = Format::Q6_K;
    const SUB: usize = 16;
    const OFFSET: u8 = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, _n: usize) -> Scales<S> {
        // SAFETY: a chunk is one block: 16 scales at byte 192, then d.
        unsafe {
            let block = row.add(sub / 16 * 210);
            let biased = block.add(192).cast::<[u8; 16]>().read().map(|b| b ^ 0x80);
            let scales = s.sub_i32(s.load_u8(biased.as_ptr()), s.splat_i32(128));
            // Only the first half of the pair is of interest; the two bytes before it are readable in any case.
            let d = s.spread_lanes::<8, 0>(s.spread_half_pair(block.add(206)));
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
}

/// Writes the values `from..to` of a row to `out` as f32, rounded as the format's formula says (scale times
/// integer, then plus the minimum, never fused). `from` is a multiple of 512.
///
/// # Safety
/// The values must lie within the row, `out` must be writable for `to - from` values rounded up to 64.
#[inline(always)]
pub(crate) unsafe fn dequantize<S: Simd, B: Block>(
    s: S,
    row: *const u8,
    from: usize,
    to: usize,
    out: *mut f32,
) {
    let mut value = from;
    while value < to {
        let sub = value / B::SUB;
        let n = ((to - value) / B::SUB).min(CHUNK_SUBS);
        let (mut scale, mut min) = ([0.0; LANES], [0.0; LANES]);
        // SAFETY: chunk by chunk inside the row and inside `out`; the arrays hold what is read from them.
        unsafe {
            let chunk = B::scales(s, row, sub, n);
            s.store(scale.as_mut_ptr(), chunk.scale);
            s.store(min.as_mut_ptr(), chunk.min);
            for step in 0..(n * B::SUB).div_ceil(STEP) {
                let at = value + step * STEP;
                let mut q = [0_u8; STEP];
                s.store_bytes(q.as_mut_ptr(), B::bytes(s, row, at, at + 32 >= to));
                for i in 0..STEP / LANES {
                    let sub = ((step * STEP + i * LANES) / B::SUB).min(LANES - 1);
                    let integers = if B::SIGNED {
                        let biased: [u8; LANES] = q[i * LANES..][..LANES].try_into().unwrap_or([0; LANES]);
                        s.sub_i32(s.load_u8(biased.map(|b| b ^ 0x80).as_ptr()), s.splat_i32(128))
                    } else {
                        s.sub_i32(s.load_u8(q.as_ptr().add(i * LANES)), s.splat_i32(i32::from(B::OFFSET)))
                    };
                    let w = s.mul(s.splat(scale[sub]), s.from_i32(integers));
                    let w = if B::HAS_MIN { s.add(w, s.splat(min[sub])) } else { w };
                    s.store(out.add(at - from + i * LANES), w);
                }
            }
        }
        value += n * B::SUB;
    }
}
