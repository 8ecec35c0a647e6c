//! Phi 3 and 4: Llama with Q, K and V in one matrix and gate and up in another; long contexts by LongRoPE.

use super::{Family, Role, llama, qwen};

/// Phi 3 and 4.
pub static PHI3: Family = Family { window_pattern: Some(1), hf_name, ..qwen::family("phi3", &["phi3"]) };

fn hf_name(role: Role) -> &'static str {
    match role {
        Role::Qkv => "model.layers.{i}.self_attn.qkv_proj",
        Role::GateUp => "model.layers.{i}.mlp.gate_up_proj",
        Role::Q | Role::K | Role::V | Role::Gate | Role::Up => "",
        other => llama::hf_name(other),
    }
}
