//! BERT and the encoders of sentences that are made from it: every token sees all others, and norms stand behind the sums.

use super::{Family, Role};
use crate::config::NormKind;
use gable_kernels::activation::Activation;

/// BERT. What it computes are vectors of texts: it has no next token.
pub static BERT: Family = Family {
    name: "bert",
    hf_types: &["bert"],
    norm: NormKind::Layer,
    hf_norm_offset: 0.0,
    activation: Activation::GeluErf,
    gguf_rope: None,
    default_rope_base: 10_000.0,
    window_rope_base: None,
    window_pattern: None,
    scales_embeddings: false,
    average_query_layers: None,
    encoder: true,
    experts: false,
    hf_transposed: false,
    hf_name,
};

fn hf_name(role: Role) -> &'static str {
    match role {
        Role::Embedding => "bert.embeddings.word_embeddings",
        Role::PositionEmbedding => "bert.embeddings.position_embeddings",
        Role::TokenTypes => "bert.embeddings.token_type_embeddings",
        Role::EmbeddingNorm => "bert.embeddings.LayerNorm",
        Role::Q => "bert.encoder.layer.{i}.attention.self.query",
        Role::K => "bert.encoder.layer.{i}.attention.self.key",
        Role::V => "bert.encoder.layer.{i}.attention.self.value",
        Role::AttentionOutput => "bert.encoder.layer.{i}.attention.output.dense",
        Role::AttentionSumNorm => "bert.encoder.layer.{i}.attention.output.LayerNorm",
        Role::Up => "bert.encoder.layer.{i}.intermediate.dense",
        Role::Down => "bert.encoder.layer.{i}.output.dense",
        Role::FfnSumNorm => "bert.encoder.layer.{i}.output.LayerNorm",
        _ => "",
    }
}
