//! Attention: shapes, and how they are run.

use crate::options::Options;
use crate::timing::{Candidate, filled};
use gable_kernels::attention::{
    Arithmetic, AttentionInput, AttentionParams, AttentionScratch, AttentionTap, CacheRow, CacheShape,
    CacheType, KvCache, Mask,
};
use gable_kernels::reference::attention::attention_row;
use gable_kernels::{KernelError, Kernels, MatMut, MatRef, Pool};
use std::rc::Rc;

/// What is asked: the last `rows` of `depth` positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Query heads.
    pub n_heads: usize,
    /// Key heads.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Positions in the cache.
    pub depth: usize,
    /// Rows of queries, at the last positions.
    pub rows: usize,
    /// Keys that a row sees, if not all before it.
    pub window: Option<usize>,
    /// How keys and values are kept.
    pub cache_type: CacheType,
    /// What is multiplied.
    pub arithmetic: Arithmetic,
}

impl Problem {
    /// Operations: four per element of a head and visible key.
    pub fn operations(&self) -> usize {
        let first = self.depth - self.rows;
        let seen = |row: usize| (first + row + 1).min(self.window.unwrap_or(usize::MAX));
        4 * self.n_heads * self.head_dim * (0..self.rows).map(seen).sum::<usize>()
    }

    /// Bytes of keys and values of one layer.
    pub fn cache_bytes(&self) -> usize {
        2 * self.n_kv_heads * self.depth * self.cache_type.head_bytes(self.head_dim)
    }

    /// Gable's kernel, over one layer or as many in turn as hold `distinct` bytes.
    ///
    /// # Errors
    /// A shape that there is not, or no memory for it.
    pub fn candidate(&self, distinct: usize, options: &Options) -> Result<Candidate, KernelError> {
        let n_layers = distinct.div_ceil(self.cache_bytes().max(1)).max(1);
        let mut ready = Ready::new(*self, n_layers, options)?;
        let mut layer = 0;
        Ok(Candidate::new("gable", move || {
            layer = (layer + 1) % n_layers;
            ready.run(layer, None).expect("shapes fit");
        }))
    }

    /// The same over one layer, with a tap on the weights of the first `heads` heads; on none, it costs what it costs to look
    /// whether anybody wants them.
    ///
    /// # Errors
    /// As [`Problem::candidate`].
    pub fn tapped(&self, heads: usize, options: &Options) -> Result<Candidate, KernelError> {
        let mut ready = Ready::new(*self, 1, options)?;
        let Problem { depth, rows, .. } = *self;
        let mut weights = vec![0.0; rows * heads * depth];
        Ok(Candidate::new("tapped", move || {
            let weights = (heads > 0).then(|| MatMut::from_rows(&mut weights, depth));
            let mut tap = AttentionTap { rows: 0..rows, heads: 0..heads, scores: None, weights };
            ready.run(0, Some(&mut tap)).expect("shapes fit");
        }))
    }

    /// How far the last row of the result is from the definition in f64, over operands in f32: the length of the difference
    /// as a share of the length of the row.
    ///
    /// # Errors
    /// As [`Problem::candidate`].
    pub fn error(&self, options: &Options) -> Result<f64, KernelError> {
        let mut ready = Ready::new(*self, 1, options)?;
        ready.run(0, None)?;
        let Problem { n_heads, n_kv_heads, head_dim, depth, rows, window, .. } = *self;
        let visible = depth.saturating_sub(window.unwrap_or(depth))..depth;
        let row = (rows - 1) * n_heads * head_dim..;
        let (q, out) = (&ready.q[row.clone()], &ready.out[row]);
        let (mut difference, mut length) = (0.0, 0.0);
        for (head, (q, out)) in q.chunks(head_dim).zip(out.chunks(head_dim)).enumerate() {
            let from = head / (n_heads / n_kv_heads) * head_dim;
            let keys: Vec<Vec<f32>> = ready
                .kv
                .chunks(n_kv_heads * head_dim)
                .map(|row| row[from..from + head_dim].to_vec())
                .collect();
            let want = attention_row(q, &keys, &keys, visible.clone(), ready.params.scale, None, &[]).out;
            difference += want.iter().zip(out).map(|(w, o)| (w - f64::from(*o)).powi(2)).sum::<f64>();
            length += want.iter().map(|w| w * w).sum::<f64>();
        }
        Ok((difference / length).sqrt())
    }
}

/// A problem with its operands.
struct Ready {
    problem: Problem,
    kernels: Kernels,
    pool: Rc<Pool>,
    cache: KvCache,
    places: Vec<CacheRow>,
    params: AttentionParams,
    scratch: AttentionScratch,
    /// Keys, and values too, of every layer.
    kv: Rc<[f32]>,
    q: Rc<[f32]>,
    out: Vec<f32>,
}

impl Ready {
    fn new(problem: Problem, n_layers: usize, options: &Options) -> Result<Ready, KernelError> {
        let Problem { n_heads, n_kv_heads, head_dim, depth, rows, window, cache_type, arithmetic } = problem;
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
        let kv = filled(depth * n_kv_heads * head_dim, |x| x);
        let rows_of_kv = MatRef::from_rows(&kv, n_kv_heads * head_dim);
        options.pool.enter(|team| {
            (0..n_layers).try_for_each(|layer| {
                options.kernels.append(team, &mut cache, layer, &places, rows_of_kv, rows_of_kv)
            })
        })?;
        let params = AttentionParams {
            n_heads,
            scale: (head_dim as f32).powf(-0.5),
            soft_cap: None,
            mask: window.map_or(Mask::Causal, Mask::Window),
            arithmetic,
        };
        let q = filled(rows * n_heads * head_dim, |x| x);
        let (out, scratch) = (vec![0.0; q.len()], AttentionScratch::new());
        let (kernels, pool) = (options.kernels, options.pool.clone());
        Ok(Ready { problem, kernels, pool, cache, places, params, scratch, kv, q, out })
    }

    /// Attention of one layer.
    fn run(&mut self, layer: usize, tap: Option<&mut AttentionTap<'_>>) -> Result<(), KernelError> {
        let Problem { n_heads, head_dim, depth, rows, .. } = self.problem;
        let q = MatRef::from_rows(&self.q, n_heads * head_dim);
        let rows = &self.places[depth - rows..];
        let input = AttentionInput { q, cache: &self.cache, layer, rows, bias: None };
        let out = MatMut::from_rows(&mut self.out, n_heads * head_dim);
        let kernels = self.kernels;
        self.pool.enter(|team| kernels.attention(team, input, &self.params, out, &mut self.scratch, tap))
    }
}
