//! Vectors of texts against `transformers`, on the tiny random encoder of `tests/fixtures/bert`.

mod common;

use common::{ids, instruction_sets, pool};
use gable_kernels::Kernels;
use gable_model::RunError;
use gable_model::embed::{Embedder, Pooling};
use gable_model::forward::Numerics;
use gable_model::gguf::OverrideValue;
use gable_model::model::{Model, OpenOptions};
use gable_model::session::{Session, SessionOptions};
use gable_model::tokenizer::EncodeOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FRAMED: EncodeOptions = EncodeOptions { add_special: true, parse_special: false };

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn open(path: &Path) -> Arc<Model> {
    Arc::new(Model::open(path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// The texts with their ids, and the last hidden states of each.
fn expected() -> Vec<(String, Vec<u32>, Vec<Vec<f32>>)> {
    let texts = std::fs::read_to_string(fixture("bert/texts.json")).unwrap();
    let texts: serde_json::Value = serde_json::from_str(&texts).unwrap();
    let bytes = std::fs::read(fixture("bert/vectors.npy")).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let values: Vec<f32> =
        bytes[10 + header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut rows = values.chunks(32).map(<[f32]>::to_vec);
    let mut one = |entry: &serde_json::Value| {
        let ids = ids(&entry["ids"]);
        let rows = rows.by_ref().take(ids.len()).collect();
        (entry["text"].as_str().unwrap().to_owned(), ids, rows)
    };
    texts.as_array().unwrap().iter().map(&mut one).collect()
}

fn embedder(
    model: &Arc<Model>,
    kernels: Kernels,
    pooling: Pooling,
    normalize: bool,
    rows: usize,
) -> Embedder {
    let mut options = SessionOptions::new(kernels, 24);
    options.numerics = Numerics::Exact;
    options.batch = rows;
    Embedder::new(model.clone(), pool(), options, pooling, normalize).unwrap()
}

fn vectors(embedder: &mut Embedder, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    embedder
        .embed(texts, |i, vector| {
            assert_eq!(i, all.len());
            all.push(vector.to_vec());
        })
        .unwrap();
    all
}

fn pooled(rows: &[Vec<f32>], pooling: Pooling, normalize: bool) -> Vec<f64> {
    let row = |row: &Vec<f32>| row.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let vector = match pooling {
        Pooling::Cls => row(&rows[0]),
        Pooling::Last => row(rows.last().unwrap()),
        Pooling::Mean => {
            let column = |j: usize| rows.iter().map(|row| f64::from(row[j])).sum::<f64>() / rows.len() as f64;
            (0..rows[0].len()).map(column).collect()
        }
    };
    let length = if normalize { vector.iter().map(|x| x * x).sum::<f64>().sqrt() } else { 1.0 };
    vector.iter().map(|x| x / length).collect()
}

fn agrees(path: &Path) {
    let model = open(path);
    let expected = expected();
    let texts: Vec<Vec<u32>> = expected.iter().map(|(_, ids, _)| ids.clone()).collect();
    for kernels in instruction_sets() {
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
            for normalize in [true, false] {
                let got = vectors(&mut embedder(&model, kernels, pooling, normalize, 512), &texts);
                for (got, (text, _, rows)) in got.iter().zip(&expected) {
                    for (got, want) in got.iter().zip(pooled(rows, pooling, normalize)) {
                        let off = (f64::from(*got) - want).abs();
                        assert!(off < 2e-5, "{} {text:?} {pooling:?} {normalize}: {off} off", kernels.isa());
                    }
                }
            }
        }
    }
}

#[test]
fn an_encoder_as_gguf() {
    agrees(&fixture("bert/model.gguf"));
}

#[test]
fn an_encoder_as_folder() {
    agrees(&fixture("bert/hf"));
}

#[test]
fn a_vector_is_the_same_alone_and_among_others() {
    let model = open(&fixture("bert/model.gguf"));
    let texts: Vec<Vec<u32>> = expected().into_iter().map(|(_, ids, _)| ids).collect();
    for kernels in instruction_sets() {
        let together = vectors(&mut embedder(&model, kernels, Pooling::Mean, true, 512), &texts);
        let in_small_passes = vectors(&mut embedder(&model, kernels, Pooling::Mean, true, 24), &texts);
        assert_eq!(together, in_small_passes, "{}", kernels.isa());
        let mut alone = embedder(&model, kernels, Pooling::Mean, true, 512);
        for (text, together) in texts.iter().zip(&together) {
            assert_eq!(&vectors(&mut alone, std::slice::from_ref(text))[0], together, "{}", kernels.isa());
        }
    }
}

#[test]
fn words_have_the_same_ids_from_every_kind_of_file() {
    let words = std::env::temp_dir().join(format!("gable-words-{}", std::process::id()));
    std::fs::create_dir_all(&words).unwrap();
    for name in ["config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"] {
        std::fs::copy(fixture("bert/hf").join(name), words.join(name)).unwrap();
    }
    for path in [fixture("bert/model.gguf"), fixture("bert/hf"), words.clone()] {
        let model = open(&path);
        let tokenizer = model.tokenizer();
        for (text, ids, _) in expected() {
            assert_eq!(tokenizer.encode(&text, FRAMED).unwrap(), ids, "{}: {text:?}", path.display());
        }
        let ids = tokenizer.encode("the theatre [SEP]", EncodeOptions::default()).unwrap();
        assert!(!ids.contains(&tokenizer.eos().unwrap()), "what a user writes is text");
        assert_eq!(tokenizer.decode(&tokenizer.encode("The Theatre", FRAMED).unwrap()), "the theatre");
    }
    std::fs::remove_dir_all(words).unwrap();
}

#[test]
fn pooling_is_what_the_file_says() {
    for path in ["bert/model.gguf", "bert/hf"] {
        assert_eq!(Pooling::of_model(&open(&fixture(path))), Pooling::Mean, "{path}");
    }
    assert_eq!(Pooling::of_model(&open(&fixture("llama/model.gguf"))), Pooling::Last);
}

#[test]
fn a_decoders_last_vector_unembeds_to_the_next_tokens_scores() {
    let model = open(&fixture("qwen2/model.gguf"));
    let text: Vec<u32> = (5..17).collect();
    let kernels = Kernels::best();
    let vector =
        vectors(&mut embedder(&model, kernels, Pooling::Last, false, 64), std::slice::from_ref(&text))
            .remove(0);
    let mut session = common::session(&model, kernels, Numerics::Exact, 16, 1);
    let logits = session.prefill(&text).unwrap().to_vec();
    let unembedding = model.weights().unembedding().view(model.files()).unwrap();
    let mut row = vec![0.0; 32];
    for (i, logit) in logits.iter().enumerate() {
        kernels.dequantize_row(&unembedding, i, &mut row).unwrap();
        let product: f32 = row.iter().zip(&vector).map(|(w, x)| w * x).sum();
        assert!((product - logit).abs() < 1e-4, "token {i}: {product} and {logit}");
    }
}

#[test]
fn an_encoder_that_contradicts_itself_is_refused_with_both_values() {
    let refused = |overridden: &str| {
        let overrides = vec![OverrideValue::parse(overridden).unwrap()];
        let options = OpenOptions { overrides, ..OpenOptions::default() };
        Model::open(&fixture("bert/model.gguf"), &options).unwrap_err().to_string()
    };
    let positions = refused("bert.context_length=int:32");
    assert!(positions.contains("position_embd.weight") && positions.contains("64 x 32"), "{positions}");
    assert!(positions.contains("asks for 32 x 32"), "{positions}");
    let pooling = refused("bert.pooling_type=int:9");
    assert!(pooling.contains("pooling_type") && pooling.contains("is 9; supported: 0"), "{pooling}");
    let layers = refused("bert.block_count=int:4");
    assert!(layers.contains("blk.3.") && layers.contains("is missing"), "{layers}");
    let end = refused("tokenizer.ggml.seperator_token_id=int:7");
    assert!(end.contains("in the place of [SEP]"), "{end}");
}

#[test]
fn what_cannot_be_embedded_is_refused_with_both_values() {
    let model = open(&fixture("bert/model.gguf"));
    let mut embedder = embedder(&model, Kernels::best(), Pooling::Mean, true, 64);
    let long = embedder.embed(&[vec![7; 25]], |_, _| ()).unwrap_err();
    assert!(matches!(long, RunError::ContextFull { needed: 25, max: 24 }), "{long}");
    let empty = embedder.embed(&[vec![7], vec![]], |_, _| ()).unwrap_err().to_string();
    assert!(empty.contains("without tokens"), "{empty}");
    let options = SessionOptions::new(Kernels::best(), 65);
    let wide = Embedder::new(model.clone(), pool(), options, Pooling::Mean, true).unwrap_err().to_string();
    assert!(wide.contains("context size is 65"), "{wide}");
    let session = Session::new(model, pool(), SessionOptions::new(Kernels::best(), 24)).unwrap_err();
    assert!(session.to_string().contains("bert models are encoders"), "{session}");
}
