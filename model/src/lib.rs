//! Transformers on the CPU, from mapped files.
//!
//! A [`Model`](model::Model) is a checked file, a [`Session`](session::Session) one text in the making with its memory, a
//! [`Sampler`](sampler::Sampler) draws tokens, and [`generate`](generate::generate) is the loop around them;
//! `examples/generate.rs` is a program of twenty lines. Into the loop reach
//! [`Sampler::set_logits_hook`](sampler::Sampler::set_logits_hook) (logits before they are drawn from),
//! [`Sampler::constrain`](sampler::Sampler::constrain) (schemas and grammars) and
//! [`Session::set_cancel`](session::Session::set_cancel). [`Session::save`](session::Session::save) keeps a session in a
//! file, a [`BatchDecoder`](batch::BatchDecoder) continues many texts at once.
#![deny(unsafe_code)]

pub mod arch;
pub mod batch;
pub mod chat_template;
pub mod config;
pub mod constraint;
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
pub mod session_file;
pub mod speculate;
pub mod tensor_table;
pub mod timeline;
pub mod tokenizer;
mod unique_keys;
pub mod weights;
pub mod window;

pub use error::{LoadError, RunError};
