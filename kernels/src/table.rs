//! Dispatch as data: the only place where algorithms meet `#[target_feature]`.
//!
//! `operations!` lists every leaf once. `kernel_table!` stamps out one instruction set: a wrapper per leaf that
//! carries the features, a `cpu_has` test generated from the same feature list, and a static [`KernelTable`] of
//! function pointers. If a feature is left out of a table's line, the token's constructor is no longer callable
//! there and the crate does not compile.
//!
//! A table can be called only by way of [`Kernels`](crate::isa::Kernels), which hands out a table after its
//! `cpu_has` said yes. That is the proof behind every `unsafe` in this file.

#![allow(unsafe_code)]

use crate::activation::Activation;
use crate::attention;
use crate::attention::leaf::{Chunk, Partial, Row, Total};
use crate::attention::pairs::{HeadPage, PageArgs};
use crate::dense::jobs::{Job as DenseJob, PackColumns, PackRows, PackedRows, UnitSums};
use crate::gemm::Job;
use crate::isa::Isa;
use crate::matrix::{MatMut, MatRef};
use crate::probe::{ProbeKind, ProbeLoop, ProbeWalk};
use crate::quant::{QuantWeights, QuantizedRow};
use crate::rope::RopePairing;
use crate::simd::vocabulary::{self, Findings};
use crate::simd::*;
use crate::softmax::{LogShift, Part};
use half::{bf16, f16};
#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected as is_feature_detected;
#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected as is_feature_detected;
use std::ops::Range;

/// Every leaf: what it is called with, and the generic function that it instantiates. Tile shapes come last.
macro_rules! operations {
    ($consumer:ident!($($head:tt)*)) => {
        $consumer! { $($head)* {
            fn exp_row(x: &mut [f32]) = crate::math::exp_row;
            fn sigmoid_row(x: &mut [f32]) = crate::math::sigmoid_row;
            fn tanh_row(x: &mut [f32]) = crate::math::tanh_row;
            fn erf_row(x: &mut [f32]) = crate::math::erf_row;
            fn softmax_rows(x: MatMut<'_>, scale: f32) = crate::softmax::rows;
            fn softmax_chunk(x: &mut [f32], scale: f32, mask: Option<&[f32]>) -> Part = crate::softmax::chunk;
            fn log_softmax_chunk(x: &mut [f32], scale: f32, mask: Option<&[f32]>) -> Part = crate::softmax::log_chunk;
            fn log_softmax_shift(x: &mut [f32], mask: Option<&[f32]>, shift: LogShift) = crate::softmax::log_shift;
            fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = crate::norm::rms_row;
            fn rms_norm_row_in_place(x: &mut [f32], weight: &[f32], eps: f32) = crate::norm::rms_row_in_place;
            fn rms_norm_row_add(x: &[f32], weight: &[f32], eps: f32, residual: &mut [f32]) = crate::norm::rms_row_add;
            fn layer_norm_row(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) = crate::norm::layer_row;
            fn l2_normalize_row(x: &mut [f32]) = crate::pooling::l2_normalize_row;
            fn rope_row(x: &mut [f32], head_dim: usize, angles: &[f32], pairing: RopePairing) = crate::rope::row;
            fn activate_row(activation: Activation, x: &mut [f32]) = crate::activation::activate_row;
            fn gated_row(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) = crate::activation::gated_row;
            fn add_row(x: &mut [f32], y: &[f32]) = crate::activation::add_row;
            fn scale_row(x: &mut [f32], factor: f32) = crate::activation::scale_row;
            fn softcap_row(x: &mut [f32], cap: f32) = crate::activation::softcap_row;
            fn f16_from_f32_row(src: &[f32], dst: &mut [u16]) = crate::convert::f16_from_f32_row;
            fn f32_from_f16_row(src: &[u16], dst: &mut [f32]) = crate::convert::f32_from_f16_row;
            fn f32_from_bf16_row(src: &[u16], dst: &mut [f32]) = crate::convert::f32_from_bf16_row;
            fn quantize_row(x: &[f32], out: &mut QuantizedRow<'_>) = crate::quant::quantize_row;
            fn quantize_remainder(x: &[f32], q: &[i8], factors: &[f32], least: f32, out: &mut QuantizedRow<'_>)
                = crate::quant::quantize_remainder;
            fn to_bf16_row(x: &[f32], out: &mut [u16]) = crate::quant::to_bf16_row;
            fn dequantize_row(weights: &QuantWeights<'_>, row: usize, out: &mut [f32]) = crate::quant::embed;
            fn decode(job: &Job<'_>, out: &mut MatMut<'_>) = crate::gemm::decode;
            fn cache_rows_f32(k: MatRef<'_>, v: MatRef<'_>, at: usize, keys: &mut [f32], values: &mut [f32])
                = attention::cache_rows;
            fn cache_rows_f16(k: MatRef<'_>, v: MatRef<'_>, at: usize, keys: &mut [f16], values: &mut [f16])
                = attention::cache_rows;
            fn cache_rows_bf16(k: MatRef<'_>, v: MatRef<'_>, at: usize, keys: &mut [bf16], values: &mut [bf16])
                = attention::cache_rows;
            fn cache_rows_q8(k: MatRef<'_>, v: MatRef<'_>, at: usize, keys: &mut [i8], values: &mut [i8])
                = attention::int8::rows;
            fn attention_chunk_f32(chunk: Chunk<'_>, rows: &[Row<'_>], partial: Partial<'_>)
                = attention::leaf::chunk_f32;
            fn attention_chunk_f16(chunk: Chunk<'_>, rows: &[Row<'_>], partial: Partial<'_>)
                = attention::leaf::chunk_f16;
            fn attention_chunk_bf16(chunk: Chunk<'_>, rows: &[Row<'_>], partial: Partial<'_>)
                = attention::leaf::chunk_bf16;
            fn attention_chunk_q8(chunk: Chunk<'_>, rows: &[Row<'_>], partial: Partial<'_>) = attention::int8::chunk;
            fn pack_page_f32(page: HeadPage<'_, f32>, keys: &mut [f32], values: &mut [f32]) = attention::pairs::pack;
            fn pack_page_f16(page: HeadPage<'_, f16>, keys: &mut [f32], values: &mut [f32]) = attention::pairs::pack;
            fn pack_page_bf16(page: HeadPage<'_, bf16>, keys: &mut [f32], values: &mut [f32]) = attention::pairs::pack;
            fn attention_page(args: PageArgs<'_>, rows: &[Row<'_>], partial: &mut Partial<'_>) = attention::pairs::page;
            fn attention_merge(total: &mut Option<Total>, output: &mut [f32], chunk: Total, partial: &[f32])
                = attention::leaf::merge;
            fn attention_finish(total: Total, output: &[f32], out: &mut [f32]) = attention::leaf::finish;
            fn attention_weights(total: Total, scores: &mut [f32]) = attention::leaf::weights;
            fn pack_rows(job: &PackRows<'_>, rows: Range<usize>, out: PackedRows) = crate::dense::pack_rows;
            fn pack_columns(job: &PackColumns<'_>, panel: usize, out: &mut [u8]) = crate::dense::pack_columns;
            fn dense_store(job: &DenseJob<'_>, unit: &UnitSums<'_>, rows: Range<usize>, cols: Range<usize>) = crate::dense::dense_store;
            fn probe_arithmetic(kind: ProbeKind, which: ProbeLoop, rounds: usize) -> usize = crate::probe::arithmetic;
            fn probe_read(bytes: &[u8], walk: ProbeWalk) = crate::probe::read;
            fn probe_copy(from: &[u8], to: &mut [u8], walk: ProbeWalk) = crate::probe::copy;
            fn probe_join(a: &[u8], b: &[u8], to: &mut [u8], walk: ProbeWalk) = crate::probe::join;
            fn probe_update(bytes: &mut [u8], walk: ProbeWalk) = crate::probe::update;
        } }
    };
}

/// Shapes of a table's register tiles: rows of activations times vectors of 16 weight rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// `MR x NV` for f32 and bf16.
    pub cells: (usize, usize),
    /// `MR x NV` for int8, where integer and float accumulators share the registers.
    pub int8: (usize, usize),
}

macro_rules! declare_table {
    ({ $(fn $op:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $leaf:path;)* }) => {
        /// One instruction set's kernels.
        pub(crate) struct KernelTable {
            /// Which instruction set.
            pub(crate) isa: Isa,
            /// Whether this CPU (and its operating system) has every feature the wrappers were compiled with.
            pub(crate) cpu_has: fn() -> bool,
            /// Register tiles of the prompt leaf.
            pub(crate) tiles: Tiles,
            /// Whether dot products of bf16 are instructions.
            pub(crate) multiplies_bf16: bool,
            /// Whether [`Simd::dot_u8i8`] is exact for all bytes.
            pub(crate) exact_u8: bool,
            prompt: unsafe fn(&Job<'_>, &mut MatMut<'_>),
            dense: unsafe fn(&DenseJob<'_>, Range<usize>, usize, &mut [u32]),
            vocabulary: unsafe fn(&mut Findings),
            $($op: unsafe fn($($ty),*) $(-> $ret)?,)*
        }

        impl KernelTable {
            #[inline]
            pub(crate) fn prompt(&self, job: &Job<'_>, out: &mut MatMut<'_>) {
                // SAFETY: as for every operation below.
                unsafe { (self.prompt)(job, out) }
            }

            #[inline]
            pub(crate) fn dense(&self, job: &DenseJob<'_>, rows: Range<usize>, panel: usize, scratch: &mut [u32]) {
                // SAFETY: as for every operation below.
                unsafe { (self.dense)(job, rows, panel, scratch) }
            }

            /// Compares the token's operations with their definitions: a check, not a kernel.
            pub(crate) fn vocabulary(&self, findings: &mut Findings) {
                // SAFETY: as for every operation below.
                unsafe { (self.vocabulary)(findings) }
            }
            $(
                #[inline]
                pub(crate) fn $op(&self, $($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: tables are handed out only where `cpu_has()` held (see the head of this file).
                    unsafe { (self.$op)($($arg),*) }
                }
            )*

            /// Names of the table's kernels, for the tables that people read.
            pub(crate) const OPERATIONS: &'static [&'static str] = &["prompt", "dense" $(, stringify!($op))*];
        }
    };
}
operations!(declare_table!());

macro_rules! fill_table {
    ($NAME:ident, $isa:ident, $Token:ty, $features:tt, $cpu_has:expr, [$($tile:literal),*],
        { $(fn $op:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $leaf:path;)* }) => {
        pub(crate) static $NAME: KernelTable = {
            $(
                #$features
                fn $op($($arg: $ty),*) $(-> $ret)? {
                    $leaf(<$Token>::new(), $($arg),*)
                }
            )*
            #$features
            fn prompt(job: &Job<'_>, out: &mut MatMut<'_>) {
                crate::gemm::prompt::<$Token, $($tile),*>(<$Token>::new(), job, out)
            }
            #$features
            fn dense(job: &DenseJob<'_>, rows: Range<usize>, panel: usize, scratch: &mut [u32]) {
                const TILES: [usize; 4] = [$($tile),*];
                crate::dense::dense::<$Token, { TILES[0] }, { TILES[1] }>(<$Token>::new(), job, rows, panel, scratch)
            }
            #$features
            fn vocabulary(findings: &mut Findings) {
                vocabulary::check(<$Token>::new(), findings)
            }
            const TILES: [usize; 4] = [$($tile),*];
            KernelTable {
                isa: Isa::$isa,
                cpu_has: $cpu_has,
                tiles: Tiles { cells: (TILES[0], TILES[1]), int8: (TILES[2], TILES[3]) },
                multiplies_bf16: <$Token as Simd>::HAS_BF16,
                exact_u8: <$Token as Simd>::DOT_U8_MAX == u8::MAX,
                prompt,
                dense,
                vocabulary,
                $($op,)*
            }
        };
    };
}

/// One line per instruction set: token, features, and the tiles `MR x NV` for floats and for int8.
macro_rules! kernel_table {
    ($NAME:ident: $Token:ident, [], $mr:literal x $nv:literal, int8 $qmr:literal x $qnv:literal) => {
        operations!(fill_table!($NAME, $Token, $Token, [inline(never)], || true, [$mr, $nv, $qmr, $qnv],));
    };
    ($NAME:ident: $Token:ident, [$($feature:tt),+], $mr:literal x $nv:literal, int8 $qmr:literal x $qnv:literal) => {
        operations!(fill_table!($NAME, $Token, $Token, [target_feature($(enable = $feature),+)],
            || true $(&& is_feature_detected!($feature))+, [$mr, $nv, $qmr, $qnv],));
    };
}

kernel_table!(PORTABLE: Portable, [], 2 x 1, int8 2 x 1);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX2: Avx2, ["avx2", "fma", "f16c"], 6 x 1, int8 5 x 1);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX2_VNNI: Avx2Vnni, ["avx2", "fma", "f16c", "avxvnni"], 6 x 1, int8 3 x 1);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX512: Avx512, ["avx512f", "avx512bw", "avx512dq", "avx512vl"], 6 x 4, int8 5 x 2);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX512_VNNI: Avx512Vnni, ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"],
    6 x 4, int8 6 x 2);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX512_BF16: Avx512Bf16,
    ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512bf16", "avx512vbmi"],
    6 x 4, int8 6 x 2);
#[cfg(target_arch = "aarch64")]
kernel_table!(NEON: Neon, ["neon", "dotprod"], 6 x 1, int8 3 x 1);

/// Every table of this build, best first.
pub(crate) static TABLES: &[&KernelTable] = &[
    #[cfg(target_arch = "x86_64")]
    &AVX512_BF16,
    #[cfg(target_arch = "x86_64")]
    &AVX512_VNNI,
    #[cfg(target_arch = "x86_64")]
    &AVX512,
    #[cfg(target_arch = "x86_64")]
    &AVX2_VNNI,
    #[cfg(target_arch = "x86_64")]
    &AVX2,
    #[cfg(target_arch = "aarch64")]
    &NEON,
    &PORTABLE,
];
