//! Which parts of a rendering are the template's own words.
//!
//! The conversation is rendered twice: as it is, and with a marker in place of every content. The marked rendering is
//! the scaffold with the places of the contents; laid over the true rendering it says which bytes are whose. A marker
//! is made of noncharacters of Unicode, lengthened until template, roles and token texts do not contain it.
//!
//! Templates transform contents: they trim them, or keep of an assistant's turn what follows `</think>`. So at the
//! place of a content, the first of a list of such forms is taken after which the scaffold goes on as it should. The
//! segments put together are always the true rendering.
//!
//! Where the scaffolds differ, because the template decides by what a content says, the safe side is taken:
//!
//! 1. If the control tokens are known and no content holds one, nor ends or begins with a piece of one, all of the text
//!    can be parsed as the template's own: no control token can come from a content.
//! 2. Otherwise the template's words are those at the beginning and at the end on which both renderings agree and that
//!    no content holds; all between is text.

use super::{ChatTemplate, Message};
use crate::RunError;

/// A stretch of a rendering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The text.
    pub text: String,
    /// Whether control tokens written in the text are meant as such: true for the template's own words.
    pub special: bool,
}

/// A stretch of the marked rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'s> {
    /// The template's own words.
    Scaffold(&'s str),
    /// The content of a message, by index.
    Content(usize),
}

impl ChatTemplate {
    /// As [`ChatTemplate::render`], with the template's own words apart from the contents of the messages. The
    /// segments' texts put together are what `render` returns.
    pub fn render_segments(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<Segment>, RunError> {
        let plain = self.render(messages, add_generation_prompt)?;
        let (open, close) = self.marker(messages);
        let marked: Vec<Message> = messages
            .iter()
            .enumerate()
            .map(|(i, m)| {
                // A blank content keeps its form: templates ask for it, and white space is no control token.
                let blank = m.content.trim().is_empty();
                let content = if blank { m.content.clone() } else { format!("{open}{i}{close}") };
                Message::new(m.role.clone(), content)
            })
            .collect();
        // A template may refuse what it does not know: then nothing is known about its scaffold.
        let scaffold = self.render(&marked, add_generation_prompt).unwrap_or_default();
        let pieces = split(&scaffold, &open, &close, messages.len());
        let segments =
            align(&plain, &pieces, messages).unwrap_or_else(|| self.safe_side(&plain, &pieces, messages));
        Ok(joined(segments))
    }

    fn marker(&self, messages: &[Message]) -> (String, String) {
        let mut open = "\u{FDD0}".to_owned();
        let taken = |open: &str| {
            [&self.source, &self.bos, &self.eos].into_iter().any(|text| text.contains(open))
                || messages.iter().any(|m| m.role.contains(open))
        };
        while taken(&open) {
            open.push('\u{FDD0}');
        }
        (open, "\u{FDD1}".to_owned())
    }

    fn safe_side<'p>(
        &self,
        plain: &'p str,
        pieces: &[Piece<'_>],
        messages: &[Message],
    ) -> Vec<(&'p str, bool)> {
        if !self.control_tokens.is_empty() && messages.iter().all(|m| self.is_inert(&m.content)) {
            return vec![(plain, true)];
        }
        let own = |text: &str| !messages.iter().any(|m| m.content.contains(text.trim()));
        let mut middle = plain;
        let mut start = None;
        if let Some(Piece::Scaffold(text)) = pieces.first()
            && own(text)
            && let Some(rest) = middle.strip_prefix(text)
        {
            start = plain.get(..text.len());
            middle = rest;
        }
        let mut end = None;
        if let Some(Piece::Scaffold(text)) = pieces.last()
            && own(text)
            && let Some(rest) = middle.strip_suffix(text)
        {
            end = middle.get(rest.len()..);
            middle = rest;
        }
        vec![(start.unwrap_or(""), true), (middle, false), (end.unwrap_or(""), true)]
    }

    /// Whether no control token can be made of `content`, alone or with what stands around it.
    fn is_inert(&self, content: &str) -> bool {
        self.control_tokens.iter().all(|token| {
            let straddles = token.char_indices().skip(1).any(|(at, _)| {
                let (head, tail) = token.split_at(at);
                content.ends_with(head)
                    || content.starts_with(tail)
                    || content.trim_end().ends_with(head)
                    || content.trim_start().starts_with(tail)
            });
            !content.contains(token.as_str()) && !straddles
        })
    }
}

/// The marked rendering cut at its markers.
fn split<'s>(scaffold: &'s str, open: &str, close: &str, messages: usize) -> Vec<Piece<'s>> {
    let mut pieces = Vec::new();
    let mut rest = scaffold;
    let mut text_length = 0; // of the scaffold before the marker that is looked for
    while let Some(found) = rest.get(text_length..).and_then(|tail| tail.find(open)) {
        let start = text_length.saturating_add(found);
        let inside = rest.get(start.saturating_add(open.len())..).unwrap_or("");
        let index =
            inside.split_once(close).and_then(|(digits, after)| Some((digits.parse::<usize>().ok()?, after)));
        match index.filter(|(i, _)| *i < messages) {
            Some((i, after)) => {
                pieces.push(Piece::Scaffold(rest.get(..start).unwrap_or("")));
                pieces.push(Piece::Content(i));
                rest = after;
                text_length = 0;
            }
            None => text_length = start.saturating_add(open.len()), // a marker that was cut up: no content
        }
    }
    pieces.push(Piece::Scaffold(rest));
    pieces
}

/// The true rendering cut as the marked one is, or nothing where they do not fit.
fn align<'p>(plain: &'p str, pieces: &[Piece<'_>], messages: &[Message]) -> Option<Vec<(&'p str, bool)>> {
    let mut segments = Vec::new();
    let mut rest = plain;
    for (at, piece) in pieces.iter().enumerate() {
        let length = match piece {
            Piece::Scaffold(text) => rest.starts_with(text).then_some(text.len())?,
            Piece::Content(index) => {
                // `split` puts scaffold, be it empty, after every content.
                let next = at.checked_add(1)?;
                let Some(Piece::Scaffold(follows)) = pieces.get(next) else { return None };
                let is_last = next.checked_add(1)? == pieces.len();
                let fits = |form: &&str| {
                    rest.strip_prefix(*form).is_some_and(|tail| {
                        if is_last { tail == *follows } else { tail.starts_with(follows) }
                    })
                };
                forms(messages.get(*index)?).into_iter().find(fits)?.len()
            }
        };
        let (segment, tail) = rest.split_at_checked(length)?;
        segments.push((segment, matches!(piece, Piece::Scaffold(_))));
        rest = tail;
    }
    rest.is_empty().then_some(segments)
}

/// What templates make of a content, the unchanged first.
fn forms(message: &Message) -> Vec<&str> {
    let content = message.content.as_str();
    let mut bases = vec![content];
    if message.role == "assistant"
        && let Some((_, answer)) = content.rsplit_once("</think>")
    {
        bases.push(answer);
    }
    let mut forms = bases.clone();
    for base in bases {
        forms.extend([base.trim(), base.trim_start(), base.trim_end()]);
        forms.extend([base.trim_matches('\n'), base.trim_start_matches('\n'), base.trim_end_matches('\n')]);
    }
    forms
}

/// Neighbours of the same kind put together, empty ones left out.
fn joined(parts: Vec<(&str, bool)>) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for (text, special) in parts.into_iter().filter(|(text, _)| !text.is_empty()) {
        match segments.last_mut().filter(|last| last.special == special) {
            Some(last) => last.text.push_str(text),
            None => segments.push(Segment { text: text.to_owned(), special }),
        }
    }
    segments
}
