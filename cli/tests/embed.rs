//! `gable embed` as a user has it, on the tiny encoder of the model crate's fixtures.

mod program;

use program::{Scrap, failed, fails, fixture, golden, output, stdout, talk};
use serde_json::Value;

fn model() -> String {
    fixture("bert/hf")
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn texts_lines_of_a_file_and_of_stdin_give_the_same_vectors() {
    let model = model();
    let embed = |rest: &[&str]| stdout(&[&["embed", "-m", &model, "--json"], rest].concat());
    let texts = embed(&["the cat", "hello, world!"]);
    let found = lines(&texts);
    assert_eq!(found.iter().map(|line| line["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(found[0]["tokens"], 4);
    for line in &found {
        let vector = numbers(&line["embedding"]);
        assert_eq!(vector.len(), 32);
        assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    let file = Scrap::file("texts.txt", "the cat\nhello, world!\n");
    assert_eq!(embed(&["-f", file.path()]), texts);
    let piped = talk(&["embed", "-m", &model, "--json"], "the cat\nhello, world!\n");
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), texts);
    assert_eq!(embed(&["-p", "the cat"]), format!("{}\n", texts.lines().next().unwrap()));
}

#[test]
fn numbers_json_and_npy_say_the_same() {
    let model = model();
    let args = ["embed", "-m", &model, "--pooling", "cls", "--no-normalize", "the cat", "on the mat"];
    let plain: Vec<f32> = stdout(&args).split_whitespace().map(|x| x.parse().unwrap()).collect();
    assert_eq!(plain.len(), 2 * 32);
    assert!((plain[..32].iter().map(|x| x * x).sum::<f32>() - 1.0).abs() > 1e-3, "not normalised");
    let json = lines(&stdout(&[&args[..], &["--json"]].concat()));
    let json: Vec<f32> = json.iter().flat_map(|line| numbers(&line["embedding"])).collect();
    assert_eq!(json, plain);
    let file = Scrap::new("vectors.npy");
    assert_eq!(stdout(&[&args[..], &["-o", file.path()]].concat()), "");
    let bytes = std::fs::read(file.path()).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(String::from_utf8_lossy(&bytes[..header]).contains("'shape': (2, 32)"));
    assert_eq!(npy(file.path()), plain);
}

#[test]
fn texts_that_are_too_long_are_an_error_or_cut_if_asked_for() {
    let model = model();
    let long = "the ".repeat(80);
    fails(&["embed", "-m", &model, "ok", &long], 2, &["text 2 has 82 tokens", "room for 64", "--truncate"]);
    let cut = output(&["embed", "-m", &model, "--truncate", "--json", &long]);
    assert!(String::from_utf8_lossy(&cut.stderr).contains("1 of 1 texts were cut to 64 tokens"));
    let shorter = stdout(&["embed", "-m", &model, "--json", &"the ".repeat(62)]);
    assert_eq!(String::from_utf8(cut.stdout).unwrap(), shorter, "the token that ends a text stays");
    failed(&talk(&["embed", "-m", &model], ""), 2, &["no text"]);
}

#[test]
fn an_encoder_does_not_generate_and_a_decoder_can_be_embedded() {
    let model = model();
    fails(&["run", "-m", &model, "the cat"], 1, &["bert models are encoders", "gable embed"]);
    let decoder = fixture("qwen2/model.gguf");
    let found = lines(&stdout(&["embed", "-m", &decoder, "--json", "the cat"]));
    assert_eq!(numbers(&found[0]["embedding"]).len(), 32);
}

#[test]
fn a_real_model_gives_the_vectors_of_its_own_package() {
    let file = Scrap::new("minilm.npy");
    let texts = golden("minilm-texts.txt");
    for numerics in ["fast", "exact"] {
        stdout(&["embed", "-m", "minilm", "-f", &texts, "-o", file.path(), "--numerics", numerics]);
        let (got, want) = (npy(file.path()), npy(&golden("minilm.npy")));
        assert_eq!(got.len(), 14 * 384);
        for (i, (got, want)) in got.chunks(384).zip(want.chunks(384)).enumerate() {
            let cosine: f32 = got.iter().zip(want).map(|(a, b)| a * b).sum();
            assert!(cosine > 0.9999, "{numerics}, line {}: cosine {cosine}", i + 1);
        }
    }
}

/// The f32 values of a .npy file.
fn npy(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
