//! `gable inspect`: what a model's file holds, and what running it takes.

use crate::options::ModelArgs;
use anyhow::{Result, bail};
use gable_kernels::attention::{CacheShape, CacheType, PAGE};
use gable_model::finite::not_finite;
use gable_model::gguf::Value;
use gable_model::model::Model;
use gable_model::weights::WeightMatrix;
use gable_model::window;
use std::io::Write;

/// Tokens of a prompt that are read together unless asked for otherwise.
const BATCH: usize = 512;

/// Options of `gable inspect`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gable inspect\n  gable inspect -m gemma3 --json\n  gable inspect -m model.gguf --check"
)]
pub struct InspectArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Reads every weight and names tensors with NaN or infinity
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Result<()> {
    let model = args.model.open()?;
    let c = model.config();
    let tied = model.weights().output.is_none() && !c.encoder;
    let tensors = model.files().tensors();
    let mut split = PARTS.map(|name| (name, 0_usize));
    for t in tensors {
        let i = part(&t.name);
        if let Some((_, n)) = split.get_mut(i) {
            *n = n.saturating_add(t.dims.elements());
        }
    }
    let params: usize = tensors.iter().fold(0, |n, t| n.saturating_add(t.dims.elements()));
    let bytes: usize = tensors.iter().fold(0, |n, t| n.saturating_add(t.n_bytes));
    // Keys and values as halves; a layer with a window keeps no more than it and a batch.
    let per_layer = c.kv_dim().saturating_mul(2).saturating_mul(2);
    let per_token = per_layer.saturating_mul(c.n_layers);
    let shape = CacheShape {
        n_layers: c.n_layers,
        n_kv_heads: c.n_kv_heads,
        head_dim: c.head_dim,
        cache_type: CacheType::F16,
        max_positions: c.max_seq_len,
        max_sequences: 1,
        max_pages: 0,
    };
    let in_all = window::max_pages(c, &shape, BATCH).saturating_mul(PAGE).saturating_mul(per_layer);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if args.json {
        let list: Vec<_> = tensors
            .iter()
            .map(|t| serde_json::json!({ "name": &*t.name, "type": t.format.name(), "shape": &t.dims[..], "bytes": t.n_bytes }))
            .collect();
        let metadata: serde_json::Map<_, _> =
            metadata(&model).map(|(key, value)| (key, serde_json::Value::String(value))).collect();
        let parts: serde_json::Map<_, _> = split.iter().map(|&(k, n)| (k.to_owned(), n.into())).collect();
        let json = serde_json::json!({
            "name": model.name(), "architecture": c.architecture, "parameters": params, "bytes": bytes,
            "parameter_split": parts, "tied_embedding": tied, "bytes_per_token": model.bytes_per_token(),
            "context": c.max_seq_len, "cache_bytes_per_token": per_token, "cache_bytes": in_all,
            "windows": c.windows, "experts": c.experts.map(|e| e.count), "experts_used": c.experts.map(|e| e.used), "metadata": metadata, "tensors": list,
        });
        writeln!(out, "{json}")?;
    } else {
        writeln!(out, "{} ({})", model.name(), c.architecture)?;
        for (key, value) in metadata(&model) {
            writeln!(out, "  {key} = {value}")?;
        }
        writeln!(out, "\n{} tensors", tensors.len())?;
        for t in tensors {
            writeln!(out, "  {:<32} {:<5} {:?} {} bytes", t.name, t.format.name(), &t.dims[..], t.n_bytes)?;
        }
        writeln!(out, "\nparameters        {params}")?;
        for (what, n) in split {
            writeln!(out, "  {what:<15} {n}")?;
        }
        writeln!(out, "weights           {bytes} bytes")?;
        writeln!(out, "W_E               {}", described(&model.weights().embedding, params))?;
        match &model.weights().output {
            Some(output) => writeln!(out, "W_U               {}", described(output, params))?,
            None if c.encoder => writeln!(out, "W_U               none: an encoder gives vectors of texts")?,
            None => writeln!(out, "W_U               W_E again (tied)")?,
        }
        if let Some(experts) = c.experts {
            writeln!(out, "experts           {} of {} for each token", experts.used, experts.count)?;
        }
        writeln!(out, "read per token    {} bytes", model.bytes_per_token())?;
        writeln!(out, "context           {} tokens", c.max_seq_len)?;
        writeln!(out, "cache, f16        {per_token} bytes per token, {in_all} bytes for the whole context")?;
        let windowed = c.windows.iter().flatten().count();
        match c.windows.iter().flatten().next() {
            Some(n) => {
                writeln!(out, "windows           {windowed} of {} layers see {n} positions", c.n_layers)?
            }
            None => writeln!(out, "windows           none: every layer sees all positions")?,
        }
    }
    out.flush()?;
    if args.check { check(&model) } else { Ok(()) }
}

/// Where parameters can be.
const PARTS: [&str; 10] = ["embedding", "qkv", "q", "k", "v", "o", "ffn", "norm", "head", "other"];

/// Where in the list of parts a tensor counts.
fn part(name: &str) -> usize {
    let has = |words: &[&str]| words.iter().any(|w| name.contains(w));
    let part = match name {
        _ if has(&[
            "token_embd",
            "position_embd",
            "token_type",
            "word_embeddings",
            "position_embeddings",
            "embed_tokens",
            "wte",
            "wpe",
        ]) =>
        {
            "embedding"
        }
        _ if has(&["norm", "ln_", "LayerNorm"]) => "norm",
        _ if has(&["attn_qkv", "c_attn", "qkv_proj"]) => "qkv",
        _ if has(&["attn_q.", "q_proj", "self.query"]) => "q",
        _ if has(&["attn_k.", "k_proj", "self.key"]) => "k",
        _ if has(&["attn_v.", "v_proj", "self.value"]) => "v",
        _ if has(&["attn_output", "o_proj", "attn.c_proj", "attention.output.dense"]) => "o",
        _ if has(&["ffn", "mlp", "intermediate.dense", "output.dense"]) => "ffn",
        _ if has(&["output", "lm_head"]) => "head",
        _ => "other",
    };
    PARTS.iter().position(|p| *p == part).unwrap_or(PARTS.len().saturating_sub(1))
}

/// `49152 x 576 = 28.31 M of 134.52 M, Q8_0, 28.69 MiB`
#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn described(matrix: &WeightMatrix, params: usize) -> String {
    let n = matrix.rows().saturating_mul(matrix.cols());
    format!(
        "{} x {} = {:.2} M of {:.2} M, {}, {:.2} MiB",
        matrix.rows(),
        matrix.cols(),
        n as f64 / 1e6,
        params as f64 / 1e6,
        matrix.format(),
        matrix.n_bytes() as f64 / f64::from(1 << 20)
    )
}

fn metadata(model: &Model) -> impl Iterator<Item = (String, String)> {
    model.gguf().into_iter().flat_map(|gguf| gguf.metadata().iter()).map(|(key, value)| {
        let text = match value {
            Value::Array(array) => format!("[{}; {}]", array.element_type().name(), array.len()),
            other => match (other.as_integer(), other.as_float()) {
                (Some(n), _) => n.to_string(),
                (_, Some(x)) => x.to_string(),
                _ => format!("{other:?}").chars().take(120).collect(),
            },
        };
        (key.to_owned(), text)
    })
}

/// Looks at every value of plain tensors and at every scale of blocks, whether or not the forward pass reads them.
fn check(model: &Model) -> Result<()> {
    let files = model.files();
    let mut bad = Vec::new();
    for tensor in files.tensors() {
        if let Some(found) = not_finite(tensor, files.bytes(tensor)) {
            bad.push(format!("\n  {}: {found}", tensor.name));
        }
    }
    if !bad.is_empty() {
        bail!("weights that are not finite: {}", bad.concat());
    }
    crate::exit::say("check: every weight is finite");
    Ok(())
}
