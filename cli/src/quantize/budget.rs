//! `--budget`: what is left of it goes to the tensors that `gable perplexity --blame` found to cost most.

use crate::exit::say;
use crate::options::read_text;
use anyhow::{Context, Result, bail};
use gable_model::quantize::{Choice, Cost, format_by_name};
use gable_model::tensor_table::TensorInfo;
use serde::Deserialize;
use std::path::Path;

/// What is read of `gable perplexity --blame --json`.
#[derive(Deserialize)]
struct Blame {
    vs: String,
    blame: Vec<Piece>,
}

#[derive(Deserialize)]
struct Piece {
    name: String,
    #[serde(rename = "type")]
    format: String,
    kl: f64,
}

/// `4.5bpw` or `4.5`.
pub fn bits_per_weight(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("bpw").unwrap_or(text).parse::<f64>();
    match number {
        Ok(x) if x > 0.0 && x <= 32.0 => Ok(x),
        _ => Err("write bits per weight, above 0 and at most 32, such as 4.5bpw".to_owned()),
    }
}

/// Raises choices while all tensors stay within so many bits per weight.
pub fn spend(bits: f64, path: &Path, tensors: &[TensorInfo], choices: &mut [Choice]) -> Result<()> {
    let text = read_text(path)?;
    let form =
        || format!("{} is not what `gable perplexity --vs ORIGINAL --blame --json` prints", path.display());
    let blame: Blame = serde_json::from_str(&text).with_context(form)?;
    if blame.vs == "exact" {
        bail!(
            "{} blames activations (--vs exact), not the types of tensors; run `gable perplexity --blame` with the \
             original behind --vs",
            path.display()
        );
    }
    let costs: Vec<Cost> = blame
        .blame
        .into_iter()
        .filter_map(|p| Some(Cost { format: format_by_name(&p.format)?, divergence: p.kl, name: p.name }))
        .collect();
    if !costs.iter().any(|cost| tensors.iter().any(|t| *t.name == *cost.name)) {
        bail!("{} names none of this model's tensors; it is of another model", path.display());
    }
    let weights = tensors.iter().fold(0_usize, |n, t| n.saturating_add(t.dims.elements()));
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and bounded; a float's precision is enough"
    )]
    let budget = (bits / 8.0 * weights as f64) as usize;
    let (raised, bytes) = gable_model::quantize::spend(tensors, choices, &costs, budget);
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let used = 8.0 * bytes as f64 / weights.max(1) as f64;
    if bytes > budget {
        bail!(
            "the type alone takes {used:.2} bits per weight, more than --budget {bits}bpw; choose a smaller type"
        );
    }
    say(&format!("budget {bits:.2} bpw: {raised} tensors get a better type, {used:.2} bpw used"));
    Ok(())
}
