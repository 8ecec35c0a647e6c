//! The register tiles: `MR` rows of activations times `16 NV` weight rows.
//!
//! Weights are the vector dimension: a panel holds, for every *cell* of k (1 f32, 2 bf16 or 4 int8), the cells of
//! `NR = 16 NV` weight rows side by side, so one load feeds `16` outputs and the activation's cell is broadcast
//! from its own row. No shuffle, no horizontal sum, and C is written along its rows.
//!
//! ```text
//! panel, [cells][NR]:   k = 0: w00 w10 w20 ...    A row i: a0 a1 a2 ...       acc[i][v] += a_k * panel[k][v]
//!                       k = 1: w01 w11 w21 ...
//! ```
//!
//! `MR x NV` is the table's choice: accumulators, one row of the panel and a broadcast must fit the registers.

#![allow(unsafe_code)]

use crate::mutant::mutant;
use crate::quant::blocks::SPAN;
use crate::quant::{factor_at, half_group_at};
use crate::simd::{LANES, Simd};

/// The largest MR of any table.
pub(crate) const MAX_MR: usize = 6;

/// What a cell of activations, 32 bits, is multiplied with, and how: the one thing in which the plain tiles differ.
pub(crate) trait Cell<S: Simd> {
    /// 16 sums.
    type Sum: Copy;
    /// 16 weight rows' cells, ready to be multiplied.
    type Weights: Copy;
    /// A cell of activations in every lane.
    type X: Copy;
    /// Bytes that a weight row's cell takes in a panel.
    const BYTES: usize = 4;
    /// All lanes zero.
    fn zero(s: S) -> Self::Sum;
    /// # Safety
    /// `p` must be readable for 16 sums.
    unsafe fn load(s: S, p: *const f32) -> Self::Sum;
    /// # Safety
    /// `p` must be writable for 16 sums.
    unsafe fn store(s: S, p: *mut f32, sum: Self::Sum);
    /// # Safety
    /// `p` must be readable for `16 BYTES`.
    unsafe fn weights(s: S, p: *const u8) -> Self::Weights;
    fn spread(s: S, cell: u32) -> Self::X;
    /// `sum + w x`, cell by cell.
    fn step(s: S, sum: Self::Sum, w: Self::Weights, x: Self::X) -> Self::Sum;
}

/// Defines a kind of cell: type of the sums, of the loaded weights and of the spread activations, bytes in the panel.
macro_rules! cell {
    ($(#[$doc:meta])* $Name:ident: $Sum:ident, $W:ident, $X:ident, $bytes:literal, $zero:ident, $load:ident, $store:ident,
        |$s:ident, $p:ident| $weights:expr, |$t:ident, $cell:ident| $spread:expr, |$u:ident, $sum:ident, $w:ident, $x:ident| $step:expr) => {
        $(#[$doc])*
        pub(crate) struct $Name;

        impl<S: Simd> Cell<S> for $Name {
            type Sum = S::$Sum;
            type Weights = S::$W;
            type X = S::$X;
            const BYTES: usize = $bytes;
            #[inline(always)]
            fn zero(s: S) -> Self::Sum {
                s.$zero(Default::default())
            }
            #[inline(always)]
            unsafe fn load(s: S, p: *const f32) -> Self::Sum {
                // SAFETY: the caller's promise.
                unsafe { s.$load(p.cast()) }
            }
            #[inline(always)]
            unsafe fn store(s: S, p: *mut f32, sum: Self::Sum) {
                // SAFETY: the caller's promise.
                unsafe { s.$store(p.cast(), sum) }
            }
            #[inline(always)]
            unsafe fn weights($s: S, $p: *const u8) -> Self::Weights {
                // SAFETY: the caller's promise.
                unsafe { $weights }
            }
            #[inline(always)]
            fn spread($t: S, $cell: u32) -> Self::X {
                $spread
            }
            #[inline(always)]
            fn step($u: S, $sum: Self::Sum, $w: Self::Weights, $x: Self::X) -> Self::Sum {
                $step
            }
        }
    };
}

cell!(
    /// One f32.
    F32: F32, F32, F32, 4, splat, load, store,
    |s, p| s.load(p.cast()), |s, cell| s.splat(f32::from_bits(cell)), |s, sum, w, x| s.mul_add(w, x, sum)
);
cell!(
    /// One f16, widened when it is loaded, times one f32.
    F16: F32, F32, F32, 2, splat, load, store,
    |s, p| s.load_f16(p.cast()), |s, cell| s.splat(f32::from_bits(cell)), |s, sum, w, x| s.mul_add(w, x, sum)
);
cell!(
    /// Two bf16.
    Bf16: F32, Bytes, Bytes, 4, splat, load, store,
    |s, p| s.load_bytes(p), |s, cell| s.splat_cell(cell), |s, sum, w, x| s.dot_bf16(sum, w, x)
);
cell!(
    /// Four u8 of weights, four i8 of activations.
    U8: I32, Bytes, Bytes, 4, splat_i32, load_i32, store_i32,
    |s, p| s.load_bytes(p), |s, cell| s.splat_cell(cell), |s, sum, w, x| s.dot_u8i8(sum, w, x)
);
cell!(
    /// The same, as pair sums that somebody else widens in time.
    U8Pairs: I32, Bytes, Bytes, 4, splat_i32, load_i32, store_i32,
    |s, p| s.load_bytes(p), |s, cell| s.splat_cell(cell), |s, sum, w, x| s.add_pairs(sum, w, x)
);
cell!(
    /// Two i16.
    I16: I32, Bytes, Bytes, 4, splat_i32, load_i32, store_i32,
    |s, p| s.load_bytes(p), |s, cell| s.splat_cell(cell), |s, sum, w, x| s.dot_i16(sum, w, x)
);

/// A panel of cells.
#[derive(Clone, Copy)]
pub(crate) struct CellPanel {
    /// `[cells][NR]`
    pub(crate) cells: *const u8,
    pub(crate) len: usize,
}

/// A tile's outputs: `MR` rows of `NR` f32 (or i32, where the cells' sums are).
#[derive(Clone, Copy)]
pub(crate) struct TileC {
    /// What the products are added to: the outputs themselves, or one row for all (stride 0).
    pub(crate) start: *const f32,
    pub(crate) start_stride: usize,
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
}

/// Rows up to which a tile waits for the panel's memory and not for arithmetic, and asks for it early.
const FEW_ROWS: usize = 2;

/// `c[i][..] = start[i][..] + sum_k a[i][k] panel[k][..]` for `MR` rows; each output is one chain over k.
///
/// # Safety
/// `panel` must hold `len * 16 NV` cells, `a` `MR` rows of `len` cells at `a_stride`, `tile` `MR` rows of `16 NV` sums.
#[inline(always)]
pub(crate) unsafe fn tile_cells<S: Simd, C: Cell<S>, const MR: usize, const NV: usize>(
    s: S,
    panel: CellPanel,
    a: *const u32,
    a_stride: usize,
    tile: TileC,
) {
    // SAFETY: all offsets are below the extents that the caller promised; a prefetch may point anywhere.
    unsafe {
        let mut acc = [[C::zero(s); NV]; MR];
        for i in 0..MR {
            for v in 0..NV {
                acc[i][v] = C::load(s, tile.start.add(i * tile.start_stride + v * LANES));
            }
        }
        let mut w_at = panel.cells;
        for k in 0..panel.len {
            let mut w = [C::weights(s, w_at); NV];
            for v in 0..NV {
                w[v] = C::weights(s, w_at.add(v * LANES * C::BYTES));
            }
            if MR <= FEW_ROWS {
                s.read_ahead(w_at, NV * LANES * C::BYTES);
            }
            for i in 0..MR {
                let x = C::spread(s, a.add(i * a_stride + k).read_unaligned());
                for v in 0..NV {
                    acc[i][v] = C::step(s, acc[i][v], w[v], x);
                }
            }
            w_at = w_at.add(NV * LANES * C::BYTES);
        }
        for i in 0..MR {
            for v in 0..NV {
                C::store(s, tile.c.add(i * tile.ldc + v * LANES), acc[i][v]);
            }
        }
    }
}

/// A panel of int8 cells with the scales (and minima) of its sub-blocks.
#[derive(Clone, Copy)]
pub(crate) struct Int8Panel {
    /// `[subs][SUB / 4][NR]` cells of 4 bytes; where signed ones are [split](Simd::split_i8), `[subs][SUB / 4][NV][2][16]`.
    pub(crate) cells: *const u8,
    /// `[subs][NR]`
    pub(crate) scale: *const f32,
    /// `[subs][NR]`, read only where the format has minima.
    pub(crate) min: *const f32,
    /// `[subs][NR]`, read only where cells are split: what the products of the two parts lack.
    pub(crate) negative: *const i32,
    /// The sub-blocks to be multiplied.
    pub(crate) first: usize,
    pub(crate) subs: usize,
    /// Cells per half group: 4, hidden from the optimiser. Unrolled, the loads of all cells move to the front, and
    /// accumulators are spilled.
    pub(crate) cells_per_half: usize,
    /// What was added to every integer, and is taken off by way of the group sums.
    pub(crate) offset: i32,
}

/// `MR` rows of int8 groups, at the stripe of the panel's first group.
#[derive(Clone, Copy)]
pub(crate) struct Int8Rows {
    pub(crate) q: *const i8,
    pub(crate) q_stride: usize,
    /// Scales and scaled sums: see [`factor_at`]. Rows are `2 group_stride` apart.
    pub(crate) factors: *const f32,
    pub(crate) sum: *const i32,
    pub(crate) group_stride: usize,
}

/// What is known of a block format when its tile is compiled.
pub(crate) trait TileKind {
    /// Values per scale.
    const SUB: usize;
    /// The largest of the panel's bytes.
    const MAX: u8;
    /// Whether minima are added.
    const HAS_MIN: bool;
    /// Whether the panel's bytes are signed.
    const SIGNED: bool;
    /// Whether they are [split](Simd::split_i8).
    const SPLIT: bool;
    /// Vectors that 16 cells take.
    const PARTS: usize = if Self::SPLIT { 2 } else { 1 };
}

/// Cells of a sub-block whose products may be added before they are widened: all of them, or else a half group's four, or two.
pub(crate) const fn pair_steps<S: Simd, K: TileKind>() -> usize {
    let most = S::PAIR_MAX / (2 * 127 * K::MAX as u32);
    if K::SIGNED || most as usize >= K::SUB / 4 {
        K::SUB / 4
    } else if most >= 4 {
        4
    } else {
        2
    }
}

/// `c[i][..] = start[i][..] + sum over sub-blocks of scale_a scale_w (integer dot product) + scaled_sum_a min_w`. The integer part is
/// exact; each output is one f32 chain over sub-blocks.
///
/// Where the registers do not hold the sums beside the integers, they stay in C, which is touched once per sub-block: more rows
/// then share the panel's loads.
///
/// # Safety
/// `panel` must hold its sub-blocks for `16 NV` weight rows, `a` `MR` rows of as many groups of `SUB` values, `tile` `MR`
/// rows of `16 NV` f32.
#[inline(always)]
pub(crate) unsafe fn tile_int8<S: Simd, K: TileKind, const MR: usize, const NV: usize>(
    s: S,
    panel: Int8Panel,
    a: Int8Rows,
    tile: TileC,
) {
    let nr = NV * LANES;
    let vector_bytes = K::PARTS * 64;
    let steps = pair_steps::<S, K>();
    // The sums of two cells are widened inside the loop over cells, those of more around it.
    let at_once = if steps == 2 { 2 } else { 1 };
    let in_registers = 2 * MR * NV + NV < S::REGISTERS;
    // SAFETY: all offsets are below the extents that the caller promised.
    unsafe {
        let mut sum = [[s.splat(0.0); NV]; MR];
        for i in 0..MR {
            for v in 0..NV {
                sum[i][v] = s.load(tile.start.add(i * tile.start_stride + v * LANES));
                if !in_registers {
                    s.store(tile.c.add(i * tile.ldc + v * LANES), sum[i][v]);
                }
            }
        }
        let mut w_at = panel.cells.add(panel.first * K::SUB / 4 * NV * vector_bytes);
        for sub in panel.first..panel.first + panel.subs {
            let mut acc = [[s.splat_i32(0); NV]; MR];
            if K::SPLIT && !mutant("part of negative weights left out") {
                for v in 0..NV {
                    let negative = s.load_i32(panel.negative.add(sub * nr + v * LANES));
                    for i in 0..MR {
                        acc[i][v] = negative;
                    }
                }
            }
            if !K::SIGNED {
                for i in 0..MR {
                    // The sum of a row that holds a NaN is any number; its scale is NaN.
                    let sum = *a.sum.add(i * a.group_stride + sub);
                    let correction = s.splat_i32(sum.wrapping_mul(-panel.offset));
                    for v in 0..NV {
                        acc[i][v] = correction;
                    }
                }
            }
            let mut pairs = acc;
            for first in (0..K::SUB / 4).step_by(4) {
                let half = sub * (K::SUB / 16) + first / 4;
                let mut q_at = a.q.add(half_group_at(half / 2, half % 2));
                if at_once == 1 && first % steps == 0 {
                    for i in 0..MR {
                        for v in 0..NV {
                            pairs[i][v] = begin::<S, K>(s, acc[i][v]);
                        }
                    }
                }
                for _ in 0..panel.cells_per_half / at_once {
                    let mut w = [[[s.splat_cell(0); 2]; NV]; 2];
                    for cell in 0..at_once {
                        for v in 0..NV {
                            let w_at = w_at.add((cell * NV + v) * vector_bytes);
                            w[cell][v] = [s.load_bytes(w_at), s.load_bytes(w_at.add(vector_bytes - 64))];
                        }
                    }
                    w_at = w_at.add(at_once * NV * vector_bytes);
                    for i in 0..MR {
                        let mut q = [s.splat_cell(0); 2];
                        for cell in 0..at_once {
                            let q_at = q_at.add(i * a.q_stride + 4 * cell);
                            q[cell] = s.splat_cell(q_at.cast::<u32>().read_unaligned());
                        }
                        for v in 0..NV {
                            if at_once > 1 {
                                pairs[i][v] = begin::<S, K>(s, acc[i][v]);
                            }
                            for cell in 0..at_once {
                                pairs[i][v] = if K::SIGNED {
                                    s.dot_split(pairs[i][v], w[cell][v], q[cell])
                                } else {
                                    s.add_pairs(pairs[i][v], w[cell][v][0], q[cell])
                                };
                            }
                            if at_once > 1 {
                                acc[i][v] = end::<S, K>(s, acc[i][v], pairs[i][v]);
                            }
                        }
                    }
                    q_at = q_at.add(4 * at_once);
                }
                if at_once == 1 && (first + 4) % steps == 0 {
                    for i in 0..MR {
                        for v in 0..NV {
                            acc[i][v] = end::<S, K>(s, acc[i][v], pairs[i][v]);
                        }
                    }
                }
            }
            let factors = a.factors.add(factor_at(K::SUB, sub));
            for v in 0..NV {
                let scale = s.load(panel.scale.add(sub * nr + v * LANES));
                let min = if K::HAS_MIN { s.load(panel.min.add(sub * nr + v * LANES)) } else { scale };
                for i in 0..MR {
                    let at = tile.c.add(i * tile.ldc + v * LANES);
                    if !in_registers {
                        sum[i][v] = s.load(at);
                    }
                    let scale = s.mul(scale, s.splat(*factors.add(2 * i * a.group_stride)));
                    sum[i][v] = s.mul_add(s.from_i32(acc[i][v]), scale, sum[i][v]);
                    if K::HAS_MIN {
                        let scaled_sum = s.splat(*factors.add(2 * i * a.group_stride + SPAN / K::SUB));
                        sum[i][v] = s.mul_add(min, scaled_sum, sum[i][v]);
                    }
                    if !in_registers {
                        s.store(at, sum[i][v]);
                    }
                }
            }
        }
        if in_registers {
            for i in 0..MR {
                for v in 0..NV {
                    s.store(tile.c.add(i * tile.ldc + v * LANES), sum[i][v]);
                }
            }
        }
    }
}

/// Begins a pair sum; signed products are added to the integers themselves.
#[inline(always)]
fn begin<S: Simd, K: TileKind>(s: S, acc: S::I32) -> S::I32 {
    if K::SIGNED { acc } else { s.begin_pairs(acc) }
}

/// Ends it.
#[inline(always)]
fn end<S: Simd, K: TileKind>(s: S, acc: S::I32, pairs: S::I32) -> S::I32 {
    if K::SIGNED { pairs } else { s.end_pairs(acc, pairs) }
}

/// Calls `$tile::<.., MR, ..>` for a run-time number of rows `1..=MR`, by name of the const parameter's position.
macro_rules! for_mr {
    ($rows:expr, $max:expr, |$MR:ident| $call:expr) => {
        match $rows {
            6 if $max >= 6 => {
                const $MR: usize = 6;
                $call
            }
            5 if $max >= 5 => {
                const $MR: usize = 5;
                $call
            }
            4 if $max >= 4 => {
                const $MR: usize = 4;
                $call
            }
            3 if $max >= 3 => {
                const $MR: usize = 3;
                $call
            }
            2 if $max >= 2 => {
                const $MR: usize = 2;
                $call
            }
            _ => {
                const $MR: usize = 1;
                $call
            }
        }
    };
}
pub(crate) use for_mr;
