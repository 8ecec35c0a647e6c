//! Qwen 2, 2.5 and 3: Llama with biases on Q, K and V, respectively with norms of every query and key head.

use super::{Family, llama};
use crate::config::NormKind;
use gable_kernels::activation::Activation;
use gable_kernels::rope::RopePairing;

/// Qwen 2 and 2.5.
pub static QWEN2: Family = family("qwen2", &["qwen2"]);
/// Qwen 3.
pub static QWEN3: Family = family("qwen3", &["qwen3"]);

const fn family(name: &'static str, hf_types: &'static [&'static str]) -> Family {
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
        hf_transposed: false,
        hf_name: llama::hf_name,
    }
}
