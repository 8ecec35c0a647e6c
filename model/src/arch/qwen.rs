//! Qwen 2, 2.5 and 3: Llama with biases on Q, K and V, respectively with norms of every query and key head. Qwen 3 also has
//! members with experts.

use super::{Family, Role, llama};
use crate::config::NormKind;
use gable_kernels::activation::Activation;
use gable_kernels::rope::RopePairing;

/// Qwen 2 and 2.5.
pub static QWEN2: Family = family("qwen2", &["qwen2"]);
/// Qwen 3.
pub static QWEN3: Family = family("qwen3", &["qwen3"]);
/// Qwen 3 with experts in the place of each feed-forward network.
pub static QWEN3_MOE: Family =
    Family { experts: true, hf_name: name_with_experts, ..family("qwen3moe", &["qwen3_moe"]) };

fn name_with_experts(role: Role) -> &'static str {
    match role {
        Role::Router => "model.layers.{i}.mlp.gate",
        Role::ExpertGate(_) => "model.layers.{i}.mlp.experts.{e}.gate_proj",
        Role::ExpertUp(_) => "model.layers.{i}.mlp.experts.{e}.up_proj",
        Role::ExpertDown(_) => "model.layers.{i}.mlp.experts.{e}.down_proj",
        other => llama::hf_name(other),
    }
}

/// RMSNorm, SwiGLU, RoPE by halves: what most families after Llama share.
pub(super) const fn family(name: &'static str, hf_types: &'static [&'static str]) -> Family {
    Family {
        name,
        hf_types,
        norm: NormKind::Rms,
        hf_norm_offset: 0.0,
        activation: Activation::Silu,
        gguf_rope: Some(RopePairing::Halves),
        default_rope_base: 10_000.0,
        window_rope_base: None,
        window_pattern: None,
        scales_embeddings: false,
        average_query_layers: None,
        encoder: false,
        experts: false,
        hf_transposed: false,
        hf_name: llama::hf_name,
    }
}
