//! Fuzz targets as plain functions: `cargo test` replays the corpus on stable, libFuzzer drives them behind the
//! feature `libfuzzer`.
//!
//! A target takes any bytes and must return: a panic, an abort or a wrong answer is a finding.

use gable_kernels::gemm::{Epilogue, Phase};
use gable_kernels::quant::{Activations, Format, Forms, QuantWeights, quantize_weights};
use gable_kernels::{Kernels, MatMut, Pool, Team};
use gable_model::chat_template::{ChatTemplate, Message};
use gable_model::constraint::Grammars;
use gable_model::gguf::Gguf;
use gable_model::model::{Model, OpenOptions};
use gable_model::session::{Session, SessionOptions};
use gable_model::session_file::checksum;
use gable_model::tokenizer::{EncodeOptions, Tokenizer, VocabSource};

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A target and its name, which is also the name of its corpus folder.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("gguf_parse", gguf_parse),
    ("tokenizer", tokenizer),
    ("chat_template", chat_template),
    ("gemm_vs_reference", gemm_vs_reference),
    ("quantize_roundtrip", quantize_roundtrip),
    ("session_restore", session_restore),
    ("grammar", grammar),
];

/// Any bytes are a model file or an error, and every tensor lies inside the file.
pub fn gguf_parse(data: &[u8]) {
    if let Ok(gguf) = Gguf::from_bytes(data) {
        for tensor in gguf.tensors() {
            assert_eq!(gguf.tensor_bytes(tensor).len(), tensor.n_bytes, "{}", tensor.name);
        }
        for (key, value) in gguf.metadata().iter() {
            let _ = format!("{key} = {value}");
        }
    }
}

/// A byte-level vocabulary of all bytes gives any text back.
pub fn tokenizer(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // The alphabet of byte-level vocabularies: printable bytes stand for themselves, the others for U+0100 and on.
    let mut next = 0x100;
    let spellings: Vec<String> = (0..=255_u8)
        .map(|b| match b {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(b).to_string(),
            _ => {
                next += 1;
                char::from_u32(next - 1).map(String::from).unwrap_or_default()
            }
        })
        .collect();
    let source = VocabSource {
        model: "gpt2",
        pre: Some("llama-bpe"),
        tokens: spellings.iter().map(|s| s.as_bytes()).collect(),
        merges: Some(Vec::new()),
        ..VocabSource::default()
    };
    let tokenizer = Tokenizer::from_vocab(source, None).expect("all bytes are a vocabulary");
    let ids = tokenizer.encode(&text, EncodeOptions::default()).expect("short texts can be encoded");
    assert_eq!(tokenizer.decode(&ids), text);
}

/// Any bytes are a saved session or an error that changes nothing; so is a real one with edits: the input's first two bytes
/// say how much is cut off its end, each further four where a byte is set and to what. With the checksum that there is, and
/// with one that fits.
pub fn session_restore(data: &[u8]) {
    static SESSION: Mutex<Option<(Session, Vec<u8>)>> = Mutex::new(None);
    // A failed assertion is reported by the input that caused it.
    let mut session = SESSION.lock().unwrap_or_else(PoisonError::into_inner);
    let (session, saved) = session.get_or_insert_with(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/mistral/model.gguf");
        let model = Model::open(&path, &OpenOptions::default()).expect("a fixture");
        let options = SessionOptions { batch: 8, ..SessionOptions::new(Kernels::best(), 100) };
        let mut session =
            Session::new(Arc::new(model), Arc::new(Pool::new(1)), options).expect("a small session");
        session.prefill(&[9; 90]).expect("90 tokens fit");
        let mut saved = Vec::new();
        session.save(b"a note", &mut saved).expect("memory takes it");
        (session, saved)
    });
    let mut edited = saved.clone();
    if let Some((cut, edits)) = data.split_first_chunk::<2>() {
        edited.truncate(edited.len().saturating_sub(usize::from(u16::from_le_bytes(*cut))));
        for [low, high, times, value] in edits.as_chunks::<4>().0 {
            let at = usize::from(u16::from_le_bytes([*low, *high])) * (1 + usize::from(*times));
            if let Some(byte) = edited.get_mut(at) {
                *byte = *value;
            }
        }
    }
    session.truncate(0).expect("nothing can be kept of any session");
    session.prefill(&[5, 6]).expect("two tokens fit");
    for file in [sealed(data), sealed(&edited), data.to_vec(), edited] {
        let before = session.tokens().to_vec();
        match session.restore(&file) {
            Ok(_) => assert!(session.tokens().len() <= 100),
            Err(_) => assert_eq!(session.tokens(), before),
        }
        if session.tokens().len() < 100 {
            session.decode(7).expect("whatever was restored can be gone on from");
        }
    }
}

/// The bytes of a saved session with a checksum that fits.
fn sealed(file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    if let Some(body) = file.len().checked_sub(8) {
        let sum = checksum(&file[..body]);
        file[body..].copy_from_slice(&sum.to_le_bytes());
    }
    file
}

/// Any text is a grammar, of which some token can come next, or an error.
pub fn grammar(data: &[u8]) {
    static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
    let grammars = GRAMMARS.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/llama/model.gguf");
        let model = Model::open(&path, &OpenOptions::default()).expect("a fixture");
        Grammars::new(model.tokenizer()).expect("a small vocabulary")
    });
    let text = String::from_utf8_lossy(data);
    for constraint in [grammars.gbnf(&text), grammars.lark(&text), grammars.json_schema(&text)] {
        let Ok(mut constraint) = constraint else { continue };
        for _ in 0..8 {
            let Ok(allowed) = constraint.allowed() else { break };
            let token = allowed.iter().next().expect("a set that is not empty");
            if constraint.is_complete() || constraint.advance(token).is_err() {
                break;
            }
        }
    }
}

/// Any template compiles and renders within its bounds, or is refused.
pub fn chat_template(data: &[u8]) {
    let source = String::from_utf8_lossy(data);
    if let Ok(template) = ChatTemplate::new(&source, "<s>", "</s>") {
        let messages = [Message::new("system", "Be brief."), Message::new("user", "Hello {{ x }}")];
        if let Ok(text) = template.render(&messages, true) {
            assert!(text.len() <= 8 << 20);
        }
    }
}

/// Shapes and weights of the input's choice: every instruction set within the bound of the reference.
pub fn gemm_vs_reference(data: &[u8]) {
    let [format, m, n, blocks, rest @ ..] = data else { return };
    let byte = |i: usize| rest.get(i % rest.len().max(1)).copied().unwrap_or(7);
    let format = Format::ALL[usize::from(*format) % Format::ALL.len()];
    let (m, n) = (usize::from(*m % 9), usize::from(*n % 70));
    let k = usize::from(*blocks % 5) * format.block_len().max(32);
    let row_bytes = format.row_bytes(k).expect("whole blocks");
    let mut weights: Vec<u8> = (0..n * row_bytes).map(|i| byte(i).wrapping_add((i / 251) as u8)).collect();
    // Exponents below 2^-2, so that no scale or float is infinite or NaN.
    match format {
        Format::F32 => weights.iter_mut().skip(3).step_by(4).for_each(|b| *b &= 0xbe),
        Format::F16 | Format::BF16 => weights.iter_mut().skip(1).step_by(2).for_each(|b| *b &= 0xb3),
        _ => {
            for block in weights.chunks_exact_mut(format.block_bytes()) {
                for at in format.scale_offsets() {
                    block[at + 1] &= 0xb3;
                }
            }
        }
    }
    let weights = QuantWeights::from_bytes(format, n, k, row_bytes, &weights).expect("made to fit");
    let x: Vec<f32> = (0..m * k).map(|i| f32::from(byte(i + 11).cast_signed()) / 16.0).collect();
    for kernels in Kernels::every_available() {
        for phase in [Phase::Prompt, Phase::Decode] {
            let mut a = Activations::new(m, k, Forms::EXACT);
            let mut rows = a.begin(m, k).expect("made for it");
            for i in 0..m {
                rows.row_mut(i).copy_from_slice(&x[i * k..][..k]);
            }
            let mut out = vec![0.0_f32; m * n];
            let view = MatMut::new(&mut out, m, n, n).expect("fits");
            kernels
                .matmul(&Team::serial(), phase, &a, &weights, Epilogue::default(), view)
                .expect("shapes fit");
            for i in 0..m {
                let want = gable_kernels::reference::matmul::f32(&x[i * k..][..k], &weights);
                for (j, want) in want.iter().enumerate() {
                    let bound = (k + 4) as f64 * 6e-8 * want.magnitude + 1e-30;
                    let got = f64::from(out[i * n + j]);
                    assert!(
                        (got - want.value).abs() <= bound,
                        "{} {format} {phase:?} [{i}, {j}]",
                        kernels.isa()
                    );
                }
            }
        }
    }
}

/// Finite floats become blocks that mean finite values, no farther off than zeros are but for what is clipped; a NaN or an
/// infinity is refused.
pub fn quantize_roundtrip(data: &[u8]) {
    let [format, weighted, rest @ ..] = data else { return };
    let formats: Vec<Format> = Format::ALL.into_iter().filter(|f| f.can_quantize()).collect();
    let format = formats[usize::from(*format) % formats.len()];
    let x: Vec<f32> = rest.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).cycle().take(256).collect();
    if x.is_empty() {
        return;
    }
    let importance: Option<Vec<f32>> =
        (weighted % 2 == 1).then(|| (0..x.len()).map(|i| f32::from(rest[i % rest.len()])).collect());
    let mut bytes = vec![0; format.row_bytes(x.len()).expect("256 values are whole blocks")];
    let made = quantize_weights(format, &x, importance.as_deref(), &mut bytes);
    assert_eq!(made.is_ok(), x.iter().all(|x| x.is_finite()), "{format}");
    if made.is_err() {
        return;
    }
    let y = gable_kernels::reference::quant::dequantize(format, &bytes);
    assert!(y.iter().all(|y| y.is_finite()), "{format}");
    let largest = x.iter().fold(0.0_f64, |m, x| m.max(f64::from(x.abs())));
    if importance.is_none() && (1e-3..6e4).contains(&largest) {
        let energy = |f: fn(f64, f64) -> f64| {
            x.iter().zip(&y).map(|(x, y)| f(f64::from(*x), f64::from(*y)).powi(2)).sum::<f64>()
        };
        assert!(energy(|x, y| x - y) <= 1.001 * energy(|x, _| x), "{format}");
    }
}
