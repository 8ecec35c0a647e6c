//! A configuration as GGUF metadata.

use crate::LoadError;
use crate::config::{ModelConfig, NormKind, Positions, yarn_magnitude};
use crate::gguf::writer::GgufWriter;
use gable_kernels::rope::RopeScaling;

/// Sets the keys of a configuration.
///
/// # Errors
/// A RoPE that GGUF has no keys for, and what the writer refuses.
pub(super) fn write(c: &ModelConfig, writer: &mut GgufWriter) -> Result<(), LoadError> {
    let key = |name: &str| format!("{}.{name}", c.architecture);
    let mut count = |name: &str, n: usize| writer.set(&key(name), &u32::try_from(n).unwrap_or(u32::MAX));
    count("block_count", c.n_layers)?;
    count("context_length", c.max_seq_len)?;
    count("embedding_length", c.d_model)?;
    match c.experts {
        None => count("feed_forward_length", c.d_ff)?,
        Some(experts) => {
            count("expert_feed_forward_length", c.d_ff)?;
            count("expert_count", experts.count)?;
            count("expert_used_count", experts.used)?;
        }
    }
    count("attention.head_count", c.n_heads)?;
    count("attention.head_count_kv", c.n_kv_heads)?;
    count("attention.key_length", c.head_dim)?;
    count("attention.value_length", c.head_dim)?;
    count("vocab_size", c.vocab_size)?;
    match c.windows.iter().flatten().next() {
        Some(window) => {
            count("attention.sliding_window", *window)?;
            if let Some(global) = c.windows.iter().position(Option::is_none) {
                count("attention.sliding_window_pattern", global.saturating_add(1))?;
            }
        }
        // Readers take the lack of this key for a window in files of Phi 3, and its zero for none in those of Phi 4.
        None if c.architecture == "phi3" => count("attention.sliding_window", 0)?,
        None => {}
    }
    if let Some(pooling) = c.pooling {
        writer.set(&key("pooling_type"), &pooling.to_gguf())?;
    }
    if c.encoder {
        writer.set(&key("attention.causal"), &false)?;
    }
    if c.experts.is_some_and(|experts| !experts.normalized) {
        writer.set(&key("expert_weights_norm"), &false)?;
    }
    let eps = match c.norm {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    };
    let mut float = |name: &str, x: f32| writer.set(&key(name), &x);
    float(eps, c.norm_eps)?;
    for (name, cap) in
        [("attn_logit_softcapping", c.attention_soft_cap), ("final_logit_softcapping", c.logit_soft_cap)]
    {
        if let Some(cap) = cap {
            float(name, cap)?;
        }
    }
    if let Positions::Rope { n_rot, base, window_base, scaling, .. } = c.positions {
        float("rope.freq_base", base)?;
        if window_base != base {
            float("rope.freq_base_swa", window_base)?;
        }
        match scaling {
            RopeScaling::Linear { factor } => {
                float("rope.scaling.factor", factor)?;
                writer.set(&key("rope.scaling.type"), "linear")?;
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                truncate: true,
                attention_factor,
            } => {
                float("rope.scaling.factor", factor)?;
                float("rope.scaling.yarn_beta_fast", beta_fast)?;
                float("rope.scaling.yarn_beta_slow", beta_slow)?;
                // What the magnitude is beyond that which follows from the factor.
                float("rope.scaling.attn_factor", attention_factor / yarn_magnitude(factor, 1.0))?;
                writer.set(&key("rope.scaling.original_context_length"), &original_context)?;
                writer.set(&key("rope.scaling.type"), "yarn")?;
            }
            // Its factors are tensors.
            RopeScaling::LongRope { original_context, attention_factor } => {
                float("rope.scaling.attn_factor", attention_factor)?;
                writer.set(&key("rope.scaling.original_context_length"), &original_context)?;
            }
            // That of Llama 3 is a tensor.
            RopeScaling::None | RopeScaling::Llama3 { .. } => {}
            other => {
                let (found, supported) =
                    (format!("{other:?}"), "linear, llama3, longrope, yarn with truncate".to_owned());
                return Err(LoadError::Unsupported { what: "RoPE scaling in GGUF", found, supported });
            }
        }
        writer.set(&key("rope.dimension_count"), &u32::try_from(n_rot).unwrap_or(u32::MAX))?;
    }
    Ok(())
}
