//! The tensors of the file to be: what each is made of.

use crate::LoadError;
use crate::arch::{Family, Role, gguf_name};
use crate::config::{ModelConfig, Positions};
use crate::model::Model;
use crate::tensor_table::{Dims, TensorInfo, TensorTable};
use crate::weights::{Dense, Experts, FeedForward, Layer, Linear, Norm, WeightMatrix};
use gable_kernels::Kernels;
use gable_kernels::quant::Format;
use gable_kernels::rope::RopeScaling;

/// A tensor to be.
#[derive(Debug)]
pub(super) struct Part {
    name: String,
    data: Data,
    /// Heads whose rows are put next to each other.
    paired: Option<usize>,
}

#[derive(Debug)]
enum Data {
    /// Rows of one matrix after the other.
    Rows(Vec<WeightMatrix>),
    /// Matrices of one shape, each a slice of the slowest dimension.
    Stack(Vec<WeightMatrix>),
    /// A small matrix that is F32 in every file.
    Widened(WeightMatrix),
    Vector(Vec<f32>),
}

impl Part {
    fn fault(&self, reason: String) -> LoadError {
        LoadError::Tensor { name: self.name.clone(), reason }
    }

    pub(super) fn info(&self) -> Result<TensorInfo, LoadError> {
        let (dims, format) = match &self.data {
            Data::Vector(values) => (vec![values.len()], Format::F32),
            Data::Widened(matrix) => (vec![matrix.cols(), matrix.rows()], Format::F32),
            Data::Rows(matrices) | Data::Stack(matrices) => {
                let Some(first) = matrices.first() else {
                    return Err(self.fault("is made of no matrix".to_owned()));
                };
                if let Some(other) = matrices.iter().find(|m| m.format() != first.format()) {
                    let (name, other, format) = (other.name(), other.format(), first.format());
                    return Err(self.fault(format!("would be {format}, but {name:?} in it is {other}")));
                }
                let dims = match self.data {
                    Data::Stack(_) => vec![first.cols(), first.rows(), matrices.len()],
                    _ => {
                        vec![first.cols(), matrices.iter().fold(0, |n: usize, m| n.saturating_add(m.rows()))]
                    }
                };
                (dims, first.format())
            }
        };
        let dims: Vec<u64> = dims.into_iter().map(|d| u64::try_from(d).unwrap_or(u64::MAX)).collect();
        let overflows = || self.fault(format!("shape {dims:?} overflows"));
        let shape = Dims::new(&dims).ok_or_else(overflows)?;
        let n_bytes = shape.n_bytes(format).ok_or_else(overflows)?;
        Ok(TensorInfo { name: self.name.as_str().into(), dims: shape, format, shard: 0, offset: 0, n_bytes })
    }

    pub(super) fn bytes(&self, files: &TensorTable) -> Result<Vec<u8>, LoadError> {
        let info = self.info()?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(info.n_bytes).map_err(|e| self.fault(e.to_string()))?;
        match &self.data {
            Data::Vector(values) => values.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
            Data::Widened(matrix) => {
                let view = matrix.view(files).map_err(|e| self.fault(e.to_string()))?;
                let mut values = vec![0.0; matrix.cols()];
                for row in 0..matrix.rows() {
                    let widened = Kernels::best().dequantize_row(&view, row, &mut values);
                    widened.map_err(|e| self.fault(e.to_string()))?;
                    values.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
                }
            }
            Data::Rows(matrices) | Data::Stack(matrices) => {
                for matrix in matrices {
                    let view = matrix.view(files).map_err(|e| self.fault(e.to_string()))?;
                    (0..view.rows()).for_each(|row| bytes.extend_from_slice(view.row(row)));
                }
            }
        }
        let rows = match self.data {
            Data::Vector(_) => info.dims.cols(),
            _ => info.dims.rows(),
        };
        Ok(match self.paired {
            Some(heads) => pair_neighbours(&bytes, heads, rows),
            None => bytes,
        })
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

    fn widened(&mut self, role: Role, layer: usize, matrix: WeightMatrix) {
        self.add(role, layer, ".weight", Data::Widened(matrix), None);
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

    fn vector(&mut self, role: Role, values: Vec<f32>) {
        self.add(role, 0, ".weight", Data::Vector(values), None);
    }

    fn layer(&mut self, c: &ModelConfig, i: usize, l: &Layer, query_scale: f32) {
        let paired = |heads: usize| (c.architecture == "llama").then_some(heads);
        // An encoder's norms stand behind its sums: the one before a layer belongs to the layer before.
        match (c.encoder, i.checked_sub(1)) {
            (false, _) => self.norm(Role::AttentionNorm, i, Some(&l.attention_norm), 1.0),
            (true, None) => self.norm(Role::EmbeddingNorm, 0, Some(&l.attention_norm), 1.0),
            (true, Some(last)) => self.norm(Role::FfnSumNorm, last, Some(&l.attention_norm), 1.0),
        }
        if l.q.weight.name() == l.k.weight.name() {
            self.linears(Role::Qkv, i, &[&l.q, &l.k, &l.v], None);
        } else {
            self.linears(Role::Q, i, &[&l.q], paired(c.n_heads));
            self.linears(Role::K, i, &[&l.k], paired(c.n_kv_heads));
            self.linears(Role::V, i, &[&l.v], None);
        }
        self.norm(Role::QNorm, i, l.q_norm.as_ref(), query_scale);
        self.norm(Role::KNorm, i, l.k_norm.as_ref(), 1.0);
        self.linears(Role::AttentionOutput, i, &[&l.attention_output], None);
        self.norm(Role::AttentionPostNorm, i, l.attention_post_norm.as_ref(), 1.0);
        let before_ffn = if c.encoder { Role::AttentionSumNorm } else { Role::FfnNorm };
        self.norm(before_ffn, i, Some(&l.ffn_norm), 1.0);
        match &l.ffn {
            FeedForward::Dense(ffn) => self.dense(i, ffn),
            FeedForward::Experts(experts) => self.experts(i, experts),
        }
        self.norm(Role::FfnPostNorm, i, l.ffn_post_norm.as_ref(), 1.0);
    }

    fn dense(&mut self, i: usize, ffn: &Dense) {
        match &ffn.gate {
            Some(gate) if gate.weight.name() == ffn.up.weight.name() => {
                self.linears(Role::GateUp, i, &[gate, &ffn.up], None);
            }
            gate => {
                gate.iter().for_each(|gate| self.linears(Role::Gate, i, &[gate], None));
                self.linears(Role::Up, i, &[&ffn.up], None);
            }
        }
        self.linears(Role::Down, i, &[&ffn.down], None);
    }

    fn experts(&mut self, i: usize, experts: &Experts) {
        self.widened(Role::Router, i, experts.router.weight.clone());
        let of = |linear: fn(&Dense) -> Option<&Linear>| {
            Data::Stack(experts.list.iter().filter_map(linear).map(|l| l.weight.clone()).collect())
        };
        self.add(Role::ExpertGate(0), i, ".weight", of(|e| e.gate.as_ref()), None);
        self.add(Role::ExpertUp(0), i, ".weight", of(|e| Some(&e.up)), None);
        self.add(Role::ExpertDown(0), i, ".weight", of(|e| Some(&e.down)), None);
    }
}

/// The tensors of a GGUF file of the model. `token_types` is what its encoder adds to tokens.
///
/// # Errors
/// A scale that GGUF has no place for.
pub(super) fn of_model(
    model: &Model,
    family: &Family,
    token_types: Option<WeightMatrix>,
) -> Result<Vec<Part>, LoadError> {
    let (c, w) = (model.config(), model.weights());
    // GGUF readers scale products by what the family says; another scale moves into the norm of the queries.
    let query_scale =
        c.attention_scale * (family.query_width(c.n_layers, c.d_model, c.n_heads, c.head_dim) as f32).sqrt();
    let has_query_norms = w.layers.iter().all(|l| l.q_norm.is_some());
    if (query_scale - 1.0).abs() > 1e-6 && !has_query_norms {
        let reason = format!("is {query_scale} times the usual, and GGUF has no place for that");
        return Err(LoadError::Metadata { key: "query_pre_attn_scalar".to_owned(), reason });
    }
    let mut parts = Parts(Vec::new());
    parts.matrix(Role::Embedding, &w.embedding);
    if let Some(positions) = &w.position_embedding {
        parts.widened(Role::PositionEmbedding, 0, positions.clone());
    }
    if let Some(kinds) = token_types {
        parts.widened(Role::TokenTypes, 0, kinds);
    }
    for (i, layer) in w.layers.iter().enumerate() {
        parts.layer(c, i, layer, query_scale);
    }
    match c.encoder {
        true => parts.norm(Role::FfnSumNorm, c.n_layers.saturating_sub(1), Some(&w.output_norm), 1.0),
        false => parts.norm(Role::OutputNorm, 0, Some(&w.output_norm), 1.0),
    }
    if let Some(output) = &w.output {
        parts.matrix(Role::Output, output);
    }
    if let Some(factors) = llama3_factors(c) {
        parts.vector(Role::RopeFactors, factors);
    }
    if let Some((factors, long)) = w.rope_factors.as_ref().and_then(|f| Some((f, f.long.as_ref()?))) {
        parts.vector(Role::LongRopeFactors, long.clone());
        parts.vector(Role::ShortRopeFactors, factors.short.clone());
    }
    Ok(parts.0)
}

/// By what each frequency is divided, where that is a formula of Llama 3's kind.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "as the tensor holds them")]
fn llama3_factors(c: &ModelConfig) -> Option<Vec<f32>> {
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
