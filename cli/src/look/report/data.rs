//! What the page shows, as JSON.

use crate::options::usage;
use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gable_model::look::{
    Direction, Distribution, Guess, Look, Scored, Word, group_words, lens_sites, norm, top,
};
use serde_json::{Value, json};
use std::ops::ControlFlow;

/// Dimensions of the embeddings that are shown.
const DIMENSIONS: usize = 8;
/// Tokens whose logits the page knows one by one; the others are counted in bins.
const LOGITS: usize = 256;
/// Pairs that make the plural direction of the page.
const PAIRS: [(&str, &str); 6] = [
    ("cat", "cats"),
    ("car", "cars"),
    ("tree", "trees"),
    ("book", "books"),
    ("girl", "girls"),
    ("hand", "hands"),
];
/// Words that are measured by it.
const SCORED: [&str; 9] = ["dog", "dogs", "apple", "apples", "person", "people", "one", "two", "seven"];

/// Everything that the page shows.
pub fn data(look: &Look, text: &str, ids: &[u32], analogy: &str) -> Result<Value> {
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
        "analogy": analogy_of(look, analogy)?, "plural": plural(look)?,
        "attention": attention,
        "layers": layers, "grid": grid, "guesses": guesses,
        "next": { "listed": listed, "rest": rest(&logits, &best) },
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// A sum of words with its picture; nothing if this vocabulary has no tokens for them.
fn analogy_of(look: &Look, text: &str) -> Result<Option<Value>> {
    let Ok(expression) = look.expression(text) else { return Ok(None) };
    let analogy = look.analogy(&expression, 5)?;
    let picture = analogy.picture.as_ref().map(|p| {
        json!({ "corners": p.corners.each_ref().map(|w| &w.text), "points": p.points, "kept": short(p.kept) })
    });
    let answers: Vec<Value> =
        analogy.answers.iter().map(|s| json!([look.piece(s.id), short(f64::from(s.score))])).collect();
    let steps: Vec<Value> = analogy
        .steps
        .iter()
        .map(
            |(words, cosine)| json!({ "words": words.each_ref().map(|w| &w.text), "cosine": short(*cosine) }),
        )
        .collect();
    Ok(Some(json!({
        "expression": text, "answers": answers, "sides": analogy.sides.map(short), "steps": steps, "picture": picture,
    })))
}

/// How plural some words are, by the direction of a few pairs; nothing if the vocabulary lacks them.
fn plural(look: &Look) -> Result<Option<Value>> {
    let word = |text: &str| look.word(text).ok();
    let pairs: Vec<(Word, Word)> = PAIRS.iter().filter_map(|(a, b)| Some((word(a)?, word(b)?))).collect();
    let scored: Vec<Word> = SCORED.iter().filter_map(|text| word(text)).collect();
    if pairs.len() < 3 || scored.is_empty() {
        return Ok(None);
    }
    let direction = Direction::new(&look.pairs(&pairs)?)?;
    let mut scores = Vec::with_capacity(scored.len());
    for word in &scored {
        scores.push(json!([word.text, short(direction.score(&look.embedding(word.id)?))]));
    }
    let pairs: Vec<String> = pairs.iter().map(|(a, b)| format!("{} \u{2192} {}", a.text, b.text)).collect();
    Ok(Some(json!({ "pairs": pairs, "scores": scores })))
}

/// Layer by layer what another model makes of the same tokens.
pub fn versus(look: &Look, other: &Look, text: &str, ids: &[u32]) -> Result<Value> {
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
fn rest(logits: &[f32], listed: &[Scored]) -> Vec<(f64, usize)> {
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
    fn unlisted_logits_are_counted_where_they_lie() {
        let logits = [5.0, 1.1, 1.2, -0.1, f32::NEG_INFINITY];
        let listed = top(&logits, 1, |_| true);
        assert_eq!(rest(&logits, &listed), [(-0.125, 1), (1.125, 2)]);
    }
}
