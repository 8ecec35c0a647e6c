//! Making a GGUF file with other element types, of a GGUF file or a Hugging Face folder.
//!
//! ```text
//! Recipe (what the user wants) + the tensors  ->  choose: a format for every tensor
//! Source::header: the source's metadata, what was done, the tensors
//! for each tensor: convert (rows over threads)  ->  bytes and how far off they are
//! ```
//!
//! Sources stay in the map and one tensor at a time is in memory. Rows are independent of each other, so the bytes
//! depend neither on the number of threads nor on the machine.

mod budget;
mod convert;
mod file_type;
mod folder;
mod recipe;
mod source;

pub use budget::{Cost, spend};
pub use convert::{Converted, Deviation, Quantizer, importances};
pub use file_type::{FILE_TYPES, FileType, format_by_name};
pub use recipe::{Choice, Recipe};
pub use source::{ImatrixUse, Source};
