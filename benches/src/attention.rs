//! Attention: shapes, and how they are run.

use crate::options::Options;
use crate::timing::{Candidate, filled};
use gable_kernels::attention::{
    Arithmetic, AttentionInput, AttentionParams, AttentionScratch, CacheRow, CacheShape, CacheType, KvCache,
    Mask,
};
use gable_kernels::{KernelError, MatMut, MatRef};

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
        let Problem { n_heads, n_kv_heads, head_dim, depth, rows, window, cache_type, arithmetic } = *self;
        let (kernels, pool) = (options.kernels, options.pool.clone());
        let n_layers = distinct.div_ceil(self.cache_bytes().max(1)).max(1);
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
        let kv = MatRef::from_rows(&kv, n_kv_heads * head_dim);
        pool.enter(|team| {
            (0..n_layers).try_for_each(|layer| kernels.append(team, &mut cache, layer, &places, kv, kv))
        })?;
        let q = filled(rows * n_heads * head_dim, |x| x);
        let mut out = vec![0.0; q.len()];
        let mut scratch = AttentionScratch::new();
        let params = AttentionParams {
            n_heads,
            scale: (head_dim as f32).powf(-0.5),
            soft_cap: None,
            mask: window.map_or(Mask::Causal, Mask::Window),
            arithmetic,
        };
        let mut layer = 0;
        Ok(Candidate::new("gable", move || {
            layer = (layer + 1) % n_layers;
            let q = MatRef::from_rows(&q, n_heads * head_dim);
            let input = AttentionInput { q, cache: &cache, layer, rows: &places[depth - rows..], bias: None };
            let out = MatMut::from_rows(&mut out, n_heads * head_dim);
            pool.enter(|team| kernels.attention(team, input, &params, out, &mut scratch, None))
                .expect("shapes fit");
        }))
    }
}
