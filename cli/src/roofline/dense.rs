//! Dense products: squares with weights packed beforehand, and few rows with weights that come from memory.

use super::case::{Case, Group, Operand, Row, Setting, copies, count};
use crate::limits::scrap;
use crate::work::Work;
use anyhow::Result;
use gable_kernels::dense::{DenseScratch, Element, PackedWeights, Rhs, Store};
use gable_kernels::memory::zeros;
use gable_kernels::{MatMut, MatRef, ProbeKind, Team};
use gable_model::mapped_file::MappedFile;
use half::{bf16, f16};
use std::sync::Arc;

const SQUARES: [usize; 3] = [512, 1024, 2048];
/// Columns and rows of the weights that few rows are multiplied with.
const FEW_COLS: usize = 2048;
const FEW: [usize; 4] = [1, 2, 4, 8];

/// How B is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Packed beforehand, one for all runs.
    Packed,
    /// As a layer's weights lie in files, packed on the way.
    AsIs,
    /// One of many in turn, by the way for few rows: streamed; packed where bytes are multiplied.
    FromMemory,
}

/// A type that is multiplied with itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    F32,
    F16,
    Bf16,
    I8,
}

impl Type {
    const ALL: [Type; 4] = [Type::F32, Type::F16, Type::Bf16, Type::I8];

    fn name(self) -> &'static str {
        match self {
            Type::F32 => "f32",
            Type::F16 => "f16",
            Type::Bf16 => "bf16",
            Type::I8 => "int8",
        }
    }

    /// What its products are computed by.
    fn kind(self) -> ProbeKind {
        match self {
            Type::F32 | Type::F16 => ProbeKind::F32,
            Type::Bf16 => ProbeKind::Bf16,
            Type::I8 => ProbeKind::Int8,
        }
    }

    fn case(self, setting: &Setting, shape: [usize; 3], how: How) -> Result<Case> {
        match self {
            Type::F32 => case::<f32, f32>(setting, self.kind(), shape, how, |x| x),
            Type::F16 => case::<f16, f32>(setting, self.kind(), shape, how, f16::from_f32),
            Type::Bf16 => case::<bf16, f32>(setting, self.kind(), shape, how, bf16::from_f32),
            Type::I8 => case::<i8, i32>(setting, self.kind(), shape, how, byte),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "-127 to 127")]
fn byte(x: f32) -> i8 {
    (x * 127.0).round() as i8
}

/// All of them.
pub fn rows() -> Vec<Row> {
    let row = |of: Type, shape: [usize; 3], how: How| {
        let [m, k, n] = shape;
        let name = match how {
            How::Packed => format!("{} {m} x {k} x {n}", of.name()),
            How::AsIs => format!("{} {m} x {k} x {n}, not packed", of.name()),
            How::FromMemory => format!("{} {m} x {k} x {n}, from DRAM", of.name()),
        };
        Row::new(Group::Dense, name, move |setting| of.case(setting, shape, how))
    };
    let mut out = Vec::new();
    for of in Type::ALL {
        out.extend(SQUARES.map(|n| row(of, [n; 3], How::Packed).quick(n == SQUARES[0])));
    }
    out.push(row(Type::F32, [1024; 3], How::AsIs));
    for of in Type::ALL {
        out.extend(FEW.map(|m| {
            let row = row(of, [m, FEW_COLS, FEW_COLS], How::FromMemory);
            row.quick(m == FEW[0] && of == Type::F32)
        }));
    }
    out
}

/// B, in memory of the process or in a mapped file.
struct Weights<T> {
    own: Operand<T>,
    mapped: Option<Arc<MappedFile>>,
}

impl<T: bytemuck::Pod> Weights<T> {
    fn all(&self) -> &[T] {
        match &self.mapped {
            // A mapping begins with a page.
            Some(file) => bytemuck::try_cast_slice(file.bytes()).unwrap_or_default(),
            None => &self.own,
        }
    }
}

fn case<T, C>(
    setting: &Setting,
    kind: ProbeKind,
    [m, k, n]: [usize; 3],
    how: How,
    from: impl Fn(f32) -> T,
) -> Result<Case>
where
    T: Element + bytemuck::Pod,
    C: Element + gable_kernels::memory::Zero + 'static,
{
    let kernels = setting.kernels;
    let element = size_of::<T>();
    let len = k.saturating_mul(n);
    let weights = len.saturating_mul(element);
    let rotates = how == How::FromMemory;
    let turns = if rotates { copies(setting, weights) } else { 1 };
    let packs = how == How::Packed || (rotates && kind == ProbeKind::Int8);
    let a = Operand::new(m.saturating_mul(k), &from)?;
    let mut b = Weights { own: Operand::new(0, &from)?, mapped: None };
    let mut packed = Vec::new();
    if packs {
        let one = Operand::new(len, &from)?;
        let pack = |_| kernels.pack_weights(&Team::serial(), Rhs::Transposed(MatRef::from_rows(&one, k)));
        packed = (0..turns).map(pack).collect::<Result<Vec<PackedWeights<'static>>, _>>()?;
    } else if rotates {
        // As a model's weights are: in anonymous memory, of small pages, they might come at half the speed.
        let all = Operand::new(len.saturating_mul(turns), &from)?;
        b.mapped = Some(scrap(bytemuck::cast_slice(&all))?);
    } else {
        b.own = Operand::new(len, &from)?;
    }
    let (mut c, mut scratch) = (zeros::<C>("a product", m.saturating_mul(n))?, DenseScratch::new());
    let bytes = count(&[weights]) + count(&[m, k, element]) + count(&[m, n, size_of::<C>()]);
    let mut work = Work { bytes, ..Work::default() };
    let operations = 2.0 * count(&[m, k, n]);
    match kind {
        ProbeKind::F32 => work.f32 = operations,
        ProbeKind::Bf16 => work.bf16 = operations,
        ProbeKind::Int8 => work.int8 = operations,
    }
    let few = m.saturating_mul(k.saturating_add(n)).saturating_mul(4);
    let mut turn = 0_usize;
    let run = move |team: &Team<'_>| {
        turn = turn.wrapping_add(1) % turns;
        let start = turn.saturating_mul(len);
        let b = b.all().get(start..start.saturating_add(len)).unwrap_or_default();
        let rhs = match (packed.get(turn), how) {
            (Some(packed), _) => Rhs::Packed(packed),
            (None, How::FromMemory) => Rhs::Streamed(MatRef::from_rows(b, k)),
            (None, _) => Rhs::Transposed(MatRef::from_rows(b, k)),
        };
        let (a, out) = (MatRef::from_rows(&a, k), MatMut::from_rows(&mut c[..], n));
        kernels.gemm::<T, T>(team, a, rhs, &Store::default(), out, &mut scratch)
    };
    Ok(Case::reading(work, [weights, turns, few], run))
}
