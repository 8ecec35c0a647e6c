//! Texts of a form that is given: JSON of a schema, or a grammar's sentences.
//!
//! A [`Constraint`] in a [`Sampler`](crate::sampler::Sampler) says before every draw which tokens can come next, and is
//! moved on by the token that was drawn. Tokens are matched byte by byte, whatever they are cut into, so the model's own
//! choice among several spellings of a text stays free. Control tokens are never part of a sentence; those that end a
//! text are allowed where the sentence can end, and where nothing can follow it, generation
//! [stops](crate::generate::StopReason::GrammarEnd) by itself.
//!
//! Three ways to write one:
//!
//! - a **JSON schema**, with draft 2020-12's usual keywords and references within it (`#/$defs/..`). Between elements stand
//!   at most a space, or a line break and 32 blanks of indentation, since small models are fond of blanks without end; an
//!   object `x-guidance` in the schema sets other rules;
//! - a **Lark** grammar in the variant of the `llguidance` crate, which does the matching: rules in small letters, terminals
//!   in capitals, `start` the first;
//! - **GBNF**, as llama.cpp reads it: `root ::= "yes" | "no"`. See [`Grammars::gbnf`].
//!
//! Work is bounded: a grammar that is too large, or a step that takes too long, is an error. Grammars are read on a thread
//! of their own whose stack grows with their text, since the reader descends from each rule to those that it names.

mod gbnf;

use crate::RunError;
use crate::tokenizer::{TokenType, Tokenizer};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::Value;
use std::sync::Arc;

/// Longer tokens are left out: the trie is walked recursively.
const LONGEST_TOKEN: usize = 255;
/// Tokens that the trie can number.
const MOST_TOKENS: usize = (1 << 24) - 1;
/// Longest text of a schema or a grammar.
const LONGEST_TEXT: usize = 1 << 20;
/// Stack for reading a grammar, and for each byte of its text: a rule of 8 bytes that names the next takes up to 8 KiB.
const STACK: (usize, usize) = (16 << 20, 1 << 10);
/// Between the elements of JSON.
const WHITESPACE: &str = r" |\r?\n[ \t]{0,32}";

/// A vocabulary, prepared for matching; makes constraints. It is costly to make, and good for any number of them.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// Prepares a vocabulary: a tree of its tokens' bytes, about 20 bytes per byte of them.
    ///
    /// # Errors
    /// [`RunError::Grammar`] for a vocabulary of 2^24 tokens or more.
    pub fn new(tokenizer: &Tokenizer) -> Result<Grammars, RunError> {
        let size = tokenizer.vocab_size();
        let Some(vocab_size) = u32::try_from(size).ok().filter(|_| size <= MOST_TOKENS) else {
            return Err(RunError::Grammar(format!("a vocabulary of {size} tokens; at most {MOST_TOKENS}")));
        };
        let words: Vec<Vec<u8>> = (0..vocab_size).map(|id| word(tokenizer, id)).collect();
        let ends = tokenizer.end_of_generation();
        let end = ends.first().copied().unwrap_or(INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(vocab_size, end), &words);
        if !ends.is_empty() && ends.iter().all(|id| *id < vocab_size) {
            trie = trie.with_eos_tokens(ends);
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(refused)?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Grammars { factory })
    }

    /// Texts that are JSON of a schema.
    ///
    /// # Errors
    /// [`RunError::Grammar`] for what is no JSON, a keyword that is not implemented, or a schema that nothing satisfies.
    pub fn json_schema(&self, schema: &str) -> Result<Constraint, RunError> {
        let schema = serde_json::from_str(schema)
            .map_err(|error| RunError::Grammar(format!("the schema is no JSON: {error}")))?;
        self.json_schema_value(schema)
    }

    /// The same for a schema that was read before; `{"type": "object"}` allows any object.
    ///
    /// # Errors
    /// As [`json_schema`](Grammars::json_schema).
    pub fn json_schema_value(&self, mut schema: Value) -> Result<Constraint, RunError> {
        match &mut schema {
            Value::Object(keys) if !keys.contains_key("x-guidance") => {
                let options = JsonCompileOptions {
                    whitespace_pattern: Some(WHITESPACE.to_owned()),
                    ..JsonCompileOptions::default()
                };
                options.apply_to(&mut schema);
            }
            Value::Object(_) | Value::Bool(_) => {}
            _ => return Err(RunError::Grammar("a schema is an object, true or false".to_owned())),
        }
        let length = schema.to_string().len();
        self.constraint(TopLevelGrammar::from_json_schema(schema), length)
    }

    /// Sentences of a Lark grammar.
    ///
    /// # Errors
    /// [`RunError::Grammar`] with the place of what is wrong.
    pub fn lark(&self, grammar: &str) -> Result<Constraint, RunError> {
        self.constraint(TopLevelGrammar::from_lark(grammar.to_owned()), grammar.len())
    }

    /// Sentences of a GBNF grammar, that is, of its rule `root`: names, `"literals"`, `[classes]`, `.`, groups, `|`,
    /// `? * + {m} {m,} {m,n}` and comments; escapes `\n \r \t \" \\ \[ \] \xHH \uHHHH \UHHHHHHHH`.
    ///
    /// Rules that do not lead back to themselves are matched exactly. Between the parts of one that does, each part takes
    /// as much text as it can.
    ///
    /// # Errors
    /// [`RunError::Grammar`] with the line of what is wrong.
    pub fn gbnf(&self, grammar: &str) -> Result<Constraint, RunError> {
        self.lark(&gbnf::to_lark(grammar).map_err(RunError::Grammar)?)
    }

    /// Sentences of a grammar in GBNF, if it has a line `name ::= ...`, or else in Lark.
    ///
    /// # Errors
    /// Those of [`gbnf`](Grammars::gbnf) and [`lark`](Grammars::lark).
    pub fn grammar(&self, grammar: &str) -> Result<Constraint, RunError> {
        if gbnf::looks_like(grammar) { self.gbnf(grammar) } else { self.lark(grammar) }
    }

    fn constraint(&self, grammar: TopLevelGrammar, length: usize) -> Result<Constraint, RunError> {
        if length > LONGEST_TEXT {
            return Err(RunError::Grammar(format!("a text of {length} bytes; at most {LONGEST_TEXT}")));
        }
        let stack = STACK.0.saturating_add(length.saturating_mul(STACK.1));
        std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, || self.read(grammar));
            let thread = thread.map_err(|error| {
                RunError::Grammar(format!("no thread with a stack of {stack} bytes to read it: {error}"))
            })?;
            thread.join().unwrap_or_else(|_| Err(RunError::Grammar("its reader failed".to_owned())))
        })
    }

    fn read(&self, grammar: TopLevelGrammar) -> Result<Constraint, RunError> {
        let parser = self.factory.create_parser(grammar).map_err(refused)?;
        let mut fresh = Matcher::new(Ok(parser));
        // Whatever begins with a contradiction is no grammar.
        fresh.compute_mask_or_eos().map_err(refused)?;
        if let Some(error) = fresh.get_error() {
            return Err(RunError::Grammar(error));
        }
        Ok(Constraint { matcher: fresh.clone(), fresh })
    }
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

/// The bytes by which a token is matched; none for those that no text can hold.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER; // a byte that is in no UTF-8
    let piece = tokenizer.piece(id);
    match tokenizer.token_type(id) {
        TokenType::Unused => Vec::new(),
        _ if piece.len() > LONGEST_TOKEN || piece.first() == Some(&MARKER) => Vec::new(),
        _ if tokenizer.is_control(id) => [&[MARKER], piece].concat(),
        _ => piece.to_vec(),
    }
}

/// What a generated text must be, and how much of it there is.
pub struct Constraint {
    /// Before the first token.
    fresh: Matcher,
    matcher: Matcher,
}

impl Constraint {
    /// The tokens that can come next, or only those that end a text if nothing can.
    ///
    /// # Errors
    /// [`RunError::Grammar`] if no token of the vocabulary goes on with the sentence, or a step takes too long.
    pub fn allowed(&mut self) -> Result<Allowed, RunError> {
        self.matcher.compute_mask_or_eos().map(Allowed).map_err(refused)
    }

    /// Moves on by a token that was drawn.
    ///
    /// # Errors
    /// [`RunError::Grammar`] for one that was not allowed.
    pub fn advance(&mut self, token: u32) -> Result<(), RunError> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(()); // it can only be one that ends the text
        }
        self.matcher.consume_token(token).map_err(refused)
    }

    /// Whether the sentence is complete and nothing can follow it.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    /// Begins a new text.
    pub fn restart(&mut self) {
        self.matcher = self.fresh.clone();
    }

    /// What the grammar asks for that is probably not meant.
    pub fn warnings(&mut self) -> Vec<String> {
        self.matcher.grammar_warnings()
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("complete", &self.is_complete()).finish_non_exhaustive()
    }
}

/// A set of tokens: one bit for each of the vocabulary.
#[derive(Debug)]
pub struct Allowed(SimpleVob);

impl Allowed {
    /// Its tokens, ascending.
    pub fn iter(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.0.iter()
    }

    /// Calls `f` with each of them, ascending: faster than [`iter`](Allowed::iter) where there are many.
    pub fn each(&self, mut f: impl FnMut(TokenId)) {
        // Ids are below 2^24.
        self.0.iter_set_entries(|id| f(u32::try_from(id).unwrap_or(u32::MAX)));
    }

    /// Whether a token is in it.
    pub fn contains(&self, token: u32) -> bool {
        usize::try_from(token).is_ok_and(|id| id < self.0.len()) && self.0.is_allowed(token)
    }
}

/// The library's errors end with notes on its state, which are for its authors.
#[expect(clippy::needless_pass_by_value, reason = "a function for map_err")]
fn refused(error: impl ToString) -> RunError {
    let text = error.to_string();
    let end =
        ["\n<non-verbose", "\n<state>", "\n<backtrace>"].iter().filter_map(|mark| text.find(mark)).min();
    let text = end.and_then(|end| text.get(..end)).unwrap_or(&text);
    let text = match text.trim() {
        "NoExtensionBias" => "no token of the vocabulary can come next",
        text => text,
    };
    RunError::Grammar(text.to_owned())
}
