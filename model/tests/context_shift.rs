//! A context that is full is shortened and gone on from.

mod common;

use common::pool;
use gable_kernels::Kernels;
use gable_model::RunError;
use gable_model::generate::{GenerateOptions, GenerateStats, StopReason, generate};
use gable_model::model::{Model, OpenOptions};
use gable_model::sampler::{Sampler, SamplerConfig};
use gable_model::session::{Session, SessionOptions, remaining};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

fn fixture(name: &str) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).join("model.gguf");
    Arc::new(Model::open(&path, &OpenOptions::default()).unwrap())
}

fn session(model: &Arc<Model>, max_positions: usize) -> Session {
    let options = SessionOptions { max_logits: 9, ..SessionOptions::new(Kernels::best(), max_positions) };
    Session::new(Arc::clone(model), pool(), options).unwrap()
}

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| 3 + i * 7919 % 280).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_first_tokens_and_the_younger_half_of_the_others_remain() {
    assert_eq!(remaining(&[1, 2, 3, 4, 5, 6], 0).unwrap(), [4, 5, 6]);
    assert_eq!(remaining(&[1, 2, 3, 4, 5, 6, 7], 2).unwrap(), [1, 2, 5, 6, 7]);
    assert_eq!(remaining(&[1, 2, 3], 2), None, "one token has no half");
    assert_eq!(remaining(&[1, 2, 3], 4), None);
}

#[test]
fn a_shifted_session_is_one_that_has_read_what_remains() {
    // The windows of two of them no longer hold what the kept beginning needs.
    for name in ["llama", "gemma3", "mistral", "qwen3"] {
        let model = fixture(name);
        for keep in [0, 5, 70] {
            let ids = tokens(200);
            let mut shifted = session(&model, 200);
            shifted.prefill(&ids[..120]).unwrap();
            ids[120..].iter().for_each(|&id| {
                shifted.decode(id).unwrap();
            });
            assert_eq!(shifted.shift(keep).unwrap(), (200 - keep) / 2);
            let left = remaining(&ids, keep).unwrap();
            assert_eq!(shifted.tokens(), left);
            let mut fresh = session(&model, 200);
            fresh.prefill(&left).unwrap();
            for id in tokens(20) {
                assert_eq!(
                    bits(shifted.decode(id).unwrap()),
                    bits(fresh.decode(id).unwrap()),
                    "{name} {keep}"
                );
            }
        }
    }
    let mut short = session(&fixture("llama"), 200);
    short.prefill(&tokens(10)).unwrap();
    let error = short.shift(9).unwrap_err();
    assert!(matches!(error, RunError::Option { .. }) && error.to_string().contains('9'), "{error}");
    assert_eq!(short.tokens(), tokens(10));
}

fn run(model: &Arc<Model>, options: &GenerateOptions) -> (String, Vec<u32>, GenerateStats) {
    let mut session = session(model, 64);
    let mut sampler = Sampler::new(SamplerConfig::greedy(), model.config().vocab_size).unwrap();
    let mut text = String::new();
    let ids = tokens(20);
    let stats = generate(&mut session, model.tokenizer(), &mut sampler, &ids, options, &mut |piece| {
        text.push_str(piece);
        ControlFlow::Continue(())
    });
    (text, session.tokens().to_vec(), stats.unwrap())
}

#[test]
fn a_text_goes_on_beyond_its_context_and_begins_as_without() {
    for name in ["llama", "gemma3", "gpt2"] {
        let model = fixture(name);
        let options = GenerateOptions { max_tokens: 200, ignore_eos: true, ..GenerateOptions::default() };
        let (ended, _, stats) = run(&model, &options);
        assert_eq!((stats.stop, stats.generated_tokens, stats.shifts), (StopReason::ContextFull, 45, 0));
        let shift = GenerateOptions { shift: Some(4), ..options.clone() };
        let (text, left, stats) = run(&model, &shift);
        assert_eq!((stats.stop, stats.generated_tokens), (StopReason::MaxTokens, 200));
        // 44 tokens to the first full context, 30 more for each one after it, and the last one stays outside.
        assert_eq!(stats.shifts, (200 - 1 - 44_usize).div_ceil(30));
        assert!(text.starts_with(&ended) && text.len() > ended.len());
        assert_eq!(left[..4], tokens(4), "the first four are kept");
        let (guessed, _, stats) = run(&model, &GenerateOptions { draft: 8, ..shift });
        assert_eq!((guessed, stats.generated_tokens), (text, 200));
    }
}
