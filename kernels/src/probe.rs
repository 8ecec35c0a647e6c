//! What the machine can do at most, measured with nothing else in the way: the hundred percent of every share.
//!
//! | probe | loop | limit of |
//! |---|---|---|
//! | [`Kernels::probe_f32`] | multiply-adds of registers | f32 tiles |
//! | [`Kernels::probe_bf16`] | bf16 dot products of registers | bf16 tiles |
//! | [`Kernels::probe_int8`] | u8 x i8 dot products of registers | int8 tiles |
//! | [`Kernels::probe_read`] | loads of a buffer, prefetching ahead | everything that streams |
//!
//! There are enough independent chains to hide the instructions' latency, and no memory in the arithmetic loops. Each
//! call does a given amount of work on the calling thread; whoever asks takes the time, often, and keeps the best.

#![allow(unsafe_code)]

use crate::isa::Kernels;
use crate::simd::{LANES, Simd, VECTOR_BYTES};

/// Independent chains where the register file has 32 vectors, and where it has fewer.
const MANY: usize = 24;
const FEW: usize = 6;

/// Operations of one round: two per multiply-add, 16 lanes, `values` per lane.
fn operations<S: Simd>(values: usize) -> usize {
    2 * LANES * values * if S::REGISTERS >= 32 { MANY } else { FEW }
}

#[inline(always)]
fn f32_chains<S: Simd, const N: usize>(s: S, rounds: usize) -> f32 {
    let (w, x) = (s.splat(std::hint::black_box(0.5)), s.splat(std::hint::black_box(1.0)));
    let mut acc = [x; N];
    for _ in 0..rounds {
        for chain in &mut acc {
            *chain = s.mul_add(*chain, w, x);
        }
    }
    let mut sum = acc[0];
    for chain in &acc[1..] {
        sum = s.add(sum, *chain);
    }
    s.sum(sum)
}

#[inline(always)]
fn bf16_chains<S: Simd, const N: usize>(s: S, rounds: usize) -> f32 {
    let (w, x) =
        (s.splat_cell(std::hint::black_box(0x3f00_3f00)), s.splat_cell(std::hint::black_box(0x3f80_3f80)));
    let mut acc = [s.splat(0.0); N];
    for _ in 0..rounds {
        for chain in &mut acc {
            *chain = s.dot_bf16(*chain, w, x);
        }
    }
    let mut sum = acc[0];
    for chain in &acc[1..] {
        sum = s.add(sum, *chain);
    }
    s.sum(sum)
}

#[inline(always)]
fn int8_chains<S: Simd, const N: usize>(s: S, rounds: usize) -> i32 {
    let (w, x) =
        (s.splat_cell(std::hint::black_box(0x0102_0304)), s.splat_cell(std::hint::black_box(0x01ff_02fe)));
    let mut acc = [s.splat_i32(0); N];
    for _ in 0..rounds {
        for chain in &mut acc {
            *chain = s.dot_u8i8(*chain, w, x);
        }
    }
    let mut sum = acc[0];
    for chain in &acc[1..] {
        sum = s.add_i32(sum, *chain);
    }
    s.sum_i32(sum)
}

/// Leaf: `rounds` rounds of multiply-adds; the number of operations.
#[inline(always)]
pub(crate) fn f32_peak<S: Simd>(s: S, rounds: usize) -> usize {
    std::hint::black_box(if S::REGISTERS >= 32 {
        f32_chains::<S, MANY>(s, rounds)
    } else {
        f32_chains::<S, FEW>(s, rounds)
    });
    rounds * operations::<S>(1)
}

/// Leaf: `rounds` rounds of bf16 dot products; the number of operations.
#[inline(always)]
pub(crate) fn bf16_peak<S: Simd>(s: S, rounds: usize) -> usize {
    std::hint::black_box(if S::REGISTERS >= 32 {
        bf16_chains::<S, MANY>(s, rounds)
    } else {
        bf16_chains::<S, FEW>(s, rounds)
    });
    rounds * operations::<S>(2)
}

/// Leaf: `rounds` rounds of int8 dot products; the number of operations.
#[inline(always)]
pub(crate) fn int8_peak<S: Simd>(s: S, rounds: usize) -> usize {
    std::hint::black_box(if S::REGISTERS >= 32 {
        int8_chains::<S, MANY>(s, rounds)
    } else {
        int8_chains::<S, FEW>(s, rounds)
    });
    rounds * operations::<S>(4)
}

/// Leaf: reads all whole groups of four vectors, asking for lines `ahead` bytes before they are needed (0: never).
#[inline(always)]
pub(crate) fn read<S: Simd>(s: S, bytes: &[u8], ahead: usize) {
    const STEP: usize = 4 * VECTOR_BYTES;
    let mut acc = [s.splat_cell(0); 4];
    let mut at = bytes.as_ptr();
    for _ in 0..bytes.len() / STEP {
        // SAFETY: whole steps inside the slice; a prefetch may point anywhere.
        unsafe {
            for i in 0..4 {
                if ahead > 0 {
                    s.prefetch(at.wrapping_add(i * VECTOR_BYTES + ahead));
                }
                acc[i] = s.or(acc[i], s.load_bytes(at.add(i * VECTOR_BYTES)));
            }
            at = at.add(STEP);
        }
    }
    let all = s.or(s.or(acc[0], acc[1]), s.or(acc[2], acc[3]));
    let mut sink = [0_u8; VECTOR_BYTES];
    // SAFETY: 64 bytes.
    unsafe { s.store_bytes(sink.as_mut_ptr(), all) };
    std::hint::black_box(sink);
}

/// # Probes
impl Kernels {
    /// Multiplies and adds f32 registers for `rounds` rounds on the calling thread.
    ///
    /// Returns the number of operations done, two per multiply-add.
    pub fn probe_f32(self, rounds: usize) -> usize {
        self.table.probe_f32(rounds)
    }

    /// As [`Kernels::probe_f32`] with bf16 dot products: as instructions where the CPU has them, else as the tiles
    /// widen them.
    pub fn probe_bf16(self, rounds: usize) -> usize {
        self.table.probe_bf16(rounds)
    }

    /// As [`Kernels::probe_f32`] with the int8 dot product of the instruction set.
    pub fn probe_int8(self, rounds: usize) -> usize {
        self.table.probe_int8(rounds)
    }

    /// Reads `bytes` once, from front to back, asking for cache lines `ahead` bytes early (0: leaves that to the CPU).
    ///
    /// Up to 255 bytes at the end are left out.
    pub fn probe_read(self, bytes: &[u8], ahead: usize) {
        self.table.probe_read(bytes, ahead);
    }
}
