//! What the tests on real models share: the cached files, the golden data, and a session on any instruction set.

#![allow(dead_code)]

use gable_kernels::{Kernels, Pool};
use gable_model::forward::Numerics;
use gable_model::model::{Model, OpenOptions};
use gable_model::session::{Session, SessionOptions};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// Where the golden data lie.
pub const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden");

/// The instruction sets that a test runs: the one that `GABLE_ISA` names, or all.
pub fn instruction_sets() -> Vec<Kernels> {
    match std::env::var_os("GABLE_ISA") {
        Some(_) => vec![Kernels::new().unwrap()],
        None => Kernels::every_available().collect(),
    }
}

/// A model in the cache. A test that needs it fails without it.
pub fn cached(name: &str) -> PathBuf {
    let home = std::env::var_os("GABLE_HOME").map(PathBuf::from);
    let folder =
        home.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/gable"));
    let path = folder.join(format!("{name}.gguf"));
    assert!(path.exists(), "{} is missing: run `cargo run --release -- pull {name}`", path.display());
    path
}

/// A cached model, opened once per test program.
pub fn model(name: &'static str) -> Arc<Model> {
    static MODELS: Mutex<Vec<(&str, Arc<Model>)>> = Mutex::new(Vec::new());
    let mut models = MODELS.lock().unwrap();
    if let Some((_, model)) = models.iter().find(|(n, _)| *n == name) {
        return model.clone();
    }
    let model = Arc::new(Model::open(&cached(name), &OpenOptions::default()).unwrap());
    models.push((name, model.clone()));
    model
}

/// Two threads, shared by all tests of a program.
pub fn pool() -> Arc<Pool> {
    static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
    POOL.get_or_init(|| Arc::new(Pool::new(2))).clone()
}

/// A session of up to `max_positions` tokens with logits for `max_logits` rows at once.
pub fn session(
    model: &Arc<Model>,
    kernels: Kernels,
    numerics: Numerics,
    max_positions: usize,
    max_logits: usize,
) -> Session {
    let mut options = SessionOptions::new(kernels, max_positions);
    options.numerics = numerics;
    options.max_logits = max_logits;
    options.every_position = max_logits > 1;
    Session::new(model.clone(), pool(), options).unwrap()
}

/// The golden data of a model.
pub fn golden(name: &str) -> Value {
    let file = match name {
        "smollm2" => "smollm2-135m-instruct-q4_1.json",
        "gemma3" => "gemma-3-270m-q4_k_m.json",
        _ => "qwen2.5-coder-1.5b-q4_k_m.json",
    };
    serde_json::from_str(&std::fs::read_to_string(format!("{GOLDEN}/{file}")).unwrap()).unwrap()
}

/// A JSON array of token ids.
pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// A JSON array of numbers.
pub fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// `log softmax(logits)`, in f64.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f64::NEG_INFINITY, |m, x| m.max(f64::from(*x)));
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - max).exp()).sum();
    logits.iter().map(|x| f64::from(*x) - max - sum.ln()).collect()
}
