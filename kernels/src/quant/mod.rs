//! Quantized matrices: the block formats of weight files, and the int8 groups that activations become.

mod activations;
pub(crate) mod blocks;
mod format;
mod quantize;
mod rows;
mod weights;

pub use activations::{Activations, Forms, Remainder};
pub use format::Format;
pub use quantize::quantize_weights;
pub use weights::QuantWeights;

pub(crate) use activations::{
    Groups, QuantizedRow, factor_at, half_group_at, quantize_remainder, quantize_row, to_bf16_row,
};
pub(crate) use rows::{dequantize_row, embed};
