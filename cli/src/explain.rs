//! `gable explain`: which kernel computes what, in which numbers, on how many threads, and why.
//!
//! The decisions are asked from those who make them: [`Kernels::matmul_plan`] is what a matmul itself follows, and
//! forms of activations come from the numerics as in a pass. So there is no other path than the one shown.

use crate::bench::cpu;
use crate::options::{ModelArgs, SessionArgs};
use anyhow::Result;
use gable_kernels::Kernels;
use gable_kernels::attention::Arithmetic;
use gable_kernels::gemm::{MatmulPlan, Path, Phase};
use gable_kernels::quant::Forms;
use gable_model::config::{NormKind, Positions};
use gable_model::forward::Numerics;
use gable_model::model::Model;
use gable_model::session::SessionOptions;
use gable_model::weights::{Dense, FeedForward, Layer, WeightMatrix};
use serde_json::{Value, json};
use std::io::Write;

/// Options of `gable explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable explain
  gable explain -m model.gguf --numerics exact
  GABLE_ISA=avx2 gable explain -t 4
  gable explain --json | jq '.matmuls[] | select(.prompt.path != \"int8\")'")]
pub struct ExplainArgs {
    /// One JSON object, every tensor by itself
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    session: SessionArgs,
}

/// A product with a weight matrix, in both phases.
#[derive(Debug, Clone, PartialEq)]
struct Product {
    /// Names of the tensors, with `*` for the layer once rows are merged.
    name: String,
    /// How many tensors this row stands for.
    count: usize,
    format: &'static str,
    rows: usize,
    cols: usize,
    prompt: MatmulPlan,
    decode: MatmulPlan,
    why: &'static str,
}

/// Anything else that a pass computes.
struct Operation {
    name: &'static str,
    kernel: String,
    why: String,
}

/// Runs the command.
pub fn run(args: &ExplainArgs) -> Result<()> {
    args.session.threads.placement.pin()?;
    let model = args.model.open()?;
    let options = args.session.session_options(&model)?;
    let threads = args.session.threads.threads();
    let prompt_threads = args.session.threads.placement.threads_batch.unwrap_or(threads);
    let products = products(&model, &options, (prompt_threads, threads));
    let operations = operations(&model, &options);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let kernels = options.kernels;
    if args.json {
        let operation = |o: &Operation| json!({ "operation": o.name, "kernel": o.kernel, "why": o.why });
        let json = json!({
            "model": model.name(), "cpu": cpu(), "isa": kernels.isa().name(), "isa_why": isa_why(kernels),
            "threads": threads, "threads_batch": prompt_threads, "numerics": args.session.numerics.name(),
            "matmuls": products.iter().map(|p| p.json(kernels)).collect::<Vec<_>>(),
            "operations": operations.iter().map(operation).collect::<Vec<_>>(),
        });
        writeln!(out, "{json}")?;
    } else {
        writeln!(out, "{}, {}", model.name(), args.session.features(kernels))?;
        writeln!(out, "isa {}: {}", kernels.isa(), isa_why(kernels))?;
        writeln!(out, "\nmatmuls")?;
        for p in merged(products) {
            let count = if p.count > 1 { format!(" ({} tensors)", p.count) } else { String::new() };
            writeln!(out, "  {}{count}: {}, {} x {}", p.name, p.format, p.rows, p.cols)?;
            writeln!(out, "    prompt  {}", describe(kernels, &p.prompt, Phase::Prompt))?;
            writeln!(out, "    decode  {}", describe(kernels, &p.decode, Phase::Decode))?;
            writeln!(out, "    because {}", p.why)?;
        }
        writeln!(out, "\nother operations")?;
        for o in &operations {
            writeln!(out, "  {:<11} {}\n              {}", o.name, o.kernel, o.why)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Why this instruction set.
fn isa_why(kernels: Kernels) -> String {
    let best = Kernels::best().isa();
    if kernels.isa() == best {
        "the best that this CPU has".to_owned()
    } else {
        format!("GABLE_ISA asks for it; this CPU has {best}")
    }
}

/// Every product of a pass, on so many threads for prompts and for generation. Layers that share their input share the
/// forms that are made of it.
fn products(model: &Model, options: &SessionOptions, threads: (usize, usize)) -> Vec<Product> {
    let numerics = options.numerics;
    let mut out = Vec::new();
    let mut group = |matrices: &[&WeightMatrix]| {
        for m in matrices {
            let plan = |phase, threads| {
                let made = matrices.iter().fold(Forms::EXACT, |f, m| f.union(numerics.forms(phase, m)));
                options.kernels.matmul_plan(phase, m.format(), made, m.rows(), threads)
            };
            let decode = if options.strict { Phase::Prompt } else { Phase::Decode };
            let prompt = plan(Phase::Prompt, threads.0);
            out.push(Product {
                name: m.name().to_owned(),
                count: 1,
                format: m.format().name(),
                rows: m.rows(),
                cols: m.cols(),
                prompt,
                decode: plan(decode, threads.1),
                why: why(prompt.path, numerics),
            });
        }
    };
    for layer in &model.weights().layers {
        let Layer { q, k, v, attention_output, ffn, .. } = layer;
        group(&[&q.weight, &k.weight, &v.weight]);
        group(&[&attention_output.weight]);
        let networks = match ffn {
            FeedForward::Dense(dense) => std::slice::from_ref(dense),
            FeedForward::Experts(experts) => {
                group(&[&experts.router.weight]);
                &experts.list[..]
            }
        };
        for Dense { gate, up, down } in networks {
            match gate {
                Some(gate) => group(&[&gate.weight, &up.weight]),
                None => group(&[&up.weight]),
            }
            group(&[&down.weight]);
        }
    }
    if !model.config().encoder {
        group(&[model.weights().unembedding()]);
    }
    out
}

/// Why products are computed in these numbers.
pub fn why(path: Path, numerics: Numerics) -> &'static str {
    match (path, numerics) {
        (Path::Int8, Numerics::Precise) => {
            "precise numerics: activations as int8 in two terms, one scale per 32 each, against the blocks' integers"
        }
        (Path::Int8, _) => {
            "fast numerics: activations as int8, one scale per 32, against the blocks' integers; in two terms for generation and for rows that one value dominates"
        }
        (Path::Bf16, _) => "fast numerics: bf16 weights against activations rounded to bf16",
        (Path::F32, Numerics::Exact) => "exact numerics: f32 activations, weights widened to f32",
        (Path::F32, _) => "weights of this type have no integers: f32 activations, weights widened to f32",
    }
}

/// Rows that differ in the layer alone become one.
fn merged(products: Vec<Product>) -> Vec<Product> {
    let mut out: Vec<Product> = Vec::new();
    for mut p in products {
        p.name = without_layer(&p.name);
        match out.iter_mut().find(|known| Product { count: p.count, ..(*known).clone() } == p) {
            Some(known) => known.count = known.count.saturating_add(1),
            None => out.push(p),
        }
    }
    out
}

/// `blk.7.attn_q.weight` as `blk.*.attn_q.weight`.
fn without_layer(name: &str) -> String {
    let star = |part: &str| if part.parse::<usize>().is_ok() { "*".to_owned() } else { part.to_owned() };
    name.split('.').map(star).collect::<Vec<_>>().join(".")
}

/// In names of kernels.
pub fn path_name(path: Path) -> &'static str {
    match path {
        Path::F32 => "f32",
        Path::Int8 => "int8",
        Path::Bf16 => "bf16",
    }
}

/// `gemm_int8_6x32_avx512vnni` or `gemv_int8_avx512vnni`.
pub fn kernel_name(kernels: Kernels, plan: &MatmulPlan) -> String {
    let (path, isa) = (path_name(plan.path), kernels.isa());
    match plan.tile {
        Some((rows, cols)) => format!("gemm_{path}_{rows}x{cols}_{isa}"),
        None => format!("gemv_{path}_{isa}"),
    }
}

/// The kernel of a product, and how it is cut.
pub fn describe(kernels: Kernels, plan: &MatmulPlan, phase: Phase) -> String {
    let how = match (plan.tile, phase) {
        (Some((rows, cols)), Phase::Prompt) => format!("tiles of {rows} rows x {cols} outputs"),
        (Some((rows, cols)), Phase::Decode) => format!("strict: tiles of {rows} x {cols} as for prompts"),
        (None, _) => "weight rows streamed".to_owned(),
    };
    let parts = match plan.parts {
        1 => "one part, one thread".to_owned(),
        n => format!("{n} parts of a multiple of {} outputs over the threads", plan.unit),
    };
    format!("{}: {how}, {parts}", kernel_name(kernels, plan))
}

impl Product {
    fn json(&self, kernels: Kernels) -> Value {
        let plan = |plan: &MatmulPlan| {
            json!({
                "kernel": kernel_name(kernels, plan), "path": path_name(plan.path),
                "tile": plan.tile.map(|(rows, cols)| [rows, cols]), "parts": plan.parts, "unit": plan.unit,
            })
        };
        json!({
            "name": self.name, "type": self.format, "rows": self.rows, "cols": self.cols,
            "prompt": plan(&self.prompt), "decode": plan(&self.decode), "why": self.why,
        })
    }
}

/// Everything but products.
fn operations(model: &Model, options: &SessionOptions) -> Vec<Operation> {
    let (c, isa) = (model.config(), options.kernels.isa());
    let kernel = |name: &str| format!("{name}_f32_{isa}");
    let mut out = Vec::new();
    let mut add = |name, kernel, why: String| out.push(Operation { name, kernel, why });
    let format = model.weights().embedding.format();
    add(
        "embedding",
        format!("dequantize_{format}_{isa}"),
        "one row of the table per token, to f32".to_owned(),
    );
    let norm = if c.norm == NormKind::Rms { "rms_norm" } else { "layer_norm" };
    add("norm", kernel(norm), format!("the family {} uses it; f32 in and out", c.architecture));
    match c.positions {
        Positions::Learned => {
            add("positions", kernel("add"), "learned: a row of a table is added to the embedding".to_owned());
        }
        Positions::Rope { pairing, base, .. } => {
            add(
                "positions",
                kernel("rope"),
                format!("pairs {pairing:?}, base {base}; angles once per batch"),
            );
        }
    }
    let cache = options.cache_type().name();
    let given = if options.cache_type.is_some() { "-ctk asks for it" } else { "goes with the numerics" };
    add("cache", format!("append_{cache}_{isa}"), format!("pages of {cache}: {given}"));
    let windowed = c.windows.iter().flatten().count();
    let reach = match c.windows.iter().flatten().next() {
        Some(n) => format!("{windowed} of {} layers see {n} positions", c.n_layers),
        None => "every layer sees all positions".to_owned(),
    };
    let products = match options.numerics.attention(Phase::Prompt, options.kernels) {
        Arithmetic::Bf16 => "bf16 products in prompts, f32 in generation",
        Arithmetic::F32 => "f32 products",
    };
    add(
        "attention",
        format!("attention_{cache}_{isa}"),
        format!("fused: no matrix of scores; {products}; {reach}"),
    );
    add("activation", kernel(&format!("{:?}", c.activation).to_lowercase()), "f32 in and out".to_owned());
    out
}
