//! What the machine can do at most, measured with nothing else in the way: the hundred percent of every share.
//!
//! | probe | loop | limit of |
//! |---|---|---|
//! | [`Kernels::probe_arithmetic`] | [`ProbeLoop`]s over f32, bf16 pairs, bytes | register tiles |
//! | [`Kernels::probe_walk`] | loads of a buffer in several [orders](ProbeOrder), prefetching ahead | everything that streams |
//! | [`Kernels::probe_copy`], [`Kernels::probe_join`], [`Kernels::probe_update`] | loads and stores | row-wise kernels |
//!
//! The arithmetic is the tiles' own ([`Cell::step`]), with enough independent chains to hide the instructions' latency, in
//! a loop that touches no memory and in others that load operands from L1 as tiles do. Each call does a given amount of work on
//! the calling thread; whoever asks takes the time, often, and keeps the best of all loops.

#![allow(unsafe_code)]

mod walk;

use crate::gemm::microkernel::{self, Cell};
use crate::isa::Kernels;
use crate::simd::{LANES, Simd};

pub use walk::{ProbeOrder, ProbeWalk};
pub(crate) use walk::{copy, join, read, update};

/// What is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// f32, fused with the addition where the CPU does.
    F32,
    /// Pairs of bf16: as instructions where the CPU has them, else as the tiles widen them.
    Bf16,
    /// u8 times i8, by the dot product of the instruction set.
    Int8,
}

/// A loop that arithmetic is probed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeLoop {
    /// Registers only. Where a step takes several instructions, some of them would not depend on the chain and be done
    /// once for all rounds: there this is [`ProbeLoop::Tile`].
    Chains,
    /// A register tile as products use it, weights and activations in L1.
    Tile,
    /// A tile of more rows and fewer columns.
    Tall,
}

impl ProbeLoop {
    /// All of them.
    pub const ALL: [ProbeLoop; 3] = [ProbeLoop::Chains, ProbeLoop::Tile, ProbeLoop::Tall];
}

/// Independent chains where the register file has 32 vectors, and where it has fewer.
const MANY: usize = 24;
const FEW: usize = 6;
/// Cells of the panel that a round of a tile multiplies with.
const CELLS: usize = 16;
/// Widest tile, and most rows of one.
const MAX_NV: usize = 4;
const MAX_ROWS: usize = 12;

/// Cells whose lanes are 0.5 or 63 in every type that they are taken for.
const CELL: u32 = 0x3f00_3f00;

/// Steps of `N` chains, all in registers; gives how many per round.
#[inline(always)]
fn chains<S: Simd, C: Cell<S>, const N: usize>(s: S, rounds: usize) -> usize {
    let cells = std::hint::black_box([CELL; LANES]);
    // SAFETY: 16 cells of at most 4 bytes.
    let (w, x) = (unsafe { C::weights(s, cells.as_ptr().cast()) }, C::spread(s, cells[0]));
    let mut acc = [C::zero(s); N];
    for _ in 0..rounds {
        for chain in &mut acc {
            *chain = C::step(s, *chain, w, x);
        }
    }
    keep::<S, C>(s, &acc);
    N
}

/// Steps of a tile over a panel in L1; gives how many per round.
#[inline(always)]
fn tile<S: Simd, C: Cell<S>, const MR: usize, const NV: usize>(s: S, rounds: usize) -> usize {
    const { assert!(MR <= MAX_ROWS && NV <= MAX_NV) };
    let panel = std::hint::black_box([CELL; CELLS * MAX_NV * LANES]);
    let rows = std::hint::black_box([CELL; MAX_ROWS * CELLS]);
    // Hidden from the optimiser: it would unroll the loop and spill accumulators.
    let cells = std::hint::black_box(CELLS).min(CELLS);
    let mut acc = [[C::zero(s); NV]; MR];
    for _ in 0..rounds {
        for k in 0..cells {
            // SAFETY: `k < CELLS`, and the panel has `CELLS` times `MAX_NV` vectors of cells of at most 4 bytes.
            let w: [C::Weights; NV] = unsafe {
                let at = panel.as_ptr().cast::<u8>().add(k * NV * LANES * C::BYTES);
                let mut w = [C::weights(s, at); NV];
                for v in 1..NV {
                    w[v] = C::weights(s, at.add(v * LANES * C::BYTES));
                }
                w
            };
            for i in 0..MR {
                // SAFETY: `MR <= MAX_ROWS` rows of `CELLS` cells.
                let x = C::spread(s, unsafe { *rows.as_ptr().add(i * CELLS + k) });
                for v in 0..NV {
                    acc[i][v] = C::step(s, acc[i][v], w[v], x);
                }
            }
        }
    }
    for row in &acc {
        keep::<S, C>(s, row);
    }
    CELLS * MR * NV
}

/// Lets the optimiser think that the sums are needed.
#[inline(always)]
fn keep<S: Simd, C: Cell<S>>(s: S, sums: &[C::Sum]) {
    for sum in sums {
        let mut sink = [0.0_f32; LANES];
        // SAFETY: 16 lanes.
        unsafe { C::store(s, sink.as_mut_ptr(), *sum) };
        std::hint::black_box(sink);
    }
}

/// Runs a loop; gives the steps per round, each of which is 16 cells.
#[inline(always)]
fn steps<S: Simd, C: Cell<S>>(s: S, which: ProbeLoop, one_instruction: bool, rounds: usize) -> usize {
    let many = S::REGISTERS >= 32;
    if S::REGISTERS < 8 {
        // Portable: multiplication and addition are two instructions, and a vector is several registers.
        return tile::<S, C, 2, 1>(s, rounds);
    }
    // As in dense/tiles.rs: a step of several instructions needs room for what is between them.
    match (which, one_instruction) {
        (ProbeLoop::Chains, true) if many => chains::<S, C, MANY>(s, rounds),
        (ProbeLoop::Chains, true) => chains::<S, C, FEW>(s, rounds),
        (ProbeLoop::Tall, true) if many => tile::<S, C, 12, 2>(s, rounds),
        (ProbeLoop::Tall, false) if many => tile::<S, C, 8, 2>(s, rounds),
        (ProbeLoop::Tall, _) => tile::<S, C, 3, 1>(s, rounds),
        (_, true) if many => tile::<S, C, 6, 4>(s, rounds),
        (_, false) if many => tile::<S, C, 4, 4>(s, rounds),
        (_, true) => tile::<S, C, 6, 1>(s, rounds),
        (_, false) => tile::<S, C, 4, 1>(s, rounds),
    }
}

/// Leaf: `rounds` rounds of a loop; the number of operations.
#[inline(always)]
pub(crate) fn arithmetic<S: Simd>(s: S, kind: ProbeKind, which: ProbeLoop, rounds: usize) -> usize {
    // Two operations per product, 16 cells per step, and what a cell holds.
    let (steps, values) = match kind {
        ProbeKind::F32 => (steps::<S, microkernel::F32>(s, which, true, rounds), 1),
        ProbeKind::Bf16 => (steps::<S, microkernel::Bf16>(s, which, S::HAS_BF16, rounds), 2),
        // Of pair sums, the products of chains would be the same for all and made once.
        ProbeKind::Int8 => (steps::<S, microkernel::U8Pairs>(s, which, S::DOT_U8_MAX == u8::MAX, rounds), 4),
    };
    rounds * steps * 2 * LANES * values
}

/// # Probes
impl Kernels {
    /// Multiplies and adds for `rounds` rounds of a loop on the calling thread.
    ///
    /// Returns the number of operations done, two per product; in proportion to the rounds.
    pub fn probe_arithmetic(self, kind: ProbeKind, which: ProbeLoop, rounds: usize) -> usize {
        self.table.probe_arithmetic(kind, which, rounds)
    }

    /// [`Kernels::probe_arithmetic`] of f32 by [`ProbeLoop::Chains`].
    pub fn probe_f32(self, rounds: usize) -> usize {
        self.probe_arithmetic(ProbeKind::F32, ProbeLoop::Chains, rounds)
    }

    /// [`Kernels::probe_arithmetic`] of bf16 by [`ProbeLoop::Chains`].
    pub fn probe_bf16(self, rounds: usize) -> usize {
        self.probe_arithmetic(ProbeKind::Bf16, ProbeLoop::Chains, rounds)
    }

    /// [`Kernels::probe_arithmetic`] of int8 by [`ProbeLoop::Chains`].
    pub fn probe_int8(self, rounds: usize) -> usize {
        self.probe_arithmetic(ProbeKind::Int8, ProbeLoop::Chains, rounds)
    }

    /// Reads `bytes` once, from front to back, asking for what comes as the kernels do (`ahead`) or leaving that to the CPU.
    ///
    /// Up to 63 bytes at the end are left out.
    pub fn probe_read(self, bytes: &[u8], ahead: bool) {
        self.probe_walk(bytes, ProbeWalk { order: ProbeOrder::Wide, ahead });
    }

    /// Reads `bytes` once, in any order; up to 63 bytes at the end are left out.
    pub fn probe_walk(self, bytes: &[u8], walk: ProbeWalk) {
        self.table.probe_read(bytes, walk);
    }

    /// Copies `from` to `to`, as far as both go; up to 63 bytes at the end are left out.
    pub fn probe_copy(self, from: &[u8], to: &mut [u8], walk: ProbeWalk) {
        self.table.probe_copy(from, to, walk);
    }

    /// Stores what two buffers have in them together (`or`), as far as the shortest goes; up to 63 bytes at the end are left out.
    pub fn probe_join(self, [a, b]: [&[u8]; 2], to: &mut [u8], walk: ProbeWalk) {
        self.table.probe_join(a, b, to, walk);
    }

    /// Loads and stores `bytes`, which stay as they are; up to 63 bytes at the end are left out.
    pub fn probe_update(self, bytes: &mut [u8], walk: ProbeWalk) {
        self.table.probe_update(bytes, walk);
    }
}
