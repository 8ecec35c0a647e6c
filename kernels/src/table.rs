//! Dispatch as data: the only place where algorithms meet `#[target_feature]`.
//!
//! [`operations`] lists every leaf once. [`kernel_table`] stamps out one instruction set: a wrapper per leaf that
//! carries the features, a `cpu_has` test generated from the same feature list, and a static [`KernelTable`] of
//! function pointers. If a feature is left out of a table's line, the token's constructor is no longer callable
//! there and the crate does not compile.
//!
//! A table can be called only by way of [`Kernels`](crate::isa::Kernels), which hands out a table after its
//! `cpu_has` said yes. That is the proof behind every `unsafe` in this file.

#![allow(unsafe_code)]

use crate::isa::Isa;
use crate::simd::*;

/// Every leaf: what it is called with, and the generic function that it instantiates. Tile shapes come last.
macro_rules! operations {
    ($consumer:ident!($($head:tt)*)) => {
        $consumer! { $($head)* {
            fn softmax_row(row: &mut [f32]) = crate::softmax::row;
        } }
    };
}

macro_rules! declare_table {
    ({ $(fn $op:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $leaf:path;)* }) => {
        /// One instruction set's kernels.
        pub(crate) struct KernelTable {
            /// Which instruction set.
            pub(crate) isa: Isa,
            /// Whether this CPU (and its operating system) has every feature the wrappers were compiled with.
            pub(crate) cpu_has: fn() -> bool,
            $($op: unsafe fn($($ty),*) $(-> $ret)?,)*
        }

        impl KernelTable {
            $(
                #[inline]
                pub(crate) fn $op(&self, $($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: tables are handed out only where `cpu_has()` held (see the head of this file).
                    unsafe { (self.$op)($($arg),*) }
                }
            )*

            /// Names of the table's kernels, for the tables that people read.
            pub(crate) const OPERATIONS: &'static [&'static str] = &[$(stringify!($op)),*];
        }
    };
}
operations!(declare_table!());

macro_rules! fill_table {
    ($NAME:ident, $isa:ident, $Token:ty, $features:tt, $cpu_has:expr,
        { $(fn $op:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $leaf:path;)* }) => {
        pub(crate) static $NAME: KernelTable = {
            $(
                #$features
                fn $op($($arg: $ty),*) $(-> $ret)? {
                    $leaf(<$Token>::new(), $($arg),*)
                }
            )*
            KernelTable { isa: Isa::$isa, cpu_has: $cpu_has, $($op,)* }
        };
    };
}

/// One line per instruction set.
macro_rules! kernel_table {
    ($NAME:ident: $Token:ident, []) => {
        operations!(fill_table!($NAME, $Token, $Token, [inline(never)], || true,));
    };
    ($NAME:ident: $Token:ident, [$($feature:tt),+]) => {
        operations!(fill_table!($NAME, $Token, $Token, [target_feature($(enable = $feature),+)],
            || true $(&& std::arch::is_x86_feature_detected!($feature))+,));
    };
}

kernel_table!(PORTABLE: Portable, []);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX2: Avx2, ["avx2", "fma", "f16c"]);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX2_VNNI: Avx2Vnni, ["avx2", "fma", "f16c", "avxvnni"]);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX512: Avx512, ["avx512f", "avx512bw", "avx512dq", "avx512vl"]);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX512_VNNI: Avx512Vnni, ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"]);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX512_BF16: Avx512Bf16,
    ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512bf16", "avx512vbmi"]);

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
    &PORTABLE,
];
