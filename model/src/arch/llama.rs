//! Llama 2 and 3, SmolLM2, Mistral: RMSNorm, RoPE, grouped queries, SwiGLU.

use super::{Family, Role};
use crate::config::NormKind;
use gable_kernels::activation::Activation;
use gable_kernels::rope::RopePairing;

/// GGUF files of this family have the rows of Q and K permuted, so that neighbouring values are turned together.
pub static LLAMA: Family = Family {
    name: "llama",
    hf_types: &["llama", "mistral"],
    norm: NormKind::Rms,
    hf_norm_offset: 0.0,
    activation: Activation::Silu,
    gguf_rope: Some(RopePairing::Interleaved),
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

/// The names that most families share.
pub(super) fn hf_name(role: Role) -> &'static str {
    match role {
        Role::Embedding => "model.embed_tokens",
        Role::OutputNorm => "model.norm",
        Role::Output => "lm_head",
        Role::AttentionNorm => "model.layers.{i}.input_layernorm",
        Role::Q => "model.layers.{i}.self_attn.q_proj",
        Role::K => "model.layers.{i}.self_attn.k_proj",
        Role::V => "model.layers.{i}.self_attn.v_proj",
        Role::QNorm => "model.layers.{i}.self_attn.q_norm",
        Role::KNorm => "model.layers.{i}.self_attn.k_norm",
        Role::AttentionOutput => "model.layers.{i}.self_attn.o_proj",
        Role::FfnNorm => "model.layers.{i}.post_attention_layernorm",
        Role::Gate => "model.layers.{i}.mlp.gate_proj",
        Role::Up => "model.layers.{i}.mlp.up_proj",
        Role::Down => "model.layers.{i}.mlp.down_proj",
        Role::PositionEmbedding
        | Role::TokenTypes
        | Role::EmbeddingNorm
        | Role::AttentionSumNorm
        | Role::FfnSumNorm
        | Role::RopeFactors
        | Role::LongRopeFactors
        | Role::ShortRopeFactors
        | Role::GateUp
        | Role::Router
        | Role::ExpertGate(_)
        | Role::ExpertUp(_)
        | Role::ExpertDown(_)
        | Role::Qkv
        | Role::AttentionPostNorm
        | Role::FfnPostNorm => "",
    }
}
