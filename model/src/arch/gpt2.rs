//! GPT-2: LayerNorm with biases, learned positions, no gate; checkpoints keep Q, K and V in one matrix.

use super::{Family, Role};
use crate::config::NormKind;
use gable_kernels::activation::Activation;

/// GPT-2. Hugging Face checkpoints store matrices input by output.
pub static GPT2: Family = Family {
    name: "gpt2",
    hf_types: &["gpt2"],
    norm: NormKind::Layer,
    hf_norm_offset: 0.0,
    activation: Activation::Gelu,
    gguf_rope: None,
    default_rope_base: 10_000.0,
    window_rope_base: None,
    window_pattern: None,
    scales_embeddings: false,
    average_query_layers: None,
    encoder: false,
    experts: false,
    hf_transposed: true,
    hf_name,
};

fn hf_name(role: Role) -> &'static str {
    match role {
        Role::Embedding => "transformer.wte",
        Role::PositionEmbedding => "transformer.wpe",
        Role::OutputNorm => "transformer.ln_f",
        Role::Output => "lm_head",
        Role::AttentionNorm => "transformer.h.{i}.ln_1",
        Role::Qkv => "transformer.h.{i}.attn.c_attn",
        Role::AttentionOutput => "transformer.h.{i}.attn.c_proj",
        Role::FfnNorm => "transformer.h.{i}.ln_2",
        Role::Up => "transformer.h.{i}.mlp.c_fc",
        Role::Down => "transformer.h.{i}.mlp.c_proj",
        _ => "",
    }
}
