//! What a model looks like: one plain struct, filled from GGUF metadata or a Hugging Face `config.json`, checked once.

mod rope;

pub(crate) use self::rope::yarn_magnitude;

use crate::LoadError;
use crate::arch::Family;
use crate::embed::Pooling;
use crate::gguf::{FromValue, Metadata};
use gable_kernels::activation::Activation;
use gable_kernels::rope::{RopePairing, RopeScaling};
use serde_json::Value as Json;

/// Which normalisation a family uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm: no mean, no bias.
    Rms,
    /// LayerNorm with weight and bias.
    Layer,
}

/// How a model knows positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// Queries and keys are turned.
    Rope {
        /// Which two values are turned together: a matter of the file's loader, not of the family.
        pairing: RopePairing,
        /// Turned values per head.
        n_rot: usize,
        /// Base of the frequencies.
        base: f32,
        /// Base in layers with a sliding window.
        window_base: f32,
        /// How the frequencies were stretched; layers with a sliding window are never stretched.
        scaling: RopeScaling,
    },
    /// A learned vector per position is added to the embedding.
    Learned,
}

/// A choice of feed-forward networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertConfig {
    /// How many there are.
    pub count: usize,
    /// How many of them each row goes through.
    pub used: usize,
    /// Whether the weights of those are made to sum to 1.
    pub normalized: bool,
}

/// What RoPE's frequencies are divided by, a number for each pair.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeFactors {
    /// In sessions within the original context; in all where there are no others.
    pub short: Vec<f32>,
    /// In sessions that reach beyond it.
    pub long: Option<Vec<f32>>,
}

/// The shape of a transformer and the constants of its formulas.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Name of the family, as in `general.architecture`.
    pub architecture: &'static str,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Length of the vectors that flow through the layers.
    pub d_model: usize,
    /// Width of the feed-forward network, or of an expert.
    pub d_ff: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads: divides `n_heads`.
    pub n_kv_heads: usize,
    /// Length of a head's query, key and value.
    pub head_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub max_seq_len: usize,
    /// RMSNorm or LayerNorm.
    pub norm: NormKind,
    /// Added to the mean square before the root.
    pub norm_eps: f32,
    /// How positions enter.
    pub positions: Positions,
    /// Whether every position sees all others, and the norms stand behind the sums: `x = norm(x + block(x))`.
    pub encoder: bool,
    /// How the vectors of a text's tokens become one, where the model's maker says.
    pub pooling: Option<Pooling>,
    /// The choice of experts, in families that have them.
    pub experts: Option<ExpertConfig>,
    /// What RoPE's frequencies are divided by, where the configuration says; in GGUF files tensors do.
    pub rope_factors: Option<RopeFactors>,
    /// Nonlinearity of the feed-forward network.
    pub activation: Activation,
    /// Embeddings are multiplied with this.
    pub embedding_scale: f32,
    /// Products of queries and keys are multiplied with this.
    pub attention_scale: f32,
    /// `c`: scores become `c tanh(score / c)`.
    pub attention_soft_cap: Option<f32>,
    /// `c`: logits become `c tanh(logit / c)`.
    pub logit_soft_cap: Option<f32>,
    /// Per layer: how many positions it looks back, itself included; `None` for all.
    pub windows: Vec<Option<usize>>,
}

/// Widest accepted extents: far above any model, low enough that no product of two can overflow.
const MAX_EXTENT: usize = 1 << 24;

/// Most experts that are accepted: each is a matrix of its own.
const MAX_EXPERTS: usize = 1024;

fn bad(key: &str, reason: String) -> LoadError {
    LoadError::Metadata { key: key.to_owned(), reason }
}

/// A GGUF file's keys of one architecture.
pub struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    /// `<architecture>.<key>`, if present.
    ///
    /// # Errors
    /// Another type, or out of the type's range.
    pub fn get<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, LoadError> {
        self.metadata.get(&format!("{}.{key}", self.architecture))
    }

    fn extent(&self, key: &str) -> Result<usize, LoadError> {
        let name = format!("{}.{key}", self.architecture);
        extent(&name, self.metadata.require::<u64>(&name)?)
    }

    fn extent_or(&self, key: &str, default: usize) -> Result<usize, LoadError> {
        let found: Option<u64> = self.get(key)?;
        found.map_or(Ok(default), |v| extent(&format!("{}.{key}", self.architecture), v))
    }
}

fn extent(key: &str, value: u64) -> Result<usize, LoadError> {
    match usize::try_from(value) {
        Ok(n) if (1..=MAX_EXTENT).contains(&n) => Ok(n),
        _ => Err(bad(key, format!("is {value}; allowed: 1 to {MAX_EXTENT}"))),
    }
}

impl ModelConfig {
    /// Reads a GGUF file's metadata. `vocab_size` is the number of rows of the embedding table.
    ///
    /// # Errors
    /// A missing, mistyped or impossible key, by name.
    pub fn from_gguf(
        family: &'static Family,
        metadata: &Metadata,
        vocab_size: usize,
    ) -> Result<Self, LoadError> {
        let architecture = metadata.require::<&str>("general.architecture")?;
        let keys = Keys { metadata, architecture };
        let d_model = keys.extent("embedding_length")?;
        let n_heads = keys.extent("attention.head_count")?;
        let head_dim = keys.extent_or("attention.key_length", d_model / n_heads)?;
        let n_layers = keys.extent("block_count")?;
        let query_width = family.query_width(n_layers, d_model, n_heads, head_dim);
        let max_seq_len = keys.extent("context_length")?;
        let eps_key = match family.norm {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        let positions = match family.gguf_rope {
            None => Positions::Learned,
            Some(pairing) => {
                let base = keys.get("rope.freq_base")?.unwrap_or(10_000.0);
                Positions::Rope {
                    pairing,
                    n_rot: keys.extent_or("rope.dimension_count", head_dim)?,
                    base,
                    window_base: keys.get("rope.freq_base_swa")?.or(family.window_rope_base).unwrap_or(base),
                    scaling: rope::from_gguf(&keys, max_seq_len)?,
                }
            }
        };
        let window: Option<u64> = keys.get("attention.sliding_window")?;
        // An array of booleans in some files; then the family's own pattern counts.
        let pattern = metadata.value(&format!("{architecture}.attention.sliding_window_pattern"));
        let pattern = pattern.and_then(|v| v.as_integer()).and_then(|n| u64::try_from(n).ok());
        let config = ModelConfig {
            architecture: family.name,
            n_layers,
            d_model,
            d_ff: keys.extent(if family.experts {
                "expert_feed_forward_length"
            } else {
                "feed_forward_length"
            })?,
            n_heads,
            n_kv_heads: keys.extent_or("attention.head_count_kv", n_heads)?,
            head_dim,
            vocab_size,
            max_seq_len,
            norm: family.norm,
            norm_eps: keys.get(eps_key)?.unwrap_or(1e-5),
            encoder: family.encoder,
            pooling: Pooling::from_gguf(keys.get("pooling_type")?)?,
            experts: match family.experts {
                false => None,
                true => Some(ExpertConfig {
                    count: keys.extent("expert_count")?,
                    used: keys.extent("expert_used_count")?,
                    normalized: keys.get("expert_weights_norm")?.unwrap_or(true),
                }),
            },
            rope_factors: None,
            positions,
            activation: family.activation,
            embedding_scale: family.embedding_scale(d_model),
            attention_scale: 1.0 / (query_width as f32).sqrt(),
            attention_soft_cap: keys.get("attn_logit_softcapping")?,
            logit_soft_cap: keys.get("final_logit_softcapping")?,
            windows: windows(family, n_layers, window, pattern),
        };
        config.validate(|field| format!("{architecture}.{}", gguf_key(field)))
    }

    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// A missing, mistyped or impossible key, by name.
    pub fn from_hf(family: &'static Family, json: &Json) -> Result<Self, LoadError> {
        // Multimodal checkpoints keep the language model's configuration one level down.
        let json = json.get("text_config").filter(|_| json.get("hidden_size").is_none()).unwrap_or(json);
        let first = |names: &[&str]| names.iter().find_map(|n| json.get(n)).filter(|v| !v.is_null());
        let number = |names: &[&str]| {
            let value = first(names);
            match value.map(Json::as_u64) {
                Some(None) => Err(bad(
                    names[0],
                    format!("is {}; allowed: a whole number", value.unwrap_or(&Json::Null)),
                )),
                Some(Some(n)) => extent(names[0], n).map(Some),
                None => Ok(None),
            }
        };
        let required = |names: &[&str]| {
            number(names)?.ok_or_else(|| bad(names[0], "is missing from config.json".to_owned()))
        };
        let float = |names: &[&str]| first(names).and_then(Json::as_f64).map(|x| x as f32);
        let d_model = required(&["hidden_size", "n_embd"])?;
        let n_heads = required(&["num_attention_heads", "n_head"])?;
        let n_layers = required(&["num_hidden_layers", "n_layer"])?;
        let head_dim = number(&["head_dim"])?.unwrap_or(d_model / n_heads);
        let max_seq_len = required(&["max_position_embeddings", "n_positions"])?;
        let rope = first(&["rope_parameters", "rope_scaling"]);
        // Newer configurations keep one set of RoPE parameters per kind of layer.
        let (full, local) = match rope {
            Some(r) if r.get("full_attention").is_some() => {
                (r.get("full_attention"), r.get("sliding_attention"))
            }
            other => (other, None),
        };
        let theta =
            |v: Option<&Json>| v.and_then(|v| v.get("rope_theta")).and_then(Json::as_f64).map(|x| x as f32);
        let positions = if family.gguf_rope.is_none() {
            Positions::Learned
        } else {
            let base = float(&["rope_theta"]).or(theta(full)).unwrap_or(family.default_rope_base);
            let window_base =
                float(&["rope_local_base_freq"]).or(theta(local)).or(family.window_rope_base).unwrap_or(base);
            let scaling = rope::from_hf(full, json, max_seq_len)?;
            let part =
                |v: Option<&Json>| v.and_then(|v| v.get("partial_rotary_factor")).and_then(Json::as_f64);
            let part = part(full).or(part(Some(json))).unwrap_or(1.0);
            let n_rot = if (0.0..=1.0).contains(&part) { (head_dim as f64 * part) as usize } else { 0 };
            Positions::Rope { pairing: RopePairing::Halves, n_rot, base, window_base, scaling }
        };
        if family.encoder {
            for (name, supported) in [("hidden_act", "gelu"), ("position_embedding_type", "absolute")] {
                if let Some(found) = first(&[name]).and_then(Json::as_str).filter(|found| *found != supported)
                {
                    return Err(bad(name, format!("is {found:?}; supported: {supported:?}")));
                }
            }
        }
        let experts = match family.experts {
            false => None,
            true => Some(ExpertConfig {
                count: required(&["num_experts", "num_local_experts"])?,
                used: required(&["num_experts_per_tok"])?,
                normalized: first(&["norm_topk_prob"]).and_then(Json::as_bool).unwrap_or(false),
            }),
        };
        if family.experts {
            let step = number(&["decoder_sparse_step"])?.unwrap_or(1);
            let dense = first(&["mlp_only_layers"]).and_then(Json::as_array).map_or(0, Vec::len);
            if (step, dense) != (1, 0) {
                let reason = format!(
                    "is {step} with {dense} layers in mlp_only_layers; supported: experts in every layer"
                );
                return Err(bad("decoder_sparse_step", reason));
            }
        }
        let uses_window = first(&["use_sliding_window"]).and_then(Json::as_bool).unwrap_or(true);
        let window = number(&["sliding_window"])?.filter(|_| uses_window).map(|n| n as u64);
        let pattern = number(&["sliding_window_pattern", "_sliding_window_pattern"])?.map(|n| n as u64);
        let mut layer_windows = windows(family, n_layers, window, pattern);
        if let Some(kinds) = first(&["layer_types"]).and_then(Json::as_array) {
            for (slot, kind) in layer_windows.iter_mut().zip(kinds) {
                let sliding = kind.as_str() == Some("sliding_attention");
                *slot = window.filter(|_| sliding).map(|n| n as usize);
            }
        }
        let query_scale = float(&["query_pre_attn_scalar"]).unwrap_or(head_dim as f32);
        let config = ModelConfig {
            architecture: family.name,
            n_layers,
            d_model,
            d_ff: match family.experts {
                true => required(&["moe_intermediate_size"])?,
                false => number(&["intermediate_size", "n_inner"])?.unwrap_or(4 * d_model),
            },
            n_heads,
            n_kv_heads: number(&["num_key_value_heads"])?.unwrap_or(n_heads),
            head_dim,
            vocab_size: required(&["vocab_size"])?,
            max_seq_len,
            norm: family.norm,
            norm_eps: float(&["rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps"]).unwrap_or(1e-6),
            encoder: family.encoder,
            pooling: None, // in a file of its own
            experts,
            rope_factors: rope::factors_from_hf(full)?,
            positions,
            activation: family.activation,
            embedding_scale: family.embedding_scale(d_model),
            attention_scale: 1.0 / query_scale.sqrt(),
            attention_soft_cap: float(&["attn_logit_softcapping"]),
            logit_soft_cap: float(&["final_logit_softcapping"]),
            windows: layer_windows,
        };
        config.validate(str::to_owned)
    }

    /// Says that the frequencies have factors for long and for short sessions, as the tensors of a GGUF file tell.
    ///
    /// # Errors
    /// A mistyped or impossible key, by name.
    pub(crate) fn set_long_rope(&mut self, metadata: &Metadata) -> Result<(), LoadError> {
        let keys = Keys { metadata, architecture: self.architecture };
        if let Positions::Rope { scaling, .. } = &mut self.positions {
            *scaling = rope::long(&keys, self.max_seq_len)?;
        }
        Ok(())
    }

    /// Refuses what no transformer can have; `key` names a field as the file does.
    fn validate(self, key: impl Fn(&str) -> String) -> Result<Self, LoadError> {
        let fail = |field: &str, reason: String| Err(bad(&key(field), reason));
        if self.n_layers > 1024 {
            return fail("num_hidden_layers", format!("is {}; allowed: 1 to 1024", self.n_layers));
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let reason =
                format!("is {}, which does not divide {} query heads", self.n_kv_heads, self.n_heads);
            return fail("num_key_value_heads", reason);
        }
        if !self.head_dim.is_multiple_of(8) || self.head_dim > 512 {
            return fail("head_dim", format!("is {}; allowed: multiples of 8 up to 512", self.head_dim));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return fail("rms_norm_eps", format!("is {}; allowed: positive numbers", self.norm_eps));
        }
        if let Some(ExpertConfig { count, used, .. }) = self.experts
            && (count > MAX_EXPERTS || used > count)
        {
            let reason =
                format!("is {used} of {count} experts; allowed: at most all, of up to {MAX_EXPERTS}");
            return fail("num_experts_per_tok", reason);
        }
        if let Positions::Rope { n_rot, base, window_base, .. } = self.positions {
            if n_rot == 0 || n_rot > self.head_dim || !n_rot.is_multiple_of(2) {
                let reason = format!("is {n_rot}; allowed: even numbers up to the head's {}", self.head_dim);
                return fail("rope_dimension", reason);
            }
            if !(base.is_finite() && base > 0.0 && window_base.is_finite() && window_base > 0.0) {
                return fail("rope_theta", format!("is {base}; allowed: positive numbers"));
            }
        }
        for cap in [self.attention_soft_cap, self.logit_soft_cap].into_iter().flatten() {
            if !(cap.is_finite() && cap > 0.0) {
                return fail("soft-capping", format!("is {cap}; allowed: positive numbers"));
            }
        }
        Ok(self)
    }

    /// Values of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Values of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

/// The GGUF name of a field that [`ModelConfig::validate`] names as Hugging Face does.
fn gguf_key(field: &str) -> &str {
    match field {
        "num_hidden_layers" => "block_count",
        "num_key_value_heads" => "attention.head_count_kv",
        "head_dim" => "attention.key_length",
        "rms_norm_eps" => "attention.layer_norm_rms_epsilon",
        "num_experts_per_tok" => "expert_used_count",
        "rope_dimension" => "rope.dimension_count",
        "rope_theta" => "rope.freq_base",
        other => other,
    }
}

/// Which layers look back how far: every `pattern`-th layer sees everything, the others `window` positions.
fn windows(
    family: &Family,
    n_layers: usize,
    window: Option<u64>,
    pattern: Option<u64>,
) -> Vec<Option<usize>> {
    let pattern = pattern.or(family.window_pattern).unwrap_or(1).max(1);
    let window =
        window.filter(|_| family.has_window()).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let is_global = |i: usize| pattern > 1 && (i as u64 + 1).is_multiple_of(pattern);
    (0..n_layers).map(|i| window.filter(|_| !is_global(i))).collect()
}
