//! Phi 3 and 4: Llama with Q, K and V in one matrix and gate and up in another; long contexts by LongRoPE.

use super::{Family, Role, llama};
use crate::config::NormKind;
use gable_kernels::activation::Activation;
use gable_kernels::rope::RopePairing;

/// Phi 3 and 4.
pub static PHI3: Family = Family {
    name: "phi3",
    hf_types: &["phi3"],
    norm: NormKind::Rms,
    hf_norm_offset: 0.0,
    activation: Activation::Silu,
    gguf_rope: Some(RopePairing::Halves),
    default_rope_base: 10_000.0,
    window_rope_base: None,
    window_pattern: Some(1),
    scales_embeddings: false,
    average_query_layers: None,
    encoder: false,
    experts: false,
    hf_transposed: false,
    hf_name,
};

fn hf_name(role: Role) -> &'static str {
    match role {
        Role::Qkv => "model.layers.{i}.self_attn.qkv_proj",
        Role::GateUp => "model.layers.{i}.mlp.gate_up_proj",
        Role::Q | Role::K | Role::V | Role::Gate | Role::Up => "",
        other => llama::hf_name(other),
    }
}
