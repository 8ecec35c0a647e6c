//! Fused attention over a paged cache.
//!
//! `out = softmax(cap(scale q K^T) + mask) V` for every row and head, without ever storing the scores: a tile of query
//! rows walks over the pages of the keys it attends to, keeping a running maximum, a running sum and a running output
//! (online softmax).
//!
//! ```text
//!                 chunk 0 (16 pages)           chunk 1
//!            page 0  page 1  ..          | page 16  page 17
//! rows 0..8   ####    ###                |                      a tile: tokens x heads of one key head,
//! rows 8..16  ####    ####    ##         |                      at most 24 rows, one pass over K and V for all
//! ..
//! row 1100    ####    ####    ####  ..   |  ####     ###        one decoding token: also cut between chunks
//! ```
//!
//! * `leaf.rs`: one tile against one chunk in f32, generic over the instruction set;
//! * `tile.rs`: its two products in registers;
//! * `pairs.rs`: the same by dot products of bf16, for units of up to 96 rows;
//! * `plan.rs`: tiles, threads, merging;
//! * `int8.rs`: the same over a cache of int8;
//! * `kv_cache.rs`, `pages.rs`, `append.rs`, `transfer.rs`: where keys and values live;
//! * `tap.rs`: a look at the scores and weights on the way.
//!
//! # One order
//!
//! Pages (64 positions) and chunks (1024, or 512: see `plan.rs`) begin at absolute positions. A row visits its own keys in ascending order,
//! chunk by chunk, each element by the same chain of operations in a tile of one row and of many; results of chunks are
//! merged in order of position. So a row's bits are a function of its query, its keys and its values, the cache's type and the
//! arithmetic alone: a prompt
//! fed whole, in pieces or token by token, by one thread or seven, alone or in a batch, gives the same.

mod append;
mod heads;
pub(crate) mod int8;
mod kv_cache;
pub(crate) mod leaf;
mod pages;
pub(crate) mod pairs;
mod plan;
mod tap;
mod tile;
mod transfer;

pub(crate) use append::rows as cache_rows;
pub use heads::HeadSteps;
pub use kv_cache::{CacheShape, KvCache, SequenceId};
pub use pages::CacheType;
pub use plan::AttentionScratch;
pub use tap::AttentionTap;

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef};
use crate::pool::Team;

/// Positions of a page, which is also the tile of keys.
pub const PAGE: usize = 64;

/// Which position of which sequence a row of a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheRow {
    /// The sequence.
    pub sequence: SequenceId,
    /// The position in it, from 0.
    pub position: usize,
}

/// Which keys a row at position `p` attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mask {
    /// `0..=p`
    Causal,
    /// The last `n` of `0..=p`: `p` itself and `n - 1` before it.
    Window(usize),
    /// Every position in the cache.
    Bidirectional,
}

/// What attention multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Arithmetic {
    /// f32: the cached values as they are.
    #[default]
    F32,
    /// Queries, keys, values and weights rounded to bf16, products summed in f32. Twice as fast where the CPU multiplies
    /// bf16, slower than f32 elsewhere.
    Bf16,
}

impl Arithmetic {
    /// The faster one for prompts on this instruction set.
    pub fn fastest(kernels: Kernels) -> Self {
        if kernels.table.multiplies_bf16 { Arithmetic::Bf16 } else { Arithmetic::F32 }
    }
}

/// How attention is computed, beyond what the cache's shape says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionParams {
    /// Query heads: a multiple of the cache's key heads. Head `h` attends to key head `h / (n_heads / n_kv_heads)`.
    pub n_heads: usize,
    /// What products of queries and keys are multiplied with, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// `c`: scores become `c tanh(score / c)`.
    pub soft_cap: Option<f32>,
    /// Which keys a row sees.
    pub mask: Mask,
    /// What is multiplied.
    pub arithmetic: Arithmetic,
}

/// What attention reads.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInput<'a> {
    /// Queries, `rows.len() x (n_heads * head_dim)`: may be a strip of a fused projection.
    pub q: MatRef<'a>,
    /// Keys and values, those of the rows themselves included: [append](Kernels::append) comes first.
    pub cache: &'a KvCache,
    /// The layer of the cache.
    pub layer: usize,
    /// Where each row of `q` stands. Neighbouring rows of one sequence share work.
    pub rows: &'a [CacheRow],
    /// What is added to the scores of all heads: a row for each row of `q`, or one for all, with a column for each
    /// position that a row attends to. -inf hides a key, whose value must be finite then.
    pub bias: Option<MatRef<'a>>,
}

impl Kernels {
    /// Attention of rows of queries over a cache, for all heads.
    ///
    /// **Formula**: `out[i, h] = sum_j p_j v_j`, `p = softmax(s)`, `s_j = cap(scale q[i, h] . k_j) + bias[i, j]` over the
    /// keys `j` that the mask lets row `i` see, `cap(s) = c tanh(s / c)` with a soft-cap and `s` without.
    /// **Shapes**: `out` like `q`, `rows x (n_heads * head_dim)`.
    /// **Accuracy**: with f32 arithmetic within `8 (1 + n_keys) eps sum p |v|` of the exact result for the cached values;
    /// with bf16 within `2^-8 sum p |v|` more of the exact result for queries and cached values that are rounded to
    /// bf16, each to `2^-9`; a q8_0 cache as with f32 arithmetic, for queries that are rounded to int8 in groups of 32
    /// (`tests/attention.rs`).
    /// **Special values**: a row that sees no key, or only scores of -inf, gives zeros. NaN in a query, in a visible
    /// key or value gives NaN in the rows that see it and nowhere else; what lies behind the visible positions is
    /// never used.
    /// **Threads and determinism**: tiles of rows, key heads and, for few rows, chunks of the cache are spread over the
    /// team. A row's bits depend on its own query, keys and values only. With reserved `scratch` nothing is allocated.
    /// After a cancelled operation `out` is unspecified.
    /// **Source**: Milakov & Gimelshein 2018; Dao et al. 2022; Ainslie et al. 2023 (grouped heads).
    ///
    /// # Errors
    /// [`KernelError::Shape`] for extents that do not match, a bias of too few columns, positions that are not in the cache or were given back;
    /// [`KernelError::Value`] for a window of 0, a soft-cap that is not positive, a sequence that has ended.
    pub fn attention(
        self,
        team: &Team<'_>,
        input: AttentionInput<'_>,
        params: &AttentionParams,
        out: MatMut<'_>,
        scratch: &mut AttentionScratch,
        tap: Option<&mut AttentionTap<'_>>,
    ) -> Result<(), KernelError> {
        check(&input, params, &out)?;
        plan::run(self, team, input, params, out, scratch, tap)
    }
}

/// Everything that can be refused without looking at single rows.
fn check(input: &AttentionInput<'_>, params: &AttentionParams, out: &MatMut<'_>) -> Result<(), KernelError> {
    const OP: &str = "attention";
    let shape = input.cache.shape();
    if params.n_heads == 0 || !params.n_heads.is_multiple_of(shape.n_kv_heads) {
        return Err(KernelError::Shape {
            op: OP,
            what: "n_heads (a multiple of n_kv_heads)",
            expected: shape.n_kv_heads,
            found: params.n_heads,
        });
    }
    let cols = params.n_heads * shape.head_dim;
    for (what, expected, found) in [
        ("q.rows", input.rows.len(), input.q.rows()),
        ("q.cols", cols, input.q.cols()),
        ("out.rows", input.rows.len(), out.rows()),
        ("out.cols", cols, out.cols()),
    ] {
        if expected != found {
            return Err(KernelError::Shape { op: OP, what, expected, found });
        }
    }
    if let Some(bias) = input.bias.filter(|bias| bias.rows() != 1 && bias.rows() != input.rows.len()) {
        let (expected, found) = (input.rows.len(), bias.rows());
        return Err(KernelError::Shape { op: OP, what: "bias.rows (1, or)", expected, found });
    }
    if params.mask == Mask::Window(0) {
        let found = "0".to_owned();
        return Err(KernelError::Value { op: OP, what: "window", found, allowed: "1 or more" });
    }
    if let Some(cap) = params.soft_cap.filter(|cap| !(*cap > 0.0 && cap.is_finite())) {
        let found = cap.to_string();
        return Err(KernelError::Value { op: OP, what: "soft_cap", found, allowed: "positive numbers" });
    }
    if !params.scale.is_finite() {
        let found = params.scale.to_string();
        return Err(KernelError::Value { op: OP, what: "scale", found, allowed: "finite numbers" });
    }
    Ok(())
}
