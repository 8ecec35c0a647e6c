//! Attention: prompts, whose keys and values are in the caches, and single rows over a cache that comes from memory.

use super::case::{Case, Group, Operand, Row, Setting, copies, count};
use crate::work::Work;
use anyhow::Result;
use gable_kernels::attention::{
    Arithmetic, AttentionInput, AttentionParams, AttentionScratch, CacheRow, CacheShape, CacheType, KvCache,
    Mask,
};
use gable_kernels::memory::zeros;
use gable_kernels::{MatMut, MatRef, Team};

/// The last `rows` of `depth` positions attend to all before them.
#[derive(Debug, Clone, Copy)]
struct Problem {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    depth: usize,
    rows: usize,
    cache_type: CacheType,
}

/// Query heads, key heads, elements of a head.
const SMALL: [usize; 3] = [9, 3, 64];
const PROMPTS: [([usize; 3], usize); 2] = [(SMALL, 512), ([12, 12, 128], 1024)];
const DECODE: [[usize; 3]; 2] = [SMALL, [32, 8, 128]];
const DEPTH: usize = 4096;

/// All of them.
pub fn rows() -> Vec<Row> {
    let row = |problem: Problem| {
        let Problem { n_heads, n_kv_heads, head_dim, depth, rows, cache_type } = problem;
        let (what, end) = if rows == 1 { ("row", ", from DRAM") } else { ("rows", "") };
        let cache = cache_type.name();
        let name = format!("{rows} {what} of {depth}, {n_heads}/{n_kv_heads} x {head_dim}, {cache}{end}");
        Row::new(Group::Attention, name, move |setting| problem.case(setting))
    };
    let mut out = Vec::new();
    for ([n_heads, n_kv_heads, head_dim], depth) in PROMPTS {
        let cache_type = CacheType::F16;
        let problem = Problem { n_heads, n_kv_heads, head_dim, depth, rows: depth, cache_type };
        out.push(row(problem).quick(head_dim == SMALL[2]));
    }
    for [n_heads, n_kv_heads, head_dim] in DECODE {
        for cache_type in [CacheType::F16, CacheType::Q8_0] {
            let problem = Problem { n_heads, n_kv_heads, head_dim, depth: DEPTH, rows: 1, cache_type };
            out.push(row(problem).quick(cache_type == CacheType::F16 && head_dim == SMALL[2]));
        }
    }
    out
}

impl Problem {
    /// Multiplications and additions, by what the CPU computes them with.
    fn operations(&self, arithmetic: Arithmetic) -> Work {
        let first = self.depth.saturating_sub(self.rows);
        let seen = (0..self.rows).map(|row| count(&[first.saturating_add(row).saturating_add(1)]));
        // Scores are one half, weighted values the other.
        let half = 2.0 * count(&[self.n_heads, self.head_dim]) * seen.sum::<f64>();
        match (self.cache_type, arithmetic) {
            (CacheType::Q8_0, _) => Work { int8: half, f32: half, ..Work::default() },
            (_, Arithmetic::Bf16) => Work { bf16: 2.0 * half, ..Work::default() },
            _ => Work { f32: 2.0 * half, ..Work::default() },
        }
    }

    fn case(self, setting: &Setting) -> Result<Case> {
        let Problem { n_heads, n_kv_heads, head_dim, depth, rows, cache_type } = self;
        let kernels = setting.kernels;
        let position = n_kv_heads.saturating_mul(2).saturating_mul(cache_type.head_bytes(head_dim));
        let layer_bytes = position.saturating_mul(depth);
        let rotates = rows == 1;
        let n_layers = if rotates { copies(setting, layer_bytes) } else { 1 };
        let shape = CacheShape {
            n_layers,
            n_kv_heads,
            head_dim,
            cache_type,
            max_positions: depth,
            max_sequences: 1,
            max_pages: 0,
        };
        let mut cache = KvCache::new(CacheShape { max_pages: shape.pages_for_all(), ..shape })?;
        let sequence = cache.new_sequence()?;
        let places: Vec<_> = (0..depth).map(|position| CacheRow { sequence, position }).collect();
        let (q_dim, kv_dim) = (n_heads.saturating_mul(head_dim), n_kv_heads.saturating_mul(head_dim));
        let kv = Operand::new(depth.saturating_mul(kv_dim), |x| x)?;
        let kv = MatRef::from_rows(&kv, kv_dim);
        for layer in 0..n_layers {
            kernels.append(&Team::serial(), &mut cache, layer, &places, kv, kv)?;
        }
        let arithmetic = if rotates { Arithmetic::F32 } else { Arithmetic::fastest(kernels) };
        let params =
            AttentionParams { n_heads, scale: 0.125, soft_cap: None, mask: Mask::Causal, arithmetic };
        let q = Operand::new(rows.saturating_mul(q_dim), |x| x)?;
        let (mut out, mut scratch) = (zeros::<f32>("attention", q.len())?, AttentionScratch::new());
        let few = q.len().saturating_mul(8);
        let work = Work { bytes: count(&[layer_bytes]) + count(&[few]), ..self.operations(arithmetic) };
        let mut layer = 0_usize;
        let run = move |team: &Team<'_>| {
            layer = layer.wrapping_add(1) % n_layers;
            let rows = places.get(depth.saturating_sub(rows)..).unwrap_or_default();
            let input =
                AttentionInput { q: MatRef::from_rows(&q, q_dim), cache: &cache, layer, rows, bias: None };
            let out = MatMut::from_rows(&mut out[..], q_dim);
            kernels.attention(team, input, &params, out, &mut scratch, None)
        };
        Ok(Case::reading(work, [layer_bytes, n_layers, few], run))
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn operations_are_four_per_visible_value() {
        let one = Problem {
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 8,
            depth: 10,
            rows: 1,
            cache_type: CacheType::Q8_0,
        };
        assert_eq!(one.operations(Arithmetic::F32).operations(), 4.0 * 2.0 * 8.0 * 10.0);
        let all = Problem { rows: 10, cache_type: CacheType::F16, ..one };
        assert_eq!(all.operations(Arithmetic::Bf16).bf16, 4.0 * 2.0 * 8.0 * 55.0);
    }
}
