//! The machine's limits, measured by the instructions that the kernels are made of.
//!
//! A speed means something beside the limit that it runs into. These loops touch nothing but registers, or nothing but
//! memory; whoever calls them holds the clock.

#![allow(unsafe_code)]

use crate::isa::Kernels;
use crate::simd::{LANES, Simd, VECTOR_BYTES};
use std::hint::black_box;

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// f32 fused multiply-add.
    F32,
    /// Dot products of two bf16.
    Bf16,
    /// Dot products of four int8.
    Int8,
}

/// Independent chains at most: more than latency times throughput of any instruction here.
const CHAINS: usize = 12;

/// `rounds` products in each of as many chains as there are registers for. Returns how many chains that were.
#[inline(always)]
pub(crate) fn multiply<S: Simd>(s: S, product: Product, rounds: usize) -> usize {
    let chains = const { if S::REGISTERS - 2 < CHAINS { S::REGISTERS - 2 } else { CHAINS } };
    let one = black_box(1.0_f32);
    // Different starts, or the chains would be one.
    let mut float = [s.splat(one); CHAINS];
    let mut int = [s.splat_i32(0); CHAINS];
    for i in 0..CHAINS {
        float[i] = s.splat(one * i as f32);
        int[i] = s.splat_i32(black_box(i as i32));
    }
    let (x, cell) = (s.splat(black_box(0.5)), s.splat_cell(black_box(0x3f80_0001)));
    match product {
        Product::F32 => {
            for _ in 0..rounds {
                for i in 0..chains {
                    float[i] = s.mul_add(x, x, float[i]);
                }
            }
        }
        Product::Bf16 => {
            for _ in 0..rounds {
                for i in 0..chains {
                    float[i] = s.dot_bf16(float[i], cell, cell);
                }
            }
        }
        Product::Int8 => {
            for _ in 0..rounds {
                for i in 0..chains {
                    int[i] = s.dot_u8i8(int[i], cell, cell);
                }
            }
        }
    }
    for i in 0..CHAINS {
        black_box((s.sum(float[i]), s.sum_i32(int[i])));
    }
    chains
}

/// Reads every byte once, with a prefetch far enough ahead.
#[inline(always)]
pub(crate) fn read<S: Simd>(s: S, bytes: &[u8]) {
    const AHEAD: usize = 8 << 10;
    let mut sum = [s.splat_cell(0); 4];
    for line in bytes.chunks_exact(4 * VECTOR_BYTES) {
        for i in 0..4 {
            // SAFETY: a line has four vectors.
            let v = unsafe { s.load_bytes(line.as_ptr().add(i * VECTOR_BYTES)) };
            s.prefetch(line.as_ptr().wrapping_add(i * VECTOR_BYTES + AHEAD));
            sum[i] = s.xor(sum[i], v);
        }
    }
    let mut out = [0; VECTOR_BYTES];
    for i in 0..4 {
        // SAFETY: 64 bytes.
        unsafe { s.store_bytes(out.as_mut_ptr(), sum[i]) };
        black_box(out);
    }
}

impl Kernels {
    /// Multiplies and adds in registers and returns how many operations that were (a multiply-add is two): on the
    /// calling thread, about `about` of them; a CPU with few registers does fewer.
    ///
    /// ```
    /// use gable_kernels::probe::Product;
    /// assert!(gable_kernels::Kernels::best().multiply_registers(Product::F32, 1000) > 0);
    /// ```
    pub fn multiply_registers(self, product: Product, about: u64) -> u64 {
        let cell = match product {
            Product::F32 => 1,
            Product::Bf16 => 2,
            Product::Int8 => 4,
        };
        let per_product = (LANES * 2 * cell) as u64;
        let rounds = about.div_ceil(per_product);
        let in_turn = usize::try_from(rounds).unwrap_or(usize::MAX).div_ceil(CHAINS);
        let chains = self.table.probe_multiply(product, in_turn);
        (in_turn * chains) as u64 * per_product
    }

    /// Reads memory and does nothing with it: on the calling thread, whole multiples of 256 bytes.
    pub fn read_memory(self, bytes: &[u8]) {
        self.table.probe_read(bytes);
    }
}
