//! What form a generated text is to have.

use super::{read_text, usage};
use crate::exit::say;
use anyhow::Result;
use gable_model::constraint::Grammars;
use gable_model::sampler::Sampler;
use gable_model::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};

/// A schema or a grammar.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Form of the text")]
pub struct FormArgs {
    /// Generates JSON of this schema and nothing else; {} for any JSON, @FILE for a file's
    #[arg(short, long, value_name = "SCHEMA", conflicts_with_all = ["json_schema_file", "grammar", "grammar_file"])]
    json_schema: Option<String>,
    /// The same, from a file (-jf)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["grammar", "grammar_file"])]
    json_schema_file: Option<PathBuf>,
    /// Generates a sentence of this grammar: GBNF (`root ::= "yes" | "no"`) or Lark (`start: "yes" | "no"`)
    #[arg(long, value_name = "GRAMMAR", conflicts_with = "grammar_file")]
    grammar: Option<String>,
    /// The same, from a file
    #[arg(long, value_name = "FILE")]
    grammar_file: Option<PathBuf>,
}

impl FormArgs {
    /// Lets the sampler draw nothing else.
    pub fn constrain(&self, sampler: &mut Sampler, tokenizer: &Tokenizer) -> Result<()> {
        let schema = match self.json_schema.as_deref().map(|text| (text, text.strip_prefix('@'))) {
            Some((_, Some(path))) => Some(read_text(Path::new(path))?),
            Some((text, None)) => Some(text.to_owned()),
            None => self.json_schema_file.as_deref().map(read_text).transpose()?,
        };
        let grammar = match &self.grammar {
            Some(grammar) => Some(grammar.clone()),
            None => self.grammar_file.as_deref().map(read_text).transpose()?,
        };
        if schema.is_none() && grammar.is_none() {
            return Ok(());
        }
        let grammars = Grammars::new(tokenizer)?;
        let constraint = match (schema, grammar) {
            (Some(schema), _) => grammars.json_schema(&schema),
            (None, grammar) => grammars.grammar(&grammar.unwrap_or_default()),
        };
        let mut constraint = constraint.map_err(|error| usage(error.to_string()))?;
        constraint.warnings().iter().for_each(|warning| say(&format!("warning: grammar: {warning}")));
        sampler.constrain(constraint);
        Ok(())
    }
}
