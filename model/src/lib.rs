//! Transformers on the CPU, from mapped files.
#![deny(unsafe_code)]

pub mod arch;
pub mod batch;
pub mod chat_template;
pub mod config;
pub mod embed;
mod engine;
pub mod error;
mod file_kind;
pub mod finite;
pub mod forward;
pub mod generate;
pub mod gguf;
pub mod imatrix;
pub mod look;
// The only module with unsafe code: it maps files into memory.
#[allow(unsafe_code)]
pub mod mapped_file;
pub mod model;
pub mod observer;
pub mod quantize;
pub mod safetensors;
pub mod sampler;
pub mod scratch;
pub mod session;
pub mod speculate;
pub mod tensor_table;
pub mod timeline;
pub mod tokenizer;
mod unique_keys;
pub mod weights;
pub mod window;

pub use error::{LoadError, RunError};
