//! Random problems from a seed.

use crate::quant::Format;
use half::{bf16, f16};

/// A linear congruential generator: the same numbers on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// 32 random bits.
    pub(crate) fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// A random byte.
    pub(crate) fn byte(&mut self) -> u8 {
        (self.bits() >> 24) as u8
    }

    /// Uniform in [-1, 1).
    pub(crate) fn float(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / 8_388_608.0 - 1.0
    }

    /// Uniform in [-1, 1), `n` of them.
    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Rows of `cols` values of a format with finite scales. Extreme ones consist of the ends of the integer ranges.
    pub(crate) fn weights(&mut self, format: Format, rows: usize, cols: usize, extreme: bool) -> Vec<u8> {
        let n = rows * (cols / format.block_len()) * format.block_bytes();
        let ends = [0, 0x7f, 0x80, 0xff];
        let mut bytes: Vec<u8> =
            (0..n).map(|_| if extreme { ends[self.bits() as usize >> 30] } else { self.byte() }).collect();
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            for at in format.scale_offsets() {
                block[*at..at + 2].copy_from_slice(&f16::from_f32(self.float() / 16.0).to_le_bytes());
            }
            match format {
                Format::F32 => block.copy_from_slice(&self.float().to_le_bytes()),
                Format::F16 => block.copy_from_slice(&f16::from_f32(self.float()).to_le_bytes()),
                Format::BF16 => block.copy_from_slice(&bf16::from_f32(self.float()).to_le_bytes()),
                _ => {}
            }
        }
        bytes
    }
}
