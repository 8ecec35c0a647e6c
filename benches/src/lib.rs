//! What the benches share: layer shapes, candidates, timing, and how scripts are served.

pub mod attention;
pub mod dense;
pub mod layers;
pub mod options;
pub mod rowwise;
pub mod rten;
pub mod serve;
pub mod timing;

use gable_kernels::quant::Format;

/// A weight matrix of a real model.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    /// `model/matrix`
    pub name: &'static str,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Matrices of the models that the figures are given for.
pub const LAYERS: &[Layer] = &[
    Layer { name: "smollm2/ffn_up", n: 1536, k: 576 },
    Layer { name: "smollm2/ffn_down", n: 576, k: 1536 },
    Layer { name: "gemma3-270m/ffn_down", n: 640, k: 2048 },
    Layer { name: "qwen-1.5b/ffn_up", n: 8960, k: 1536 },
];

/// Bytes of a matrix with small scales: what the values are does not change the speed.
pub fn weight_bytes(format: Format, n: usize, k: usize) -> Vec<u8> {
    let row = format.row_bytes(k).unwrap_or(0);
    let mut state = 1_u32;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(n * row)
    .collect();
    // The f16 scales of a block, set to 2^-8.
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for at in format.scale_offsets() {
            block[*at..at + 2].copy_from_slice(&0x1c00_u16.to_le_bytes());
        }
    }
    bytes
}
