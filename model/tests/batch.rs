//! Many sequences at once give each what it gets alone.

mod common;

use common::{instruction_sets, model, pool};
use gable_kernels::{KernelError, Kernels};
use gable_model::RunError;
use gable_model::batch::{BatchDecoder, Finished, Request};
use gable_model::forward::Numerics;
use gable_model::generate::{GenerateOptions, generate};
use gable_model::model::{Model, OpenOptions};
use gable_model::sampler::{Sampler, SamplerConfig};
use gable_model::session::{Session, SessionOptions};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn fixture(name: &str) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).join("model.gguf");
    Arc::new(Model::open(&path, &OpenOptions::default()).unwrap())
}

fn sampler(model: &Model, id: usize) -> Sampler {
    let temperature = if id.is_multiple_of(3) { 0.0 } else { 0.9 };
    let config = SamplerConfig { temperature, seed: id as u64, ..SamplerConfig::default() };
    Sampler::new(config, model.config().vocab_size).unwrap()
}

fn until(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, ignore_eos: true, ..GenerateOptions::default() }
}

/// Prompts of different lengths, most of which begin alike, and how many tokens each shall get.
fn requests(model: &Model) -> Vec<(Vec<u32>, usize)> {
    let vocab = model.config().vocab_size;
    let id = |i: usize| u32::try_from(3 + (i * 7919 + i / 7) % (vocab - 8)).unwrap();
    let beginning: Vec<u32> = (0..80).map(id).collect();
    (0..9)
        .map(|r| {
            let own = (0..1 + r * 5).map(|i| id(1000 * r + i));
            let shared = &beginning[..if r == 4 { 0 } else { 80 - r }];
            (shared.iter().copied().chain(own).collect(), 4 + (r * 5) % 13)
        })
        .collect()
}

fn together(model: &Arc<Model>, options: SessionOptions, width: usize) -> BTreeMap<usize, Finished> {
    let mut decoder = BatchDecoder::new(Arc::clone(model), pool(), options, width).unwrap();
    let mut waiting = requests(model).into_iter().enumerate();
    let mut done = BTreeMap::new();
    loop {
        while decoder.has_room()
            && let Some((id, (prompt, n))) = waiting.next()
        {
            let request = Request { id, prompt, sampler: sampler(model, id), options: until(n) };
            done.extend(decoder.add(request).unwrap().map(|f| (id, f)));
        }
        if decoder.is_empty() {
            return done;
        }
        done.extend(decoder.step().unwrap().into_iter().map(|f| (f.id, f)));
    }
}

#[test]
fn what_is_generated_does_not_depend_on_the_width_of_the_batch() {
    for name in ["llama", "gemma3", "qwen3"] {
        let model = fixture(name);
        for kernels in instruction_sets() {
            for (numerics, batch, keep_all) in
                [(Numerics::Fast, 512, false), (Numerics::Fast, 7, true), (Numerics::Exact, 33, false)]
            {
                let options =
                    SessionOptions { numerics, batch, keep_all, ..SessionOptions::new(kernels, 160) };
                // A batch is summed in the order of prompts.
                let strict = SessionOptions { strict: true, ..options };
                let mut alone = Session::new(Arc::clone(&model), pool(), strict).unwrap();
                let expected: Vec<String> = requests(&model)
                    .into_iter()
                    .enumerate()
                    .map(|(id, (prompt, n))| {
                        let mut text = String::new();
                        alone.truncate(0).unwrap();
                        let (tokenizer, mut sampler) = (model.tokenizer(), sampler(&model, id));
                        generate(&mut alone, tokenizer, &mut sampler, &prompt, &until(n), &mut |piece| {
                            text.push_str(piece);
                            ControlFlow::Continue(())
                        })
                        .unwrap();
                        text
                    })
                    .collect();
                for width in [1, 2, 5, 9] {
                    let done = together(&model, options, width);
                    assert_eq!(done.len(), expected.len());
                    for (id, finished) in &done {
                        assert!(finished.stop.is_ok());
                        assert_eq!(
                            finished.text,
                            expected[*id],
                            "{name} {} {numerics:?} {id} of {width}",
                            kernels.isa()
                        );
                    }
                    let shared: usize = done.values().map(|f| f.shared_tokens).sum();
                    // Windows may have left the common beginning behind.
                    assert!(shared > 300 || name == "gemma3" && !keep_all, "{name}: {shared}");
                }
            }
        }
    }
}

#[test]
fn shared_prompts_are_read_once_and_their_pages_held_once() {
    let model = fixture("llama");
    let options = SessionOptions::new(Kernels::best(), 160);
    let mut decoder = BatchDecoder::new(Arc::clone(&model), pool(), options, 4).unwrap();
    let prompt: Vec<u32> = (0..130).map(|i| 3 + i % 250).collect();
    let in_use = |d: &BatchDecoder| d.cache().shape().max_pages - d.cache().free_pages();
    let n_layers = model.config().n_layers;
    for id in 0..4 {
        let rows = decoder.calls().rows;
        let request =
            Request { id, prompt: prompt.clone(), sampler: sampler(&model, id), options: until(20) };
        assert!(decoder.add(request).unwrap().is_none());
        assert_eq!(decoder.calls().rows - rows, if id == 0 { 130 } else { 1 });
        // Two full pages for all, and one of each sequence's own.
        assert_eq!(in_use(&decoder), n_layers * (2 + id + 1));
    }
    while !decoder.is_empty() {
        decoder.step().unwrap();
    }
    assert_eq!(in_use(&decoder), n_layers * 3, "one prompt is kept");
}

#[test]
fn the_weight_bytes_of_a_step_do_not_grow_with_the_batch() {
    let model = model("smollm2");
    let per_step = |width: usize| {
        let options = SessionOptions::new(Kernels::best(), 64);
        let mut decoder = BatchDecoder::new(Arc::clone(&model), pool(), options, width).unwrap();
        for id in 0..width {
            let prompt = vec![5 + id as u32, 9, 11];
            let request = Request { id, prompt, sampler: sampler(&model, id), options: until(30) };
            decoder.add(request).unwrap();
        }
        let before = decoder.calls();
        decoder.step().unwrap();
        let after = decoder.calls();
        assert_eq!((after.passes - before.passes, after.rows - before.rows), (1, width as u64));
        after.weight_bytes - before.weight_bytes
    };
    let one = per_step(1);
    assert_eq!(one, model.bytes_per_token() as u64);
    assert_eq!([2, 5, 8, 16].map(per_step), [one; 4]);
}

#[test]
fn a_request_that_does_not_fit_or_is_stopped_leaves_the_others() {
    let model = fixture("llama");
    let options = SessionOptions::new(Kernels::best(), 100);
    let mut decoder = BatchDecoder::new(Arc::clone(&model), pool(), options, 2).unwrap();
    let request = |id, len: u32| Request {
        id,
        prompt: (3..3 + len).collect(),
        sampler: sampler(&model, id),
        options: until(1000),
    };
    assert!(decoder.add(request(0, 40)).unwrap().is_none());
    assert!(matches!(decoder.add(request(1, 101)), Err(RunError::ContextFull { needed: 101, max: 100 })));
    assert!(matches!(decoder.add(request(1, 0)), Err(RunError::Option { name: "prompt", .. })));
    let flag = Arc::new(AtomicBool::new(true));
    decoder.set_cancel(Arc::clone(&flag));
    let cancelled = |result| matches!(result, Err(RunError::Kernel(KernelError::Cancelled)));
    assert!(cancelled(decoder.add(request(1, 50)).map(|_| ())));
    assert!(cancelled(decoder.step().map(|_| ())));
    flag.store(false, Ordering::SeqCst);
    assert!(decoder.add(request(1, 50)).unwrap().is_none());
    assert!(decoder.add(request(2, 3)).is_err(), "two is what it was made for");
    let mut done = Vec::new();
    while !decoder.is_empty() {
        done.extend(decoder.step().unwrap());
    }
    // Up to the end of the context: 100 tokens read, and one drawn after them.
    let tokens: Vec<_> = done.iter().map(|f| (f.id, f.generated_tokens)).collect();
    assert_eq!(tokens, [(1, 51), (0, 61)]);
}
