//! Looking for values that no model survives.

use crate::tensor_table::TensorInfo;
use gable_kernels::quant::Format;
use half::{bf16, f16};
use std::fmt;

/// A NaN or infinity in a tensor: a plain value, or a scale that makes a whole block so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite {
    /// The first row that has one.
    pub row: usize,
    /// The first column of its block, or its own.
    pub col: usize,
    /// What it is.
    pub value: &'static str,
    /// Whether it is a scale (or minimum) of a block.
    pub is_scale: bool,
    /// How many there are in the tensor.
    pub count: usize,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_scale { "scale of the block" } else { "value" };
        write!(f, "row {}, {what} at column {} is {}", self.row, self.col, self.value)?;
        if self.count > 1 { write!(f, " ({} such in all)", self.count) } else { Ok(()) }
    }
}

/// Looks through a tensor's bytes. Of blocks only the scales are read: with finite scales, every value is finite.
pub fn not_finite(tensor: &TensorInfo, bytes: &[u8]) -> Option<NotFinite> {
    let format = tensor.format;
    let mut found: Option<NotFinite> = None;
    for (i, block) in bytes.chunks_exact(format.block_bytes()).enumerate() {
        let bad = match (format, block) {
            (Format::F32, &[a, b, c, d]) => name_of(f32::from_le_bytes([a, b, c, d])),
            (Format::BF16, &[a, b]) => name_of(bf16::from_le_bytes([a, b]).to_f32()),
            (Format::F16, &[a, b]) => name_of(f16::from_le_bytes([a, b]).to_f32()),
            _ => format.scale_offsets().iter().find_map(|at| match block.get(*at..) {
                Some(&[a, b, ..]) => name_of(f16::from_le_bytes([a, b]).to_f32()),
                _ => None,
            }),
        };
        let Some(value) = bad else { continue };
        if let Some(found) = &mut found {
            found.count = found.count.saturating_add(1);
            continue;
        }
        let first = i.saturating_mul(format.block_len());
        let cols = tensor.dims.cols().max(1);
        let (row, col) = (first / cols, first % cols);
        found = Some(NotFinite { row, col, value, is_scale: format.is_block_quantized(), count: 1 });
    }
    found
}

fn name_of(x: f32) -> Option<&'static str> {
    match x {
        x if x.is_finite() => None,
        x if x.is_nan() => Some("NaN"),
        x if x > 0.0 => Some("infinity"),
        _ => Some("-infinity"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_table::Dims;

    fn find(format: Format, cols: usize, bytes: &[u8]) -> Option<NotFinite> {
        let rows = bytes.len() / format.row_bytes(cols).unwrap();
        let dims = Dims::new(&[cols as u64, rows as u64]).unwrap();
        not_finite(
            &TensorInfo { name: "t".into(), dims, format, shard: 0, offset: 0, n_bytes: bytes.len() },
            bytes,
        )
    }

    #[test]
    fn every_scale_of_every_format_is_looked_at() {
        for format in Format::ALL {
            let cols = format.block_len() * 2;
            let clean = vec![0x11; 3 * format.row_bytes(cols).unwrap()];
            assert_eq!(find(format, cols, &clean), None, "{format}");
            let offsets = format.scale_offsets();
            for at in offsets {
                let mut bytes = clean.clone();
                let block = 3 * format.block_bytes() + at;
                bytes[block..block + 2].copy_from_slice(&0x7e00_u16.to_le_bytes());
                let bad = find(format, cols, &bytes).unwrap();
                assert_eq!((bad.row, bad.col, bad.value), (1, format.block_len(), "NaN"), "{format}");
                assert!(bad.is_scale && bad.count == 1);
            }
            assert!(format.is_block_quantized() != offsets.is_empty());
        }
    }

    #[test]
    fn plain_values_are_named_by_row_and_column() {
        let values = [1.0, 2.0, 3.0, f32::NEG_INFINITY, f32::NAN, 0.0];
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let text = find(Format::F32, 3, &bytes).unwrap().to_string();
        assert_eq!(text, "row 1, value at column 0 is -infinity (2 such in all)");
        let bytes: Vec<u8> = [0x3f80_u16, 0x7f80].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(find(Format::BF16, 1, &bytes).unwrap().value, "infinity");
        assert_eq!(find(Format::F16, 1, &[0, 0x7c]).unwrap().value, "infinity");
    }
}
