//! Gemma 2 and 3: norms before and behind every block, layers with a sliding window between those that see all, embeddings
//! scaled by `sqrt(d_model)`. Gemma 2 has one such layer for every one that sees all, and caps on attention scores and
//! logits; Gemma 3 has five, a RoPE base of their own, and norms of query and key heads.

use super::{Family, Role, llama};
use crate::config::NormKind;
use gable_kernels::activation::Activation;
use gable_kernels::rope::RopePairing;

/// Gemma 2. Its files say at which values scores and logits are capped.
pub static GEMMA2: Family = Family {
    name: "gemma2",
    hf_types: &["gemma2"],
    norm: NormKind::Rms,
    hf_norm_offset: 1.0,
    activation: Activation::Gelu,
    gguf_rope: Some(RopePairing::Halves),
    default_rope_base: 10_000.0,
    window_rope_base: None,
    window_pattern: Some(2),
    scales_embeddings: true,
    average_query_layers: Some(46),
    encoder: false,
    experts: false,
    hf_transposed: false,
    hf_name,
};

/// Gemma 3, text only.
pub static GEMMA3: Family = Family {
    name: "gemma3",
    hf_types: &["gemma3_text", "gemma3"],
    norm: NormKind::Rms,
    hf_norm_offset: 1.0,
    activation: Activation::Gelu,
    gguf_rope: Some(RopePairing::Halves),
    default_rope_base: 1_000_000.0,
    window_rope_base: Some(10_000.0),
    window_pattern: Some(6),
    scales_embeddings: true,
    average_query_layers: None,
    encoder: false,
    experts: false,
    hf_transposed: false,
    hf_name,
};

fn hf_name(role: Role) -> &'static str {
    match role {
        Role::AttentionPostNorm => "model.layers.{i}.post_attention_layernorm",
        Role::FfnNorm => "model.layers.{i}.pre_feedforward_layernorm",
        Role::FfnPostNorm => "model.layers.{i}.post_feedforward_layernorm",
        other => llama::hf_name(other),
    }
}
