//! `gable look context`: the same word in several texts.

use super::terminal::{fit, shown};
use super::{Common, scored_json, scored_line};
use crate::options::usage;
use anyhow::Result;
use gable_model::look::{Look, Scored, WordVectors};
use serde_json::json;

/// Options of `gable look context`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    gable look context mole 'American shrew mole' 'One mole of carbon dioxide' 'Take a biopsy of the mole'\n  \
    gable look context king 'The chess player moved his king' 'Macbeth murdered the king'\n  \
    gable look context creature 'a fluffy blue creature'\n\n\
    Before the first layer a word is the same everywhere: its row of the embedding matrix. Layers then turn it by what \
    stands around it. Deep vectors point at what comes next rather than at the word, so their nearest words mean less \
    the smaller the model. Keeps 4 bytes per token, layer and dimension.")]
pub struct ContextArgs {
    /// A word that stands in every text
    word: String,
    /// Texts of at most 512 tokens
    #[arg(required = true)]
    texts: Vec<String>,
    /// Layers whose nearest words are shown [default: first, quarters, last]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    layers: Vec<usize>,
    /// Nearest words to show
    #[arg(short, value_name = "N", default_value_t = 6)]
    k: usize,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &ContextArgs) -> Result<()> {
    let look = args.common.look()?;
    let n_layers = look.model().config().n_layers;
    if let Some(layer) = args.layers.iter().find(|l| **l > n_layers) {
        return Err(usage(format!(
            "layer {layer}: allowed are 0 (before the first) to {n_layers} (after the last)"
        )));
    }
    let layers = if args.layers.is_empty() {
        vec![0, n_layers / 4, n_layers / 2, n_layers.saturating_mul(3) / 4, n_layers]
    } else {
        args.layers.clone()
    };
    let mut vectors = Vec::new();
    for text in &args.texts {
        let ids = look.encode(text)?;
        let position = look.find_word(&ids, &args.word)?.end.saturating_sub(1);
        vectors.extend(look.word_vectors(&ids, &[position])?);
    }
    let mut pairs = Vec::new();
    for (j, b) in vectors.iter().enumerate() {
        for (i, a) in vectors.iter().enumerate().take(j) {
            pairs.push(((i, j), a.cosines(b)));
        }
    }
    let near = nearest(&look, &vectors, &layers, args.k)?;
    let mut added = Vec::new();
    for layer in layers.iter().filter(|l| **l > 0 && vectors.len() > 1) {
        added.push((*layer, look.what_texts_add(&vectors, *layer, args.k)?));
    }
    args.common.print(
        || {
            let cosines: Vec<_> =
                pairs.iter().map(|(texts, c)| json!({ "texts": [texts.0, texts.1], "cosines": c })).collect();
            let words: Vec<_> = layers
                .iter()
                .zip(&near)
                .map(|(layer, lists)| {
                    let lists: Vec<_> = lists.iter().map(|list| scored_json(&look, list)).collect();
                    json!({ "layer": layer, "nearest": lists })
                })
                .collect();
            let added: Vec<_> = added
                .iter()
                .map(|(layer, lists)| {
                    let lists: Vec<_> = lists.iter().map(|list| scored_json(&look, list)).collect();
                    json!({ "layer": layer, "words": lists })
                })
                .collect();
            json!({ "added": added, "word": args.word, "texts": args.texts, "pairs": cosines, "layers": words })
        },
        |out, screen| {
            for (i, text) in args.texts.iter().enumerate() {
                writeln!(
                    out,
                    "{}: {}",
                    i.saturating_add(1),
                    fit(text, screen.width.saturating_sub(3)).trim_end()
                )?;
            }
            let columns = screen.width.saturating_sub(8) / 8;
            if !pairs.is_empty() {
                writeln!(out, "\n{}", screen.strong(&format!("cosine of {:?} between texts", args.word)))?;
                let name =
                    |(i, j): (usize, usize)| format!("{}-{}", i.saturating_add(1), j.saturating_add(1));
                let heads: Vec<String> =
                    pairs.iter().take(columns).map(|(p, _)| format!("{:>7}", name(*p))).collect();
                writeln!(out, "layer   {}", heads.join(" "))?;
                for layer in 0..=n_layers {
                    let cell = |c: &Vec<f64>| {
                        let x = c.get(layer).copied().unwrap_or(0.0);
                        #[expect(clippy::cast_possible_truncation, reason = "a cosine")]
                        let heat = ((1.0 - x) * 2.0) as f32;
                        screen.heat(&format!("{x:>7.3}"), heat)
                    };
                    let row: Vec<String> = pairs.iter().take(columns).map(|(_, c)| cell(c)).collect();
                    writeln!(out, "{layer:>5}   {}", row.join(" "))?;
                }
            }
            writeln!(out, "\n{}", screen.strong("nearest words of the vector (cosine with rows of W_E)"))?;
            for (layer, lists) in layers.iter().zip(&near) {
                for (i, list) in lists.iter().enumerate() {
                    let text = i.saturating_add(1);
                    let line = format!("after {layer:>2} layers, text {text}: {}", scored_line(&look, list));
                    writeln!(out, "{}", fit(&line, screen.width).trim_end())?;
                }
            }
            if !added.is_empty() {
                let title = "what each text adds to the mean of them (words of W_U that it pushes towards)";
                writeln!(out, "\n{}", screen.strong(title))?;
            }
            for (layer, lists) in &added {
                for (i, list) in lists.iter().enumerate() {
                    let text = i.saturating_add(1);
                    let line = format!("after {layer:>2} layers, text {text}: {}", scored_line(&look, list));
                    writeln!(out, "{}", fit(&line, screen.width).trim_end())?;
                }
            }
            let word = shown(&args.word);
            writeln!(out, "\nlayer 0 is the plain embedding of {word}, whatever stands around it")
        },
    )
}

/// Per layer and text the nearest words.
fn nearest(
    look: &Look,
    vectors: &[WordVectors],
    layers: &[usize],
    k: usize,
) -> Result<Vec<Vec<Vec<Scored>>>> {
    let dictionary = look.embeddings()?;
    let mut all = Vec::new();
    for layer in layers {
        let of_layer: Vec<Vec<f32>> = vectors.iter().filter_map(|v| v.layers.get(*layer).cloned()).collect();
        all.push(dictionary.nearest_of_all(&of_layer, k)?);
    }
    Ok(all)
}
