//! Sessions that are saved, restored, and gone on with.

mod common;

use common::{model, pool};
use gable_kernels::Kernels;
use gable_kernels::attention::CacheType;
use gable_model::forward::Numerics;
use gable_model::model::{Model, OpenOptions};
use gable_model::session::{Session, SessionOptions};
use gable_model::session_file::{checksum, identity};
use std::path::Path;
use std::sync::Arc;

fn fixture(name: &str) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).join("model.gguf");
    Arc::new(Model::open(&path, &OpenOptions::default()).unwrap())
}

fn options(cache_type: CacheType) -> SessionOptions {
    SessionOptions { cache_type: Some(cache_type), batch: 32, ..SessionOptions::new(Kernels::best(), 400) }
}

fn session(model: &Arc<Model>, options: SessionOptions) -> Session {
    Session::new(Arc::clone(model), pool(), options).unwrap()
}

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| 3 + i * 7919 % 280).collect()
}

fn saved(session: &Session, note: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    session.save(note, &mut file).unwrap();
    file
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// Bytes with a checksum that fits.
fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    let body = file.len() - 8;
    let sum = checksum(&file[..body]);
    file[body..].copy_from_slice(&sum.to_le_bytes());
    file
}

#[test]
fn a_restored_session_goes_on_with_the_same_bits() {
    let types = [CacheType::F16, CacheType::Q8_0, CacheType::F32, CacheType::Bf16];
    // Windows of 8 in five of six layers, in all, in every other one, and nowhere; a head dimension within a vector.
    for name in ["gemma3", "mistral", "gemma2", "llama", "qwen3"] {
        let model = fixture(name);
        for cache_type in types {
            for (length, keep_all) in [(1, false), (64, false), (150, false), (150, true), (0, true)] {
                let ids = tokens(length + 140);
                let (read, rest) = ids.split_at(length);
                let options = SessionOptions { keep_all, ..options(cache_type) };
                let mut before = session(&model, options);
                let (prompt, decoded) = read.split_at(length * 2 / 3);
                if !prompt.is_empty() {
                    before.prefill(prompt).unwrap();
                }
                decoded.iter().for_each(|&id| {
                    before.decode(id).unwrap();
                });
                let file = saved(&before, b"a note");
                // Over what another text left, with other batches, with and without windows kept.
                for keep_all in [false, true] {
                    let mut after = session(&model, SessionOptions { batch: 57, keep_all, ..options });
                    after.prefill(&tokens(170)[20..]).unwrap();
                    assert_eq!(after.restore(&file).unwrap(), b"a note");
                    assert_eq!(after.tokens(), read);
                    assert_eq!(
                        bits(after.prefill(&rest[..40]).unwrap()),
                        bits(
                            session_after(&model, options, read, length * 2 / 3)
                                .prefill(&rest[..40])
                                .unwrap()
                        ),
                        "{name} {cache_type:?} {length}"
                    );
                    for &id in &rest[40..90] {
                        after.decode(id).unwrap();
                    }
                    // What was saved again and restored is the same session still.
                    let again = saved(&after, &[]);
                    let mut third = session(&model, options);
                    third.restore(&again).unwrap();
                    assert_eq!(bits(third.decode(rest[90]).unwrap()), bits(after.decode(rest[90]).unwrap()));
                }
            }
        }
    }
}

fn session_after(model: &Arc<Model>, options: SessionOptions, read: &[u32], prompt: usize) -> Session {
    let mut session = session(model, options);
    if prompt > 0 {
        session.prefill(&read[..prompt]).unwrap();
    }
    read[prompt..].iter().for_each(|&id| {
        session.decode(id).unwrap();
    });
    session
}

#[test]
fn a_real_model_goes_on_with_the_same_bits() {
    for (name, numerics) in
        [("smollm2", Numerics::Fast), ("gemma3", Numerics::Fast), ("smollm2", Numerics::Exact)]
    {
        let model = model(name);
        // Gemma's windows are of 512 positions.
        let options = SessionOptions { numerics, ..SessionOptions::new(Kernels::best(), 900) };
        let ids: Vec<u32> = (0..700u32).map(|i| 1000 + i * 7919 % 9000).collect();
        let mut before = session(&model, options);
        before.prefill(&ids[..690]).unwrap();
        let file = saved(&before, &[]);
        let mut after = session(&model, options);
        after.restore(&file).unwrap();
        for &id in &ids[690..] {
            assert_eq!(bits(after.decode(id).unwrap()), bits(before.decode(id).unwrap()), "{name}");
        }
        // Nothing was read again.
        assert_eq!(after.calls().rows, 10);
    }
}

#[test]
fn a_file_that_is_cut_short_or_damaged_is_an_error_and_the_session_stays() {
    let model = fixture("gemma3");
    let mut before = session(&model, options(CacheType::F16));
    before.prefill(&tokens(100)).unwrap();
    let file = saved(&before, b"note");
    let mut other = session(&model, options(CacheType::F16));
    other.prefill(&tokens(7)).unwrap();
    let mut refused = |file: &[u8]| other.restore(file).map(<[u8]>::to_vec).unwrap_err().to_string();

    let head = 8 + 4 + 4 + 8 + 4 + model.name().len() + 16 + 8 + 4 + 8 + 400 + 8 * model.config().n_layers;
    for len in (0..head).chain((head..file.len()).step_by(997)).chain([file.len() - 1]) {
        let error = refused(&file[..len]);
        assert!(error.contains("cut short") || error.contains("magic"), "{len}: {error}");
    }
    for at in (0..head).chain((head..file.len()).step_by(1009)).chain(file.len() - 9..file.len()) {
        let mut file = file.clone();
        file[at] ^= 1 << (at % 8);
        refused(&file);
    }
    assert!(refused(&[&file[..], &[0]].concat()).contains("behind its end"));
    // Counts that lie, with a checksum that fits.
    let counts = [head - 8 * model.config().n_layers - 400 - 8, head - 8];
    for at in counts {
        for value in [u64::MAX, u64::MAX / 4, 1 << 40, 65, 640] {
            let mut file = file.clone();
            file[at..at + 8].copy_from_slice(&value.to_le_bytes());
            refused(&sealed(file));
        }
    }
    assert_eq!(other.tokens(), tokens(7));
    let mut fresh = session(&model, options(CacheType::F16));
    fresh.prefill(&tokens(7)).unwrap();
    assert_eq!(bits(other.decode(5).unwrap()), bits(fresh.decode(5).unwrap()));
}

#[test]
fn a_file_of_another_session_is_refused_with_both_values() {
    let llama = fixture("llama");
    let mut before = session(&llama, options(CacheType::F16));
    before.prefill(&tokens(100)).unwrap();
    let file = saved(&before, &[]);
    let refused = |mut session: Session| {
        let error = session.restore(&file).unwrap_err().to_string();
        assert!(session.tokens().is_empty());
        error
    };
    let qwen = fixture("qwen2");
    let error = refused(session(&qwen, options(CacheType::F16)));
    assert!(error.contains(&format!("{:016x}", identity(&llama))), "{error}");
    assert!(error.contains(qwen.name()) && error.contains(&format!("{:016x}", identity(&qwen))), "{error}");
    let error = refused(session(&llama, options(CacheType::Q8_0)));
    assert!(error.contains("cache type is f16; needed: q8_0"), "{error}");
    let error = refused(session(&llama, SessionOptions { max_positions: 99, ..options(CacheType::F16) }));
    assert!(error.contains("number of tokens is 100; needed: at most 99"), "{error}");
    assert!(
        identity(&llama) == identity(&fixture("llama"))
            && identity(&llama) != identity(&fixture("llama-tied"))
    );
    // The same shape with other constants is another model.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama/model.gguf");
    let other_base = OpenOptions { rope_base: Some(5.0), ..OpenOptions::default() };
    assert_ne!(identity(&llama), identity(&Model::open(&path, &other_base).unwrap()));
}
