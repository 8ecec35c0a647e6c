//! The measuring commands as a user has them. Models are those of `gable pull`, read from the cache.

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/golden").join(name)
}

fn gable(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_gable"))
        .args(args)
        .env_remove("GABLE_MODEL")
        .env_remove("GABLE_THREADS")
        .env_remove("GABLE_NUMERICS")
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&gable(args)).unwrap()
}

fn smollm2() -> Value {
    let text = std::fs::read_to_string(golden("smollm2-135m-instruct-q4_1.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn tokenize_gives_the_golden_ids() {
    for case in smollm2()["tokenize"].as_array().unwrap() {
        let found = json(&[
            "tokenize",
            "-m",
            "smollm2",
            "--json",
            "--parse-special",
            "--",
            case["text"].as_str().unwrap(),
        ]);
        assert_eq!(found["ids"], case["ids"], "{case}");
    }
}

#[test]
fn a_file_with_only_a_vocabulary_is_enough_for_tokenize() {
    let file = golden("tokenizer/ggml-vocab-llama-bpe.gguf");
    let found = json(&["tokenize", "-m", file.to_str().unwrap(), "--no-bos", "--json", "hello world"]);
    assert_eq!(found["ids"], serde_json::json!([15339, 1917]));
}

#[test]
fn logits_agree_with_the_golden_prompt_about_the_next_token() {
    let golden = smollm2();
    let prompt = &golden["prompts"][0];
    let found = json(&["logits", "-m", "smollm2", prompt["text"].as_str().unwrap()]);
    assert_eq!(found["ids"], prompt["ids"]);
    assert_eq!(found["top"][0]["id"], prompt["top20_ids"][0]);
    assert_eq!(found["top"].as_array().unwrap().len(), 20);
}

#[test]
fn bench_prints_llama_benchs_table_and_json() {
    let args = ["bench", "-m", "smollm2", "-p", "32", "-n", "4", "-r", "1"];
    let found = json(&[&args[..], &["-o", "json"]].concat());
    let tests: Vec<_> = found.as_array().unwrap().iter().map(|t| (&t["n_prompt"], &t["n_gen"])).collect();
    assert_eq!(tests, [(&Value::from(32), &Value::from(0)), (&Value::from(0), &Value::from(4))]);
    assert!(found[0]["avg_ts"].as_f64().unwrap() > 0.0);
    assert_eq!(found[0]["model_type"], "llama 135M Q4_1");
    let table = gable(&args);
    let columns: Vec<&str> = table.lines().next().unwrap().split('|').map(str::trim).collect();
    assert_eq!(columns, ["", "model", "size", "params", "backend", "threads", "test", "t/s", ""]);
    assert!(table.contains(" pp32 |") && table.contains(" tg4 |"), "{table}");
}

#[test]
fn fast_numerics_stay_close_to_exact_ones() {
    let file = golden("passage.txt");
    let args = ["perplexity", "-m", "smollm2", "-f", file.to_str().unwrap(), "--whole", "--tokens", "96"];
    let found = json(&[&args[..], &["--vs", "exact", "--json"]].concat());
    assert_eq!(found["scored"], 95);
    let kl = found["kl_mean"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.02, "{found}");
}

#[test]
fn inspect_counts_the_tensors() {
    let found = json(&["inspect", "-m", "smollm2", "--json"]);
    assert_eq!(found["tensors"].as_array().unwrap().len(), 272);
    assert_eq!(found["tied_embedding"], true);
}
