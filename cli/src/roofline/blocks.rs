//! Products with weights in blocks, as they lie in files: prompts in one term and in two, one row and eight with weights that
//! come from memory, and one with weights in a cache.

use super::case::{Case, Group, Operand, Row, Setting, copies, count};
use crate::bench::random_weights;
use crate::limits::scrap;
use crate::statistics::Random;
use crate::work::Work;
use anyhow::{Context, Result};
use gable_kernels::gemm::{Epilogue, Phase};
use gable_kernels::memory::zeros;
use gable_kernels::quant::{Activations, Format, Forms, QuantWeights, Remainder};
use gable_kernels::{MatMut, Team};

/// Weight rows and columns: of a small model's layer, of a larger one's.
const SHAPES: [[usize; 2]; 2] = [[1536, 576], [2048, 2048]];
const PROMPTS: [usize; 2] = [128, 512];
/// Of the smaller set.
const QUICK: [Format; 2] = [Format::Q4_0, Format::Q4_K];

/// A product of `m` rows with `n` weight rows.
#[derive(Debug, Clone, Copy)]
struct Problem {
    phase: Phase,
    format: Format,
    m: usize,
    n: usize,
    k: usize,
    forms: Forms,
    /// The same weights again and again.
    cached: bool,
}

/// All of them.
pub fn rows() -> Vec<Row> {
    let blocks = || Format::ALL.into_iter().filter(|format| format.is_block_quantized());
    let mut out = Vec::new();
    for format in blocks() {
        for [n, k] in SHAPES {
            // Blocks of 256 do not divide every width.
            if format.row_bytes(k).is_none() {
                continue;
            }
            for m in PROMPTS {
                let forms = Forms::fast(format).with_remainder(Remainder::Outliers);
                let problem = Problem { phase: Phase::Prompt, format, m, n, k, forms, cached: false };
                let row =
                    Row::new(Group::Prompt, format!("{format} {m} x {n} x {k}"), move |s| problem.case(s));
                out.push(row.quick(QUICK.contains(&format) && m == PROMPTS[0] && k == SHAPES[1][1]));
            }
        }
    }
    let [n, k] = SHAPES[1];
    for format in blocks() {
        let two = Forms::fast(format).with_remainder(Remainder::All);
        let problem =
            Problem { phase: Phase::Prompt, format, m: PROMPTS[0], n, k, forms: two, cached: false };
        let name = format!("{format} {} x {n} x {k}, two terms", PROMPTS[0]);
        out.push(Row::new(Group::Prompt, name, move |s| problem.case(s)));
    }
    for format in blocks() {
        let [one, two] =
            [Remainder::None, Remainder::All].map(|terms| Forms::fast(format).with_remainder(terms));
        for (name, m, forms, cached) in [
            ("one term, from DRAM", 1, one, false),
            ("two terms, from DRAM", 1, two, false),
            ("two terms, in cache", 1, two, true),
            ("two terms, 8 rows, from DRAM", 8, two, false),
        ] {
            let problem = Problem { phase: Phase::Decode, format, m, n, k, forms, cached };
            let row =
                Row::new(Group::Decode, format!("{format} {n} x {k}, {name}"), move |s| problem.case(s));
            out.push(row.quick(QUICK.contains(&format) && name == "two terms, from DRAM"));
        }
    }
    out
}

impl Problem {
    fn case(self, setting: &Setting) -> Result<Case> {
        let Problem { phase, format, m, n, k, forms, cached } = self;
        let kernels = setting.kernels;
        let stride = format.row_bytes(k).with_context(|| format!("rows of {k} are no blocks of {format}"))?;
        let weights = n.saturating_mul(stride);
        let rotates = phase == Phase::Decode && !cached;
        let turns = if rotates { copies(setting, weights) } else { 1 };
        // Mapped, as a model's weights are.
        let bytes = scrap(&random_weights(format, false, weights.saturating_mul(turns), &mut Random::new()))?;
        let mut x = Activations::try_new(m, k, forms)?;
        let values = Operand::new(m.saturating_mul(k), |x| x)?;
        let mut rows = x.begin(m, k)?;
        for (i, row) in values.chunks_exact(k).enumerate() {
            rows.row_mut(i).copy_from_slice(row);
        }
        kernels.prepare(&Team::serial(), &mut x, forms)?;
        let terms = if forms.remainder == Remainder::All { 2.0 } else { 1.0 };
        let activations = count(&[m, k]) * terms;
        let work = Work {
            int8: 2.0 * count(&[m, n, k]) * terms,
            bytes: count(&[weights]) + activations + count(&[m, n, size_of::<f32>()]),
            ..Work::default()
        };
        let mut out = zeros::<f32>("a product", m.saturating_mul(n))?;
        let few = m.saturating_mul(k.saturating_add(n.saturating_mul(4)));
        let mut turn = 0_usize;
        let run = move |team: &Team<'_>| {
            turn = turn.wrapping_add(1) % turns;
            let start = turn.saturating_mul(weights);
            let bytes = bytes.bytes().get(start..start.saturating_add(weights)).unwrap_or_default();
            let weights = QuantWeights::from_bytes(format, n, k, stride, bytes)?;
            let out = MatMut::from_rows(&mut out[..], n);
            kernels.matmul(team, phase, &x, &weights, Epilogue::default(), out)
        };
        Ok(Case::reading(work, [weights, turns, few], run))
    }
}
