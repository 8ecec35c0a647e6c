//! `gable perplexity` and `gable score` as a user has them, on tiny checkpoints and on models of `gable pull`.

mod program;

use gable_model::gguf::writer::GgufWriter;
use gable_model::model::{Model, OpenOptions};
use program::{Scrap, fails, fixture, golden, json, output, stdout};
use std::path::Path;

fn text() -> String {
    golden("passage.txt")
}

/// The tiny Llama as a file with some tensors changed by `change`, which may also give them another type's bytes.
fn changed(name: &str, change: impl Fn(&str, &mut [u8])) -> Scrap {
    let model = Model::open(Path::new(&fixture("llama/model.gguf")), &OpenOptions::default()).unwrap();
    let mut header = GgufWriter::new();
    let metadata = model.gguf().unwrap().metadata();
    for (key, value) in metadata.iter().filter(|(key, _)| *key != "general.alignment") {
        header.set_value(key, value).unwrap();
    }
    let tensors = model.files().tensors();
    let mut data: Vec<Vec<u8>> = Vec::new();
    for tensor in tensors {
        let dims: Vec<u64> = tensor.dims.iter().map(|&d| d as u64).collect();
        header.declare(&tensor.name, &dims, tensor.format).unwrap();
        let mut bytes = model.files().bytes(tensor).to_vec();
        change(&tensor.name, &mut bytes);
        data.push(bytes);
    }
    let slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    Scrap::file(name, header.to_vec(&slices).unwrap())
}

/// Multiplies f32 values.
fn scale(bytes: &mut [u8], factor: f32) {
    for chunk in bytes.as_chunks_mut::<4>().0 {
        *chunk = (f32::from_le_bytes(*chunk) * factor).to_le_bytes();
    }
}

#[test]
fn the_running_estimate_is_that_of_the_chunks_so_far_and_the_last_is_final() {
    let model = fixture("llama/model.gguf");
    let args = ["perplexity", "-m", &model, "-f", &text(), "-c", "32"];
    let all = stdout(&[&args[..], &["--chunks", "3"]].concat());
    let mut lines = all.lines();
    let running: Vec<&str> = lines.next().unwrap().split_terminator(',').collect();
    assert_eq!(running.len(), 3);
    let two = stdout(&[&args[..], &["--chunks", "2"]].concat());
    assert!(two.starts_with(&format!("{},{},\n", running[0], running[1])), "{two} {all}");
    let last = running[2].strip_prefix("[3]").unwrap();
    assert!(lines.next().unwrap().starts_with(&format!("Final estimate: PPL = {last} +/- ")), "{all}");
    // 15 of 31 positions with a successor lie in the second half of a chunk of 32.
    let found = json(&[&args[..], &["--chunks", "3", "--json"]].concat());
    assert_eq!((&found["scored"], &found["chunks"]), (&45.into(), &3.into()));
    let (ppl, per_byte) = (found["ppl"].as_f64().unwrap(), found["ppl_per_byte"].as_f64().unwrap());
    let bytes = found["bytes"].as_f64().unwrap();
    assert!((ppl.ln() * 45.0 - per_byte.ln() * bytes).abs() < 1e-6 && bytes >= 45.0, "{found}");
}

#[test]
fn a_stride_scores_the_same_tokens_with_more_context() {
    let args = ["perplexity", "-m", "smollm2", "-f", &text(), "-c", "64", "--tokens", "256", "--json"];
    let plain = json(&args);
    let strided = json(&[&args[..], &["--ppl-stride", "16"]].concat());
    assert_eq!((&plain["scored"], &strided["n_ctx"]), (&124.into(), &72.into()));
    assert_eq!(strided["scored"].as_u64().unwrap(), strided["chunks"].as_u64().unwrap() * 16);
    assert!(strided["ppl"].as_f64().unwrap() < plain["ppl"].as_f64().unwrap(), "{strided} {plain}");
}

#[test]
fn a_model_does_not_differ_from_itself() {
    let model = fixture("llama/model.gguf");
    let args = ["perplexity", "-m", &model, "--vs", &model, "-f", &text(), "-c", "32", "--chunks", "2"];
    let found = json(&[&args[..], &["--json"]].concat());
    assert!(found["kl_max"].as_f64().unwrap().abs() < 1e-9, "{found}");
    assert_eq!((&found["top1_agreement"], &found["delta_p_max"]), (&1.0.into(), &0.0.into()));
    assert_eq!(found["ppl"], found["ppl_base"]);
}

#[test]
fn blame_names_the_tensor_that_was_changed_and_no_other() {
    let base = fixture("llama/model.gguf");
    let ours = changed("blamed", |name, bytes| match name {
        "blk.0.ffn_down.weight" => scale(bytes, 1.5),
        "blk.1.attn_q.weight" => scale(bytes, 1.01),
        _ => {}
    });
    let args = ["perplexity", "-m", ours.path(), "--vs", &base, "-f", &text(), "-c", "32", "--blame"];
    let found = json(&[&args[..], &["--json"]].concat());
    let blame = found["blame"].as_array().unwrap();
    let names: Vec<_> = blame.iter().map(|b| b["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["blk.0.ffn_down.weight", "blk.1.attn_q.weight"], "{found}");
    assert!(blame.iter().all(|b| b["kl"].as_f64().unwrap() > 0.0));
    // The model as a whole is about as far away as its pieces together.
    let whole = json(&[&args[..args.len() - 1], &["--chunks", "1", "--json"]].concat());
    let (whole, sum) = (whole["kl_mean"].as_f64().unwrap(), found["kl_sum"].as_f64().unwrap());
    assert!(whole < 2.0 * sum && sum < 2.0 * whole, "{whole} {sum}");
}

#[test]
fn narrow_activations_stay_within_their_divergence_from_the_exact_model() {
    for (model, fast, precise) in [("smollm2", 0.0055, 0.0006), ("gemma3", 0.012, 0.0006)] {
        for (numerics, most) in [("fast", fast), ("precise", precise)] {
            let from_exact = [
                "perplexity",
                "-m",
                model,
                "-f",
                &text(),
                "-c",
                "512",
                "--chunks",
                "1",
                "--vs",
                "exact",
                "--json",
            ];
            let found = json(&[&from_exact[..], &["--numerics", numerics]].concat());
            let kl = found["kl_mean"].as_f64().unwrap();
            assert!(kl > 0.0 && kl <= most, "{model} {numerics}: {kl}");
        }
    }
}

#[test]
fn blame_against_exact_numbers_ranks_every_input_of_quantized_layers() {
    let args =
        ["perplexity", "-m", "smollm2", "--vs", "exact", "-f", &text(), "-c", "16", "--blame", "--json"];
    let found = json(&args);
    let blame = found["blame"].as_array().unwrap();
    // Four inputs in each of 30 layers, and that of the unembedding.
    assert_eq!(blame.len(), 121);
    let per_mib: Vec<f64> = blame.iter().map(|b| b["kl_per_mib"].as_f64().unwrap()).collect();
    assert!(per_mib.is_sorted_by(|a, b| a >= b) && per_mib.iter().all(|x| *x > 0.0), "{per_mib:?}");
    assert!(blame.iter().any(|b| b["name"] == "token_embd.weight"));
    // Q, K and V share their input.
    assert!(blame.iter().all(|b| !b["name"].as_str().unwrap().contains("attn_k")));
}

#[test]
fn models_of_other_vocabularies_and_short_texts_are_refused() {
    let model = fixture("llama/model.gguf");
    let with = |more: &[&str]| [&["perplexity", "-f", &text(), "-m", &model], more].concat().join("\n");
    let run = |more: &[&str], code, words: &[&str]| {
        fails(&with(more).split('\n').collect::<Vec<_>>(), code, words);
    };
    run(&["--vs", "smollm2", "-c", "32"], 2, &["288", "49152", "vocabulary"]);
    run(&["--vs", "no-such-model"], 1, &["no-such-model"]);
    run(&["-c", "64", "--tokens", "100"], 1, &["100 tokens", "at least 128"]);
    run(&["--blame"], 2, &["--vs"]);
    run(&["--kl-divergence-base", "logits.kld"], 2, &["--vs BASE.gguf"]);
    run(&["--ppl-output-type", "2"], 2, &["0 to 1"]);
}

#[test]
fn scores_of_choices_are_the_log_probabilities_that_the_text_has() {
    let (prompt, choices) = ("The capital of France is", [" Paris", " a banana"]);
    let found = json(&["score", "-m", "smollm2", "--tokens", "-p", prompt, choices[0], choices[1]]);
    assert_eq!((&found["best"], &found["best_per_byte"]), (&0.into(), &0.into()), "{found}");
    // What the whole text has more than the prompt alone is what the choice has.
    let input = format!("{{\"id\":7,\"text\":\"{prompt}{}\"}}\n{{\"text\":\"{prompt}\"}}\n", choices[1]);
    let file = Scrap::file("score.jsonl", input);
    let lines = stdout(&["score", "-m", "smollm2", "--numerics", "exact", "--strict", "-f", file.path()]);
    let lines: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["id"], 7);
    let logprob = |value: &serde_json::Value| value["logprob"].as_f64().unwrap();
    let exact =
        ["score", "-m", "smollm2", "--numerics", "exact", "--strict", "-p", prompt, choices[0], choices[1]];
    let choice = json(&exact)["choices"][1].clone();
    assert!((logprob(&lines[0]) - logprob(&lines[1]) - logprob(&choice)).abs() < 1e-4, "{lines:?} {choice}");
    let tokens = found["choices"][1]["token_logprobs"].as_array().unwrap();
    assert!((tokens.iter().map(logprob).sum::<f64>() - logprob(&found["choices"][1])).abs() < 1e-9);
}

#[test]
fn lines_that_are_no_task_are_named() {
    for (line, word) in
        [("{", "JSON"), ("[1]", "object"), ("{\"prompt\":\"a\"}", "choices"), ("{\"text\":1}", "forms")]
    {
        let file = Scrap::file("bad.jsonl", format!("{{\"text\":\"a b c\"}}\n{line}\n"));
        fails(&["score", "-m", "smollm2", "-f", file.path()], 1, &["line 2", word]);
    }
    fails(&["score", "-m", "smollm2"], 2, &["no text"]);
}

#[test]
fn a_run_as_json_holds_the_text_that_is_printed_otherwise() {
    let run = ["run", "-m", "smollm2", "--temp", "0", "-n", "5", "The capital of France is"];
    let shown = stdout(&run);
    let found: serde_json::Value = serde_json::from_str(&stdout(&[&run[..], &["--json"]].concat())).unwrap();
    let (prompt, text) = (found["prompt"].as_str().unwrap(), found["text"].as_str().unwrap());
    assert_eq!(shown.trim_end(), format!("{prompt}{text}").trim_end());
    assert_eq!((&found["stop"], &found["generated_tokens"]), (&"MaxTokens".into(), &5.into()));
}

#[test]
fn logprobs_of_a_greedy_run_are_those_of_its_most_likely_tokens() {
    let prompt = "My teacher was Professor";
    let lines = stdout(&["run", "-m", "smollm2", "--temp", "0", "-n", "4", "--logprobs", "2", prompt]);
    let lines: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for line in &lines {
        assert_eq!(
            (&line["id"], line["top"].as_array().unwrap().len()),
            (&line["top"][0]["id"], 2),
            "{line}"
        );
        assert!(line["logprob"].as_f64().unwrap() >= line["top"][1]["logprob"].as_f64().unwrap());
    }
    let text: String = lines.iter().map(|l| l["piece"].as_str().unwrap()).collect();
    let plain = output(&["run", "-m", "smollm2", "--temp", "0", "-n", "4", "--no-display-prompt", prompt]);
    assert_eq!(String::from_utf8(plain.stdout).unwrap(), format!("{text}\n"));
    let first = &json(&["logits", "-m", "smollm2", prompt])["top"][0];
    assert_eq!(lines[0]["id"], first["id"]);
    assert!((lines[0]["logprob"].as_f64().unwrap() - first["logprob"].as_f64().unwrap()).abs() < 1e-9);
}
