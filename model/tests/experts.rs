//! The choice of experts, on the tiny random checkpoint of `tests/fixtures/qwen3moe`: what is read, and by whom a row's
//! bits are decided.

mod common;

use common::{ids, instruction_sets, pool, session};
use gable_kernels::gemm::Phase;
use gable_kernels::quant::Format;
use gable_kernels::{Kernels, MatRef};
use gable_model::forward::Numerics;
use gable_model::gguf::{Gguf, OverrideValue};
use gable_model::imatrix::{Collector, Imatrix};
use gable_model::model::{Model, OpenOptions};
use gable_model::observer::{Observer, Site};
use gable_model::quantize::{FileType, Quantizer, Recipe, Source};
use gable_model::session::{Session, SessionOptions};
use gable_model::tensor_table::{Dims, TensorInfo};
use gable_model::weights::{Experts, FeedForward, Linear};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn model() -> Arc<Model> {
    Arc::new(Model::open(&fixture("qwen3moe/model.gguf"), &OpenOptions::default()).unwrap())
}

fn tokens() -> Vec<u32> {
    ids(&serde_json::from_str(&std::fs::read_to_string(fixture("qwen3moe/ids.json")).unwrap()).unwrap())
}

fn experts(model: &Model, layer: usize) -> &Experts {
    match &model.weights().layers[layer].ffn {
        FeedForward::Experts(experts) => experts,
        FeedForward::Dense(_) => panic!("layer {layer} has one network"),
    }
}

fn bytes_of_an_expert(model: &Model) -> usize {
    experts(model, 0).list[0].linears().map(|linear| linear.weight.n_bytes()).sum()
}

/// What the routers read.
#[derive(Default)]
struct RouterInputs(Vec<(usize, Vec<f32>)>);

impl Observer for RouterInputs {
    fn wants(&self, _: usize, site: Site) -> bool {
        site == Site::FfnInput
    }
    fn observe(&mut self, layer: usize, _: Site, values: MatRef<'_>) {
        (0..values.rows()).for_each(|i| self.0.push((layer, values.row(i).to_vec())));
    }
}

/// The two experts with the highest scores.
fn best_two(model: &Model, layer: usize, input: &[f32]) -> Vec<usize> {
    let router = experts(model, layer).router.weight.view(model.files()).unwrap();
    let mut row = vec![0.0; router.cols()];
    let mut score = |e: usize| -> f32 {
        Kernels::best().dequantize_row(&router, e, &mut row).unwrap();
        row.iter().zip(input).map(|(w, x)| w * x).sum()
    };
    let mut scores: Vec<(f32, usize)> = (0..router.rows()).map(|e| (score(e), e)).collect();
    scores.sort_by(|a, b| b.0.total_cmp(&a.0));
    scores.iter().take(2).map(|(_, e)| *e).collect()
}

#[test]
fn a_pass_reads_the_chosen_experts_and_no_other() {
    let model = model();
    let tokens = tokens();
    for (phase, rows) in [(Phase::Decode, 1), (Phase::Decode, 3), (Phase::Prompt, 1), (Phase::Prompt, 3)] {
        let mut session = session(&model, Kernels::best(), Numerics::Fast, tokens.len(), rows);
        for part in tokens.chunks(rows) {
            let before = session.calls().weight_bytes;
            let mut inputs = RouterInputs::default();
            session.observe(phase, part, |_| true, &mut inputs).unwrap();
            let read = usize::try_from(session.calls().weight_bytes - before).unwrap();
            let mut chosen: Vec<(usize, usize)> = Vec::new();
            for (layer, input) in &inputs.0 {
                chosen.extend(best_two(&model, *layer, input).into_iter().map(|e| (*layer, e)));
            }
            chosen.sort_unstable();
            chosen.dedup();
            let used = 2 * model.config().n_layers;
            let without = model.bytes_per_token() - used * bytes_of_an_expert(&model);
            assert_eq!(read, without + chosen.len() * bytes_of_an_expert(&model), "{phase:?} {rows}");
            if part.len() == 1 {
                assert_eq!(read, model.bytes_per_token());
            }
        }
    }
}

#[test]
fn a_rows_bits_do_not_depend_on_who_else_chose_its_experts() {
    let tokens = tokens();
    let (path, quantized) = quantized();
    assert!(experts(&quantized, 1).list[4].linears().all(|linear| linear.weight.format() == Format::Q8_0));
    let bits = |model: &Arc<Model>, kernels: Kernels, numerics, phase, chunk: usize| -> Vec<u32> {
        // Room for more than one row of scores, so that one alone is summed as many are.
        let mut session = session(model, kernels, numerics, tokens.len(), chunk.max(2));
        let mut all = Vec::new();
        for part in tokens.chunks(chunk) {
            let logits = session.observe(phase, part, |_| true, &mut ()).unwrap();
            (0..part.len()).for_each(|i| all.extend(logits.row(i).iter().map(|x| x.to_bits())));
        }
        all
    };
    for (what, model) in [("F32", model()), ("Q8_0", quantized)] {
        for kernels in instruction_sets() {
            for numerics in [Numerics::Exact, Numerics::Fast, Numerics::Precise] {
                for phase in [Phase::Prompt, Phase::Decode] {
                    let whole = bits(&model, kernels, numerics, phase, tokens.len());
                    for chunk in [1, 7] {
                        let same = whole == bits(&model, kernels, numerics, phase, chunk);
                        assert!(same, "{what} {} {numerics:?} {phase:?} by {chunk}", kernels.isa());
                    }
                }
            }
        }
    }
    std::fs::remove_file(path).unwrap();
}

/// The checkpoint with every matrix in blocks of int8.
fn quantized() -> (PathBuf, Arc<Model>) {
    let source = Source::open(&fixture("qwen3moe/model.gguf")).unwrap();
    let file_type = FileType::parse("Q8_0").unwrap();
    let choices = Recipe::new(file_type).choose(source.tensors());
    let header = source.header(&choices, file_type, None).unwrap();
    let (mut out, quantizer) = (header.start(Vec::new()).unwrap(), Quantizer::new(1).unwrap());
    for (i, (tensor, choice)) in source.tensors().iter().zip(&choices).enumerate() {
        let bytes = source.bytes(i).unwrap();
        let made = quantizer.convert(tensor, &bytes, choice.format, None, &AtomicBool::new(false));
        out.tensor(&made.unwrap().unwrap().bytes).unwrap();
    }
    let path = std::env::temp_dir().join(format!("gable-experts-{}.gguf", std::process::id()));
    std::fs::write(&path, out.finish().unwrap()).unwrap();
    let model = Model::open(&path, &OpenOptions::default()).unwrap();
    (path, Arc::new(model))
}

fn refused(overridden: &str) -> String {
    let overrides = vec![OverrideValue::parse(overridden).unwrap()];
    let options = OpenOptions { overrides, ..OpenOptions::default() };
    Model::open(&fixture("qwen3moe/model.gguf"), &options).unwrap_err().to_string()
}

#[test]
fn counts_that_contradict_the_tensors_are_refused_with_both_values() {
    let more = refused("qwen3moe.expert_count=int:6");
    assert!(more.contains("has shape 5 x 32, but the configuration asks for 6 x 32"), "{more}");
    let used = refused("qwen3moe.expert_used_count=int:6");
    assert!(used.contains("expert_used_count") && used.contains("6 of 5 experts"), "{used}");
    let many = refused("qwen3moe.expert_count=int:1000000");
    assert!(many.contains("2 of 1000000 experts"), "{many}");
    let wide = refused("qwen3moe.expert_feed_forward_length=int:48");
    assert!(wide.contains("has shape 5 x 32 x 32, but the configuration asks for 5 x 48 x 32"), "{wide}");
}

#[test]
fn an_expert_that_is_missing_in_a_folder_is_named() {
    let folder = std::env::temp_dir().join(format!("gable-experts-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let config = std::fs::read_to_string(fixture("qwen3moe/hf/config.json")).unwrap();
    let more = config.replace("\"num_local_experts\": 5", "\"num_local_experts\": 6");
    assert_ne!(config, more);
    std::fs::write(folder.join("config.json"), &config).unwrap();
    let tensors = std::fs::read(fixture("qwen3moe/hf/model.safetensors")).unwrap();
    // The same length, so that offsets stay.
    let at = tensors.windows(21).position(|w| w == b"mlp.experts.4.up_proj").unwrap();
    let mut renamed = tensors.clone();
    renamed[at..at + 21].copy_from_slice(b"mlp.experts.7.up_proj");
    std::fs::write(folder.join("model.safetensors"), &renamed).unwrap();
    std::fs::copy(fixture("gpt2/hf/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    let error = Model::open(&folder, &OpenOptions::default()).unwrap_err().to_string();
    assert!(error.contains("mlp.experts.4.up_proj.weight\" is missing"), "{error}");
    std::fs::write(folder.join("config.json"), &more).unwrap();
    let error = Model::open(&folder, &OpenOptions::default()).unwrap_err().to_string();
    assert!(error.contains("5 x 32") && error.contains("6 x 32"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_session_of_a_model_with_experts_decodes_without_error_beyond_its_prompt() {
    let model = model();
    let mut session = Session::new(model, pool(), SessionOptions::new(Kernels::best(), 48)).unwrap();
    session.prefill(&tokens()).unwrap();
    for token in 5..9 {
        assert!(session.decode(token).unwrap().iter().all(|x| x.is_finite()));
    }
}

/// `act(W_gate x) * (W_up x)` of an expert, in f64.
fn inner(model: &Model, layer: usize, expert: usize, x: &[f32]) -> Vec<f64> {
    let expert = &experts(model, layer).list[expert];
    let times = |linear: &Linear| -> Vec<f64> {
        let view = linear.weight.view(model.files()).unwrap();
        let mut row = vec![0.0; view.cols()];
        let mut product = |i| {
            Kernels::best().dequantize_row(&view, i, &mut row).unwrap();
            row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
        };
        (0..view.rows()).map(&mut product).collect()
    };
    let (gate, up) = (times(expert.gate.as_ref().unwrap()), times(&expert.up));
    gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
}

#[test]
fn an_experts_importance_is_the_mean_square_of_the_rows_that_chose_it() {
    let model = model();
    let tokens = tokens();
    let (mut collector, mut inputs) = (Collector::new(false), RouterInputs::default());
    // Few enough that some expert has seen nothing.
    for (phase, part) in [(Phase::Prompt, &tokens[..2]), (Phase::Decode, &tokens[2..3])] {
        for observer in [&mut collector as &mut dyn Observer, &mut inputs] {
            let mut session = session(&model, Kernels::best(), Numerics::Exact, 8, 1);
            session.observe(phase, part, |_| false, observer).unwrap();
        }
    }
    let imatrix = collector.finish(&model).unwrap();
    let file = imatrix.write(Vec::new()).unwrap();
    let gguf = Gguf::from_bytes(file.clone()).unwrap();
    let count = model.config().experts.unwrap().count;
    let mut idle = 0;
    for layer in 0..model.config().n_layers {
        for (matrix, columns) in [("gate", 32), ("up", 32), ("down", 32)] {
            let name = format!("blk.{layer}.ffn_{matrix}_exps.weight");
            let found = imatrix.importance(&name).unwrap();
            for expert in 0..count {
                let chosen = |(at, x): &&(usize, Vec<f32>)| {
                    *at == layer && best_two(&model, layer, x).contains(&expert)
                };
                let rows: Vec<Vec<f64>> = inputs
                    .0
                    .iter()
                    .filter(chosen)
                    .map(|(_, x)| match matrix {
                        "down" => inner(&model, layer, expert, x),
                        _ => x.iter().map(|x| f64::from(*x)).collect(),
                    })
                    .collect();
                idle += usize::from(rows.is_empty());
                for column in 0..columns {
                    let squares: f64 = rows.iter().map(|row| row[column] * row[column]).sum();
                    let want = if rows.is_empty() { 1.0 } else { squares / rows.len() as f64 };
                    let found = f64::from(found[expert * columns + column]);
                    assert!((found - want).abs() <= 1e-4 * want + 1e-9, "{name} {expert}: {found}, {want}");
                }
            }
            let dims = |kind| gguf.table().require(&format!("{name}.{kind}")).unwrap().dims.to_vec();
            assert_eq!((dims("in_sum2"), dims("counts")), (vec![columns, count], vec![1, count]), "{name}");
        }
        assert_eq!(imatrix.importance(&format!("blk.{layer}.ffn_gate_inp.weight")).unwrap().len(), 32);
    }
    assert!(idle > 0);
    let path = std::env::temp_dir().join(format!("gable-experts-imatrix-{}.gguf", std::process::id()));
    std::fs::write(&path, file).unwrap();
    let read = Imatrix::open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    assert_eq!(read.len(), imatrix.len());
    let mut twice = read.clone();
    twice.merge(&read).unwrap();
    let name = "blk.0.ffn_down_exps.weight";
    assert_eq!(twice.importance(name), read.importance(name));
}

#[test]
fn each_expert_is_quantized_by_its_own_importance() {
    let model = model();
    let gguf = Gguf::open(fixture("qwen3moe/model.gguf")).unwrap();
    let tensor = gguf.table().require("blk.0.ffn_down_exps.weight").unwrap();
    let bytes = gguf.tensor_bytes(tensor);
    let (quantizer, cancel) = (Quantizer::new(2).unwrap(), AtomicBool::new(false));
    let mut collector = Collector::new(false);
    let mut session = session(&model, Kernels::best(), Numerics::Exact, 40, 1);
    session.observe(Phase::Prompt, &tokens(), |_| false, &mut collector).unwrap();
    let imatrix = collector.finish(&model).unwrap();
    let importance = imatrix.importance(&tensor.name).unwrap();
    let convert = |tensor: &TensorInfo, bytes: &[u8], importance: Option<&[f32]>| {
        quantizer.convert(tensor, bytes, Format::Q4_0, importance, &cancel).unwrap().unwrap().bytes
    };
    let whole = convert(tensor, bytes, Some(&importance));
    assert_ne!(whole, convert(tensor, bytes, None));
    let one = TensorInfo { dims: Dims::new(&[32, 32]).unwrap(), n_bytes: 32 * 32 * 4, ..tensor.clone() };
    let parts = bytes.chunks(one.n_bytes).zip(importance.chunks(32));
    assert_eq!(whole, parts.flat_map(|(bytes, own)| convert(&one, bytes, Some(own))).collect::<Vec<u8>>());
    let err = quantizer.convert(tensor, bytes, Format::Q4_0, Some(&importance[..40]), &cancel).unwrap_err();
    assert!(err.to_string().contains("32 columns, but the importance of 40"), "{err}");
}
