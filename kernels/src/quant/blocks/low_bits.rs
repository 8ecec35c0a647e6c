//! The K-formats of two and three bits: sixteen sub-blocks of 16 values.

#![allow(unsafe_code)]

use super::{Block, Scales};
use crate::quant::Format;
use crate::simd::{LANES, Simd};

/// All lanes the f16 at `p`.
///
/// # Safety
/// `p` must be readable for 2 bytes.
#[inline(always)]
unsafe fn splat_f16<S: Simd>(s: S, p: *const u8) -> S::F32 {
    // SAFETY: the caller's promise; the array holds 16 elements.
    unsafe { s.load_f16([p.cast::<u16>().read_unaligned(); LANES].as_ptr()) }
}

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

/// 256 values, 2 bits, scales and mins of 4 bits for every 16.
#[allow(non_camel_case_types)]
pub(crate) struct Q2_K;

impl Block for Q2_K {
    const FORMAT: Format = Format::Q2_K;
    const SUB: usize = 16;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, _n: usize) -> Scales<S> {
        // SAFETY: a chunk is one block: 16 scales and mins, d at byte 80, dmin at byte 82.
        unsafe {
            let block = row.add(sub / 16 * 84);
            let both = block.cast::<[u8; 16]>().read();
            let scales = s.from_i32(s.load_u8(both.map(|b| b & 15).as_ptr()));
            let mins = s.from_i32(s.load_u8(both.map(|b| b >> 4).as_ptr()));
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
}

/// 256 values, 3 bits around 4, scales of 6 bits for every 16.
#[allow(non_camel_case_types)]
pub(crate) struct Q3_K;

impl Block for Q3_K {
    const FORMAT: Format = Format::Q3_K;
    const SUB: usize = 16;
    const OFFSET: u8 = 4;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, _n: usize) -> Scales<S> {
        // SAFETY: a chunk is one block: twelve bytes of scales at byte 96, then d.
        unsafe {
            let block = row.add(sub / 16 * 110);
            let p = block.add(96).cast::<[u8; 12]>().read();
            // Low nibbles of bytes 0..8 and then high nibbles; above them, bits 2t and 2t + 1 of bytes 8..12.
            let mut scales = [0_u8; LANES];
            for i in 0..LANES {
                let low = p[i % 8] >> (i / 8 * 4) & 15;
                scales[i] = low | (p[8 + i % 4] >> (i / 4 * 2) & 3) << 4;
            }
            let scales = s.sub_i32(s.load_u8(scales.as_ptr()), s.splat_i32(32));
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
}
