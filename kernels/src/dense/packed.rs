//! Weights in the order that tiles read them.

#![allow(unsafe_code)]

use super::Rhs;
use super::cells::{Cells, Columns, KBlocks, pack_panel};
use super::element::{Element, ElementType};
use super::store::Store;
use super::tiles::{Panels, panel_len};
use crate::error::KernelError;
use crate::isa::{Isa, Kernels};
use crate::matrix::MatMut;
use crate::memory::{Buffer, zeros};
use crate::pool::Team;
use crate::simd::{LANES, Simd};

/// A matrix B packed once, to be multiplied often, from many threads and calls.
///
/// Layout: panels of NR columns, one behind the other, each `[cells of K][NR]` and, for integers, NR sums of columns
/// (i32), padded to 64 bytes. A cell is one f32 or f16, two bf16 (of consecutive k), or four bytes, stored with 128
/// added (two i16 where the instruction set has no exact u8 dot product). Columns beyond N are zeros. NR and the cells
/// are the instruction set's: [`PackedWeights::isa`] tells whose, and [`Kernels::gemm`] refuses any other.
#[derive(Debug)]
pub struct PackedWeights<'a> {
    pub(super) isa: Isa,
    pub(super) element: ElementType,
    pub(super) k: usize,
    pub(super) n: usize,
    memory: Memory<'a>,
}

#[derive(Debug)]
enum Memory<'a> {
    Own(Buffer<u32>),
    Callers(&'a [u8]),
}

impl PackedWeights<'_> {
    /// Rows of B: K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of B: N.
    pub fn n(&self) -> usize {
        self.n
    }

    /// What was packed.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Whose order the panels have.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The panels.
    pub fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Own(words) => bytemuck::cast_slice(words),
            Memory::Callers(bytes) => bytes,
        }
    }
}

/// Some columns of B to be packed.
pub(crate) struct PackColumns<'a> {
    kind: Cells,
    blocks: KBlocks,
    columns: Columns<'a>,
    nr: usize,
}

/// Leaf: packs one panel into its place.
#[inline(always)]
pub(crate) fn pack_columns<S: Simd>(s: S, job: &PackColumns<'_>, panel: usize, out: &mut [u8]) {
    const MAX: usize = super::cells::MAX_NR;
    assert!(job.nr <= MAX && job.nr.is_multiple_of(LANES));
    let mut sums = [0_i32; MAX];
    let sums = &mut sums[..job.nr];
    let (cells, rest) = out.split_at_mut(job.blocks.cells * job.nr * job.kind.panel_bytes());
    pack_panel(s, job.kind, &job.columns, &job.blocks, 0..job.blocks.cells, panel * job.nr, cells, sums);
    rest.fill(0);
    if job.kind.is_integer() {
        rest[..4 * job.nr].copy_from_slice(bytemuck::cast_slice(sums));
    }
}

/// # Packing of dense weights
impl Kernels {
    /// Bytes that a `k x n` matrix of a type takes when packed; `None` beyond the address space.
    pub fn packed_len(self, element: ElementType, k: usize, n: usize) -> Option<usize> {
        let kind = self.packed_kind(element)?;
        let nr = self.table.tiles.cells.1 * LANES;
        panel_len(kind, KBlocks::new(k, kind).cells, nr)?.checked_mul(n.div_ceil(nr))
    }

    fn packed_kind(self, element: ElementType) -> Option<Cells> {
        Cells::choose(element, element, true, self.table.exact_u8)
    }

    /// Packs B into memory of its own.
    ///
    /// # Errors
    /// [`KernelError::Value`] if B is packed already or of a type that is never a B, [`KernelError::Memory`].
    ///
    /// # Threads and determinism
    /// Panels are spread over the team; the bytes do not depend on it.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, MatRef, Team, dense::{DenseScratch, Rhs, Store}};
    /// let (kernels, team) = (Kernels::best(), Team::serial());
    /// let b = kernels.pack_weights(&team, Rhs::Straight(MatRef::from_rows(&[1.0_f32, 2.0, 3.0, 4.0], 2)))?;
    /// let a = MatRef::from_rows(&[1.0_f32, 10.0], 2);
    /// let mut c = [0.0_f32; 2];
    /// let (out, scratch) = (MatMut::from_rows(&mut c, 2), &mut DenseScratch::new());
    /// kernels.gemm(&team, a, Rhs::<f32>::Packed(&b), &Store::default(), out, scratch)?;
    /// assert_eq!(c, [31.0, 42.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn pack_weights<B: Element>(
        self,
        team: &Team<'_>,
        b: Rhs<'_, B>,
    ) -> Result<PackedWeights<'static>, KernelError> {
        let (k, n) = (b.k(), b.n());
        let len = self.packed_len(B::TYPE, k, n).unwrap_or(usize::MAX);
        let mut words = zeros("packed weights", len.div_ceil(4))?;
        self.pack(team, b, bytemuck::cast_slice_mut(&mut words))?;
        Ok(PackedWeights { isa: self.isa(), element: B::TYPE, k, n, memory: Memory::Own(words) })
    }

    /// Packs B into the caller's memory, [`Kernels::packed_len`] bytes that begin at a multiple of 4 (better: of 64).
    ///
    /// # Errors
    /// [`KernelError::Value`] if B is packed already or of a type that is never a B, [`KernelError::Shape`] if the
    /// memory is too short or lies askew.
    pub fn pack_weights_into<'m, B: Element>(
        self,
        team: &Team<'_>,
        b: Rhs<'_, B>,
        memory: &'m mut [u8],
    ) -> Result<PackedWeights<'m>, KernelError> {
        let (k, n) = (b.k(), b.n());
        let shape =
            |what, expected, found| KernelError::Shape { op: "pack_weights_into", what, expected, found };
        let len = self.packed_len(B::TYPE, k, n).unwrap_or(usize::MAX);
        if memory.len() < len {
            return Err(shape("memory.len (at least)", len, memory.len()));
        }
        match memory.as_ptr().addr() % 4 {
            0 => {}
            odd => return Err(shape("memory's address modulo 4", 0, odd)),
        }
        self.pack(team, b, &mut memory[..len])?;
        let memory = Memory::Callers(&memory[..len]);
        Ok(PackedWeights { isa: self.isa(), element: B::TYPE, k, n, memory })
    }

    fn pack<B: Element>(self, team: &Team<'_>, b: Rhs<'_, B>, out: &mut [u8]) -> Result<(), KernelError> {
        let value =
            |what, found: String, allowed| KernelError::Value { op: "pack_weights", what, found, allowed };
        let Some(kind) = self.packed_kind(B::TYPE) else {
            return Err(value("b's element type", B::TYPE.to_string(), "f32, f16, bf16, i8"));
        };
        let plain = Store::default();
        let Panels::Columns(columns) = b.side(&plain).panels else {
            return Err(value("b", "packed".into(), "a matrix that is not packed yet"));
        };
        let nr = self.table.tiles.cells.1 * LANES;
        let job = PackColumns { kind, blocks: KBlocks::new(b.k(), kind), columns, nr };
        let panels = b.n().div_ceil(nr);
        if panels == 0 || out.is_empty() {
            return Ok(());
        }
        let len = out.len() / panels;
        let out = MatMut::new(out, panels, len, len)?;
        team.run(panels, &|panel| {
            // SAFETY: each panel is packed once, into a row of its own.
            let mut row = unsafe { out.strip(panel..panel + 1, 0..len) };
            self.table.pack_columns(&job, panel, row.row_mut(0));
        });
        Ok(())
    }
}
