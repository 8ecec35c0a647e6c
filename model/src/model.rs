//! A model: its configuration, its weights' places in mapped files, its tokenizer and template.

use crate::LoadError;
use crate::arch::Family;
use crate::config::{ModelConfig, Positions, RopeFactors};
use crate::embed::Pooling;
use crate::forward::Numerics;
use crate::gguf::{Gguf, OverrideValue};
use crate::mapped_file::{Access, MappedFile};
use crate::safetensors::Safetensors;
use crate::tensor_table::TensorTable;
use crate::tokenizer::Tokenizer;
use crate::weights::{Binder, Dense, FeedForward, Layer, Loader, WeightMatrix, Weights};
use gable_kernels::rope::{Rope, RopeScaling};
use std::path::Path;

/// What the user wants to be different from what the file says.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Replaces metadata values of a GGUF file.
    pub overrides: Vec<(String, OverrideValue)>,
    /// Name of the pre-tokenizer, where the file's is wrong or unknown.
    pub pre_tokenizer: Option<String>,
    /// RoPE base.
    pub rope_base: Option<f32>,
    /// RoPE scaling.
    pub rope_scaling: Option<RopeScaling>,
    /// How the weights' files come into memory.
    pub access: Access,
}

/// A model that was opened and checked. Weights stay in the mapped files; opening reads headers only.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    weights: Weights,
    files: TensorTable,
    ropes: Option<Ropes>,
    tokenizer: Tokenizer,
    chat_template: Option<String>,
    name: String,
    gguf: Option<Gguf>,
}

/// The rotary embeddings of a model.
#[derive(Debug)]
struct Ropes {
    /// Of layers that see everything.
    full: Rope,
    /// Of layers with a window, where that is another one.
    window: Option<Rope>,
    /// In the place of the first in sessions beyond so many positions.
    long: Option<(usize, Rope)>,
}

impl Model {
    /// Opens a GGUF file (or the first of a split one) or a Hugging Face folder.
    ///
    /// # Errors
    /// [`LoadError`], naming the file, key or tensor and what was found.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, LoadError> {
        if path.is_dir() { Self::open_folder(path, options) } else { Self::open_gguf(path, options) }
    }

    fn open_gguf(path: &Path, options: &OpenOptions) -> Result<Self, LoadError> {
        let mut gguf = Gguf::open_with(path, options.access)?;
        for (key, value) in &options.overrides {
            gguf.metadata_mut().set_override(key, value.clone())?;
        }
        let architecture = gguf.metadata().require::<&str>("general.architecture")?;
        let family = Family::of_gguf(architecture)?;
        let table = gguf.table().clone();
        let vocab_size = table.require("token_embd.weight")?.dims.rows();
        let mut config = ModelConfig::from_gguf(family, gguf.metadata(), vocab_size)?;
        if table.tensor("rope_factors_long.weight").is_some() {
            config.set_long_rope(gguf.metadata())?;
        }
        apply(&mut config, options);
        let weights = Binder { table: &table, loader: Loader::Gguf, family }.bind(&config)?;
        let tokenizer = Tokenizer::from_gguf(gguf.metadata(), options.pre_tokenizer.as_deref())?;
        let chat_template = gguf.metadata().get_str("tokenizer.chat_template")?.map(str::to_owned);
        let name = gguf.metadata().get_str("general.name")?.map_or_else(|| file_stem(path), str::to_owned);
        Self::assemble(config, weights, table, tokenizer, chat_template, name, Some(gguf))
    }

    fn open_folder(path: &Path, options: &OpenOptions) -> Result<Self, LoadError> {
        let json = read_json(&path.join("config.json"))?;
        let kind = json.get("model_type").and_then(|t| t.as_str()).unwrap_or_default();
        let family = Family::of_hf(kind)?;
        let mut config = ModelConfig::from_hf(family, &json)?;
        config.pooling = Pooling::of_folder(path)?;
        apply(&mut config, options);
        let table = Safetensors::open_with(path, options.access)?.table().clone();
        let weights = Binder { table: &table, loader: Loader::HuggingFace, family }.bind(&config)?;
        let tokenizer = Tokenizer::from_hf_folder(path)?;
        let template = match read_json(&path.join("tokenizer_config.json")) {
            Ok(json) => json.get("chat_template").and_then(|t| t.as_str()).map(str::to_owned),
            Err(_) => None,
        };
        let template = std::fs::read_to_string(path.join("chat_template.jinja")).ok().or(template);
        Self::assemble(config, weights, table, tokenizer, template, file_stem(path), None)
    }

    fn assemble(
        config: ModelConfig,
        weights: Weights,
        files: TensorTable,
        tokenizer: Tokenizer,
        chat_template: Option<String>,
        name: String,
        gguf: Option<Gguf>,
    ) -> Result<Self, LoadError> {
        let ropes = ropes(&config, weights.rope_factors.as_ref())?;
        Ok(Model { config, weights, files, ropes, tokenizer, chat_template, name, gguf })
    }

    /// Shape and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Every tensor that the forward pass reads.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Puts another matrix, made by [`WeightMatrix::detached`], in the place of the one at `index` of
    /// [`Weights::matrices`] and gives that one back: what a tensor's quantization costs is measured this way.
    ///
    /// # Errors
    /// [`LoadError::Tensor`] if there is none at `index`, or if its shape is another.
    pub fn replace_matrix(&mut self, index: usize, matrix: WeightMatrix) -> Result<WeightMatrix, LoadError> {
        self.weights.replace(index, matrix)
    }

    /// Sets with which numbers the matrix at `index` of [`Weights::matrices`] is multiplied, `None` for those of the
    /// session. Matrices that share their input (Q, K and V; gate and up) must be set together: forms of activations
    /// are made once for all of them.
    pub fn set_numerics(&mut self, index: usize, numerics: Option<Numerics>) {
        self.weights.set_numerics(index, numerics);
    }

    /// The mapped files.
    pub fn files(&self) -> &TensorTable {
        &self.files
    }

    /// RoPE of layers that see everything, and of layers with a window where that is another one, in a session of up to
    /// `max_positions`: LongRoPE turns otherwise in sessions that reach beyond the original context.
    pub fn ropes(&self, max_positions: usize) -> Option<(&Rope, Option<&Rope>)> {
        let Ropes { full, window, long } = self.ropes.as_ref()?;
        let long = long.as_ref().filter(|(original, _)| max_positions > *original).map(|(_, rope)| rope);
        Some((long.unwrap_or(full), window.as_ref()))
    }

    /// Text to ids and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The source of the file's chat template, if it has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// What the file calls the model, or the file's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The GGUF file's metadata, for looking around.
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref()
    }

    /// Bytes of weights that one generated token reads: every matrix but the embedding, of which it reads one row
    /// unless it is the unembedding too.
    pub fn bytes_per_token(&self) -> usize {
        let all: usize = self.weights.matrices().map(|m| m.n_bytes()).sum();
        let looked_up = match self.weights.output {
            Some(_) => self.weights.embedding.n_bytes(),
            None if self.config.encoder => self.weights.embedding.n_bytes(),
            None => 0,
        };
        let positions = self.weights.position_embedding.as_ref().map_or(0, |m| m.n_bytes());
        let idle: usize = self.weights.layers.iter().map(|layer| self.idle_experts(layer)).sum();
        all.saturating_sub(looked_up).saturating_sub(positions).saturating_sub(idle)
    }

    /// Bytes of a layer's experts that a token does not go through.
    fn idle_experts(&self, layer: &Layer) -> usize {
        let (FeedForward::Experts(experts), Some(c)) = (&layer.ffn, self.config.experts) else { return 0 };
        let bytes: usize = experts.list.iter().flat_map(Dense::linears).map(|l| l.weight.n_bytes()).sum();
        bytes / c.count.max(1) * c.count.saturating_sub(c.used)
    }
}

fn apply(config: &mut ModelConfig, options: &OpenOptions) {
    if let Positions::Rope { base, scaling, .. } = &mut config.positions {
        *base = options.rope_base.unwrap_or(*base);
        *scaling = options.rope_scaling.unwrap_or(*scaling);
    }
}

fn ropes(config: &ModelConfig, factors: Option<&RopeFactors>) -> Result<Option<Ropes>, LoadError> {
    let Positions::Rope { pairing, n_rot, base, window_base, scaling } = config.positions else {
        return Ok(None);
    };
    let bad =
        |e: gable_kernels::KernelError| LoadError::Metadata { key: "rope".to_owned(), reason: e.to_string() };
    // A session's own limit is checked before angles are made, and may be beyond the model's.
    let reach = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
    let plain = Rope::new(pairing, n_rot, base, scaling, reach).map_err(bad)?;
    let divided = |factors: &[f32]| plain.clone().with_factors(factors).map_err(bad);
    let full = factors.map_or(Ok(plain.clone()), |factors| divided(&factors.short))?;
    let long = match (scaling, factors.and_then(|factors| factors.long.as_deref())) {
        (RopeScaling::LongRope { original_context, .. }, Some(long)) => {
            Some((usize::try_from(original_context).unwrap_or(usize::MAX), divided(long)?))
        }
        _ => None,
    };
    let windowed = config.windows.iter().any(Option::is_some) && config.windows.iter().any(Option::is_none);
    let window = if windowed && (window_base != base || scaling != RopeScaling::None) {
        Some(Rope::new(pairing, n_rot, window_base, RopeScaling::None, reach).map_err(bad)?)
    } else {
        None
    };
    Ok(Some(Ropes { full, window, long }))
}

fn file_stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| "model".to_owned(), |s| s.to_string_lossy().into_owned())
}

/// Reads a small JSON file; repeated keys and depth beyond the parser's limit are errors.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value, LoadError> {
    let file = MappedFile::open(path)?;
    serde_json::from_slice(file.bytes()).map_err(|e| LoadError::NotAModel {
        path: path.to_owned(),
        reason: format!("is not valid JSON: {e}"),
    })
}
