//! Models that are made up: `synthetic:SHAPE:TYPE` has the tensors of a known model and random weights.
//!
//! Speed does not depend on what the weights are, as long as nothing overflows or becomes denormal. The file is written
//! to the folder for temporary files, mapped, and removed at once; so it is read on the same path as a real one.

use crate::locate;
use crate::options::{AccessArgs, usage};
use crate::statistics::Random;
use anyhow::{Context, Result};
use gable_kernels::quant::Format;
use gable_model::gguf::writer::GgufWriter;
use gable_model::model::{Model, OpenOptions};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The shape of a known model.
struct Shape {
    name: &'static str,
    architecture: &'static str,
    layers: u32,
    d_model: u32,
    d_ff: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    vocabulary: u32,
    /// Whether the embedding unembeds too.
    tied: bool,
    /// Whether every query and key head is normalised.
    head_norms: bool,
    /// Positions that most layers see; 0 for all.
    window: u32,
}

/// Llama's way, which other shapes change.
const LLAMA: Shape = Shape {
    name: "tiny",
    architecture: "llama",
    layers: 2,
    d_model: 256,
    d_ff: 512,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    vocabulary: 512,
    tied: false,
    head_norms: false,
    window: 0,
};

/// Gemma's way.
const GEMMA: Shape = Shape {
    architecture: "gemma3",
    kv_heads: 1,
    head_dim: 256,
    vocabulary: 262_144,
    tied: true,
    head_norms: true,
    window: 512,
    ..LLAMA
};

const SHAPES: [Shape; 8] = [
    LLAMA,
    Shape {
        name: "smollm2-135m",
        layers: 30,
        d_model: 576,
        d_ff: 1536,
        heads: 9,
        kv_heads: 3,
        vocabulary: 49_152,
        tied: true,
        ..LLAMA
    },
    Shape {
        name: "llama-1b",
        layers: 16,
        d_model: 2048,
        d_ff: 8192,
        heads: 32,
        kv_heads: 8,
        vocabulary: 128_256,
        tied: true,
        ..LLAMA
    },
    Shape {
        name: "llama-3b",
        layers: 28,
        d_model: 3072,
        d_ff: 8192,
        heads: 24,
        kv_heads: 8,
        head_dim: 128,
        vocabulary: 128_256,
        tied: true,
        ..LLAMA
    },
    Shape {
        name: "llama-8b",
        layers: 32,
        d_model: 4096,
        d_ff: 14_336,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocabulary: 128_256,
        ..LLAMA
    },
    Shape {
        name: "qwen3-0.6b",
        architecture: "qwen3",
        layers: 28,
        d_model: 1024,
        d_ff: 3072,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        vocabulary: 151_936,
        tied: true,
        head_norms: true,
        ..LLAMA
    },
    Shape { name: "gemma3-270m", layers: 18, d_model: 640, d_ff: 2048, ..GEMMA },
    Shape { name: "gemma3-1b", layers: 26, d_model: 1152, d_ff: 6912, ..GEMMA },
];

/// A model by name, and what it is called in results: the path, or the name of a made-up one.
pub fn open(name: &str, access: AccessArgs) -> Result<(Arc<Model>, String)> {
    let options = OpenOptions { access: access.access(), ..OpenOptions::default() };
    let Some(rest) = name.strip_prefix("synthetic:") else {
        let path = locate::model(name)?;
        let model = access.open_to_run(&path, &options)?;
        return Ok((Arc::new(model), path.display().to_string()));
    };
    let (shape, format) = rest.split_once(':').unwrap_or((rest, "q8_0"));
    let names = |names: Vec<&str>| names.join(", ");
    let Some(shape) = SHAPES.iter().find(|s| s.name == shape) else {
        let known = names(SHAPES.iter().map(|s| s.name).collect());
        return Err(usage(format!("{name}: no shape {shape:?}; there are {known}")));
    };
    let Some(format) = Format::all_of_gguf().find(|f| f.name().eq_ignore_ascii_case(format)) else {
        let known = names(Format::all_of_gguf().map(Format::name).collect());
        return Err(usage(format!("{name}: no type {format:?}; there are {known}")));
    };
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("gable-synthetic-{}-{number}.gguf", std::process::id()));
    let made = write(shape, format, &path).with_context(|| format!("{name}, made in {}", path.display()));
    let model = made.and_then(|()| Ok(Model::open(&path, &options)?));
    // Mapped, it lives on without its name.
    let _ = std::fs::remove_file(&path);
    Ok((Arc::new(model?), name.to_owned()))
}

/// A tensor's name, its extents fastest first, and its type.
type Tensor = (String, Vec<u64>, Format);

impl Shape {
    /// Every tensor, in the order of the file.
    fn tensors(&self, format: Format) -> Vec<Tensor> {
        let [d, ff, vocab] = [self.d_model, self.d_ff, self.vocabulary].map(u64::from);
        let [q, kv] =
            [self.heads, self.kv_heads].map(|n| u64::from(n).saturating_mul(u64::from(self.head_dim)));
        let head_dim = u64::from(self.head_dim);
        let matrix = |name: String, from: u64, to: u64| (name, vec![from, to], format);
        let vector = |name: String, len: u64| (name, vec![len], Format::F32);
        let mut out = vec![matrix("token_embd.weight".to_owned(), d, vocab)];
        for i in 0..self.layers {
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            out.push(vector(name("attn_norm"), d));
            out.extend([
                matrix(name("attn_q"), d, q),
                matrix(name("attn_k"), d, kv),
                matrix(name("attn_v"), d, kv),
            ]);
            if self.head_norms {
                out.extend([vector(name("attn_q_norm"), head_dim), vector(name("attn_k_norm"), head_dim)]);
            }
            out.push(matrix(name("attn_output"), q, d));
            out.push(vector(name("ffn_norm"), d));
            if self.architecture == "gemma3" {
                out.extend([vector(name("post_attention_norm"), d), vector(name("post_ffw_norm"), d)]);
            }
            out.extend([matrix(name("ffn_gate"), d, ff), matrix(name("ffn_up"), d, ff)]);
            out.push(matrix(name("ffn_down"), ff, d));
        }
        out.push(vector("output_norm.weight".to_owned(), d));
        if !self.tied {
            out.push(matrix("output.weight".to_owned(), d, vocab));
        }
        out
    }

    fn metadata(&self, header: &mut GgufWriter) -> Result<()> {
        header.set("general.architecture", self.architecture)?;
        header.set("general.name", &format!("synthetic {}", self.name)[..])?;
        let numbers = [
            ("block_count", self.layers),
            ("context_length", 131_072),
            ("embedding_length", self.d_model),
            ("feed_forward_length", self.d_ff),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("attention.sliding_window", self.window),
        ];
        for (key, value) in numbers.into_iter().filter(|(_, value)| *value > 0) {
            header.set(&format!("{}.{key}", self.architecture), &value)?;
        }
        header.set(&format!("{}.attention.layer_norm_rms_epsilon", self.architecture), &1e-5_f32)?;
        header.set(&format!("{}.rope.freq_base", self.architecture), &500_000.0_f32)?;
        // Nobody reads or writes with it, but a model has a vocabulary.
        let tokens: Vec<String> = (0..self.vocabulary).map(|i| format!("t{i}")).collect();
        let scores = vec![0.0_f32; tokens.len()];
        header.set("tokenizer.ggml.model", "llama")?;
        header.set_array("tokenizer.ggml.tokens", &tokens)?;
        header.set_array("tokenizer.ggml.scores", &scores)?;
        Ok(())
    }
}

fn write(shape: &Shape, format: Format, path: &Path) -> Result<()> {
    let mut header = GgufWriter::new();
    shape.metadata(&mut header)?;
    let tensors = shape.tensors(format);
    for (name, extents, format) in &tensors {
        header.declare(name, extents, *format)?;
    }
    let (file, random) = (File::create_new(path)?, &mut Random::new());
    let mut out = header.start(BufWriter::new(file))?;
    for (_, extents, format) in &tensors {
        let cols = extents.first().copied().unwrap_or(0);
        let rows = extents.iter().skip(1).product::<u64>().max(1);
        let bytes = usize::try_from(cols)
            .ok()
            .and_then(|cols| format.row_bytes(cols)?.checked_mul(usize::try_from(rows).ok()?))
            .context("a tensor is larger than the address space")?;
        let norm = extents.len() == 1;
        out.tensor(&weights(*format, norm, bytes, random))?;
    }
    out.finish()?.flush()?;
    Ok(())
}

/// Random weights. Floats are at most 1/16; norms are 1; the bytes of a block are such that its scales, which are halves
/// or small integers somewhere in it, are from 0.008 to 0.12 or from 32 to 47.
pub fn weights(format: Format, norm: bool, len: usize, random: &mut Random) -> Vec<u8> {
    let small = |bits: u64| {
        // Sign and mantissa are random, the exponent is that of 1/32.
        let mantissa = u32::try_from(bits & 0x807f_ffff).unwrap_or(0);
        f32::from_bits(mantissa | 0x3d00_0000)
    };
    let float = |random: &mut Random| if norm { 1.0 } else { small(random.bits()) };
    let mut out = Vec::with_capacity(len.saturating_add(8));
    while out.len() < len {
        match format {
            Format::F32 => out.extend(float(random).to_le_bytes()),
            Format::BF16 => out.extend(float(random).to_le_bytes().get(2..).unwrap_or_default()),
            // Sign and mantissa random, the exponent that of 1/32.
            Format::F16 => {
                let bits = u16::try_from(random.bits() & 0x83ff).unwrap_or(0);
                out.extend((bits | 0x2800).to_le_bytes());
            }
            _ => out.extend((random.bits() & 0x0f0f_0f0f_0f0f_0f0f | 0x2020_2020_2020_2020).to_le_bytes()),
        }
    }
    out.truncate(len);
    out
}

#[cfg(test)]
mod unit {
    use super::*;
    use gable_kernels::Kernels;

    #[test]
    fn weights_of_every_type_are_finite_and_neither_zero_nor_denormal() {
        for format in Format::all_of_gguf() {
            let bytes = weights(format, false, format.row_bytes(512).unwrap(), &mut Random::new());
            let row =
                gable_kernels::quant::QuantWeights::from_bytes(format, 1, 512, bytes.len(), &bytes).unwrap();
            let mut out = [0.0_f32; 512];
            Kernels::best().dequantize_row(&row, 0, &mut out).unwrap();
            assert!(out.iter().all(|x| (*x == 0.0 || x.is_normal()) && x.abs() < 1e3), "{format}");
            assert!(out.iter().any(|x| *x != 0.0) && out.iter().any(|x| *x != out[0]), "{format}");
        }
    }

    #[test]
    fn a_made_up_model_has_the_parameters_of_the_real_one() {
        for (name, million) in [("smollm2-135m", 134.5), ("llama-1b", 1235.8), ("gemma3-270m", 268.1)] {
            let shape = SHAPES.iter().find(|s| s.name == name).unwrap();
            let n: u64 = shape.tensors(Format::F32).iter().map(|t| t.1.iter().product::<u64>()).sum();
            assert!((n as f64 / 1e6 - million).abs() < 0.1, "{name}: {n}");
        }
    }
}
