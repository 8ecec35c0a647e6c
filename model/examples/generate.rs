//! Continues a text: `cargo run --release -p gable-model --example generate -- MODEL.gguf "Once upon a time"`
use gable_kernels::{Kernels, Pool};
use gable_model::generate::{GenerateOptions, generate};
use gable_model::model::{Model, OpenOptions};
use gable_model::sampler::{Sampler, SamplerConfig};
use gable_model::session::{Session, SessionOptions};
use gable_model::tokenizer::EncodeOptions;
use std::{ops::ControlFlow, path::Path, sync::Arc};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, path, prompt] = args.as_slice() else { return Err("usage: generate MODEL PROMPT".into()) };
    let model = Arc::new(Model::open(Path::new(path), &OpenOptions::default())?);
    let mut session =
        Session::new(Arc::clone(&model), Arc::new(Pool::new(2)), SessionOptions::new(Kernels::new()?, 1024))?;
    let mut sampler = Sampler::new(SamplerConfig::greedy(), model.config().vocab_size)?;
    let ids = model.tokenizer().encode(prompt, EncodeOptions { add_special: true, parse_special: false })?;
    let options = GenerateOptions { max_tokens: 64, ..GenerateOptions::default() };
    generate(&mut session, model.tokenizer(), &mut sampler, &ids, &options, &mut |text| {
        print!("{text}");
        ControlFlow::Continue(())
    })?;
    Ok(())
}
