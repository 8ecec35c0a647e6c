//! The measuring commands as a user has them. Models are those of `gable pull`, read from the cache.

mod program;

use program::{failed, fails, fixture, gable, golden, json, output, snapshot, stdout};
use serde_json::Value;
use std::process::Stdio;

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
    let found = json(&["tokenize", "-m", &file, "--no-bos", "--json", "hello world"]);
    assert_eq!(found["ids"], serde_json::json!([15339, 1917]));
}

#[test]
fn logits_agree_with_the_golden_prompt_about_the_next_token() {
    let golden = smollm2();
    let prompt = &golden["prompts"][0];
    let found = json(&["logits", "-m", "smollm2", prompt["text"].as_str().unwrap()]);
    assert_eq!(found["ids"], prompt["ids"]);
    assert_eq!(found["top"][0]["id"], prompt["top20_ids"][0]);
    let top = found["top"].as_array().unwrap();
    assert_eq!(top.len(), 20);
    // Raw scores differ from log-probabilities by one number, the logarithm of their sum.
    let number = |t: &Value, key: &str| t[key].as_f64().unwrap();
    let sum = number(&top[0], "logit") - number(&top[0], "logprob");
    assert!(top.iter().all(|t| (number(t, "logit") - number(t, "logprob") - sum).abs() < 1e-4) && sum > 1.0);
}

#[test]
fn bench_prints_llama_benchs_table_and_json() {
    let args = ["bench", "-m", "smollm2", "-p", "32", "-n", "4", "-r", "1"];
    let found = json(&[&args[..], &["-o", "json"]].concat());
    let tests: Vec<_> = found.as_array().unwrap().iter().map(|t| (&t["n_prompt"], &t["n_gen"])).collect();
    assert_eq!(tests, [(&Value::from(32), &Value::from(0)), (&Value::from(0), &Value::from(4))]);
    assert!(found[0]["avg_ts"].as_f64().unwrap() > 0.0);
    assert_eq!(found[0]["model_type"], "llama 135M Q4_1");
    let table = stdout(&args);
    let columns: Vec<&str> = table.lines().next().unwrap().split('|').map(str::trim).collect();
    assert_eq!(columns, ["", "model", "size", "params", "backend", "threads", "test", "t/s", ""]);
    assert!(table.contains(" pp32 |") && table.contains(" tg4 |"), "{table}");
}

#[test]
fn fast_numerics_stay_close_to_exact_ones() {
    let file = golden("passage.txt");
    let args = ["perplexity", "-m", "smollm2", "-f", &file, "--whole", "--tokens", "96"];
    let found = json(&[&args[..], &["--vs", "exact", "--json"]].concat());
    assert_eq!(found["scored"], 95);
    let kl = found["kl_mean"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.02, "{found}");
}

#[test]
fn pull_says_in_json_where_a_model_is() {
    let lines = stdout(&["pull", "--list", "--json"]);
    let models: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let smollm2 = models.iter().find(|m| m["id"] == "smollm2").unwrap();
    assert_eq!((&smollm2["present"], &smollm2["licence"]), (&true.into(), &"Apache-2.0".into()));
    assert_eq!(&json(&["pull", "smollm2", "--json"]), smollm2, "what is there is not fetched again");
    assert_eq!(stdout(&["pull", "smollm2"]).trim_end(), smollm2["path"]);
}

#[test]
fn inspect_counts_the_tensors() {
    let found = json(&["inspect", "-m", "smollm2", "--json"]);
    assert_eq!(found["tensors"].as_array().unwrap().len(), 272);
    assert_eq!(found["tied_embedding"], true);
    let split = found["parameter_split"].as_object().unwrap();
    let sum: u64 = split.values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(
        (sum, &split["q"], &split["k"]),
        (134_515_008, &(30 * 576 * 576).into(), &(30 * 576 * 192).into())
    );
    assert_eq!((&found["context"], &found["cache_bytes_per_token"]), (&8192.into(), &23_040.into()));
}

#[test]
fn inspect_says_where_the_parameters_are_and_how_far_layers_see() {
    let small = stdout(&["inspect", "-m", "smollm2"]);
    for line in [
        "W_E               49152 x 576 = 28.31 M of 134.52 M, Q8_0, 28.69 MiB",
        "W_U               W_E again (tied)",
        "23040 bytes per token",
        "every layer sees all positions",
    ] {
        assert!(small.contains(line), "{line}: {small}");
    }
    let gemma = stdout(&["inspect", "-m", "gemma3"]);
    assert!(
        gemma.contains("context           32768 tokens")
            && gemma.contains("15 of 18 layers see 512 positions")
    );
    let untied = stdout(&["inspect", "-m", &fixture("llama/model.gguf")]);
    assert!(untied.contains("W_U               288 x "), "{untied}");
}

#[test]
fn explain_shows_a_kernel_for_every_matrix_and_why() {
    let found = json(&["explain", "-m", "gemma3", "--json", "-t", "3"]);
    let matmuls = found["matmuls"].as_array().unwrap();
    assert_eq!((matmuls.len(), &found["threads"]), (18 * 7 + 1, &3.into()));
    let isa = found["isa"].as_str().unwrap();
    for m in matmuls {
        let kernel = |phase: &str| m[phase]["kernel"].as_str().unwrap().to_owned();
        assert!(kernel("prompt").starts_with("gemm_int8_") && kernel("prompt").ends_with(isa), "{m}");
        assert_eq!(kernel("decode"), format!("gemv_int8_{isa}"), "{m}");
        assert!(m["why"].as_str().unwrap().contains("int8"));
    }
    let exact = stdout(&["explain", "-m", "gemma3", "--numerics", "exact"]);
    assert!(
        exact.contains("gemm_f32_") && !exact.contains("int8") && exact.contains("append_f32"),
        "{exact}"
    );
    assert!(exact.contains("15 of 18 layers see 512 positions"), "{exact}");
    // Tensors that differ in their layer alone are one row.
    assert!(exact.contains("blk.*.attn_q.weight (18 tensors): Q5_0, 1024 x 640"), "{exact}");
}

#[test]
fn explain_says_that_an_instruction_set_was_asked_for() {
    let output = gable(&["explain"]).env("GABLE_ISA", "portable").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("isa portable: GABLE_ISA asks for it; this CPU has") || !text.contains("avx"),
        "{text}"
    );
    assert!(text.contains("gemm_int8_2x16_portable"), "{text}");
    // On one instruction set a table of it is the same everywhere, but for the line about the CPU.
    let model = fixture("gpt2/model.gguf");
    let output = gable(&["explain", "-m", &model, "-t", "2"]).env("GABLE_ISA", "portable").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("isa ")).collect();
    snapshot("explain-gpt2-portable", &(lines.join("\n") + "\n"));
}

#[test]
fn selftest_checks_every_instruction_set_and_many_threads() {
    let text = stdout(&["selftest", "--quick", "--json", "-t", "3"]);
    let checks: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(checks.iter().all(|c| c["passed"] == true && c["failure"].is_null()), "{text}");
    let of = |kernel: &str| checks.iter().filter(|c| c["kernel"] == kernel).count();
    let isas = gable_kernels::Kernels::every_available().count();
    assert_eq!((of("many threads"), of("attention, f16 cache")), (isas, isas));
    let one = stdout(&["selftest", "--quick", "-t", "1"]);
    assert!(!one.contains("many threads") && one.ends_with(" 0 wrong; 1 and 1 threads\n"), "{one}");
}

#[test]
fn a_reader_who_leaves_does_not_disturb_a_table() {
    for args in [&["explain", "-m", "smollm2"][..], &["selftest", "--quick"], &["completions", "bash"]] {
        let mut child = gable(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success() && !err.contains("panicked") && !err.contains("error"),
            "{args:?}: {err}"
        );
    }
}

#[test]
fn doctor_says_the_same_in_lines_and_in_json() {
    let text = stdout(&["doctor", "--no-bandwidth"]);
    let found = json(&["doctor", "--no-bandwidth", "--json"]);
    let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim().to_owned();
    assert_eq!(found["cpu"], value("cpu "));
    assert!(value("isa ").starts_with(found["isa"].as_str().unwrap()), "{text}");
    assert!(value("threads ").starts_with(&found["threads"].to_string()), "{text}");
    assert_eq!(found["models"]["smollm2"], true);
    assert!(found.get("read_gb_s").is_none());
}

#[test]
fn doctor_explains_how_a_product_is_computed_and_why() {
    let isa = json(&["doctor", "--no-bandwidth", "--json"])["isa"].as_str().unwrap().to_owned();
    let small = stdout(&["doctor", "--explain", "4", "64", "32", "-t", "3"]);
    for words in
        ["[4 x 32] [32 x 64], f32, 3 threads", "serially", "fewer than 8192", "streamed", "gemv_f32_"]
    {
        assert!(small.contains(words), "{words}: {small}");
    }
    let large = json(&["doctor", "--explain", "512", "2048", "1024", "--type", "bf16", "-t", "2", "--json"]);
    let packed = &large["ways"]["packed"];
    assert_eq!((&packed["threads"], &packed["path"]), (&2.into(), &"bf16".into()), "{large}");
    assert!(packed["kernel"].as_str().unwrap().ends_with(&isa) && large["ways"].get("streamed").is_none());
    assert!(packed["steps"].as_u64() >= packed["serial_below"].as_u64(), "{large}");
    let blocks = json(&["doctor", "--explain", "128", "1536", "512", "--type", "q4_k", "-t", "2", "--json"]);
    let ways = &blocks["ways"];
    assert_eq!((&blocks["type"], &ways["decode"]["tile"]), (&"Q4_K".into(), &Value::Null), "{blocks}");
    assert_eq!((&ways["prompt"]["path"], &ways["exact"]["path"]), (&"int8".into(), &"f32".into()));
    assert_eq!(ways["prompt"]["parts"], 1536 / ways["prompt"]["unit"].as_u64().unwrap());
}

#[test]
fn doctor_says_why_a_product_cannot_be() {
    let explain = |rest: &[&str]| output(&[&["doctor", "--explain"], rest].concat());
    for (args, words) in [
        (&["1", "2", "100", "--type", "Q4_K"][..], "Q4_K: K is 100, wanted a multiple of 256"),
        (&["1", "2", "131072", "--type", "int8"], "int8: K is 131072, at most 131071"),
        (&["1", "2", "3", "--type", "f64"], "there are f32, f16, bf16, int8, Q4_0"),
        (&["1", "2"], "3 values required"),
        (&["0", "2", "3"], "allowed: 1 to"),
    ] {
        failed(&explain(args), 2, &[words]);
    }
    // These only make sense with it.
    fails(&["doctor", "--type", "f16"], 2, &["--explain"]);
    assert_eq!(stdout(&["doctor", "--explain", "1", "1", "131071", "--type", "int8"]).lines().count(), 5);
}
