//! Attention over a cache: both element types, prompts and single rows, all masks.

use super::{Random, Sweep};
use crate::attention::{
    Arithmetic, AttentionInput, AttentionParams, AttentionScratch, CacheRow, CacheShape, CacheType, KvCache,
    Mask,
};
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef};
use crate::pool::Team;
use crate::reference::attention::{AttentionRow, attention_row, int8_groups};
use half::{bf16, f16};

struct Problem {
    shape: CacheShape,
    params: AttentionParams,
    len: usize,
    /// The last so many positions are asked for.
    rows: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Problem {
    fn q_cols(&self) -> usize {
        self.params.n_heads * self.shape.head_dim
    }

    fn kv_cols(&self) -> usize {
        self.shape.n_kv_heads * self.shape.head_dim
    }

    fn product(&self, kernels: Kernels) -> Result<Vec<f32>, KernelError> {
        let team = Team::serial();
        let mut cache = KvCache::new(self.shape)?;
        let sequence = cache.new_sequence()?;
        let rows: Vec<_> = (0..self.len).map(|position| CacheRow { sequence, position }).collect();
        let (k, v) = (MatRef::from_rows(&self.k, self.kv_cols()), MatRef::from_rows(&self.v, self.kv_cols()));
        kernels.append(&team, &mut cache, 0, &rows, k, v)?;
        let q = MatRef::from_rows(&self.q, self.q_cols());
        let input =
            AttentionInput { q, cache: &cache, layer: 0, rows: &rows[self.len - self.rows..], bias: None };
        let mut out = vec![f32::NAN; self.q.len()];
        let view = MatMut::from_rows(&mut out, self.q_cols());
        kernels.attention(&team, input, &self.params, view, &mut AttentionScratch::new(), None)?;
        Ok(out)
    }

    /// Row after row, head after head.
    fn expected(&self) -> Vec<AttentionRow> {
        let head_dim = self.shape.head_dim;
        let bf16 = |x: f32| bf16::from_f32_const(x).to_f32_const();
        let multiplied = |x: f32| if self.params.arithmetic == Arithmetic::Bf16 { bf16(x) } else { x };
        let held = |x: &f32| {
            multiplied(match self.shape.cache_type {
                CacheType::F32 => *x,
                CacheType::F16 => f16::from_f32_const(*x).to_f32_const(),
                CacheType::Bf16 => bf16(*x),
                // Rounded in groups below.
                CacheType::Q8_0 => *x,
            })
        };
        let int8 = self.shape.cache_type == CacheType::Q8_0;
        let strip = |row: &[f32], head: usize| -> Vec<f32> {
            let strip = &row[head * head_dim..][..head_dim];
            match int8 {
                true => int8_groups(strip, |scale| f16::from_f32_const(scale).to_f32_const()),
                false => strip.iter().map(held).collect(),
            }
        };
        let strips = |data: &[f32], head: usize| -> Vec<Vec<f32>> {
            data.chunks(self.kv_cols()).map(|row| strip(row, head)).collect()
        };
        let mut all = Vec::new();
        for (i, q) in self.q.chunks(self.q_cols()).enumerate() {
            let position = self.len - self.rows + i;
            let visible = match self.params.mask {
                Mask::Causal => 0..position + 1,
                Mask::Window(n) => (position + 1).saturating_sub(n)..position + 1,
                Mask::Bidirectional => 0..self.len,
            };
            for (head, q) in q.chunks(head_dim).enumerate() {
                let q: Vec<f32> = match int8 {
                    true => int8_groups(q, |scale| scale),
                    false => q.iter().copied().map(multiplied).collect(),
                };
                let kv_head = head * self.shape.n_kv_heads / self.params.n_heads;
                let (keys, values) = (strips(&self.k, kv_head), strips(&self.v, kv_head));
                let AttentionParams { scale, soft_cap, .. } = self.params;
                all.push(attention_row(&q, &keys, &values, visible.clone(), scale, soft_cap, &[]));
            }
        }
        all
    }
}

/// Attention, appending included.
pub(super) fn attention(sweep: &mut Sweep) {
    let mut random = Random::new(30);
    let masks = [(Mask::Causal, None), (Mask::Window(20), None), (Mask::Bidirectional, Some(5.0))];
    // Positions and rows of queries: around the edges of pages and tiles.
    let lengths =
        sweep.choose(vec![(1, 1), (70, 9)], vec![(1, 1), (63, 63), (64, 1), (65, 7), (200, 33), (600, 2)]);
    for (head_dim, n_kv_heads, group) in [(32, 2, 1), (64, 3, 3), (80, 1, 4), (128, 1, 6), (40, 2, 2)] {
        for (len, rows) in lengths.clone() {
            for (cache_type, arithmetic, kernel) in [
                (CacheType::F32, Arithmetic::F32, "attention, f32 cache"),
                (CacheType::F16, Arithmetic::F32, "attention, f16 cache"),
                (CacheType::F16, Arithmetic::Bf16, "attention by bf16, f16 cache"),
                (CacheType::Bf16, Arithmetic::Bf16, "attention by bf16, bf16 cache"),
                (CacheType::Q8_0, Arithmetic::F32, "attention, q8_0 cache"),
            ] {
                for (mask, soft_cap) in masks {
                    let shape = CacheShape {
                        n_layers: 1,
                        n_kv_heads,
                        head_dim,
                        cache_type,
                        max_positions: len,
                        max_sequences: 1,
                        max_pages: len.div_ceil(32),
                    };
                    let n_heads = n_kv_heads * group;
                    let params = AttentionParams {
                        n_heads,
                        scale: (head_dim as f32).powf(-0.5),
                        soft_cap,
                        mask,
                        arithmetic,
                    };
                    let mut values =
                        |n: usize, size: f32| random.floats(n).iter().map(|x| x * size).collect();
                    let q = values(rows * n_heads * head_dim, 3.0);
                    let (k, v) =
                        (values(len * n_kv_heads * head_dim, 2.0), values(len * n_kv_heads * head_dim, 1.0));
                    let problem = Problem { shape, params, len, rows, q, k, v };
                    let want = problem.expected();
                    for kernels in sweep.isas() {
                        let outcome = sweep.outcome(kernels, kernel);
                        let place =
                            || format!("{n_heads} heads of {head_dim}, {rows} of {len} positions, {mask:?}");
                        let got = match problem.product(kernels) {
                            Ok(got) => got,
                            Err(error) => {
                                outcome.accept(Err(error), place);
                                continue;
                            }
                        };
                        for (i, (got, want)) in got.chunks(head_dim).zip(&want).enumerate() {
                            let keys = want.weights.iter().filter(|w| **w > 0.0).count();
                            for (d, got) in got.iter().enumerate() {
                                let rounding =
                                    if arithmetic == Arithmetic::Bf16 { 2.0_f64.powi(-8) } else { 0.0 };
                                let relative = 8.0 * (1 + keys) as f64 * f64::from(f32::EPSILON) + rounding;
                                let bound = relative * want.magnitude[d] + 1e-37;
                                let place = || {
                                    format!("{}: row {}, head {}, [{d}]", place(), i / n_heads, i % n_heads)
                                };
                                outcome.compare(f64::from(*got), want.out[d], bound, place);
                            }
                        }
                    }
                }
            }
        }
    }
}
