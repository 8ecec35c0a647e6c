//! What can go wrong while a model is opened or run.

use std::path::{Path, PathBuf};

/// Why a model, tokenizer or template could not be loaded. Every variant names the object and what to do or what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no model of a kind that is read here.
    #[error("{path}: {reason}")]
    NotAModel {
        /// The file.
        path: PathBuf,
        /// What it looks like, and what to do.
        reason: String,
    },
    /// Something is wrong inside a file.
    #[error("{path}: {error}")]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        error: Box<LoadError>,
    },
    /// The header breaks the format's rules.
    #[error("byte {offset}: {reason}")]
    Header {
        /// Where in the file.
        offset: u64,
        /// What is wrong, with both values.
        reason: String,
    },
    /// A metadata key is absent, of another type or out of range.
    #[error("metadata key {key:?}: {reason}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong, with both values.
        reason: String,
    },
    /// A tensor that the architecture needs is not in the file.
    #[error("tensor {name:?} is missing")]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor's shape, type or place in the file is not what it must be.
    #[error("tensor {name:?}: {reason}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong, with both values.
        reason: String,
    },
    /// Something this version does not implement, named, with a list of what it does.
    #[error("{what} {found:?} is not supported; supported: {supported}")]
    Unsupported {
        /// Kind of thing: `architecture`, `tensor type`, `pre-tokenizer`.
        what: &'static str,
        /// What the file asks for.
        found: String,
        /// What there is.
        supported: String,
    },
    /// The tokenizer's data contradict themselves.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template does not compile.
    #[error("chat template: {0}")]
    Template(String),
    /// A saved session that does not go with this one, or is damaged.
    #[error("the saved session's {what} is {found}; needed: {needed}")]
    OtherSession {
        /// What differs.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What the session has.
        needed: String,
    },
    /// The system gives no threads.
    #[error("could not start {n} threads: {reason}; ask for fewer")]
    Threads {
        /// How many were asked for.
        n: usize,
        /// What the system said.
        reason: String,
    },
}

impl LoadError {
    /// The same error with the name of the file, unless it has one already.
    pub(crate) fn in_file(self, path: &Path) -> LoadError {
        match self {
            LoadError::Io { .. } | LoadError::NotAModel { .. } | LoadError::InFile { .. } => self,
            error => LoadError::InFile { path: path.to_path_buf(), error: Box::new(error) },
        }
    }
}

/// Why a forward pass, a generation or a rendering stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// More positions than the session has room for.
    #[error(
        "{needed} tokens do not fit into a context of {max}; shorten the prompt or raise the context size"
    )]
    ContextFull {
        /// Positions in all.
        needed: usize,
        /// The session's limit.
        max: usize,
    },
    /// A length to which a sequence cannot be shortened any more.
    #[error(
        "the first {len} tokens cannot be gone on from: layers with a sliding window no longer hold what they need; \
         forget all and read them again"
    )]
    LeftBehind {
        /// Tokens that were to be kept.
        len: usize,
    },
    /// An id beyond the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Entries in the vocabulary.
        vocab_size: usize,
    },
    /// Logits that cannot be sampled from.
    #[error("logits hold a NaN at token {id}; the weights or the input are damaged")]
    NanLogits {
        /// First such token.
        id: u32,
    },
    /// Another number of logits than the vocabulary has entries.
    #[error("{found} logits for a vocabulary of {vocab_size}")]
    LogitsLength {
        /// How many were given.
        found: usize,
        /// Entries in the vocabulary.
        vocab_size: usize,
    },
    /// No token that could be drawn.
    #[error("every token is ruled out: all logits are -inf; relax the logit biases")]
    NoCandidate,
    /// An option outside its range.
    #[error("{name} is {found}; allowed: {allowed}")]
    Option {
        /// The option.
        name: &'static str,
        /// What was given.
        found: String,
        /// What is accepted.
        allowed: &'static str,
    },
    /// A grammar or schema that cannot be read, or a text that cannot go on as it asks.
    #[error("grammar: {0}")]
    Grammar(String),
    /// A model that foresees nothing.
    #[error(
        "{architecture} models are encoders: they give vectors of texts (gable embed), and no next token"
    )]
    NoNextToken {
        /// Its family.
        architecture: &'static str,
    },
    /// A text that cannot be tokenized.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A word that is to be looked up has no vector of its own.
    #[error("{word:?} is not one token but {}: {}; choose another word", pieces.len(), quoted(pieces))]
    NotOneToken {
        /// The word.
        word: String,
        /// What it is made of.
        pieces: Vec<String>,
    },
    /// A chat template failed while rendering.
    #[error("chat template: {0}")]
    Template(String),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] gable_kernels::KernelError),
}

fn quoted(pieces: &[String]) -> String {
    pieces.iter().map(|piece| format!("{piece:?}")).collect::<Vec<_>>().join(" ")
}
