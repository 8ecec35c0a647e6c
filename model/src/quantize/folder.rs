//! A Hugging Face folder in GGUF's terms: other names, and a few other conventions.
//!
//! | what | in the folder | in GGUF |
//! |---|---|---|
//! | rows of Q and K, family `llama` | halves of a head are turned together | neighbours are |
//! | norms of Gemma | less one | whole |
//! | scale of Gemma's queries | in the configuration | in the norm of the queries |
//! | RoPE stretched as in Llama 3 or LongRoPE | in the configuration | factors as tensors |
//! | matrices of GPT-2 | input by output | output by input |
//! | experts | a matrix for each | one tensor for all, the expert its slowest dimension |
//! | positions, kinds of tokens, routers | as the other matrices | F32 |
//! | BERT's pieces of words | those that go on are marked | those that begin are |

mod keys;
mod parts;

use crate::LoadError;
use crate::arch::{Family, Role};
use crate::gguf::writer::GgufWriter;
use crate::mapped_file::MappedFile;
use crate::model::{Model, OpenOptions};
use crate::tensor_table::TensorInfo;
use crate::tokenizer::Vocabulary;
use crate::weights::{Binder, Loader};
use parts::Part;
use std::path::Path;
use std::sync::Arc;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    model: Model,
    vocabulary: VocabularyOf,
    /// Kinds of tokens, in families that tell them apart.
    token_types: Option<usize>,
    parts: Vec<Part>,
}

/// The vocabulary, which is written once.
struct VocabularyOf(Vocabulary);

impl std::fmt::Debug for VocabularyOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vocabulary")
    }
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Folder, LoadError> {
        let model = Model::open(path, &OpenOptions::default())?;
        let config = model.config();
        let family = Family::of_gguf(config.architecture)?;
        let vocabulary = VocabularyOf(Vocabulary::of_folder(path, model.tokenizer(), config.vocab_size)?);
        let token_types = match model.weights().token_type {
            // The model keeps only the row that it adds.
            Some(_) => Binder { table: model.files(), loader: Loader::HuggingFace, family }
                .stored(Role::TokenTypes)?,
            None => None,
        };
        let kinds = token_types.as_ref().map(crate::weights::WeightMatrix::rows);
        let parts = parts::of_model(&model, family, token_types)?;
        Ok(Folder { model, vocabulary, token_types: kinds, parts })
    }

    pub(super) fn files(&self) -> &[Arc<MappedFile>] {
        self.model.files().files()
    }

    pub(super) fn tensors(&self) -> Result<Vec<TensorInfo>, LoadError> {
        self.parts.iter().map(Part::info).collect()
    }

    pub(super) fn bytes(&self, i: usize) -> Result<Vec<u8>, LoadError> {
        self.parts.get(i).map_or(Ok(Vec::new()), |part| part.bytes(self.model.files()))
    }

    pub(super) fn metadata(&self) -> Result<GgufWriter, LoadError> {
        let model = &self.model;
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", model.config().architecture)?;
        writer.set("general.name", model.name())?;
        keys::write(model.config(), &mut writer)?;
        self.vocabulary.0.write(model.tokenizer(), &mut writer)?;
        if let Some(kinds) = self.token_types {
            writer.set("tokenizer.ggml.token_type_count", &u32::try_from(kinds).unwrap_or(u32::MAX))?;
        }
        if let Some(template) = model.chat_template() {
            writer.set("tokenizer.chat_template", template)?;
        }
        Ok(writer)
    }
}
