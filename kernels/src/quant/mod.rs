//! Quantized matrices: the block formats of weight files, and the int8 groups that activations become.

mod activations;
pub(crate) mod blocks;
mod format;
mod forms;
mod groups;
pub mod int4;
mod int8_row;
mod prepare;
mod quantize;
mod rows;
mod weights;

pub use activations::Activations;
pub use format::Format;
pub use forms::{Forms, Remainder};
pub use quantize::quantize_weights;
pub use weights::QuantWeights;

pub(crate) use groups::{FINER_BITS, GROUP, Groups, factor_at, half_group_at};
pub(crate) use int8_row::{QuantizedRow, quantize_remainder, quantize_row};
pub(crate) use prepare::to_bf16_row;
pub(crate) use rows::{dequantize_row, embed};
