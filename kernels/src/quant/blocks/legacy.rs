//! The formats of 32 values to a block: one scale, perhaps a minimum, and integers of 4, 5 or 8 bits.

#![allow(unsafe_code)]

use super::{Block, Rows, Scales, both_f16, both_nibbles, dealt_stripe};
use crate::mutant::mutant;
use crate::quant::Format;
use crate::simd::{LANES, Simd};

/// Gathers `n <= 16` f16 that lie `stride` bytes apart, zeros for the rest.
///
/// # Safety
/// The `n` places must be readable.
#[inline(always)]
pub(super) unsafe fn gather_f16<S: Simd>(s: S, p: *const u8, stride: usize, n: usize) -> S::F32 {
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
pub(super) fn block_pair(row: *const u8, value: usize, half: bool, block_bytes: usize) -> [*const u8; 2] {
    let first = row.wrapping_add(value / 32 * block_bytes);
    [first, first.wrapping_add(if half { 0 } else { block_bytes })]
}

/// Nibbles of two legacy blocks: low nibbles are values 0..16, high nibbles 16..32.
///
/// # Safety
/// 16 bytes must be readable at each pointer.
#[inline(always)]
pub(super) unsafe fn nibbles<S: Simd>(s: S, [p, q]: [*const u8; 2]) -> S::Bytes {
    // SAFETY: the caller's promise.
    let v = unsafe { s.load_quarters([p, p, q, q]) };
    let order = if mutant("nibbles swapped") { [4, 0, 4, 0] } else { [0, 4, 0, 4] };
    s.and(s.shift_quarters(v, order), s.splat_cell(0x0f0f_0f0f))
}

/// The nibbles of a stripe of four blocks of `BYTES` bytes, the quants of the first at `p`.
///
/// # Safety
/// 16 bytes must be readable at `p` and at each of the next three blocks' quants.
#[inline(always)]
pub(super) unsafe fn stripe_nibbles<S: Simd, const BYTES: usize>(s: S, p: *const u8) -> [S::Bytes; 2] {
    let nibble = s.splat_cell(0x0f0f_0f0f);
    // SAFETY: the caller's promise.
    let v = unsafe { s.load_quarters([p, p.add(BYTES), p.add(2 * BYTES), p.add(3 * BYTES)]) };
    [s.and(v, nibble), s.and(s.shift_quarters(v, [4; 4]), nibble)]
}

/// The fifth bits of two legacy blocks, in place.
///
/// # Safety
/// 4 bytes must be readable at each pointer.
#[inline(always)]
unsafe fn fifth_bits<S: Simd>(s: S, [p, q]: [*const u8; 2]) -> S::Bytes {
    // SAFETY: the caller's promise.
    let (lo, hi) = unsafe { (p.cast::<u32>().read_unaligned(), q.cast::<u32>().read_unaligned()) };
    let hi = if mutant("fifth bits of the first block taken twice") { lo } else { hi };
    s.expand_bits(u64::from(u32::from_le(lo)) | u64::from(u32::from_le(hi)) << 32, 0x10)
}

/// [`Block::span_scales`] of blocks that begin with d, and m where there is one.
///
/// # Safety
/// `groups` blocks must be readable.
#[inline(always)]
pub(super) unsafe fn legacy_scales<S: Simd, const BYTES: usize, const HAS_MIN: bool>(
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

/// [`Block::scales_across`] of blocks that begin with d, and m where there is one.
///
/// # Safety
/// As there; a block has at least 16 bytes.
#[inline(always)]
pub(super) unsafe fn legacy_scales_across<S: Simd, const BYTES: usize, const HAS_MIN: bool>(
    s: S,
    rows: &Rows,
    sub: usize,
    n: usize,
) -> [Scales<S>; 4] {
    let mut scales = [Scales { scale: s.splat(0.0), min: s.splat(0.0) }; 4];
    for i in 0..n {
        // SAFETY: the block's first bytes.
        let [heads, ..] = unsafe { s.load_columns(rows, (sub + i) * BYTES) };
        let [d, m] = both_f16(s, heads);
        scales[i] = Scales { scale: d, min: if HAS_MIN { m } else { s.splat(0.0) } };
    }
    scales
}

/// The fifth bits of four values: bits `first` to `first + 3` of every cell, one to a byte.
#[inline(always)]
fn four_fifth_bits<S: Simd>(s: S, cells: S::Bytes, first: usize) -> S::Bytes {
    let bits = s.and(s.shift_quarters(cells, [first as i32; 4]), s.splat_cell(0xf));
    // Bit i goes to bit 8 i, by copies 7, 14 and 21 bits away.
    let bits = s.or(bits, s.shift_quarters(bits, [-7; 4]));
    let bits = s.or(bits, s.shift_quarters(bits, [-14; 4]));
    s.shift_quarters(s.and(bits, s.splat_cell(0x0101_0101)), [-4; 4])
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
            const MAX: u8 = if $high { 31 } else { 15 };
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
                    let mut bytes = stripe_nibbles::<S, BYTES>(s, p.add(LOW));
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

            #[inline(always)]
            unsafe fn half_groups<S: Simd>(s: S, rows: &Rows, value: usize, i: usize) -> [[S::Bytes; 4]; 2] {
                const HIGH: usize = if $has_min { 4 } else { 2 };
                const LOW: usize = HIGH + if $high { 4 } else { 0 };
                let block = (value / 32 + i) * (LOW + 16);
                // SAFETY: a block of each row; the quants end with it.
                unsafe {
                    let mut both = both_nibbles(s, s.load_columns(rows, block + LOW));
                    if $high {
                        let [bits, ..] = s.load_columns(rows, block + HIGH);
                        for j in 0..8 {
                            let low = both[j / 4][j % 4];
                            both[j / 4][j % 4] = s.or(low, four_fifth_bits(s, bits, 4 * j));
                        }
                    }
                    both
                }
            }

            #[inline(always)]
            unsafe fn scales_across<S: Simd>(s: S, rows: &Rows, sub: usize, n: usize) -> [Scales<S>; 4] {
                const BYTES: usize = if $has_min { 4 } else { 2 } + if $high { 4 } else { 0 } + 16;
                // SAFETY: the caller's promise.
                unsafe { legacy_scales_across::<S, BYTES, $has_min>(s, rows, sub, n) }
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

    #[inline(always)]
    unsafe fn half_groups<S: Simd>(s: S, rows: &Rows, value: usize, i: usize) -> [[S::Bytes; 4]; 2] {
        let block = (value / 32 + i) * 34;
        // SAFETY: a block of each row, with 32 bytes after d.
        unsafe { [s.load_columns(rows, block + 2), s.load_columns(rows, block + 18)] }
    }

    #[inline(always)]
    unsafe fn scales_across<S: Simd>(s: S, rows: &Rows, sub: usize, n: usize) -> [Scales<S>; 4] {
        // SAFETY: the caller's promise.
        unsafe { legacy_scales_across::<S, 34, false>(s, rows, sub, n) }
    }
}
