//! Guessing tokens and verifying them in one pass changes no text.

mod common;

use common::{instruction_sets, model, pool};
use gable_kernels::gemm::Phase;
use gable_kernels::{Kernels, MatRef};
use gable_model::forward::Numerics;
use gable_model::generate::{GenerateOptions, GenerateStats, StopReason, generate};
use gable_model::model::{Model, OpenOptions};
use gable_model::sampler::{Sampler, SamplerConfig};
use gable_model::session::{Session, SessionOptions};
use gable_model::tokenizer::EncodeOptions;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

fn fixture(name: &str) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).join("model.gguf");
    Arc::new(Model::open(&path, &OpenOptions::default()).unwrap())
}

fn session(model: &Arc<Model>, kernels: Kernels, numerics: Numerics, max_positions: usize) -> Session {
    let options = SessionOptions { numerics, max_logits: 17, ..SessionOptions::new(kernels, max_positions) };
    Session::new(Arc::clone(model), pool(), options).unwrap()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn rows_verified_together_have_the_bits_of_tokens_decoded_one_by_one() {
    for name in ["llama", "gemma3", "gpt2", "qwen2"] {
        let model = fixture(name);
        let ids: Vec<u32> = (0..50u32).map(|i| 3 + i * 7919 % 280).collect();
        for kernels in instruction_sets() {
            for numerics in [Numerics::Fast, Numerics::Precise, Numerics::Exact] {
                let mut single = session(&model, kernels, numerics, 64);
                let mut together = session(&model, kernels, numerics, 64);
                single.prefill(&ids[..5]).unwrap();
                together.prefill(&ids[..5]).unwrap();
                let mut at = 5;
                for rows in [2, 5, 9, 17] {
                    let part = &ids[at..at + rows];
                    let logits: MatRef<'_> =
                        together.observe(Phase::Decode, part, |_| true, &mut ()).unwrap();
                    for (i, &id) in part.iter().enumerate() {
                        let one = single.decode(id).unwrap();
                        assert_eq!(
                            bits(logits.row(i)),
                            bits(one),
                            "{name} {} {numerics:?} {i} of {rows}",
                            kernels.isa()
                        );
                    }
                    at += rows;
                }
            }
        }
    }
}

/// What is generated with guesses of up to `draft`, and what the session holds afterwards.
fn run(
    session: &mut Session,
    prompt: &[u32],
    sampling: &SamplerConfig,
    options: &GenerateOptions,
) -> (String, Vec<u32>, GenerateStats) {
    session.truncate(0).unwrap();
    let model = Arc::clone(session.model());
    let mut sampler = Sampler::new(sampling.clone(), model.config().vocab_size).unwrap();
    let mut text = String::new();
    let stats = generate(session, model.tokenizer(), &mut sampler, prompt, options, &mut |piece| {
        text.push_str(piece);
        ControlFlow::Continue(())
    });
    (text, session.tokens().to_vec(), stats.unwrap())
}

fn samplings() -> [SamplerConfig; 2] {
    let greedy = SamplerConfig { temperature: 0.0, ..SamplerConfig::default() };
    [greedy, SamplerConfig { temperature: 0.7, seed: 11, repeat_penalty: 1.05, ..SamplerConfig::default() }]
}

/// The text and the session are the same with and without guesses; gives the guesses that were right.
fn same_with_guesses(session: &mut Session, prompt: &[u32], options: &GenerateOptions) -> usize {
    let mut right = 0;
    for sampling in samplings() {
        let plain = run(session, prompt, &sampling, options);
        for draft in [1, 3, 16] {
            let options = GenerateOptions { draft, ..options.clone() };
            let guessed = run(session, prompt, &sampling, &options);
            assert_eq!(guessed.0, plain.0, "draft {draft}");
            assert_eq!(guessed.1, plain.1, "draft {draft}");
            assert_eq!(
                (guessed.2.stop, guessed.2.generated_tokens),
                (plain.2.stop, plain.2.generated_tokens)
            );
            let counts = guessed.2.speculation;
            assert!(counts.right <= counts.guessed && counts.passes <= plain.2.speculation.passes);
            right += counts.right;
        }
        assert_eq!(plain.2.speculation.guessed, 0);
    }
    right
}

#[test]
fn a_text_is_the_same_with_guesses_greedy_or_drawn() {
    let model = model("smollm2");
    let mut session = session(&model, Kernels::best(), Numerics::Fast, 600);
    let encode = EncodeOptions { add_special: true, parse_special: false };
    let counting = "one two three four five six seven eight nine ten. ".repeat(4);
    let prose = "The weather in the mountains".to_owned();
    for (repeats, text) in [(true, counting), (false, prose)] {
        let prompt = model.tokenizer().encode(&text, encode).unwrap();
        let options = GenerateOptions { max_tokens: 60, ..GenerateOptions::default() };
        let right = same_with_guesses(&mut session, &prompt, &options);
        // How much is guessed depends on the machine; that it begins does not.
        assert!(!repeats || right > 0, "nothing was guessed of a text that repeats itself");
    }
}

#[test]
fn every_end_leaves_what_was_drawn_and_no_guess() {
    for name in ["llama", "gemma3"] {
        let model = fixture(name);
        let pattern: Vec<u32> = (0..90).map(|i| 10 + i % 9).collect();
        let mut session = session(&model, Kernels::best(), Numerics::Fast, 128);
        // To the end of the context, to a number of tokens, to a stop string.
        let until = |max_tokens, stop: Vec<String>| GenerateOptions {
            max_tokens,
            stop,
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        same_with_guesses(&mut session, &pattern, &until(usize::MAX, vec![]));
        let greedy = &samplings()[0];
        let full = run(&mut session, &pattern, greedy, &until(usize::MAX, vec![]));
        assert_eq!(full.2.stop, StopReason::ContextFull);
        for n in 1..8 {
            same_with_guesses(&mut session, &pattern, &until(n, vec![]));
        }
        let letters: Vec<char> = full.0.chars().collect();
        let stop: String = letters.iter().skip(letters.len() / 2).take(2).collect();
        same_with_guesses(&mut session, &pattern, &until(usize::MAX, vec![stop]));
    }
}
