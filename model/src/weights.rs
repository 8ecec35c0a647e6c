//! Names to matrices: every tensor that the forward pass needs, found and checked once.
//!
//! Matrices stay where they are in the mapped files: a [`WeightMatrix`] is a place and a shape, and a view is made on
//! access. Vectors (norm weights, biases) are small and are copied as f32. The one matrix that is copied is that of a
//! checkpoint that stores its matrices input by output (Hugging Face GPT-2), which is turned at load.

use crate::LoadError;
use crate::arch::{Family, Role, gguf_name};
use crate::config::{ModelConfig, NormKind, Positions, RopeFactors};
use crate::forward::Numerics;
use crate::tensor_table::{TensorInfo, TensorTable};
use gable_kernels::KernelError;
use gable_kernels::Kernels;
use gable_kernels::quant::{Format, QuantWeights};
use gable_kernels::rope::RopeScaling;
use std::ops::Range;

/// Where a matrix's bytes are.
#[derive(Debug, Clone)]
enum Source {
    /// In a mapped file of the table.
    Mapped { shard: usize, offset: usize, n_bytes: usize },
    /// In memory of its own.
    Owned(Vec<u8>),
}

/// A weight matrix in its on-file layout: `rows` outputs of `cols` inputs.
#[derive(Debug, Clone)]
pub struct WeightMatrix {
    name: Box<str>,
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    source: Source,
    numerics: Option<Numerics>,
}

impl WeightMatrix {
    /// Name of the tensor in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Element type.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of all rows.
    pub fn n_bytes(&self) -> usize {
        self.rows.saturating_mul(self.row_bytes)
    }

    /// With which numbers this matrix alone is multiplied; `None` for the session's.
    pub fn numerics(&self) -> Option<Numerics> {
        self.numerics
    }

    /// A copy in memory of its own, which can take the place of a matrix of another model
    /// ([`Model::replace_matrix`](crate::model::Model::replace_matrix)).
    ///
    /// # Errors
    /// [`LoadError::Tensor`] if there is not enough memory.
    pub fn detached(&self, files: &TensorTable) -> Result<WeightMatrix, LoadError> {
        let bad = |reason: String| LoadError::Tensor { name: self.name.to_string(), reason };
        let view = self.view(files).map_err(|e| bad(e.to_string()))?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.n_bytes()).map_err(|e| bad(e.to_string()))?;
        (0..self.rows).for_each(|row| bytes.extend_from_slice(view.row(row)));
        Ok(WeightMatrix { name: self.name.clone(), source: Source::Owned(bytes), ..*self })
    }

    /// The matrix as the kernels take it.
    ///
    /// # Errors
    /// None for a matrix of a bound model: its place was checked when it was bound.
    pub fn view<'a>(&'a self, files: &'a TensorTable) -> Result<QuantWeights<'a>, KernelError> {
        let bytes = match &self.source {
            Source::Mapped { shard, offset, n_bytes } => {
                let file = files.file(*shard).map_or(&[][..], |f| f.bytes());
                offset.checked_add(*n_bytes).and_then(|end| file.get(*offset..end)).unwrap_or_default()
            }
            Source::Owned(bytes) => bytes,
        };
        QuantWeights::from_bytes(self.format, self.rows, self.cols, self.row_bytes, bytes)
    }

    fn of_tensor(info: &TensorInfo, name: &str) -> Result<Self, LoadError> {
        let (rows, cols) = (info.dims.rows(), info.dims.cols());
        let Some(row_bytes) = info.format.row_bytes(cols) else {
            let reason = format!("rows of {cols} values are no whole number of {} blocks", info.format);
            return Err(LoadError::Tensor { name: name.to_owned(), reason });
        };
        let source = Source::Mapped { shard: info.shard, offset: info.offset, n_bytes: info.n_bytes };
        Ok(WeightMatrix {
            name: name.into(),
            format: info.format,
            rows,
            cols,
            row_bytes,
            source,
            numerics: None,
        })
    }

    /// Some consecutive rows as a matrix of its own.
    fn row_range(&self, range: Range<usize>) -> Self {
        let skipped = range.start.saturating_mul(self.row_bytes);
        let n_bytes = range.len().saturating_mul(self.row_bytes);
        let source = match &self.source {
            Source::Mapped { shard, offset, .. } => {
                Source::Mapped { shard: *shard, offset: offset.saturating_add(skipped), n_bytes }
            }
            Source::Owned(bytes) => {
                let end = skipped.saturating_add(n_bytes);
                Source::Owned(bytes.get(skipped..end).unwrap_or_default().to_vec())
            }
        };
        WeightMatrix { rows: range.len(), source, ..self.clone() }
    }
}

/// A matrix with the vector that is added to its outputs.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[outputs, inputs]`
    pub weight: WeightMatrix,
    /// `[outputs]`
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// Some consecutive outputs as a layer of its own.
    fn rows(&self, range: Range<usize>) -> Linear {
        Linear {
            weight: self.weight.row_range(range.clone()),
            bias: self.bias.as_ref().and_then(|b| b.get(range)).map(<[f32]>::to_vec),
        }
    }
}

/// A normalisation's vectors.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Multiplies the normalised vector.
    pub weight: Vec<f32>,
    /// Is added: LayerNorm only, else empty.
    pub bias: Vec<f32>,
}

/// One transformer block.
#[derive(Debug, Clone)]
pub struct Layer {
    /// `[d_model]`, before attention. In encoders that of the embedding, or the one behind the layer before.
    pub attention_norm: Norm,
    /// `[n_heads * head_dim, d_model]`
    pub q: Linear,
    /// `[n_kv_heads * head_dim, d_model]`
    pub k: Linear,
    /// `[n_kv_heads * head_dim, d_model]`
    pub v: Linear,
    /// `[head_dim]`, for every query head.
    pub q_norm: Option<Norm>,
    /// `[head_dim]`, for every key head.
    pub k_norm: Option<Norm>,
    /// `[d_model, n_heads * head_dim]`
    pub attention_output: Linear,
    /// `[d_model]`, behind attention.
    pub attention_post_norm: Option<Norm>,
    /// `[d_model]`, before the feed-forward network. In encoders the one behind the sum with attention.
    pub ffn_norm: Norm,
    /// What follows that norm.
    pub ffn: FeedForward,
    /// `[d_model]`, behind the feed-forward network.
    pub ffn_post_norm: Option<Norm>,
}

/// A layer's second half.
#[derive(Debug, Clone)]
pub enum FeedForward {
    /// One network for all rows.
    Dense(Dense),
    /// Each row goes through a few of many.
    Experts(Experts),
}

/// A feed-forward network.
#[derive(Debug, Clone)]
pub struct Dense {
    /// `[d_ff, d_model]`; absent in families without a gate.
    pub gate: Option<Linear>,
    /// `[d_ff, d_model]`
    pub up: Linear,
    /// `[d_model, d_ff]`
    pub down: Linear,
}

/// Many feed-forward networks, and what chooses between them.
#[derive(Debug, Clone)]
pub struct Experts {
    /// `[experts, d_model]`: a row's score for each expert.
    pub router: Linear,
    /// The experts; all have a gate.
    pub list: Vec<Dense>,
}

impl Dense {
    /// The matrices, in the order of use.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.gate.iter_mut().chain([&mut self.up, &mut self.down])
    }
}

impl FeedForward {
    /// The network, if it is only one.
    pub fn dense(&self) -> Option<&Dense> {
        match self {
            FeedForward::Dense(dense) => Some(dense),
            FeedForward::Experts(_) => None,
        }
    }

    /// The matrices, in the order of use.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let (router, networks) = match self {
            FeedForward::Dense(dense) => (None, std::slice::from_ref(dense)),
            FeedForward::Experts(experts) => (Some(&experts.router), &experts.list[..]),
        };
        router.into_iter().chain(networks.iter().flat_map(Dense::linears))
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let (router, networks) = match self {
            FeedForward::Dense(dense) => (None, std::slice::from_mut(dense)),
            FeedForward::Experts(experts) => (Some(&mut experts.router), &mut experts.list[..]),
        };
        router.into_iter().chain(networks.iter_mut().flat_map(Dense::linears_mut))
    }
}

/// All weights of a model.
#[derive(Debug, Clone)]
pub struct Weights {
    /// `W_E`: `[vocab_size, d_model]`
    pub embedding: WeightMatrix,
    /// `[max_seq_len, d_model]`, in families with learned positions.
    pub position_embedding: Option<WeightMatrix>,
    /// `[d_model]`: what marks tokens of the first text of a pair, in encoders.
    pub token_type: Option<Vec<f32>>,
    /// The blocks, first to last.
    pub layers: Vec<Layer>,
    /// `[d_model]`, before the unembedding.
    pub output_norm: Norm,
    /// `W_U`: `[vocab_size, d_model]`; `None` if it is `W_E` again (tied).
    pub output: Option<WeightMatrix>,
    /// `[n_rot / 2]`: what RoPE frequencies are divided by.
    pub rope_factors: Option<RopeFactors>,
}

impl Weights {
    /// The unembedding matrix.
    pub fn unembedding(&self) -> &WeightMatrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// Every matrix, in the order of use.
    pub fn matrices(&self) -> impl Iterator<Item = &WeightMatrix> {
        let layers = self.layers.iter().flat_map(|l| {
            let linears = [&l.q, &l.k, &l.v, &l.attention_output];
            linears.into_iter().chain(l.ffn.linears()).map(|linear| &linear.weight)
        });
        std::iter::once(&self.embedding).chain(&self.position_embedding).chain(layers).chain(&self.output)
    }

    /// The same matrices in the same order, to be changed.
    fn matrices_mut(&mut self) -> impl Iterator<Item = &mut WeightMatrix> {
        let layers = self.layers.iter_mut().flat_map(|l| {
            let linears = [&mut l.q, &mut l.k, &mut l.v, &mut l.attention_output];
            linears.into_iter().chain(l.ffn.linears_mut()).map(|linear| &mut linear.weight)
        });
        let first = std::iter::once(&mut self.embedding).chain(&mut self.position_embedding);
        first.chain(layers).chain(&mut self.output)
    }

    /// Puts another matrix in the place of the one at `index` of [`Weights::matrices`] and gives that one back.
    ///
    /// # Errors
    /// [`LoadError::Tensor`] if there is none at `index`, or if its shape is another.
    pub(crate) fn replace(&mut self, index: usize, matrix: WeightMatrix) -> Result<WeightMatrix, LoadError> {
        let bad = |reason| LoadError::Tensor { name: matrix.name.to_string(), reason };
        let Some(place) = self.matrices_mut().nth(index) else {
            return Err(bad(format!("there is no matrix {index}")));
        };
        if (place.rows, place.cols) != (matrix.rows, matrix.cols) {
            let (rows, cols) = (place.rows, place.cols);
            return Err(bad(format!(
                "has shape {} x {}, but {} has {rows} x {cols}",
                matrix.rows, matrix.cols, place.name
            )));
        }
        Ok(std::mem::replace(place, matrix))
    }

    /// Sets with which numbers the matrix at `index` is multiplied.
    pub(crate) fn set_numerics(&mut self, index: usize, numerics: Option<Numerics>) {
        if let Some(matrix) = self.matrices_mut().nth(index) {
            matrix.numerics = numerics;
        }
    }
}

/// Which kind of file the tensors come from: decides names, norm offset and orientation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    /// GGUF.
    Gguf,
    /// A Hugging Face folder.
    HuggingFace,
}

/// Finds tensors by their role.
pub struct Binder<'a> {
    /// Where they are.
    pub table: &'a TensorTable,
    /// Whose names are used.
    pub loader: Loader,
    /// The family.
    pub family: &'static Family,
}

impl Binder<'_> {
    /// The tensor's name in the file, with `suffix`, if it is there. Checkpoints of base models and of language
    /// models inside others lack or have an outer prefix.
    fn find(&self, role: Role, layer: usize, suffix: &str) -> Option<(String, &TensorInfo)> {
        let stem = self.stem(role, layer);
        if stem.is_empty() {
            return None;
        }
        let name = format!("{stem}{suffix}");
        let short = name.split_once('.').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        let long = format!("language_model.{name}");
        let candidates = match self.loader {
            Loader::Gguf => vec![name],
            Loader::HuggingFace => vec![name, short, long],
        };
        candidates.into_iter().find_map(|name| self.table.tensor(&name).map(|t| (name, t)))
    }

    /// The name that is asked for first, for messages.
    fn name(&self, role: Role, layer: usize) -> String {
        format!("{}.weight", self.stem(role, layer))
    }

    /// The name without what it ends in; empty where such files have no such tensor.
    fn stem(&self, role: Role, layer: usize) -> String {
        let pattern = match self.loader {
            Loader::Gguf => gguf_name(role),
            Loader::HuggingFace => (self.family.hf_name)(role),
        };
        let expert = match role {
            Role::ExpertGate(e) | Role::ExpertUp(e) | Role::ExpertDown(e) => e,
            _ => 0,
        };
        pattern.replace("{i}", &layer.to_string()).replace("{e}", &expert.to_string())
    }

    fn missing(&self, role: Role, layer: usize) -> LoadError {
        let name = self.name(role, layer);
        // Of a type without kernels: the table knows better than "missing".
        self.table.require(&name).err().unwrap_or(LoadError::MissingTensor { name })
    }

    /// The whole of a matrix as it is stored, if it is in the file.
    ///
    /// # Errors
    /// [`LoadError::Tensor`] for rows of broken blocks.
    pub(crate) fn stored(&self, role: Role) -> Result<Option<WeightMatrix>, LoadError> {
        let found = self.find(role, 0, ".weight");
        found.map(|(name, info)| WeightMatrix::of_tensor(info, &name)).transpose()
    }

    /// A matrix of a given shape, if it is in the file.
    fn matrix(
        &self,
        role: Role,
        layer: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Option<WeightMatrix>, LoadError> {
        let Some((name, info)) = self.find(role, layer, ".weight") else { return Ok(None) };
        let transposed = self.loader == Loader::HuggingFace
            && self.family.hf_transposed
            && !matches!(role, Role::Embedding | Role::PositionEmbedding | Role::Output);
        let found = (info.dims.rows(), info.dims.cols());
        if found != if transposed { (cols, rows) } else { (rows, cols) } {
            let reason = format!(
                "has shape {} x {}, but the configuration asks for {rows} x {cols}",
                found.0, found.1
            );
            return Err(LoadError::Tensor { name, reason });
        }
        let matrix = WeightMatrix::of_tensor(info, &name)?;
        if transposed { self.transpose(&matrix).map(Some) } else { Ok(Some(matrix)) }
    }

    /// A copy with rows and columns exchanged, for float matrices.
    fn transpose(&self, matrix: &WeightMatrix) -> Result<WeightMatrix, LoadError> {
        let tensor = |reason: String| LoadError::Tensor { name: matrix.name.to_string(), reason };
        let view = matrix.view(self.table).map_err(|e| tensor(e.to_string()))?;
        let size = match matrix.format.is_block_quantized() {
            false => matrix.format.block_bytes(),
            true => {
                return Err(tensor(
                    "is quantized and stored input by output, which cannot be turned".to_owned(),
                ));
            }
        };
        let mut turned = Vec::new();
        turned.try_reserve_exact(matrix.n_bytes()).map_err(|e| tensor(e.to_string()))?;
        for col in 0..matrix.cols {
            for row in 0..matrix.rows {
                let element = view.row(row).chunks_exact(size).nth(col).unwrap_or_default();
                turned.extend_from_slice(element);
            }
        }
        let (rows, cols) = (matrix.cols, matrix.rows);
        let source = Source::Owned(turned);
        Ok(WeightMatrix { rows, cols, row_bytes: cols.saturating_mul(size), source, ..matrix.clone() })
    }

    /// A small vector as f32, if it is in the file.
    fn vector(
        &self,
        role: Role,
        layer: usize,
        suffix: &str,
        len: usize,
    ) -> Result<Option<Vec<f32>>, LoadError> {
        let Some((name, info)) = self.find(role, layer, suffix) else { return Ok(None) };
        if info.dims.elements() != len {
            let reason =
                format!("has {} elements, but the configuration asks for {len}", info.dims.elements());
            return Err(LoadError::Tensor { name, reason });
        }
        let tensor = |e: KernelError| LoadError::Tensor { name: name.clone(), reason: e.to_string() };
        let bytes = self.table.bytes(info);
        let row = QuantWeights::from_bytes(info.format, 1, len, bytes.len(), bytes).map_err(tensor)?;
        let mut out = vec![0.0; len];
        Kernels::best().dequantize_row(&row, 0, &mut out).map_err(tensor)?;
        Ok(Some(out))
    }

    fn norm(&self, role: Role, layer: usize, len: usize, kind: NormKind) -> Result<Option<Norm>, LoadError> {
        let Some(mut weight) = self.vector(role, layer, ".weight", len)? else { return Ok(None) };
        if self.loader == Loader::HuggingFace {
            weight.iter_mut().for_each(|w| *w += self.family.hf_norm_offset);
        }
        let bias = match kind {
            NormKind::Rms => Vec::new(),
            NormKind::Layer => self.vector(role, layer, ".bias", len)?.unwrap_or_else(|| vec![0.0; len]),
        };
        Ok(Some(Norm { weight, bias }))
    }

    /// The first row of a matrix as f32.
    fn first_row(&self, role: Role, cols: usize) -> Result<Vec<f32>, LoadError> {
        let found = self.need(self.find(role, 0, ".weight"), role, 0)?;
        let tensor = |reason: String| LoadError::Tensor { name: found.0.clone(), reason };
        if found.1.dims.cols() != cols || found.1.dims.rows() == 0 {
            let (rows, width) = (found.1.dims.rows(), found.1.dims.cols());
            return Err(tensor(format!(
                "has shape {rows} x {width}, but the configuration asks for rows of {cols}"
            )));
        }
        let matrix = WeightMatrix::of_tensor(found.1, &found.0)?;
        let view = matrix.view(self.table).map_err(|e| tensor(e.to_string()))?;
        let mut out = vec![0.0; cols];
        Kernels::best().dequantize_row(&view, 0, &mut out).map_err(|e| tensor(e.to_string()))?;
        Ok(out)
    }

    fn linear(
        &self,
        role: Role,
        layer: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Option<Linear>, LoadError> {
        let Some(weight) = self.matrix(role, layer, rows, cols)? else { return Ok(None) };
        let bias = self.vector(role, layer, ".bias", rows)?;
        Ok(Some(Linear { weight, bias }))
    }

    fn need<T>(&self, found: Option<T>, role: Role, layer: usize) -> Result<T, LoadError> {
        found.ok_or_else(|| self.missing(role, layer))
    }

    /// Q, K and V, from three tensors or from one.
    fn qkv(&self, c: &ModelConfig, layer: usize) -> Result<[Linear; 3], LoadError> {
        let (q, kv) = (c.q_dim(), c.kv_dim());
        if let Some(all) = self.linear(Role::Qkv, layer, q + 2 * kv, c.d_model)? {
            return Ok([all.rows(0..q), all.rows(q..q + kv), all.rows(q + kv..q + 2 * kv)]);
        }
        if (self.family.hf_name)(Role::Q).is_empty() {
            return Err(self.missing(Role::Qkv, layer));
        }
        let one = |role, rows| self.need(self.linear(role, layer, rows, c.d_model)?, role, layer);
        Ok([one(Role::Q, q)?, one(Role::K, kv)?, one(Role::V, kv)?])
    }

    /// The feed-forward network: gate and up from two tensors or from one.
    fn dense(&self, c: &ModelConfig, i: usize) -> Result<Dense, LoadError> {
        let linear = |role, rows, cols| self.need(self.linear(role, i, rows, cols)?, role, i);
        let down = linear(Role::Down, c.d_model, c.d_ff)?;
        if !(self.family.hf_name)(Role::GateUp).is_empty() {
            let both = linear(Role::GateUp, c.d_ff.saturating_mul(2), c.d_model)?;
            let up = both.rows(c.d_ff..c.d_ff.saturating_mul(2));
            return Ok(Dense { gate: Some(both.rows(0..c.d_ff)), up, down });
        }
        let gate = self.linear(Role::Gate, i, c.d_ff, c.d_model)?;
        Ok(Dense { gate, up: linear(Role::Up, c.d_ff, c.d_model)?, down })
    }

    /// The router and all experts.
    fn experts(&self, c: &ModelConfig, count: usize, i: usize) -> Result<Experts, LoadError> {
        let router = self.need(self.linear(Role::Router, i, count, c.d_model)?, Role::Router, i)?;
        let one = |role, e, rows, cols| {
            let weight = match self.loader {
                Loader::HuggingFace => self.matrix(role, i, rows, cols)?,
                Loader::Gguf => self.expert_of_all(role, i, [count, rows, cols], e)?,
            };
            Ok::<_, LoadError>(Linear { weight: self.need(weight, role, i)?, bias: None })
        };
        let expert = |e| {
            Ok(Dense {
                gate: Some(one(Role::ExpertGate(e), e, c.d_ff, c.d_model)?),
                up: one(Role::ExpertUp(e), e, c.d_ff, c.d_model)?,
                down: one(Role::ExpertDown(e), e, c.d_model, c.d_ff)?,
            })
        };
        Ok(Experts { router, list: (0..count).map(expert).collect::<Result<_, LoadError>>()? })
    }

    /// One expert's matrix out of a tensor `[experts, rows, cols]`.
    fn expert_of_all(
        &self,
        role: Role,
        layer: usize,
        [count, rows, cols]: [usize; 3],
        expert: usize,
    ) -> Result<Option<WeightMatrix>, LoadError> {
        let Some((name, info)) = self.find(role, layer, ".weight") else { return Ok(None) };
        if info.dims[..] != [cols, rows, count] {
            let found: Vec<String> = info.dims.iter().rev().map(usize::to_string).collect();
            let found = found.join(" x ");
            let reason = format!(
                "has shape {found}, but the configuration asks for {count} x {rows} x {cols}, experts first"
            );
            return Err(LoadError::Tensor { name, reason });
        }
        let all = WeightMatrix::of_tensor(info, &name)?;
        let first = expert.saturating_mul(rows);
        Ok(Some(all.row_range(first..first.saturating_add(rows))))
    }

    fn layer(&self, c: &ModelConfig, i: usize) -> Result<Layer, LoadError> {
        let norm_of = |role, i| self.norm(role, i, c.d_model, c.norm);
        let norm = |role| norm_of(role, i);
        // A norm behind a sum is one before what reads the sum.
        let (before_attention, before_ffn) = match (c.encoder, i.checked_sub(1)) {
            (false, _) => ((Role::AttentionNorm, i), (Role::FfnNorm, i)),
            (true, None) => ((Role::EmbeddingNorm, 0), (Role::AttentionSumNorm, i)),
            (true, Some(last)) => ((Role::FfnSumNorm, last), (Role::AttentionSumNorm, i)),
        };
        let needed_norm = |(role, i)| self.need(norm_of(role, i)?, role, i);
        let head_norm = |role| self.norm(role, i, c.head_dim, NormKind::Rms);
        let linear = |role, rows, cols| self.need(self.linear(role, i, rows, cols)?, role, i);
        let [q, k, v] = self.qkv(c, i)?;
        Ok(Layer {
            attention_norm: needed_norm(before_attention)?,
            q,
            k,
            v,
            q_norm: head_norm(Role::QNorm)?,
            k_norm: head_norm(Role::KNorm)?,
            attention_output: linear(Role::AttentionOutput, c.d_model, c.q_dim())?,
            attention_post_norm: norm(Role::AttentionPostNorm)?,
            ffn_norm: needed_norm(before_ffn)?,
            ffn: match c.experts {
                None => FeedForward::Dense(self.dense(c, i)?),
                Some(experts) => FeedForward::Experts(self.experts(c, experts.count, i)?),
            },
            ffn_post_norm: norm(Role::FfnPostNorm)?,
        })
    }

    /// What frequencies are divided by: one list, or one for short and one for long sessions.
    fn rope_factors(&self, c: &ModelConfig, pairs: usize) -> Result<Option<RopeFactors>, LoadError> {
        let list = |role| self.vector(role, 0, ".weight", pairs);
        let is_long = matches!(c.positions, Positions::Rope { scaling: RopeScaling::LongRope { .. }, .. });
        if !is_long || c.rope_factors.is_some() {
            let one = list(Role::RopeFactors)?.map(|short| RopeFactors { short, long: None });
            return Ok(one.or_else(|| c.rope_factors.clone()));
        }
        let needed = |role| self.need(list(role)?, role, 0);
        let (short, long) = (needed(Role::ShortRopeFactors)?, needed(Role::LongRopeFactors)?);
        Ok(Some(RopeFactors { short, long: Some(long) }))
    }

    /// Binds every tensor of a model.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape or of a type without kernels, by name.
    pub fn bind(&self, c: &ModelConfig) -> Result<Weights, LoadError> {
        let embedding = self.matrix(Role::Embedding, 0, c.vocab_size, c.d_model)?;
        let position_embedding = match c.positions {
            Positions::Learned => {
                let found = self.matrix(Role::PositionEmbedding, 0, c.max_seq_len, c.d_model)?;
                Some(self.need(found, Role::PositionEmbedding, 0)?)
            }
            Positions::Rope { .. } => None,
        };
        let rope_factors = match c.positions {
            Positions::Rope { n_rot, .. } => self.rope_factors(c, n_rot / 2)?,
            Positions::Learned => None,
        };
        let (last_norm, last_layer) = match c.encoder {
            true => (Role::FfnSumNorm, c.n_layers.saturating_sub(1)),
            false => (Role::OutputNorm, 0),
        };
        let output_norm = self.norm(last_norm, last_layer, c.d_model, c.norm)?;
        Ok(Weights {
            embedding: self.need(embedding, Role::Embedding, 0)?,
            position_embedding,
            token_type: c.encoder.then(|| self.first_row(Role::TokenTypes, c.d_model)).transpose()?,
            layers: (0..c.n_layers).map(|i| self.layer(c, i)).collect::<Result<_, _>>()?,
            output_norm: self.need(output_norm, last_norm, last_layer)?,
            output: self.matrix(Role::Output, 0, c.vocab_size, c.d_model)?,
            rope_factors,
        })
    }
}
