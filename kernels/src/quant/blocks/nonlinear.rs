//! The formats whose 4-bit integers are indices into a table.

#![allow(unsafe_code)]

use super::{Block, Scales, block_pair, gather_f16, nibbles};
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
        let (mut heads, mut scales) = ([0_u16; LANES], [0_u8; LANES]);
        for block in 0..n / 8 {
            // SAFETY: the block begins with d, sixteen upper bits of scales and four bytes of lower ones.
            let (upper, lower) = unsafe {
                let p = row.add((sub / 8 + block) * 136);
                heads[block] = p.cast::<u16>().read_unaligned();
                let upper = u16::from_le_bytes(p.add(2).cast::<[u8; 2]>().read());
                (upper, u32::from_le_bytes(p.add(4).cast::<[u8; 4]>().read()))
            };
            for i in 0..8 {
                let scale = (lower >> (4 * i) & 15) as u8 | ((upper >> (2 * i) & 3) as u8) << 4;
                scales[8 * block + i] = scale;
            }
        }
        let mut d = [0.0; LANES];
        // SAFETY: the arrays hold 16 elements, 16 bytes, 2 elements.
        unsafe {
            s.store(d.as_mut_ptr(), s.load_f16(heads.as_ptr()));
            let scales = s.sub_i32(s.load_u8(scales.as_ptr()), s.splat_i32(32));
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
}
