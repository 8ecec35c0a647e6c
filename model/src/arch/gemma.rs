//! Gemma 3: norms before and behind every block, norms of query and key heads, five layers with a sliding window for
//! every one that sees all, embeddings scaled by `sqrt(d_model)`.

use super::{Family, Role, llama};
use crate::config::NormKind;
use gable_kernels::activation::Activation;
use gable_kernels::rope::RopePairing;

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
