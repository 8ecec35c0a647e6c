//! Transformer kernels.
#![deny(unsafe_code)]

pub mod error;
pub mod isa;
pub mod quant;

pub use error::KernelError;
