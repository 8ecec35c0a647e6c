//! `gable look report`: everything about one text on one page.
//!
//! The page is a single HTML file: template, style and script lie beside this file, the data are put in as JSON. It
//! loads nothing; its own policy forbids it to.

use super::{Common, write_file};
use crate::exit::say;
use crate::options::{PromptArgs, usage};
use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gable_model::look::{Distribution, Guess, Look, group_words, lens_sites, norm, top};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::PathBuf;

const TEMPLATE: &str = include_str!("report.html");
const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// Longest text: every pair of tokens is a cell in every head's picture.
const MAX_TOKENS: usize = 96;
/// Dimensions of the embeddings that are shown.
const DIMENSIONS: usize = 8;
/// Tokens whose logits the page knows one by one; the others are counted in bins.
const LOGITS: usize = 256;

/// Options of `gable look report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    gable look report 'a fluffy blue creature roamed the verdant forest' -o look.html\n  \
    gable look report -m gemma3 -f text.txt -o look.html\n  \
    gable look report -m my-q8_0.gguf --vs my-q4_k_m.gguf 'The capital of France is' -o look.html\n\n\
    One file without scripts, fonts or pictures from elsewhere; it opens offline, in light and dark, on a phone too. \
    Texts of at most 96 tokens: the page takes one byte per head and pair of tokens, and the pass keeps 12 bytes per \
    token, layer and dimension.")]
pub struct ReportArgs {
    /// The page
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Shows where another quantization of the same model parts from this one
    #[arg(long, value_name = "MODEL")]
    vs: Option<String>,
    #[command(flatten)]
    text: PromptArgs,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &ReportArgs) -> Result<()> {
    let (look, text, ids) = args.common.open(&args.text)?;
    if ids.len() > MAX_TOKENS {
        return Err(usage(format!(
            "the text has {} tokens, and a page holds {MAX_TOKENS}; shorten it",
            ids.len()
        )));
    }
    let mut data = data(&look, &text, &ids)?;
    if let (Some(other), Some(map)) = (&args.vs, data.as_object_mut()) {
        map.insert("vs".to_owned(), versus(&look, &args.common.look_at(other)?, &text, &ids)?);
    }
    let page = page(&data);
    write_file(&args.output, &page)?;
    let kilobytes = page.len() / 1000;
    say(&format!("{}: {} tokens, {kilobytes} kB", args.output.display(), ids.len()));
    if args.common.json {
        args.common.print(|| data, |_, _| Ok(()))?;
    }
    Ok(())
}

/// The template with style, script and data in their places.
fn page(data: &Value) -> String {
    // No text can end the element that holds the data: "<" stands in it in escaped form only.
    let data = data.to_string().replace('<', "\\u003c");
    let mut page = String::with_capacity(TEMPLATE.len().saturating_add(data.len()));
    let mut rest = TEMPLATE;
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or(("", after));
        page.push_str(match name {
            "style" => STYLE,
            "script" => SCRIPT,
            "data" => &data,
            _ => "",
        });
        rest = after;
    }
    page.push_str(rest);
    page
}

/// Everything that the page shows.
fn data(look: &Look, text: &str, ids: &[u32]) -> Result<Value> {
    let model = look.model();
    let config = model.config();
    let tokenizer = model.tokenizer();
    let matrix = &model.weights().embedding;
    let words: Vec<[usize; 2]> = group_words(tokenizer, ids).iter().map(|r| [r.start, r.end]).collect();
    let tokens: Vec<Value> = ids
        .iter()
        .map(|&id| json!({ "id": id, "piece": look.piece(id), "bytes": tokenizer.piece(id).len() }))
        .collect();
    let (recording, logits) = look.record(ids, lens_sites)?;
    let best = top(&logits, LOGITS, |_| true);
    let last = ids.len().saturating_sub(1);
    let target = best.first().map(|s| s.id);
    let layers: Vec<Value> = look
        .lens(&recording, last, target, 4)?
        .iter()
        .map(|l| {
            json!({
                "norm": short(l.norm), "attention": l.update.map(|u| short(u.attention)),
                "ffn": l.update.map(|u| short(u.ffn)), "top": pairs(look, &l.top),
                "rank": l.target.map(|t| t.0), "p": l.target.map(|t| short(t.1)),
            })
        })
        .collect();
    let grid: Vec<Value> =
        look.lens_grid(&recording, ids.len())?.iter().map(|row| pairs(look, row)).collect();
    drop(recording);
    let mut guesses: Vec<Value> = Vec::new();
    look.positions(ids, 3, &mut |g: Guess| {
        guesses.push(json!({
            "top": pairs(look, &g.top), "bits": short(g.entropy), "rank": g.found.map(|f| f.0),
            "p": g.found.map(|f| short(f.1)),
        }));
        ControlFlow::Continue(())
    })?;
    let listed: Vec<Value> =
        best.iter().map(|s| json!([look.piece(s.id), short(f64::from(s.score))])).collect();
    let attention = STANDARD.encode(look.overview(ids)?.weights);
    Ok(json!({
        "text": text, "tokens": tokens, "words": words,
        "model": {
            "name": model.name(), "layers": config.n_layers, "heads": config.n_heads,
            "d_model": config.d_model, "d_ff": config.d_ff, "vocabulary": config.vocab_size,
            "context": config.max_seq_len, "format": matrix.format().name(),
            "tied": model.weights().output.is_none(), "windows": config.windows,
        },
        "embedding": embedding(look, ids)?,
        "attention": attention,
        "layers": layers, "grid": grid, "guesses": guesses,
        "next": { "listed": listed, "rest": rest(&logits, &best) },
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// Layer by layer what another model makes of the same tokens.
fn versus(look: &Look, other: &Look, text: &str, ids: &[u32]) -> Result<Value> {
    if other.encode(text)? != ids {
        return Err(usage(
            "--vs: the other model makes other tokens of the text; take another quantization of this one",
        ));
    }
    let layers: Vec<Value> = look
        .compare(other, ids)?
        .iter()
        .map(|p| {
            json!({
                "cosine": p.cosine, "token": p.token, "head": p.link.head, "from": p.link.from, "to": p.link.to,
                "weights": p.link.weights, "difference": p.link.difference(),
            })
        })
        .collect();
    let said = |look: &Look| -> Result<Value> {
        let logits = look.next_logits(ids)?;
        let p = Distribution::new(&logits, 1.0);
        let best: Vec<(u32, f64)> = top(&logits, 5, |_| true).iter().map(|s| (s.id, p.of(s.id))).collect();
        Ok(pairs(look, &best))
    };
    Ok(json!({
        "name": other.model().name(), "type": kind(other), "here": kind(look), "layers": layers,
        "next": [said(look)?, said(other)?],
    }))
}

/// Formats of a layer's weights, to tell two files of one name apart.
fn kind(look: &Look) -> String {
    let weights = look.model().weights();
    let mut names: Vec<&str> = weights.matrices().map(|m| m.format().name()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// Every token's vector: its first numbers, its length, its neighbours.
fn embedding(look: &Look, ids: &[u32]) -> Result<Value> {
    let mut vectors = Vec::with_capacity(ids.len());
    for &id in ids {
        vectors.push(look.embedding(id)?);
    }
    // The nearest is the token itself.
    let near = look.embeddings()?.nearest_of_all(&vectors, 9)?;
    let columns: Vec<Vec<f64>> =
        vectors.iter().map(|v| v.iter().take(DIMENSIONS).map(|x| short(f64::from(*x))).collect()).collect();
    let near: Vec<Vec<Value>> = ids
        .iter()
        .zip(&near)
        .map(|(id, list)| {
            let others = list.iter().filter(|s| s.id != *id).take(8);
            others.map(|s| json!([look.piece(s.id), short(f64::from(s.score))])).collect()
        })
        .collect();
    let norms: Vec<f64> = vectors.iter().map(|v| short(norm(v))).collect();
    Ok(json!({ "columns": columns, "norms": norms, "near": near }))
}

/// The logits that are not listed, as `[middle, count]` of bins a quarter wide: enough for softmax at any temperature.
fn rest(logits: &[f32], listed: &[gable_model::look::Scored]) -> Vec<(f64, usize)> {
    let mut bins: std::collections::BTreeMap<i64, usize> = std::collections::BTreeMap::new();
    let ids: std::collections::HashSet<u32> = listed.iter().map(|s| s.id).collect();
    for (_, logit) in (0_u32..).zip(logits).filter(|(id, x)| !ids.contains(id) && x.is_finite()) {
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        let bin = (f64::from(*logit) * 4.0).floor() as i64;
        let count = bins.entry(bin).or_default();
        *count = count.saturating_add(1);
    }
    #[expect(clippy::cast_precision_loss, reason = "bins near zero")]
    let middle = |bin: i64| (bin as f64 + 0.5) / 4.0;
    bins.into_iter().map(|(bin, count)| (middle(bin), count)).collect()
}

fn pairs(look: &Look, list: &[(u32, f64)]) -> Value {
    list.iter().map(|(id, p)| json!([look.piece(*id), short(*p)])).collect()
}

/// Four digits are enough for a page.
fn short(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_leave_the_data() {
        let page = page(&json!({ "text": "</script><script>alert(1)</script>{{script}}" }));
        assert!(!page.contains("<script>alert") && page.contains("\\u003c/script>"));
        assert_eq!(page.matches("</script>").count(), 2, "one for the data, one for the script");
    }

    #[test]
    fn the_page_names_no_other_place() {
        for part in [TEMPLATE, STYLE, SCRIPT] {
            let part = part.replace("http://www.w3.org/2000/svg", "");
            assert!(!part.contains("http:") && !part.contains("https:") && !part.contains("@import"));
        }
    }

    #[test]
    fn unlisted_logits_are_counted_where_they_lie() {
        let logits = [5.0, 1.1, 1.2, -0.1, f32::NEG_INFINITY];
        let listed = top(&logits, 1, |_| true);
        assert_eq!(rest(&logits, &listed), [(-0.125, 1), (1.125, 2)]);
    }
}
