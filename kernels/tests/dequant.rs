//! Block layouts against an independent witness: `data/dequant/` (see `data/README.md`).

use gable_kernels::Kernels;
use gable_kernels::quant::{Format, QuantWeights};
use std::path::{Path, PathBuf};

const BLOCKS: usize = 8;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dequant").join(name)
}

#[test]
fn every_block_format_decodes_to_the_bits_of_an_independent_decoder() {
    for format in Format::ALL.into_iter().filter(|f| f.is_block_quantized()) {
        let blocks = std::fs::read(data(&format!("{format}.blocks"))).unwrap();
        let values = std::fs::read(data(&format!("{format}.f32"))).unwrap();
        let want: Vec<f32> =
            values.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(want.len(), BLOCKS * format.block_len(), "{format}");
        let weights = QuantWeights::from_bytes(format, 1, want.len(), blocks.len(), &blocks).unwrap();
        for kernels in Kernels::every_available() {
            let mut got = vec![f32::NAN; want.len()];
            kernels.dequantize_row(&weights, 0, &mut got).unwrap();
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                // Equal as numbers: the sign of a zero depends on how its formula is written.
                assert!(g == w, "{format} on {}: value {i} is {g}, the witness has {w}", kernels.isa());
            }
        }
    }
}
