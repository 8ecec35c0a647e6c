//! A Hugging Face folder in GGUF's terms: other names, and a few other conventions.
//!
//! | what | in the folder | in GGUF |
//! |---|---|---|
//! | rows of Q and K, family `llama` | halves of a head are turned together | neighbours are |
//! | norms of Gemma | less one | whole |
//! | scale of Gemma's queries | in the configuration | in the norm of the queries |
//! | RoPE stretched as in Llama 3 | formula in the configuration | factors as a tensor |
//! | matrices of GPT-2 | input by output | output by input |

use crate::LoadError;
use crate::arch::{Role, gguf_name};
use crate::config::{ModelConfig, NormKind, Positions, yarn_magnitude};
use crate::gguf::writer::GgufWriter;
use crate::mapped_file::MappedFile;
use crate::model::{Model, OpenOptions};
use crate::tensor_table::{Dims, TensorInfo};
use crate::tokenizer::Vocabulary;
use crate::weights::{Linear, Norm, WeightMatrix};
use gable_kernels::quant::Format;
use gable_kernels::rope::RopeScaling;
use std::path::Path;
use std::sync::Arc;

/// Families whose conversion is compared with GGUF files of the same weights.
const FAMILIES: [&str; 5] = ["llama", "qwen2", "qwen3", "gemma3", "gpt2"];

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    model: Model,
    vocabulary: VocabularyOf,
    parts: Vec<Part>,
}

/// The vocabulary, which is written once.
struct VocabularyOf(Vocabulary);

impl std::fmt::Debug for VocabularyOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vocabulary")
    }
}

/// A tensor to be.
#[derive(Debug)]
struct Part {
    name: String,
    data: Data,
    /// Heads whose rows are put next to each other.
    paired: Option<usize>,
}

#[derive(Debug)]
enum Data {
    /// Rows of one matrix after the other.
    Rows(Vec<WeightMatrix>),
    Vector(Vec<f32>),
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Folder, LoadError> {
        let model = Model::open(path, &OpenOptions::default())?;
        let config = model.config();
        if !FAMILIES.contains(&config.architecture) {
            return Err(LoadError::Unsupported {
                what: "folder of architecture",
                found: config.architecture.to_owned(),
                supported: FAMILIES.join(", "),
            });
        }
        let vocabulary = VocabularyOf(Vocabulary::of_folder(path, model.tokenizer(), config.vocab_size)?);
        let parts = parts(&model)?;
        Ok(Folder { model, vocabulary, parts })
    }

    pub(super) fn files(&self) -> &[Arc<MappedFile>] {
        self.model.files().files()
    }

    pub(super) fn tensors(&self) -> Result<Vec<TensorInfo>, LoadError> {
        self.parts.iter().map(Part::info).collect()
    }

    pub(super) fn bytes(&self, i: usize) -> Result<Vec<u8>, LoadError> {
        let Some(part) = self.parts.get(i) else { return Ok(Vec::new()) };
        let info = part.info()?;
        let fault = |reason: String| LoadError::Tensor { name: part.name.clone(), reason };
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(info.n_bytes).map_err(|e| fault(e.to_string()))?;
        match &part.data {
            Data::Vector(values) => values.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
            Data::Rows(matrices) => {
                for matrix in matrices {
                    let view = matrix.view(self.model.files()).map_err(|e| fault(e.to_string()))?;
                    (0..view.rows()).for_each(|row| bytes.extend_from_slice(view.row(row)));
                }
            }
        }
        let rows = match part.data {
            Data::Vector(_) => info.dims.cols(),
            Data::Rows(_) => info.dims.rows(),
        };
        Ok(match part.paired {
            Some(heads) => pair_neighbours(&bytes, heads, rows),
            None => bytes,
        })
    }

    pub(super) fn metadata(&self) -> Result<GgufWriter, LoadError> {
        let model = &self.model;
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", model.config().architecture)?;
        writer.set("general.name", model.name())?;
        hyperparameters(model.config(), &mut writer)?;
        self.vocabulary.0.write(model.tokenizer(), &mut writer)?;
        if let Some(template) = model.chat_template() {
            writer.set("tokenizer.chat_template", template)?;
        }
        Ok(writer)
    }
}

impl Part {
    fn info(&self) -> Result<TensorInfo, LoadError> {
        let (dims, format) = match &self.data {
            Data::Vector(values) => (vec![values.len()], Format::F32),
            Data::Rows(matrices) => {
                let rows = matrices.iter().fold(0_usize, |n, m| n.saturating_add(m.rows()));
                let first = matrices.first();
                (
                    vec![first.map_or(0, WeightMatrix::cols), rows],
                    first.map_or(Format::F32, WeightMatrix::format),
                )
            }
        };
        let dims: Vec<u64> = dims.into_iter().map(|d| u64::try_from(d).unwrap_or(u64::MAX)).collect();
        let fault =
            || LoadError::Tensor { name: self.name.clone(), reason: format!("shape {dims:?} overflows") };
        let shape = Dims::new(&dims).ok_or_else(fault)?;
        let n_bytes = shape.n_bytes(format).ok_or_else(fault)?;
        Ok(TensorInfo { name: self.name.as_str().into(), dims: shape, format, shard: 0, offset: 0, n_bytes })
    }
}

/// Rows of each head reordered from (0 .. n/2, n/2 .. n) to (0, n/2, 1, n/2 + 1, ...).
fn pair_neighbours(bytes: &[u8], heads: usize, rows: usize) -> Vec<u8> {
    let per_head = rows / heads.max(1);
    let row_bytes = bytes.len() / rows.max(1);
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(per_head.saturating_mul(row_bytes).max(1)) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks_exact(row_bytes.max(1)).zip(second.chunks_exact(row_bytes.max(1))) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

/// Collects the parts of a model.
struct Parts(Vec<Part>);

impl Parts {
    fn add(&mut self, role: Role, layer: usize, suffix: &str, data: Data, paired: Option<usize>) {
        let name = format!("{}{suffix}", gguf_name(role).replace("{i}", &layer.to_string()));
        self.0.push(Part { name, data, paired });
    }

    fn matrix(&mut self, role: Role, matrix: &WeightMatrix) {
        self.add(role, 0, ".weight", Data::Rows(vec![matrix.clone()]), None);
    }

    fn linears(&mut self, role: Role, layer: usize, linears: &[&Linear], paired: Option<usize>) {
        let rows = linears.iter().map(|l| l.weight.clone()).collect();
        self.add(role, layer, ".weight", Data::Rows(rows), paired);
        let bias: Vec<f32> = linears.iter().filter_map(|l| l.bias.as_deref()).flatten().copied().collect();
        if !bias.is_empty() {
            self.add(role, layer, ".bias", Data::Vector(bias), paired);
        }
    }

    fn norm(&mut self, role: Role, layer: usize, norm: Option<&Norm>, scale: f32) {
        let Some(norm) = norm else { return };
        let weight = norm.weight.iter().map(|w| w * scale).collect();
        self.add(role, layer, ".weight", Data::Vector(weight), None);
        if !norm.bias.is_empty() {
            self.add(role, layer, ".bias", Data::Vector(norm.bias.clone()), None);
        }
    }
}

fn parts(model: &Model) -> Result<Vec<Part>, LoadError> {
    let (c, w) = (model.config(), model.weights());
    // GGUF readers scale products by the head's width; another scale moves into the norm of the queries.
    let query_scale = c.attention_scale * (c.head_dim as f32).sqrt();
    let has_query_norms = w.layers.iter().all(|l| l.q_norm.is_some());
    if (query_scale - 1.0).abs() > 1e-6 && !has_query_norms {
        let reason = format!("is {query_scale} times the usual, and GGUF has no place for that");
        return Err(LoadError::Metadata { key: "query_pre_attn_scalar".to_owned(), reason });
    }
    let paired = |heads: usize| (c.architecture == "llama").then_some(heads);
    let mut parts = Parts(Vec::new());
    parts.matrix(Role::Embedding, &w.embedding);
    if let Some(positions) = &w.position_embedding {
        parts.matrix(Role::PositionEmbedding, positions);
    }
    for (i, l) in w.layers.iter().enumerate() {
        parts.norm(Role::AttentionNorm, i, Some(&l.attention_norm), 1.0);
        if l.q.weight.name() == l.k.weight.name() {
            parts.linears(Role::Qkv, i, &[&l.q, &l.k, &l.v], None);
        } else {
            parts.linears(Role::Q, i, &[&l.q], paired(c.n_heads));
            parts.linears(Role::K, i, &[&l.k], paired(c.n_kv_heads));
            parts.linears(Role::V, i, &[&l.v], None);
        }
        parts.norm(Role::QNorm, i, l.q_norm.as_ref(), query_scale);
        parts.norm(Role::KNorm, i, l.k_norm.as_ref(), 1.0);
        parts.linears(Role::AttentionOutput, i, &[&l.attention_output], None);
        parts.norm(Role::AttentionPostNorm, i, l.attention_post_norm.as_ref(), 1.0);
        parts.norm(Role::FfnNorm, i, Some(&l.ffn_norm), 1.0);
        // Families with experts are not converted.
        if let Some(ffn) = l.ffn.dense() {
            if let Some(gate) = &ffn.gate {
                parts.linears(Role::Gate, i, &[gate], None);
            }
            parts.linears(Role::Up, i, &[&ffn.up], None);
            parts.linears(Role::Down, i, &[&ffn.down], None);
        }
        parts.norm(Role::FfnPostNorm, i, l.ffn_post_norm.as_ref(), 1.0);
    }
    parts.norm(Role::OutputNorm, 0, Some(&w.output_norm), 1.0);
    if let Some(output) = &w.output {
        parts.matrix(Role::Output, output);
    }
    if let Some(factors) = rope_factors(c) {
        parts.add(Role::RopeFactors, 0, ".weight", Data::Vector(factors), None);
    }
    Ok(parts.0)
}

/// By what each frequency is divided, where that is a formula of Llama 3's kind.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "as the tensor holds them")]
fn rope_factors(c: &ModelConfig) -> Option<Vec<f32>> {
    let Positions::Rope { n_rot, base, scaling, .. } = c.positions else { return None };
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = scaling else {
        return None;
    };
    let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
    let one = |i: usize| {
        let frequency = f64::from(base).powf(-2.0 * i as f64 / n_rot as f64);
        let turns = f64::from(original_context) * frequency / std::f64::consts::TAU;
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / (kept + (1.0 - kept) / f64::from(factor))) as f32
    };
    Some((0..n_rot / 2).map(one).collect())
}

fn hyperparameters(c: &ModelConfig, writer: &mut GgufWriter) -> Result<(), LoadError> {
    let key = |name: &str| format!("{}.{name}", c.architecture);
    let mut count = |name: &str, n: usize| writer.set(&key(name), &u32::try_from(n).unwrap_or(u32::MAX));
    count("block_count", c.n_layers)?;
    count("context_length", c.max_seq_len)?;
    count("embedding_length", c.d_model)?;
    count("feed_forward_length", c.d_ff)?;
    count("attention.head_count", c.n_heads)?;
    count("attention.head_count_kv", c.n_kv_heads)?;
    count("attention.key_length", c.head_dim)?;
    count("attention.value_length", c.head_dim)?;
    count("vocab_size", c.vocab_size)?;
    if let Some(window) = c.windows.iter().flatten().next() {
        count("attention.sliding_window", *window)?;
        if let Some(global) = c.windows.iter().position(Option::is_none) {
            count("attention.sliding_window_pattern", global.saturating_add(1))?;
        }
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
            // That of Llama 3 is a tensor.
            RopeScaling::None | RopeScaling::Llama3 { .. } => {}
            other => {
                let (found, supported) =
                    (format!("{other:?}"), "linear, llama3, yarn with truncate".to_owned());
                return Err(LoadError::Unsupported { what: "RoPE scaling in GGUF", found, supported });
            }
        }
        writer.set(&key("rope.dimension_count"), &u32::try_from(n_rot).unwrap_or(u32::MAX))?;
    }
    Ok(())
}
