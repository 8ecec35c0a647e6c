//! Transformers on the CPU, from mapped files.
#![deny(unsafe_code)]

pub mod arch;
pub mod chat_template;
pub mod config;
pub mod error;
pub mod forward;
pub mod generate;
pub mod gguf;
pub mod mapped_file;
pub mod observer;
pub mod safetensors;
pub mod sampler;
pub mod session;
pub mod tokenizer;
pub mod weights;

pub use error::{LoadError, RunError};
