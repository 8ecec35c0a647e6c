//! `gable look report`: everything about one text on one page.
//!
//! The page is a single HTML file: template, style and script lie beside this file, the data are put in as JSON. It
//! loads nothing; its own policy forbids it to.

mod data;

use super::{OfText, write_file};
use crate::exit::say;
use crate::options::usage;
use anyhow::Result;
use serde_json::Value;
use std::path::PathBuf;

const TEMPLATE: &str = include_str!("report/page.html");
const STYLE: &str = include_str!("report/page.css");
const SCRIPT: &str = concat!(
    include_str!("report/base.js"),
    include_str!("report/attention.js"),
    include_str!("report/predictions.js")
);

/// Longest text: every pair of tokens is a cell in every head's picture.
const MAX_TOKENS: usize = 96;

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
    /// A sum of words for the page's section on vectors
    /// [default: king - man + woman, where the vocabulary has these words]
    #[arg(long, value_name = "EXPRESSION")]
    analogy: Option<String>,
    /// Shows where another quantization of the same model parts from this one
    #[arg(long, value_name = "MODEL")]
    vs: Option<String>,
    #[command(flatten)]
    of: OfText,
}

/// Runs the command.
pub fn run(args: &ReportArgs) -> Result<()> {
    let (look, text, ids) = args.of.open()?;
    if ids.len() > MAX_TOKENS {
        return Err(usage(format!(
            "the text has {} tokens, and a page holds {MAX_TOKENS}; shorten it",
            ids.len()
        )));
    }
    if let Some(expression) = &args.analogy {
        look.expression(expression)?; // what the user wrote is not left out in silence
    }
    let analogy = args.analogy.as_deref().unwrap_or("king - man + woman");
    let mut data = data::data(&look, &text, &ids, analogy)?;
    if let (Some(other), Some(map)) = (&args.vs, data.as_object_mut()) {
        map.insert("vs".to_owned(), data::versus(&look, &args.of.common.look_at(other)?, &text, &ids)?);
    }
    let page = page(&data);
    write_file(&args.output, &page)?;
    let kilobytes = page.len() / 1000;
    say(&format!("{}: {} tokens, {kilobytes} kB", args.output.display(), ids.len()));
    if args.of.common.json {
        args.of.common.print(|| data, |_, _| Ok(()))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
}
