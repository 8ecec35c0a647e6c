//! What differs between model families, as data: one small file per family.
//!
//! The forward pass is the same for all. A family says which normalisation and nonlinearity it uses, how its tensors
//! are called in a Hugging Face checkpoint, and the few constants that files leave out. Whether there are biases,
//! norms of queries and keys or norms behind a block follows from the tensors that are in the file.

mod bert;
mod gemma;
mod gpt2;
mod llama;
mod phi;
mod qwen;

use crate::LoadError;
use crate::config::NormKind;
use gable_kernels::activation::Activation;
use gable_kernels::rope::RopePairing;

/// Every family that can be run.
pub static FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &gpt2::GPT2,
    &bert::BERT,
    &phi::PHI3,
    &qwen::QWEN3_MOE,
];

/// A family of models.
#[derive(Debug)]
pub struct Family {
    /// `general.architecture` of GGUF files.
    pub name: &'static str,
    /// `model_type` of Hugging Face configurations.
    pub hf_types: &'static [&'static str],
    /// Normalisation.
    pub norm: NormKind,
    /// Added to norm weights of Hugging Face checkpoints (GGUF files hold the sum).
    pub hf_norm_offset: f32,
    /// Nonlinearity of the feed-forward network.
    pub activation: Activation,
    /// How GGUF files of the family pair the values that are turned; `None` for learned positions.
    pub gguf_rope: Option<RopePairing>,
    /// RoPE base where the configuration has none.
    pub default_rope_base: f32,
    /// RoPE base of layers with a sliding window, where the file has none.
    pub window_rope_base: Option<f32>,
    /// Every how many layers one sees everything, where the file does not say; `None` if the family has no windows.
    pub window_pattern: Option<u64>,
    /// Whether embeddings are multiplied with `sqrt(d_model)`.
    pub scales_embeddings: bool,
    /// Layers of the one member (Gemma 2 27B) that scales queries by `sqrt(d_model / n_heads)`, not by `sqrt(head_dim)`, of
    /// which GGUF files do not tell.
    pub average_query_layers: Option<usize>,
    /// Whether every token sees all others, and norms stand behind the sums.
    pub encoder: bool,
    /// Whether each feed-forward network is a choice of many.
    pub experts: bool,
    /// Whether matrices of Hugging Face checkpoints are stored input by output.
    pub hf_transposed: bool,
    /// Names in Hugging Face checkpoints.
    pub hf_name: fn(Role) -> &'static str,
}

impl Family {
    pub(crate) fn embedding_scale(&self, d_model: usize) -> f32 {
        if self.scales_embeddings { (d_model as f32).sqrt() } else { 1.0 }
    }

    /// Of which width the root scales a query, where the file is GGUF.
    pub(crate) fn query_width(
        &self,
        n_layers: usize,
        d_model: usize,
        n_heads: usize,
        head_dim: usize,
    ) -> usize {
        if self.average_query_layers == Some(n_layers) { d_model / n_heads.max(1) } else { head_dim }
    }

    pub(crate) fn has_window(&self) -> bool {
        self.window_pattern.is_some()
    }

    /// The family of a GGUF file.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`], listing what there is.
    pub fn of_gguf(architecture: &str) -> Result<&'static Family, LoadError> {
        FAMILIES
            .iter()
            .copied()
            .find(|f| f.name == architecture)
            .ok_or_else(|| unsupported(architecture, |f| vec![f.name]))
    }

    /// The family of a Hugging Face checkpoint.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`], listing what there is.
    pub fn of_hf(model_type: &str) -> Result<&'static Family, LoadError> {
        let found = FAMILIES.iter().copied().find(|f| f.hf_types.contains(&model_type));
        found.ok_or_else(|| unsupported(model_type, |f| f.hf_types.to_vec()))
    }
}

fn unsupported(found: &str, names: impl Fn(&Family) -> Vec<&'static str>) -> LoadError {
    let supported: Vec<_> = FAMILIES.iter().flat_map(|f| names(f)).collect();
    LoadError::Unsupported { what: "architecture", found: found.to_owned(), supported: supported.join(", ") }
}

/// What a tensor is for. Names of layers' tensors hold `{i}` for the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One vector per token: `W_E`.
    Embedding,
    /// One vector per position.
    PositionEmbedding,
    /// One vector per kind of token: first text of a pair, second.
    TokenTypes,
    /// Norm of the embedded tokens.
    EmbeddingNorm,
    /// Norm before the output projection.
    OutputNorm,
    /// From the last vector to scores of all tokens: `W_U`; the embedding again if absent.
    Output,
    /// Factors of RoPE frequencies.
    RopeFactors,
    /// Factors of RoPE frequencies for sequences beyond the original context.
    LongRopeFactors,
    /// Factors of RoPE frequencies for those within.
    ShortRopeFactors,
    /// Norm before attention.
    AttentionNorm,
    /// Norm behind attention, before it is added.
    AttentionPostNorm,
    /// Norm behind the sum of attention and what it read.
    AttentionSumNorm,
    /// `W_Q`
    Q,
    /// `W_K`
    K,
    /// `W_V`
    V,
    /// `W_Q`, `W_K` and `W_V` in one.
    Qkv,
    /// Norm of every query head.
    QNorm,
    /// Norm of every key head.
    KNorm,
    /// `W_O`
    AttentionOutput,
    /// Norm before the feed-forward network.
    FfnNorm,
    /// Norm behind the feed-forward network, before it is added.
    FfnPostNorm,
    /// Norm behind the sum of the feed-forward network and what it read.
    FfnSumNorm,
    /// The gate's matrix.
    Gate,
    /// The first matrix.
    Up,
    /// The second matrix.
    Down,
    /// The gate's matrix and the first matrix in one.
    GateUp,
    /// Scores of the experts.
    Router,
    /// An expert's gate. Its number stands for `{e}`; in GGUF files one tensor holds all experts.
    ExpertGate(usize),
    /// An expert's first matrix.
    ExpertUp(usize),
    /// An expert's second matrix.
    ExpertDown(usize),
}

/// Names in GGUF files, the same for all families, without `.weight` and `.bias`. Empty: not in such files.
pub fn gguf_name(role: Role) -> &'static str {
    match role {
        Role::Embedding => "token_embd",
        Role::PositionEmbedding => "position_embd",
        Role::TokenTypes => "token_types",
        Role::EmbeddingNorm => "token_embd_norm",
        Role::OutputNorm => "output_norm",
        Role::Output => "output",
        Role::RopeFactors => "rope_freqs",
        Role::LongRopeFactors => "rope_factors_long",
        Role::ShortRopeFactors => "rope_factors_short",
        Role::AttentionNorm => "blk.{i}.attn_norm",
        Role::AttentionPostNorm => "blk.{i}.post_attention_norm",
        Role::AttentionSumNorm => "blk.{i}.attn_output_norm",
        Role::Q => "blk.{i}.attn_q",
        Role::K => "blk.{i}.attn_k",
        Role::V => "blk.{i}.attn_v",
        Role::Qkv => "blk.{i}.attn_qkv",
        Role::QNorm => "blk.{i}.attn_q_norm",
        Role::KNorm => "blk.{i}.attn_k_norm",
        Role::AttentionOutput => "blk.{i}.attn_output",
        Role::FfnNorm => "blk.{i}.ffn_norm",
        Role::FfnPostNorm => "blk.{i}.post_ffw_norm",
        Role::FfnSumNorm => "blk.{i}.layer_output_norm",
        Role::Gate => "blk.{i}.ffn_gate",
        Role::Up | Role::GateUp => "blk.{i}.ffn_up",
        Role::Down => "blk.{i}.ffn_down",
        Role::Router => "blk.{i}.ffn_gate_inp",
        Role::ExpertGate(_) => "blk.{i}.ffn_gate_exps",
        Role::ExpertUp(_) => "blk.{i}.ffn_up_exps",
        Role::ExpertDown(_) => "blk.{i}.ffn_down_exps",
    }
}
