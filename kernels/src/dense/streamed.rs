//! Few rows of A: B's rows, which run along K, are streamed once, with the kernels of [`gemm`](crate::gemm)'s decoding.

#![allow(unsafe_code)]

use super::cells::{Cells, KBlocks, MAX_NR};
use super::element::ElementType;
use super::product::{Product, Side};
use super::tiles::{Job, Panels, UnitSums};
use super::{DenseScratch, grow};
use crate::error::KernelError;
use crate::gemm::{Epilogue, Phase};
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef, part_range};
use crate::pool::Team;
use crate::quant::{Activations, Format, Forms, QuantWeights};

/// Columns of C that a part of the store is a multiple of.
const STORE_UNIT: usize = 1024;

/// Activations that a call left for the next.
#[derive(Debug)]
pub(super) struct Rows {
    rows: usize,
    k: usize,
    forms: Forms,
    x: Activations,
}

impl Rows {
    fn fits(&self, rows: usize, k: usize, forms: Forms) -> bool {
        self.rows >= rows && self.k >= k && self.forms == forms
    }
}

/// A checked product.
pub(super) fn run(
    kernels: Kernels,
    team: &Team<'_>,
    product: &Product<'_>,
    kind: Cells,
    scratch: &mut DenseScratch,
) -> Result<(), KernelError> {
    let (Product { a, out, .. }, sides) = (product, product.sides());
    let (m, k, n) = (a.rows, a.cols, sides[0].n);
    let format = match sides[0].element {
        ElementType::F16 => Format::F16,
        ElementType::Bf16 => Format::BF16,
        _ => Format::F32,
    };
    let forms = Forms::fast(format);
    if scratch.streamed.as_ref().is_none_or(|rows| !rows.fits(m, k, forms)) {
        scratch.streamed = None;
        scratch.streamed = Some(Rows { rows: m, k, forms, x: Activations::try_new(m, k, forms)? });
    }
    let Some(Rows { x, .. }) = &mut scratch.streamed else { return Ok(()) };
    let mut view = x.begin(m, k)?;
    for row in 0..m {
        let (bytes, row) = (a.elements(row, 0, k), view.row_mut(row));
        match a.element {
            ElementType::F16 => kernels.table.f32_from_f16_row(bytemuck::cast_slice(bytes), row),
            ElementType::Bf16 => kernels.table.f32_from_bf16_row(bytemuck::cast_slice(bytes), row),
            _ => row.copy_from_slice(bytemuck::cast_slice(bytes)),
        }
    }
    kernels.prepare(team, x, forms)?;
    let multiply = |side: &Side<'_>, out: MatMut<'_>| {
        let Panels::Columns(b) = side.panels else { return Ok(()) };
        let weights = QuantWeights::from_bytes(format, n, k, b.source.stride, b.source.bytes())?;
        kernels.matmul(team, Phase::Decode, x, &weights, Epilogue::default(), out)
    };
    if let ([side], ElementType::F32) = (sides, out.element)
        && side.store.is_plain()
    {
        // SAFETY: C is f32, and exclusively this call's.
        return multiply(side, unsafe { out.matrix::<f32>() });
    }
    let len = m.saturating_mul(n);
    grow(&mut scratch.slots, len.saturating_mul(sides.len()))?;
    let sums: &mut [f32] = bytemuck::cast_slice_mut(&mut scratch.slots[..len * sides.len()]);
    for (side, sums) in sides.iter().zip(sums.chunks_exact_mut(len)) {
        multiply(side, MatMut::from_rows(sums, n))?;
    }
    let job = Job {
        kind,
        blocks: KBlocks::new(k, kind),
        a: &[],
        row_sums: &[],
        unsigned_a: false,
        rows: m,
        first_row: 0,
        sides,
        width: 1,
        nr: MAX_NR,
        n,
        out: *out,
    };
    let (sums, parts) = (MatRef::from_rows(sums, n), n.div_ceil(STORE_UNIT));
    let second = sums.rows() - m;
    // Parts are disjoint columns of C.
    team.run(parts, &|part| {
        let cols = part_range(n, STORE_UNIT, parts, part);
        let sums = [0..m, second..second + m].map(|rows| sums.row_range(rows).columns(cols.clone()));
        kernels.table.dense_store(&job, &UnitSums { sums, columns: [&[]; 2] }, 0..m, cols);
    });
    Ok(())
}
