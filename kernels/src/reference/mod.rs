//! The specification: every operation as naive loops with f64 accumulators, never optimised.
//!
//! Tests compare every kernel on every instruction set with these. Where rounding matters, a function also returns
//! the magnitude `sum |a b|` that error bounds are scaled with.

#![forbid(unsafe_code)]

pub mod attention;
pub mod dense;
pub mod int4;
pub mod matmul;
pub mod quant;
pub mod rowwise;
