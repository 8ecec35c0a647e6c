//! Rows of weights to f32, rows of activations to int8 groups and bf16: all bit for bit.

use super::{Random, Sweep};
use crate::pool::Team;
use crate::quant::{Activations, Format, Forms, QuantWeights, factor_at, half_group_at};
use crate::reference::quant;
use half::bf16;

/// Weights of every format to f32.
pub(super) fn dequantize_row(sweep: &mut Sweep) {
    let mut random = Random::new(10);
    for format in Format::ALL {
        for blocks in sweep.choose(vec![1, 3, 17], (1..20).chain([33, 64, 130]).collect()) {
            for extreme in [false, true] {
                let cols = if format.block_len() == 1 { blocks * 5 } else { blocks * format.block_len() };
                let bytes = random.weights(format, 1, cols, extreme);
                let Ok(weights) = QuantWeights::from_bytes(format, 1, cols, bytes.len(), &bytes) else {
                    continue;
                };
                let want = quant::dequantize(format, &bytes);
                for kernels in sweep.isas() {
                    let outcome = sweep.outcome(kernels, "dequantize_row");
                    let mut out = vec![f32::NAN; cols];
                    outcome.accept(kernels.dequantize_row(&weights, 0, &mut out), || format.to_string());
                    for (i, (got, want)) in out.iter().zip(&want).enumerate() {
                        outcome.require(got.to_bits() == want.to_bits(), || {
                            format!("{format}, {cols} columns: value {i} is {got:e}, want {want:e}")
                        });
                    }
                }
            }
        }
    }
}

/// Activations to both forms.
pub(super) fn prepare(sweep: &mut Sweep) {
    const FORMS: Forms = Forms { int8: true, halves: true, bf16: true, ..Forms::EXACT };
    let mut random = Random::new(11);
    for groups in sweep.choose(vec![1, 2, 9], (1..20).collect()) {
        let k = 32 * groups;
        // Magnitudes from far below the smallest normal scale to near the largest float, ties, and zeros.
        let rows: Vec<Vec<f32>> = [1.0, 1e-45, 1e-37, 3e-30, 1e38, 0.0]
            .iter()
            .map(|size| random.floats(k).into_iter().map(|x| x * size).collect())
            .chain([(0..k).map(|i| [127.0, -127.0, 0.5, 1.5, -2.5][i % 5]).collect()])
            .collect();
        for kernels in sweep.isas() {
            let outcome = sweep.outcome(kernels, "prepare");
            let mut a = Activations::new(rows.len(), k, FORMS);
            match a.begin(rows.len(), k) {
                Ok(mut x) => rows.iter().enumerate().for_each(|(i, row)| x.row_mut(i).copy_from_slice(row)),
                Err(error) => outcome.accept(Err(error), || format!("{k} columns")),
            }
            outcome.accept(kernels.prepare(&Team::serial(), &mut a, FORMS), || format!("{k} columns"));
            for (i, row) in rows.iter().enumerate() {
                for (g, want) in quant::int8_groups(row).into_iter().enumerate() {
                    let q = [0, 1].map(|half| &a.i8_row(i)[half_group_at(g, half)..][..16]).concat();
                    let factors = &a.by32.factors[2 * i * a.by32.stride + factor_at(32, g)..];
                    let sum: i32 = want.q.iter().sum();
                    let halves = [0, 1].map(|half| {
                        let factors = &a.by16.factors[2 * i * a.by16.stride + factor_at(16, 2 * g + half)..];
                        let sum: i32 = want.q[16 * half..][..16].iter().sum();
                        factors[0].to_bits() == want.scale.to_bits()
                            && a.by16.sum[i * a.by16.stride + 2 * g + half] == sum
                            && factors[16] == want.scale * sum as f32
                    });
                    let right = halves == [true; 2]
                        && q.iter().map(|q| i32::from(*q)).eq(want.q.iter().copied())
                        && factors[0].to_bits() == want.scale.to_bits()
                        && a.by32.sum[i * a.by32.stride + g] == sum
                        && factors[8] == want.scale * sum as f32;
                    outcome
                        .require(right, || format!("{k} columns: int8 group {g} of row {i}: want {want:?}"));
                }
                let want = row.iter().map(|x| bf16::from_f32(*x).to_bits());
                let right = a.bf16_row(i)[..k].iter().copied().eq(want);
                outcome.require(right, || format!("{k} columns: bf16 row {i}"));
            }
        }
    }
}
