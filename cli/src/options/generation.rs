//! Options of prompts, of drawing tokens, and of when to stop. Names and defaults are llama.cpp's.

use super::{count, usage};
use anyhow::{Context, Result, bail};
use gable_model::generate::GenerateOptions;
use gable_model::sampler::{SamplerConfig, Stage};
use gable_model::tokenizer::Tokenizer;
use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A text from the command line, a file or stdin.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// The text; `-` reads stdin
    #[arg(value_name = "PROMPT")]
    pub text: Option<String>,
    /// The text, instead of PROMPT
    #[arg(short, long, value_name = "TEXT", conflicts_with = "text", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Reads the text from a file; `-` is stdin
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["text", "prompt"])]
    pub file: Option<PathBuf>,
    /// Reads \n, \t, \r, \", \' and \\ in the prompt as what they stand for
    #[arg(short, long)]
    pub escape: bool,
}

impl PromptArgs {
    /// The text, or nothing if none was given.
    pub fn read(&self) -> Result<Option<String>> {
        let text = match (self.text.as_deref().or(self.prompt.as_deref()), &self.file) {
            (Some("-"), _) => Some(read_text(Path::new("-"))?),
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(path)) => Some(read_text(path)?),
            (None, None) => None,
        };
        Ok(text.map(|text| self.unescaped(&text)))
    }

    /// A text from the command line with its escapes read, if that was asked for.
    pub fn unescaped(&self, text: &str) -> String {
        if self.escape { unescape(text) } else { text.to_owned() }
    }
}

/// A file's text; `-` is stdin.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("could not read stdin")?;
        bytes
    } else {
        std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            bail!("{}: byte {} is not UTF-8", path.display(), error.utf8_error().valid_up_to())
        }
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some(c @ ('"' | '\'' | '\\')) => out.push(c),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

/// How tokens are drawn.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Chooses the random numbers; -1 for another one each time
    #[arg(short, long, value_name = "SEED", default_value_t = -1, allow_negative_numbers = true)]
    pub seed: i64,
    /// Temperature; 0 takes the most likely token always
    #[arg(
        long,
        visible_alias = "temperature",
        value_name = "T",
        default_value_t = 0.8,
        allow_negative_numbers = true
    )]
    pub temp: f32,
    /// Keeps the K most likely tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Keeps the most likely tokens that together reach P; 1 for all
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Keeps tokens with P times the highest probability; 0 for all
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Penalty on tokens that occurred recently; 1 for none
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// How many tokens count as recent; 0 for none
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub repeat_last_n: usize,
    /// Taken off the logits of recent tokens
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Taken off the logits of recent tokens for each time they occur
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Stages in their order
    #[arg(long, value_name = "STAGES", default_value = "penalties;top_k;top_p;min_p;temperature",
        value_parser = stages)]
    pub samplers: Stages,
    /// Adds to the logit of a token: 15043+1, 15043-1, 15043-inf
    #[arg(long, value_name = "ID(+/-)BIAS", value_parser = logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,
}

/// The value of `--samplers`.
#[derive(Debug, Clone)]
pub struct Stages(pub Vec<Stage>);

fn stages(text: &str) -> Result<Stages, String> {
    Stage::parse_order(text).map(Stages).map_err(|error| error.to_string())
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let split = text.find(['+', '-']).and_then(|at| text.split_at_checked(at));
    split
        .and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse::<f32>().ok()?)))
        .filter(|(_, bias)| !bias.is_nan())
        .ok_or_else(|| "write a token id, + or -, and a number, e.g. 15043-1.5".to_owned())
}

impl SamplingArgs {
    /// As a sampler wants them, the seed chosen.
    pub fn config(&self) -> Result<SamplerConfig> {
        let config = SamplerConfig {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: u64::try_from(self.seed).unwrap_or_else(|_| any_seed()),
            order: self.samplers.0.clone(),
        };
        config.validate().map_err(|error| usage(error.to_string()))?;
        Ok(config)
    }
}

/// Another number each time, short enough to be typed: the standard library keys its hashes at random.
fn any_seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish() >> 32
}

/// When to stop.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Generation")]
pub struct GenerationArgs {
    /// Tokens to generate at most; -1 for as many as the context holds
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub n_predict: i64,
    /// Stops before this text; may be given several times
    #[arg(short, long, value_name = "TEXT")]
    pub reverse_prompt: Vec<String>,
    /// Goes on where the model would end
    #[arg(long)]
    pub ignore_eos: bool,
}

impl GenerationArgs {
    /// As the generation loop wants them.
    pub fn options(&self) -> GenerateOptions {
        GenerateOptions {
            max_tokens: usize::try_from(self.n_predict).unwrap_or(usize::MAX),
            stop: self.reverse_prompt.clone(),
            ignore_eos: self.ignore_eos,
            ..GenerateOptions::default()
        }
    }

    /// Rules out the tokens that end a text, if they are to be ignored.
    pub fn ban_end(&self, config: &mut SamplerConfig, tokenizer: &Tokenizer) {
        if self.ignore_eos {
            config.logit_bias.extend(tokenizer.end_of_generation().iter().map(|&id| (id, f32::NEG_INFINITY)));
        }
    }
}

/// Whether to guess ahead.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Generation")]
pub struct DraftArgs {
    /// Guesses up to N tokens from what the text so far went on with, and verifies them in one pass: the same text, sooner
    /// where it repeats itself; 0 for none
    #[arg(long, visible_alias = "draft-max", value_name = "N", default_value_t = 0, value_parser = count(0, 256))]
    pub draft: usize,
}

impl DraftArgs {
    /// Rows of logits that a session must give at once: the guesses' and the drawn token's.
    pub fn max_logits(&self) -> usize {
        self.draft.saturating_add(1)
    }
}

/// What happens when the context is full.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Generation")]
pub struct ShiftArgs {
    /// Goes on when the context is full: forgets the older half of what follows the first --keep tokens, and reads the rest
    /// again
    #[arg(long)]
    context_shift: bool,
    /// Ends there, as without either
    #[arg(long, hide = true, conflicts_with = "context_shift")]
    no_context_shift: bool,
    /// Tokens at the beginning that a shift keeps; -1 for the (first) prompt
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true,
        requires = "context_shift"
    )]
    keep: i64,
}

impl ShiftArgs {
    /// How many tokens are kept of a context of `max_positions` that begins with a prompt of `prompt`; nothing if it is
    /// not to be shifted.
    pub fn keep(&self, prompt: usize, max_positions: usize) -> Result<Option<usize>> {
        if !self.context_shift {
            return Ok(None);
        }
        let keep = usize::try_from(self.keep).unwrap_or(prompt);
        let most = max_positions.saturating_sub(2);
        if keep > most {
            return Err(usage(format!(
                "--keep is {keep} in a context of {max_positions}; allowed: up to {most}; -c makes it longer"
            )));
        }
        Ok(Some(keep))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logit_biases_are_read_as_llama_cpp_writes_them() {
        assert_eq!(logit_bias("15043+1"), Ok((15043, 1.0)));
        assert_eq!(logit_bias("7-2.5"), Ok((7, -2.5)));
        assert_eq!(logit_bias("7-inf"), Ok((7, f32::NEG_INFINITY)));
        for bad in ["", "7", "+1", "x-1", "7+", "-7-1", "7+nan"] {
            assert!(logit_bias(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn escapes_stand_for_what_they_name() {
        assert_eq!(unescape(r#"a\n\t\\n\"\x\"#), "a\n\t\\n\"\\x\\");
    }
}
