//! `gable doctor --explain M N K`: how one product is computed, and why.
//!
//! Asked from those who decide: [`Kernels::dense_plan_of`] and [`Kernels::matmul_plan`] are what products follow.

use crate::explain::{describe, kernel_name, path_name, why};
use crate::options::usage;
use anyhow::Result;
use gable_kernels::Kernels;
use gable_kernels::dense::{DensePlan, ElementType, MAX_K_I8};
use gable_kernels::gemm::{MatmulPlan, Phase};
use gable_kernels::quant::{Format, Forms};
use gable_model::forward::Numerics;
use serde_json::{Value, json};
use std::io::Write;

/// Of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A dense matrix, multiplied with one of the same type.
    Dense(ElementType),
    /// Blocks as they lie in files, multiplied with f32 activations.
    Blocks(Format),
}

impl Type {
    const DENSE: [(&str, ElementType); 4] = [
        ("f32", ElementType::F32),
        ("f16", ElementType::F16),
        ("bf16", ElementType::Bf16),
        ("int8", ElementType::I8),
    ];

    /// By its name, in letters of any size.
    pub fn parse(text: &str) -> Result<Type, String> {
        let dense = Type::DENSE.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let blocks = || Format::ALL.into_iter().filter(|format| format.is_block_quantized());
        let block = || blocks().find(|format| format.name().eq_ignore_ascii_case(text));
        match (dense, block()) {
            (Some((_, element)), _) => Ok(Type::Dense(element)),
            (None, Some(format)) => Ok(Type::Blocks(format)),
            (None, None) => {
                let names = Type::DENSE.map(|(name, _)| name).into_iter().chain(blocks().map(Format::name));
                Err(format!("there are {}", names.collect::<Vec<_>>().join(", ")))
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Type::Dense(element) => {
                Type::DENSE.into_iter().find(|(_, e)| *e == element).map_or("", |(name, _)| name)
            }
            Type::Blocks(format) => format.name(),
        }
    }
}

/// One way to compute it.
struct Way {
    name: &'static str,
    what: String,
    why: String,
    json: Value,
}

/// Rows up to which streaming B is worth a look.
const FEW_ROWS: usize = 8;

/// Writes all ways.
pub fn explain(
    out: &mut impl Write,
    kernels: Kernels,
    of: Type,
    [m, n, k]: [usize; 3],
    threads: usize,
    as_json: bool,
) -> Result<()> {
    let ways = match of {
        Type::Dense(element) => dense(kernels, element, [m, n, k], threads)?,
        Type::Blocks(format) => blocks(kernels, format, [n, k], threads)?,
    };
    let isa = kernels.isa();
    if as_json {
        let all: serde_json::Map<String, Value> =
            ways.into_iter().map(|way| (way.name.to_owned(), way.json)).collect();
        let json = json!({
            "m": m, "n": n, "k": k, "type": of.name(), "isa": isa.name(), "threads": threads, "ways": all,
        });
        writeln!(out, "{json}")?;
        return Ok(());
    }
    let team = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    writeln!(out, "[{m} x {k}] [{k} x {n}], {}, {team}, {isa}", of.name())?;
    for way in ways {
        writeln!(out, "  {:<11} {}", way.name, way.what)?;
        writeln!(out, "  {:<11} because {}", "", way.why)?;
    }
    Ok(())
}

/// A product of matrices of one type: packed beforehand or not, and streamed where the rows are few.
fn dense(kernels: Kernels, of: ElementType, [m, n, k]: [usize; 3], threads: usize) -> Result<Vec<Way>> {
    if of == ElementType::I8 && k > MAX_K_I8 {
        return Err(usage(format!(
            "int8: K is {k}, at most {MAX_K_I8}: more products could overflow an i32"
        )));
    }
    let mut out = Vec::new();
    for (name, packed) in [("packed", true), ("not packed", false)] {
        let Some(plan) = kernels.dense_plan_of([of, of], [m, k, n], packed, threads) else { continue };
        out.push(Way {
            name,
            what: describe_dense(kernels, &plan, packed),
            why: why_threads(&plan, threads),
            json: json!({
                "kernel": dense_name(kernels, &plan), "path": plan.path, "tile": [plan.mr, plan.nr],
                "k_blocks": plan.k_blocks, "kc": plan.kc, "block_rows": plan.block_rows,
                "unit_rows": plan.unit_rows, "units": plan.units, "threads": plan.threads,
                "steps": plan.steps, "serial_below": DensePlan::SERIAL_STEPS,
            }),
        });
    }
    let format = match of {
        ElementType::F32 => Some(Format::F32),
        ElementType::F16 => Some(Format::F16),
        ElementType::Bf16 => Some(Format::BF16),
        _ => None,
    };
    if let Some(format) = format.filter(|_| m <= FEW_ROWS) {
        let plan = kernels.matmul_plan(Phase::Decode, format, Forms::fast(format), n, threads);
        out.push(Way {
            name: "streamed",
            what: describe(kernels, &plan, Phase::Decode),
            why: format!("with {m} of at most {FEW_ROWS} rows, reading B once takes the time (Rhs::Streamed asks for it)"),
            json: plan_json(kernels, &plan),
        });
    }
    Ok(out)
}

/// A product with weights in blocks, in both phases.
fn blocks(kernels: Kernels, format: Format, [n, k]: [usize; 2], threads: usize) -> Result<Vec<Way>> {
    if format.row_bytes(k).is_none() {
        return Err(usage(format!("{format}: K is {k}, wanted a multiple of {}", format.block_len())));
    }
    let way = |name, phase, forms, numerics| {
        let plan = kernels.matmul_plan(phase, format, forms, n, threads);
        Way {
            name,
            what: describe(kernels, &plan, phase),
            why: why(plan.path, numerics).to_owned(),
            json: plan_json(kernels, &plan),
        }
    };
    let fast = Forms::fast(format);
    Ok(vec![
        way("prompt", Phase::Prompt, fast, Numerics::Fast),
        way("decode", Phase::Decode, fast, Numerics::Fast),
        way("exact", Phase::Prompt, Forms::EXACT, Numerics::Exact),
    ])
}

fn plan_json(kernels: Kernels, plan: &MatmulPlan) -> Value {
    json!({
        "kernel": kernel_name(kernels, plan), "path": path_name(plan.path),
        "tile": plan.tile.map(|(rows, cols)| [rows, cols]), "parts": plan.parts, "unit": plan.unit,
    })
}

/// `gemm_f32_6x64_avx512vnni`
fn dense_name(kernels: Kernels, plan: &DensePlan) -> String {
    format!("gemm_{}_{}x{}_{}", plan.path, plan.mr, plan.nr, kernels.isa())
}

fn describe_dense(kernels: Kernels, plan: &DensePlan, packed: bool) -> String {
    let blocks = match plan.k_blocks {
        0 | 1 => "K whole".to_owned(),
        n => format!("K in {n} blocks of up to {}", plan.kc),
    };
    let weights = if packed { "panels of B read as they lie" } else { "each unit packs its panel of B" };
    let threads =
        if plan.threads == 1 { "serially".to_owned() } else { format!("on {} threads", plan.threads) };
    format!(
        "{}: tiles of {} rows x {} columns, {blocks}, {weights}, {} {} of up to {} rows x {} columns {threads}",
        dense_name(kernels, plan),
        plan.mr,
        plan.nr,
        plan.units,
        if plan.units == 1 { "unit" } else { "units" },
        plan.unit_rows.min(plan.block_rows),
        plan.nr.saturating_mul(plan.unit_panels),
    )
}

fn why_threads(plan: &DensePlan, threads: usize) -> String {
    let (steps, least) = (plan.steps, DensePlan::SERIAL_STEPS);
    match () {
        () if threads == 1 => "one thread is all there is".to_owned(),
        () if steps < least => {
            format!(
                "it takes {steps} steps of a tile, fewer than {least}: handing out work would cost more than it brings"
            )
        }
        () if plan.threads < threads => {
            let units = if plan.units == 1 { "is 1 unit" } else { "are no more units" };
            format!("there {units} of work for {threads} threads")
        }
        () => format!("it takes {steps} steps of a tile, at least {least}: more than handing out work costs"),
    }
}
