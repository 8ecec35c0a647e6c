//! Few rows of A: B's rows, which run along K, are streamed once, with the kernels of [`gemm`](crate::gemm)'s decoding.

#![allow(unsafe_code)]

use super::cells::{Cells, Columns, KBlocks, MAX_NR};
use super::element::{Element, ElementType, Source, Target};
use super::store::{Store, store_row};
use super::tiles::{Job, Panels};
use super::{DenseScratch, grow};
use crate::error::KernelError;
use crate::gemm::{Epilogue, Phase};
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef, part_range};
use crate::pool::Team;
use crate::quant::{Activations, Format, Forms, QuantWeights};
use crate::simd::Simd;
use std::ops::Range;

/// Columns of C that a part of the store is a multiple of.
const STORE_UNIT: usize = 1024;

/// Leaf: stores a row's sums, which begin with those of the first column.
#[inline(always)]
pub(crate) fn dense_store<S: Simd>(s: S, job: &Job<'_>, sums: &[f32], row: usize, cols: Range<usize>) {
    for from in cols.clone().step_by(MAX_NR) {
        let some = from..(from + MAX_NR).min(cols.end);
        store_row(s, job, &sums[from - cols.start..], row, some, &[]);
    }
}

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

/// The product of checked arguments with `b`, the transposed B.
#[allow(clippy::too_many_arguments)]
pub(super) fn run<A: Element, C: Element>(
    kernels: Kernels,
    team: &Team<'_>,
    a: MatRef<'_, A>,
    b: Source<'_>,
    kind: Cells,
    store: &Store<'_>,
    mut out: MatMut<'_, C>,
    scratch: &mut DenseScratch,
) -> Result<(), KernelError> {
    let (m, k, n) = (a.rows(), a.cols(), b.rows);
    let format = match b.element {
        ElementType::F16 => Format::F16,
        ElementType::Bf16 => Format::BF16,
        _ => Format::F32,
    };
    let weights = QuantWeights::from_bytes(format, n, k, b.stride, b.bytes())?;
    let forms = Forms::fast(format);
    if scratch.streamed.as_ref().is_none_or(|rows| !rows.fits(m, k, forms)) {
        scratch.streamed = None;
        scratch.streamed = Some(Rows { rows: m, k, forms, x: Activations::try_new(m, k, forms)? });
    }
    let Some(Rows { x, .. }) = &mut scratch.streamed else { return Ok(()) };
    let mut view = x.begin(m, k)?;
    let a = Source::of(a);
    for row in 0..m {
        let (bytes, row) = (a.elements(row, 0, k), view.row_mut(row));
        match a.element {
            ElementType::F16 => kernels.table.f32_from_f16_row(bytemuck::cast_slice(bytes), row),
            ElementType::Bf16 => kernels.table.f32_from_bf16_row(bytemuck::cast_slice(bytes), row),
            _ => row.copy_from_slice(bytemuck::cast_slice(bytes)),
        }
    }
    kernels.prepare(team, x, forms)?;
    if store.is_plain() && C::TYPE == ElementType::F32 {
        // SAFETY: C is f32.
        let out = unsafe { out.reborrow().cast::<f32>() };
        return kernels.matmul(team, Phase::Decode, x, &weights, Epilogue::default(), out);
    }
    grow(&mut scratch.slots, m.saturating_mul(n))?;
    let sums: &mut [f32] = bytemuck::cast_slice_mut(&mut scratch.slots[..m * n]);
    kernels.matmul(team, Phase::Decode, x, &weights, Epilogue::default(), MatMut::from_rows(sums, n))?;
    let job = Job {
        kind,
        blocks: KBlocks::new(k, kind),
        a: &[],
        row_sums: &[],
        unsigned_a: false,
        rows: m,
        first_row: 0,
        panels: Panels::Columns(Columns { source: b, transposed: true }),
        n,
        store,
        out: Target::of(out),
    };
    let (sums, parts) = (MatRef::from_rows(sums, n), n.div_ceil(STORE_UNIT));
    // Parts are disjoint columns of C.
    team.run(parts, &|part| {
        let cols = part_range(n, STORE_UNIT, parts, part);
        for row in 0..m {
            kernels.table.dense_store(&job, &sums.row(row)[cols.clone()], row, cols.clone());
        }
    });
    Ok(())
}
