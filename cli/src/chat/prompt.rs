//! From a conversation to the tokens that a model is given.

use crate::run::encode_open;
use anyhow::Result;
use gable_model::chat_template::{ChatTemplate, Message, PlainTranscript};
use gable_model::tokenizer::{EncodeOptions, Tokenizer};
use gable_model::{LoadError, RunError};

/// How a conversation is written.
pub enum Form {
    /// As the model was trained.
    Template(Box<ChatTemplate>),
    /// As a transcript with names.
    Plain(PlainTranscript),
}

/// A conversation up to where the model's reply begins.
pub struct Prompt {
    /// As text.
    pub text: String,
    /// As tokens.
    pub ids: Vec<u32>,
}

/// The template, compiled for this vocabulary.
pub fn template(source: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, LoadError> {
    let name = |id: u32| String::from_utf8_lossy(tokenizer.piece(id)).into_owned();
    let named = |id: Option<u32>| id.map(name).unwrap_or_default();
    let mut template = ChatTemplate::new(source, &named(tokenizer.bos()), &named(tokenizer.eos()))?;
    let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    template.set_control_tokens(ids.filter(|&id| tokenizer.is_control(id)).map(name).collect());
    Ok(template)
}

impl Form {
    /// The prompt for the next reply.
    pub fn prompt(&self, messages: &[Message], tokenizer: &Tokenizer) -> Result<Prompt, RunError> {
        match self {
            Form::Template(template) => from_template(template, messages, tokenizer),
            Form::Plain(transcript) => {
                let text = transcript.render(messages);
                let options = EncodeOptions { add_special: true, parse_special: false };
                let ids = encode_open(tokenizer, &text, options)?;
                Ok(Prompt { text, ids })
            }
        }
    }

    /// What ends a reply besides the model's own tokens.
    pub fn stop_strings(&self) -> Vec<String> {
        match self {
            Form::Template(_) => Vec::new(),
            Form::Plain(transcript) => transcript.stop_strings().into(),
        }
    }
}

/// The template's own words may be control tokens, the contents never.
///
/// Encoding part by part can split words at the seams in another way than the model was trained on. So the whole text
/// is encoded at once, unless that gives other control tokens than the template's own words have: then somebody wrote
/// the name of one into a content, and the parts are taken.
fn from_template(
    template: &ChatTemplate,
    messages: &[Message],
    tokenizer: &Tokenizer,
) -> Result<Prompt, RunError> {
    let segments = template.render_segments(messages, true)?;
    let text: String = segments.iter().map(|segment| segment.text.as_str()).collect();
    let mut parts = Vec::new();
    for segment in &segments {
        let options = EncodeOptions { add_special: false, parse_special: segment.special };
        parts.extend(tokenizer.encode(&segment.text, options)?);
    }
    let whole = tokenizer.encode(&text, EncodeOptions { add_special: false, parse_special: true })?;
    let control =
        |ids: &[u32]| -> Vec<u32> { ids.iter().copied().filter(|&id| tokenizer.is_control(id)).collect() };
    let mut ids = if control(&whole) == control(&parts) { whole } else { parts };
    // Some templates write BOS themselves.
    if tokenizer.adds_bos()
        && let Some(bos) = tokenizer.bos()
        && ids.first() != Some(&bos)
    {
        ids.insert(0, bos);
    }
    Ok(Prompt { text, ids })
}
