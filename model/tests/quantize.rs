//! Models in every block format, and importance matrices.

mod common;

use common::{instruction_sets, session};
use gable_kernels::gemm::Phase;
use gable_kernels::quant::Format;
use gable_kernels::{MatRef, reference};
use gable_model::embed::{Embedder, Pooling};
use gable_model::forward::Numerics;
use gable_model::gguf::{Gguf, writer::GgufWriter};
use gable_model::imatrix::{Collector, Imatrix};
use gable_model::model::{Model, OpenOptions};
use gable_model::observer::{Observer, Site};
use gable_model::quantize::{FileType, Quantizer, Recipe, Source};
use gable_model::session::SessionOptions;
use gable_model::tokenizer::{EncodeOptions, Tokenizer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).join("model.gguf")
}

struct Scrap(PathBuf);

impl Scrap {
    fn new(name: &str, bytes: &[u8]) -> Scrap {
        let path = std::env::temp_dir().join(format!("gable-model-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Scrap(path)
    }
}

impl Drop for Scrap {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn open(path: &Path) -> Arc<Model> {
    Arc::new(Model::open(path, &OpenOptions::default()).unwrap())
}

const D: u64 = 256;

/// A llama of one layer, 256 wide, whose matrices hold what `matrix` makes of a seed and a number of rows.
fn model_of(format: Format, matrix: &dyn Fn(u64, u64) -> Vec<u8>) -> Vec<u8> {
    let source = Gguf::open(fixture("llama")).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in source.metadata().iter() {
        match key {
            "llama.embedding_length" | "llama.feed_forward_length" => writer.set(key, &256_u32).unwrap(),
            "llama.rope.dimension_count" => writer.set(key, &64_u32).unwrap(),
            "llama.block_count" => writer.set(key, &1_u32).unwrap(),
            _ => writer.set_value(key, value).unwrap(),
        }
    }
    let ones: Vec<u8> = (0..D).flat_map(|_| 1.0_f32.to_le_bytes()).collect();
    let matrices = [
        ("token_embd", 288),
        ("output", 288),
        ("blk.0.attn_q", 256),
        ("blk.0.attn_k", 128),
        ("blk.0.attn_v", 128),
        ("blk.0.attn_output", 256),
        ("blk.0.ffn_gate", 256),
        ("blk.0.ffn_up", 256),
        ("blk.0.ffn_down", 256),
    ];
    let mut data = Vec::new();
    for (i, (name, rows)) in (0..).zip(matrices) {
        writer.declare(&format!("{name}.weight"), &[D, rows], format).unwrap();
        data.push(matrix(i, rows));
    }
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        writer.declare(&format!("{name}.weight"), &[D], Format::F32).unwrap();
        data.push(ones.clone());
    }
    writer.to_vec(&data.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
}

/// Random bytes of a format, scales small and finite.
fn blocks(format: Format, seed: u64, rows: u64) -> Vec<u8> {
    let n = format.row_bytes(256).unwrap() * rows as usize;
    let mut state = seed.wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state >> 40
    };
    let mut bytes: Vec<u8> = (0..n).map(|_| next() as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for at in format.scale_offsets() {
            let scale = half::f16::from_f32((next() % 64) as f32 * 2e-5);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

fn last_logits(model: &Arc<Model>, numerics: Numerics) -> Vec<Vec<f32>> {
    let tokens = [5, 77, 201, 13, 44];
    let mut all = Vec::new();
    for kernels in instruction_sets() {
        for phase in [Phase::Prompt, Phase::Decode] {
            let mut session = session(model, kernels, numerics, 8, 1);
            let mut logits = Vec::new();
            for token in tokens {
                let found = session.observe(phase, &[token], |_| true, &mut ()).unwrap();
                logits = found.row(0).to_vec();
            }
            all.push(logits);
        }
    }
    all
}

#[test]
fn a_model_in_any_block_format_is_the_model_of_the_values_it_stands_for() {
    for format in Format::all_of_gguf().filter(|f| f.is_block_quantized()) {
        let quantized =
            Scrap::new(&format!("{format}.gguf"), &model_of(format, &|s, n| blocks(format, s, n)));
        let widened = model_of(Format::F32, &|seed, rows| {
            let values = reference::quant::dequantize(format, &blocks(format, seed, rows));
            values.iter().flat_map(|x| x.to_le_bytes()).collect()
        });
        let widened = Scrap::new(&format!("{format}-f32.gguf"), &widened);
        let (quantized, widened) = (open(&quantized.0), open(&widened.0));
        let exact = last_logits(&quantized, Numerics::Exact);
        assert_eq!(exact, last_logits(&widened, Numerics::Exact), "{format}");
        let spread = exact[0].iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        assert!(spread > 0.01, "{format}: {spread}");
        for (fast, exact) in last_logits(&quantized, Numerics::Fast).iter().zip(&exact) {
            let worst = fast.iter().zip(exact).fold(0.0_f32, |m, (f, e)| m.max((f - e).abs()));
            assert!(worst < 0.05 * spread, "{format}: {worst} of {spread}");
        }
    }
}

/// Sums of squares at one place, by hand.
struct Watch(usize, Site, Vec<f64>);

impl Observer for Watch {
    fn wants(&self, layer: usize, site: Site) -> bool {
        (layer, site) == (self.0, self.1)
    }
    fn observe(&mut self, _: usize, _: Site, values: MatRef<'_>) {
        self.2.resize(values.cols(), 0.0);
        for i in 0..values.rows() {
            self.2.iter_mut().zip(values.row(i)).for_each(|(s, x)| *s += f64::from(*x).powi(2));
        }
    }
}

fn observe(model: &Arc<Model>, tokens: &[u32], observer: &mut dyn Observer) {
    let kernels = instruction_sets()[0];
    let mut session = session(model, kernels, Numerics::Exact, tokens.len(), tokens.len());
    session.observe(Phase::Prompt, tokens, |_| true, observer).unwrap();
}

#[test]
fn importance_is_the_mean_square_of_what_a_matrix_reads() {
    let tokens: Vec<u32> = (3..43).collect();
    for name in ["llama", "gpt2", "gemma3", "qwen3"] {
        let model = open(&fixture(name));
        let mut collector = Collector::new(true);
        observe(&model, &tokens, &mut collector);
        observe(&model, &tokens[..7], &mut collector);
        let imatrix = collector.finish(&model).unwrap();
        for matrix in model.weights().matrices() {
            let lookup = ["token_embd.weight", "position_embd.weight"].contains(&matrix.name());
            let tied = model.weights().output.is_none() && matrix.name() == "token_embd.weight";
            let found = imatrix.importance(matrix.name());
            assert_eq!(found.is_some(), !lookup || tied, "{name} {}", matrix.name());
            assert!(found.is_none_or(|f| f.len() == matrix.cols()), "{name} {}", matrix.name());
        }
        let layer = model.config().n_layers - 1;
        for (site, tensor) in
            [(Site::Heads, "attn_output"), (Site::FfnActivation, "ffn_down"), (Site::FfnInput, "ffn_up")]
        {
            let mut watch = Watch(layer, site, Vec::new());
            observe(&model, &tokens, &mut watch);
            observe(&model, &tokens[..7], &mut watch);
            let found = imatrix.importance(&format!("blk.{layer}.{tensor}.weight")).unwrap();
            let want: Vec<f32> = watch.2.iter().map(|s| (s / 47.0) as f32).collect();
            assert_eq!(found, want, "{name} {tensor}");
        }
    }
}

#[test]
fn the_inputs_of_a_layer_are_its_normalised_residual() {
    let model = open(&fixture("llama"));
    let tokens = [9, 8, 7];
    let mut watch = [Watch(1, Site::AttentionInput, Vec::new()), Watch(0, Site::ResidualOut, Vec::new())];
    // One token at a time, so that the sums of one row are its squares.
    observe(&model, &tokens[..1], &mut watch[0]);
    observe(&model, &tokens[..1], &mut watch[1]);
    let [input, residual] = watch.map(|w| w.2);
    let mean = residual.iter().sum::<f64>() / residual.len() as f64 + f64::from(model.config().norm_eps);
    let weight = &model.weights().layers[1].attention_norm.weight;
    for ((found, x), w) in input.iter().zip(&residual).zip(weight) {
        let want = x / mean * f64::from(*w).powi(2);
        assert!((found - want).abs() <= 1e-5 * want.max(1e-6), "{found} against {want}");
    }
}

#[test]
fn an_importance_matrix_survives_its_file_and_adds_up() {
    let model = open(&fixture("llama"));
    let mut collector = Collector::new(false);
    observe(&model, &[3, 4, 5, 6], &mut collector);
    let mut imatrix = collector.finish(&model).unwrap();
    imatrix.datasets = vec!["a".to_owned(), "b".to_owned()];
    (imatrix.chunk_count, imatrix.chunk_size) = (1, 4);
    let file = Scrap::new("imatrix.gguf", &imatrix.write(Vec::new()).unwrap());
    let read = Imatrix::open(&file.0).unwrap();
    assert_eq!((read.len(), read.chunk_count, read.chunk_size), (14, 1, 4));
    assert_eq!(read.datasets, ["a", "b"]);
    let name = "blk.0.ffn_gate.weight";
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * b);
    assert!(close(&read.importance(name).unwrap(), &imatrix.importance(name).unwrap()));
    let mut twice = read.clone();
    twice.merge(&read).unwrap();
    assert!(close(&twice.importance(name).unwrap(), &read.importance(name).unwrap()));
    assert_eq!((twice.chunk_count, twice.datasets.len()), (2, 2));
    let other = open(&fixture("qwen2"));
    let mut collector = Collector::new(false);
    observe(&other, &[3, 4], &mut collector);
    let err = twice.merge(&collector.finish(&other).unwrap()).unwrap_err().to_string();
    assert!(err.contains("has 64 columns in one and 32 in another"), "{err}");
}

#[test]
fn files_that_are_no_importance_matrices_are_refused_by_name() {
    let write = |kind: &str, tensors: &[(&str, &[u64], &[f32])]| {
        let mut writer = GgufWriter::new();
        writer.set("general.type", kind).unwrap();
        let mut data = Vec::new();
        for (name, dims, values) in tensors {
            writer.declare(name, dims, Format::F32).unwrap();
            data.push(values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        }
        writer.to_vec(&data.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
    };
    let refused = |bytes: Vec<u8>| {
        let file = Scrap::new("refused.gguf", &bytes);
        Imatrix::open(&file.0).unwrap_err().to_string()
    };
    assert!(refused(write("model", &[])).contains("this file is no importance matrix"));
    assert!(refused(write("imatrix", &[])).contains(".in_sum2"));
    let sums: (&str, &[u64], &[f32]) = ("a.weight.in_sum2", &[2, 1], &[1.0, 2.0]);
    assert!(refused(write("imatrix", &[sums])).contains("\"a.weight.counts\" is missing"));
    let counts: (&str, &[u64], &[f32]) = ("a.weight.counts", &[1, 1], &[2.0]);
    let negative: (&str, &[u64], &[f32]) = ("a.weight.in_sum2", &[2, 1], &[1.0, -2.0]);
    assert!(refused(write("imatrix", &[negative, counts])).contains("holds -2"));
    let nan: (&str, &[u64], &[f32]) = ("a.weight.in_sum2", &[1, 1], &[f32::NAN]);
    assert!(refused(write("imatrix", &[nan, counts])).contains("holds NaN"));
    let experts: (&str, &[u64], &[f32]) = ("a.weight.in_sum2", &[1, 2], &[1.0, 2.0]);
    assert!(refused(write("imatrix", &[experts, counts])).contains("inputs of 2 matrices, but 1 counts"));
}

/// A folder that is removed again.
struct ScrapFolder(PathBuf);

impl Drop for ScrapFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A copy of a fixture's folder, with a vocabulary.
fn folder(name: &str) -> ScrapFolder {
    static COPIES: AtomicUsize = AtomicUsize::new(0);
    let n = COPIES.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("gable-convert-{name}-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let source = fixtures.join(name).join("hf");
    for entry in std::fs::read_dir(&source).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    if source.join("1_Pooling").exists() {
        std::fs::create_dir(folder.join("1_Pooling")).unwrap();
        std::fs::copy(source.join("1_Pooling/config.json"), folder.join("1_Pooling/config.json")).unwrap();
    }
    if !source.join("tokenizer.json").exists() {
        std::fs::copy(fixtures.join("gpt2/hf/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    }
    ScrapFolder(folder)
}

/// A folder as one GGUF file.
fn converted(folder: &ScrapFolder, file_type: &str) -> Scrap {
    let source = Source::open(&folder.0).unwrap_or_else(|e| panic!("{}: {e}", folder.0.display()));
    let file_type = FileType::parse(file_type).unwrap();
    let choices = Recipe::new(file_type).choose(source.tensors());
    let mut out = source.header(&choices, file_type, None).unwrap().start(Vec::new()).unwrap();
    let quantizer = Quantizer::new(1).unwrap();
    for (i, (tensor, choice)) in source.tensors().iter().zip(&choices).enumerate() {
        let bytes = source.bytes(i).unwrap();
        match tensor.format == choice.format {
            true => out.tensor(&bytes).unwrap(),
            false => {
                let made = quantizer.convert(tensor, &bytes, choice.format, None, &AtomicBool::new(false));
                out.tensor(&made.unwrap().unwrap().bytes).unwrap();
            }
        }
    }
    let name = folder.0.file_name().unwrap().to_str().unwrap();
    Scrap::new(&format!("{name}-{}.gguf", file_type.name), &out.finish().unwrap())
}

#[test]
fn a_folder_becomes_the_gguf_file_of_the_same_weights() {
    for name in [
        "llama",
        "llama-tied",
        "llama3-rope",
        "mistral",
        "qwen2",
        "yarn",
        "qwen3",
        "gemma3",
        "gemma3-scaled",
        "gpt2",
        "gemma2",
        "phi3",
        "phi3-long",
        "qwen3moe",
    ] {
        let file = converted(&folder(name), "F32");
        let (made, given) = (Gguf::open(&file.0).unwrap(), Gguf::open(fixture(name)).unwrap());
        let names = |g: &Gguf| {
            let mut names: Vec<_> = g.tensors().iter().map(|t| (t.name.clone(), t.dims)).collect();
            names.sort_by(|a, b| a.0.cmp(&b.0));
            names
        };
        assert_eq!(names(&made), names(&given), "{name}");
        let (made, given) = (open(&file.0), open(&fixture(name)));
        let (a, b) = (made.config(), given.config());
        assert_eq!(
            (a.architecture, &a.windows, a.norm_eps),
            (b.architecture, &b.windows, b.norm_eps),
            "{name}"
        );
        let (made, given) = (last_logits(&made, Numerics::Exact), last_logits(&given, Numerics::Exact));
        for (made, given) in made.iter().zip(&given) {
            let worst = made.iter().zip(given).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst < 1e-4, "{name}: logits are {worst} apart");
        }
    }
}

/// Logits behind 20 tokens in a session of some length.
fn logits_of(model: &Arc<Model>, max_positions: usize) -> Vec<f32> {
    let tokens: Vec<u32> = (0..20).map(|i| 3 + i * 13 % 280).collect();
    let mut session = session(model, instruction_sets()[0], Numerics::Exact, max_positions, 1);
    session.observe(Phase::Prompt, &tokens, |i| i == 19, &mut ()).unwrap().row(0).to_vec()
}

#[test]
fn families_in_gguf_alone_and_in_folders_foresee_the_same() {
    for name in ["gemma2", "phi3", "phi3-long", "qwen3moe"] {
        let folder = folder(name);
        let files = ["F32", "Q8_0"].map(|kind| converted(&folder, kind));
        let [given, plain, eight] = [&folder.0, &files[0].0, &files[1].0].map(|path| open(path));
        // Within the original context of phi3-long, and beyond.
        for max_positions in [24, 48] {
            let want = logits_of(&given, max_positions);
            assert_eq!(logits_of(&plain, max_positions), want, "{name}");
            let spread = want.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            let near = logits_of(&eight, max_positions);
            let worst = near.iter().zip(&want).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst > 0.0 && worst < 0.05 * spread, "{name}: {worst} of {spread}");
        }
        assert!(eight.weights().matrices().any(|m| m.format() == Format::Q8_0), "{name}");
    }
}

#[test]
fn a_folders_tokenizer_gives_the_same_ids_from_gguf() {
    let file = converted(&folder("gpt2"), "F32");
    let made = open(&file.0);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2/hf");
    let given = open(&folder);
    let options = EncodeOptions { add_special: true, parse_special: true };
    for text in ["the cat and the hello world", "in  the\n\nor 1234", "<|im_end|>", "\u{1f600} caf\u{e9}"] {
        let [a, b] = [&made, &given].map(|m| m.tokenizer().encode(text, options).unwrap());
        assert_eq!(a, b, "{text:?}");
    }
    assert_eq!(made.tokenizer().eos(), given.tokenizer().eos());
}

/// Vectors of some texts, by their ids from the model's own tokenizer.
fn vectors_of(path: &Path, texts: &[&str]) -> (Vec<Vec<u32>>, Vec<Vec<f32>>) {
    let model = open(path);
    let framed = EncodeOptions { add_special: true, parse_special: false };
    let ids: Vec<_> = texts.iter().map(|text| model.tokenizer().encode(text, framed).unwrap()).collect();
    let mut options = SessionOptions::new(instruction_sets()[0], 32);
    options.numerics = Numerics::Exact;
    let pooling = Pooling::of_model(&model);
    let mut embedder = Embedder::new(model, common::pool(), options, pooling, true).unwrap();
    let mut vectors = Vec::new();
    embedder.embed(&ids, |_, vector| vectors.push(vector.to_vec())).unwrap();
    (ids, vectors)
}

#[test]
fn an_encoders_folder_gives_the_same_vectors_from_gguf() {
    let texts = ["the cat sat on the mat", "Na\u{ef}ve CAF\u{c9}, over-cool!", "", "hello \u{4f60} zzz 123"];
    let folder = folder("bert");
    let want = vectors_of(&folder.0, &texts);
    let made = converted(&folder, "F32");
    assert_eq!(vectors_of(&made.0, &texts), want);
    let config = |path: &Path| open(path).config().clone();
    assert_eq!(config(&made.0), config(&folder.0));
    let tensors = |g: &Gguf| {
        let mut all: Vec<_> = g.tensors().iter().map(|t| (t.name.clone(), t.dims, t.format)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let (made, given) = (Gguf::open(&made.0).unwrap(), Gguf::open(fixture("bert")).unwrap());
    assert_eq!(tensors(&made), tensors(&given));
    let keys = ["model", "tokens", "bos_token_id", "seperator_token_id", "padding_token_id", "mask_token_id"];
    for key in keys.iter().chain(&["unknown_token_id", "token_type_count"]) {
        let [a, b] =
            [&made, &given].map(|g| format!("{:?}", g.metadata().value(&format!("tokenizer.ggml.{key}"))));
        assert_eq!(a, b, "{key}");
    }
    let (ids, vectors) = vectors_of(&converted(&folder, "Q8_0").0, &texts);
    assert_eq!(ids, want.0);
    for (near, want) in vectors.iter().zip(&want.1) {
        let cosine: f32 = near.iter().zip(want).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999 && cosine < 1.0 - 1e-7, "{cosine}");
    }
    // A vocabulary that tells capitals apart has no form in GGUF.
    std::fs::remove_file(folder.0.join("tokenizer.json")).unwrap();
    assert_eq!(vectors_of(&converted(&folder, "F32").0, &texts), want);
    std::fs::write(folder.0.join("tokenizer_config.json"), "{\"do_lower_case\": false}").unwrap();
    let err = Source::open(&folder.0).unwrap_err().to_string();
    assert!(err.contains("lower-cased"), "{err}");
}

/// `tokenizer.json` as SentencePiece vocabularies are converted to it: merges in the order of the scores.
fn sentence_piece_json() -> String {
    let pieces =
        ["th", "\u{2581}t", "\u{2581}th", "\u{2581}the", "an", "nd", "\u{2581}an", "\u{2581}and", "he"];
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(pieces.map(str::to_owned));
    tokens.extend("\u{2581}etaoinshrdlucmwfgyp".chars().map(String::from));
    let known = |s: &str| tokens.iter().any(|t| t == s);
    let mut merges = Vec::new();
    for piece in pieces {
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        merges.extend(cuts.filter(|(a, b)| known(a) && known(b)).map(|(a, b)| format!("{a} {b}")));
    }
    let vocab: serde_json::Map<String, serde_json::Value> =
        (0_u32..).zip(&tokens).map(|(i, t)| (t.clone(), i.into())).collect();
    let special = |id: u32, content: &str| {
        serde_json::json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                            "normalized": false, "special": true })
    };
    let replace = |from: &str, to: &str| serde_json::json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    serde_json::json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "\u{2581}" }, replace(" ", "\u{2581}") ] },
        "pre_tokenizer": null, "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            replace("\u{2581}", " "), { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                   "vocab": vocab, "merges": merges },
    })
    .to_string()
}

#[test]
fn a_sentence_piece_vocabulary_gets_scores_in_the_order_of_its_merges() {
    let folder = std::env::temp_dir().join(format!("gable-convert-spm-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama/hf");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture.join(name), folder.join(name)).unwrap();
    }
    std::fs::write(folder.join("tokenizer.json"), sentence_piece_json()).unwrap();
    let source = Source::open(&folder).unwrap();
    let header = source.header(&[], FileType::parse("F32").unwrap(), None).unwrap();
    let gguf = Gguf::from_bytes(header.to_vec(&[]).unwrap()).unwrap();
    let made = Tokenizer::from_gguf(gguf.metadata(), None).unwrap();
    let given = Tokenizer::from_hf_folder(&folder).unwrap();
    assert_eq!(gguf.metadata().get_str("tokenizer.ggml.model").unwrap(), Some("llama"));
    for text in ["the other and then", "  two spaces", "caf\u{e9} \u{4f60}", "anthem", "</s>"] {
        let options = EncodeOptions::default();
        assert_eq!(made.encode(text, options).unwrap(), given.encode(text, options).unwrap(), "{text:?}");
    }
    // A tokenizer that GGUF cannot express is refused, not approximated.
    let json = sentence_piece_json().replace("\"type\":\"BPE\"", "\"type\":\"WordLevel\"");
    std::fs::write(folder.join("tokenizer.json"), json).unwrap();
    let err = Source::open(&folder).unwrap_err().to_string();
    assert!(err.contains("tokenizer.json"), "{err}");
    std::fs::remove_dir_all(folder).unwrap();
}
