//! Looking at a forward pass while it runs.
//!
//! An [`Observer`] says beforehand which places it wants to see, and gets a view of the values there. The pass computes
//! the same bits with and without it, and what nobody wants costs one comparison per layer. It is also told when each
//! operation is done, which is what a [`Timeline`](crate::timeline::Timeline) is made of; who does not care for that
//! costs an empty call.

use gable_kernels::MatRef;

/// A place in the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Site {
    /// The embedded tokens, `[rows, d_model]`; layer 0.
    Embed,
    /// The normalised rows that queries, keys and values are made from, `[rows, d_model]`.
    AttentionInput,
    /// Queries after norm and RoPE, `[rows, n_heads * head_dim]`.
    Q,
    /// Keys after norm and RoPE, `[rows, n_kv_heads * head_dim]`.
    K,
    /// Values, `[rows, n_kv_heads * head_dim]`.
    V,
    /// Scaled scores, `[rows * n_heads, positions]`; -inf where a row does not look.
    Scores,
    /// Softmax of the scores, f32, `[rows * n_heads, positions]`.
    AttentionWeights,
    /// The heads' outputs side by side, before `W_O`, `[rows, n_heads * head_dim]`.
    Heads,
    /// What attention adds to the residual stream, `[rows, d_model]`.
    AttentionOut,
    /// The residual stream after attention, `[rows, d_model]`.
    ResidualMid,
    /// The normalised rows that the feed-forward network reads, `[rows, d_model]`.
    FfnInput,
    /// The feed-forward network's inner values after nonlinearity and gate, `[rows, d_ff]`; of experts one by one.
    FfnActivation,
    /// What the feed-forward network adds to the residual stream, `[rows, d_model]`.
    FfnOut,
    /// The residual stream after the layer, `[rows, d_model]`.
    ResidualOut,
    /// After the last norm, `[rows that want logits, d_model]`; layer `n_layers`.
    FinalNorm,
    /// Raw scores of all tokens, `[rows that want logits, vocab_size]`; layer `n_layers`.
    Logits,
}

/// A step of a pass. One that has ended without a word of its own is counted to the next that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// The pool's threads are awake.
    Enter,
    /// The batch is checked, RoPE's angles are made.
    Begin,
    /// Rows of the embedding are looked up.
    Embed,
    /// A norm before a block or before the unembedding.
    Norm,
    /// Activations take the form that the coming matmuls multiply with.
    Prepare,
    /// `W_Q`, `W_K` and `W_V`.
    Qkv,
    /// Queries and keys are normalised and turned by position; keys and values go into the cache.
    Append,
    /// Scores, softmax, weighted sum of values.
    Attention,
    /// `W_O`, added to the residual stream.
    AttentionOutput,
    /// `W_gate` and `W_up`; with experts, the choice too.
    GateUp,
    /// Nonlinearity and gate.
    Activate,
    /// `W_down`, added to the residual stream.
    Down,
    /// A norm behind a block, and the sum with the residual stream.
    PostNorm,
    /// `W_U`, of the rows that want logits.
    Unembed,
}

/// Who looks.
pub trait Observer {
    /// Whether the values at this place are wanted: asked before they are computed.
    fn wants(&self, layer: usize, site: Site) -> bool;
    /// The values of one batch at a place that was wanted.
    fn observe(&mut self, layer: usize, site: Site, values: MatRef<'_>);
    /// The same, of the rows that chose an expert, and only where the layer's place was wanted.
    fn observe_expert(&mut self, _layer: usize, _expert: usize, _site: Site, _values: MatRef<'_>) {}
    /// An operation is done, on all threads; outside of layers `layer` is 0 before and `n_layers` after them.
    fn done(&mut self, _layer: usize, _operation: Operation) {}
}

/// Nobody looks.
impl Observer for () {
    fn wants(&self, _: usize, _: Site) -> bool {
        false
    }
    fn observe(&mut self, _: usize, _: Site, _: MatRef<'_>) {}
}
