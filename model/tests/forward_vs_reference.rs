//! Every architecture against `transformers`, on tiny random checkpoints, as GGUF and as Hugging Face folder.
//!
//! The fixtures and the script that made them lie in `tests/fixtures`.

mod common;

use common::{ids, instruction_sets, session};
use gable_kernels::Kernels;
use gable_kernels::gemm::Phase;
use gable_model::arch::Family;
use gable_model::config::ModelConfig;
use gable_model::forward::Numerics;
use gable_model::gguf::{Gguf, OverrideValue};
use gable_model::model::{Model, OpenOptions};
use gable_model::observer::{Observer, Site};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

fn fixture(name: &str) -> PathBuf {
    Path::new(FIXTURES).join(name)
}

/// The f32 values of a .npy file, row after row.
fn npy(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[10 + header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The ids that a fixture's logits belong to.
fn fixture_ids(name: &str) -> Vec<u32> {
    let text = std::fs::read_to_string(fixture(name).join("ids.json")).unwrap();
    ids(&serde_json::from_str(&text).unwrap())
}

/// A checkpoint folder needs a tokenizer; one fixture has it, and all have the same number of tokens.
fn folder_with_tokenizer(name: &str) -> PathBuf {
    let target = std::env::temp_dir().join(format!("gable-fixture-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&target).unwrap();
    for entry in std::fs::read_dir(fixture(name).join("hf")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
    }
    std::fs::copy(fixture("gpt2/hf/tokenizer.json"), target.join("tokenizer.json")).unwrap();
    target
}

fn open(path: &Path) -> Arc<Model> {
    Arc::new(Model::open(path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

fn logits_agree(model: &Arc<Model>, name: &str, what: &str) {
    let tokens = fixture_ids(name);
    let want = npy(&fixture(name).join("logits.npy"));
    let vocab = want.len() / tokens.len();
    for kernels in instruction_sets() {
        for (phase, chunk) in [(Phase::Prompt, tokens.len()), (Phase::Prompt, 7), (Phase::Decode, 1)] {
            let mut session = session(model, kernels, Numerics::Exact, tokens.len(), chunk);
            let mut worst = 0.0_f32;
            for (c, part) in tokens.chunks(chunk).enumerate() {
                let logits = session.observe(phase, part, |_| true, &mut ()).unwrap();
                for i in 0..part.len() {
                    let want = &want[(c * chunk + i) * vocab..][..vocab];
                    let difference = logits.row(i).iter().zip(want).map(|(g, w)| (g - w).abs());
                    worst = difference.fold(worst, f32::max);
                }
            }
            assert!(
                worst <= 1e-3,
                "{name} {what} {} {phase:?} by {chunk}: logits are {worst} off",
                kernels.isa()
            );
        }
    }
}

fn agrees(name: &str) {
    logits_agree(&open(&fixture(name).join("model.gguf")), name, "GGUF");
    let folder = folder_with_tokenizer(name);
    logits_agree(&open(&folder), name, "folder");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn llama() {
    agrees("llama");
}

#[test]
fn llama_with_tied_output_in_f16() {
    agrees("llama-tied");
}

#[test]
fn llama3_rope_scaling() {
    agrees("llama3-rope");
}

#[test]
fn yarn_rope_scaling_beyond_the_original_context() {
    agrees("yarn");
}

#[test]
fn phi3_with_fused_matrices_and_a_window() {
    agrees("phi3");
}

#[test]
fn phi3_with_long_rope() {
    agrees("phi3-long");
    // A session within the original context turns by the other factors.
    let tokens = &fixture_ids("phi3-long")[..24];
    let want = npy(&fixture("phi3-long/short.npy"));
    let folder = folder_with_tokenizer("phi3-long");
    for path in [fixture("phi3-long/model.gguf"), folder.clone()] {
        let mut session = session(&open(&path), Kernels::best(), Numerics::Exact, 24, 24);
        let logits = session.observe(Phase::Prompt, tokens, |_| true, &mut ()).unwrap();
        let got = (0..24).flat_map(|i| logits.row(i));
        let worst = got.zip(&want).fold(0.0_f32, |m, (got, want)| m.max((got - want).abs()));
        assert!(worst <= 1e-3, "{}: logits are {worst} off", path.display());
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn fused_matrices_and_factors_of_another_size_are_refused_with_both_values() {
    let refused = |name: &str, overridden: &str| {
        let overrides = vec![OverrideValue::parse(overridden).unwrap()];
        let options = OpenOptions { overrides, ..OpenOptions::default() };
        Model::open(&fixture(name).join("model.gguf"), &options).unwrap_err().to_string()
    };
    let up = refused("phi3", "phi3.feed_forward_length=int:40");
    assert!(up.contains("has shape 32 x 48, but the configuration asks for 32 x 40"), "{up}");
    let qkv = refused("phi3", "phi3.attention.head_count_kv=int:4");
    assert!(
        qkv.contains("attn_qkv") && qkv.contains("has shape 64 x 32, but") && qkv.contains("96 x 32"),
        "{qkv}"
    );
    let factors = refused("phi3-long", "phi3.rope.dimension_count=int:4");
    assert!(factors.contains("rope_factors_short") && factors.contains("has 4 elements"), "{factors}");
    assert!(factors.contains("asks for 2"), "{factors}");
}

#[test]
fn qwen3_with_experts() {
    agrees("qwen3moe");
}

#[test]
fn mistral_with_a_window_in_every_layer() {
    agrees("mistral");
}

#[test]
fn qwen2_with_biases() {
    agrees("qwen2");
}

#[test]
fn qwen3_with_head_norms_from_shards() {
    agrees("qwen3");
}

#[test]
fn gemma2_with_capped_scores_and_alternating_windows() {
    agrees("gemma2");
}

#[test]
fn gemma2_of_46_layers_scales_queries_by_its_average_head() {
    let mut gguf = Gguf::open(fixture("gemma2").join("model.gguf")).unwrap();
    let mut scale = |layers: &str| {
        let (key, value) = OverrideValue::parse(&format!("gemma2.block_count=int:{layers}")).unwrap();
        gguf.metadata_mut().set_override(&key, value).unwrap();
        let family = Family::of_gguf("gemma2").unwrap();
        ModelConfig::from_gguf(family, gguf.metadata(), 288).unwrap().attention_scale
    };
    assert_eq!([scale("42"), scale("46")], [16.0, 32.0 / 4.0].map(|width: f32| 1.0 / width.sqrt()));
}

#[test]
fn gemma3_with_local_and_global_layers() {
    agrees("gemma3");
}

#[test]
fn gemma3_with_scaled_rope_and_queries() {
    agrees("gemma3-scaled");
}

#[test]
fn gpt2_with_transposed_fused_weights() {
    agrees("gpt2");
}

#[test]
fn a_split_gguf_opens_as_one_model() {
    logits_agree(&open(&fixture("split").join("tiny-00001-of-00002.gguf")), "split", "GGUF in two files");
}

/// Remembers everything.
#[derive(Default)]
struct All(HashMap<(usize, Site), Vec<f32>>);

impl Observer for All {
    fn wants(&self, _: usize, _: Site) -> bool {
        true
    }
    fn observe(&mut self, layer: usize, site: Site, values: gable_kernels::MatRef<'_>) {
        let rows = (0..values.rows()).flat_map(|i| values.row(i).to_vec());
        self.0.entry((layer, site)).or_default().extend(rows);
    }
}

#[test]
fn an_observer_changes_no_bit_and_sees_a_consistent_pass() {
    for name in ["llama", "gemma3", "gpt2"] {
        let model = open(&fixture(name).join("model.gguf"));
        let config = model.config();
        for kernels in instruction_sets() {
            for numerics in [Numerics::Exact, Numerics::Fast] {
                for phase in [Phase::Prompt, Phase::Decode] {
                    let tokens: Vec<u32> = (3..15).collect();
                    let mut plain = session(&model, kernels, numerics, 12, 12);
                    let plain = plain.observe(phase, &tokens, |_| true, &mut ()).unwrap();
                    let mut seen = All::default();
                    let mut watched = session(&model, kernels, numerics, 12, 12);
                    let watched = watched.observe(phase, &tokens, |_| true, &mut seen).unwrap();
                    let bits = |m: gable_kernels::MatRef<'_>| -> Vec<u32> {
                        (0..12)
                            .flat_map(|i| m.row(i).iter().map(|x| x.to_bits()).collect::<Vec<_>>())
                            .collect()
                    };
                    assert_eq!(bits(plain), bits(watched), "{name} {} {numerics:?} {phase:?}", kernels.isa());
                    for layer in 0..config.n_layers {
                        // resid_mid = x + attention_out, resid_out = resid_mid + ffn_out
                        let get = |layer, site| &seen.0[&(layer, site)];
                        let x =
                            if layer == 0 { get(0, Site::Embed) } else { get(layer - 1, Site::ResidualOut) };
                        let steps = [
                            (x, Site::AttentionOut, Site::ResidualMid),
                            (get(layer, Site::ResidualMid), Site::FfnOut, Site::ResidualOut),
                        ];
                        for (before, added, after) in steps {
                            for ((a, b), c) in before.iter().zip(get(layer, added)).zip(get(layer, after)) {
                                assert!(
                                    (a + b - c).abs() <= 1e-4 * (1.0 + c.abs()),
                                    "{name} layer {layer} {after:?}"
                                );
                            }
                        }
                        for row in get(layer, Site::AttentionWeights).chunks(12) {
                            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                        }
                    }
                }
            }
        }
    }
}
