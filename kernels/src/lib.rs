//! Transformer kernels.
#![deny(unsafe_code)]
// Loops over lanes and tiles have constant bounds and unroll; iterators in their place may not melt into registers.
#![allow(clippy::needless_range_loop)]

pub mod activation;
pub mod attention;
mod convert;
pub mod dense;
pub mod error;
pub mod gemm;
pub mod isa;
pub mod largest;
mod math;
pub mod matrix;
#[allow(unsafe_code)] // owns what the allocator gives
pub mod memory;
mod mutant;
mod norm;
#[allow(unsafe_code)] // lends a caller's closure to the workers for the time of one call
pub mod pool;
mod pooling;
mod probe;
pub mod quant;
pub mod reference;
pub mod rope;
mod rowwise;
pub mod selfcheck;
mod simd;
pub mod softmax;
mod table;

pub use attention::{AttentionParams, AttentionScratch, KvCache, Mask};
pub use error::KernelError;
pub use isa::{Isa, Kernels};
pub use matrix::{MatMut, MatRef};
pub use pool::{ParallelFor, Pool, Team};
pub use probe::{ProbeKind, ProbeLoop, ProbeOrder, ProbeWalk};
pub use table::Tiles;
