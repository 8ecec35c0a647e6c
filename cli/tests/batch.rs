//! `gable batch`: the same answers however the work is cut.

mod program;

use program::{Scrap, fails, fixture, gable, output};
use serde_json::{Value, json};
use std::process::Stdio;

fn requests(n: usize) -> String {
    let line = |i: usize| {
        let body = json!({
            "prompt": format!("All of these begin alike, for a while at least. {}", "x".repeat(i * 7 % 40)),
            "max_tokens": 5 + i * 11 % 30,
            "temperature": if i.is_multiple_of(2) { 0.0 } else { 1.0 },
        });
        let record =
            json!({ "custom_id": format!("r{i}"), "method": "POST", "url": "/v1/completions", "body": body });
        format!("{record}\n")
    };
    (0..n).map(line).collect()
}

/// Runs to success and gives the lines of the answers, sorted.
fn answers(input: &Scrap, out: &Scrap, more: &[&str]) -> Vec<String> {
    let model = fixture("llama/model.gguf");
    let args = ["batch", input.path(), out.path(), "-m", &model, "-c", "256", "--ignore-eos"];
    let done = output(&[&args[..], more].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.stdout.is_empty());
    lines(out)
}

fn lines(out: &Scrap) -> Vec<String> {
    let text = std::fs::read_to_string(out.path()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn answers_do_not_depend_on_the_width_on_shards_or_on_a_restart() {
    let input = Scrap::file("batch-in.jsonl", requests(14));
    let whole = answers(&input, &Scrap::new("batch-1.jsonl"), &["-np", "1"]);
    assert_eq!(whole.len(), 14);
    let texts: Vec<Value> = whole.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(texts.iter().all(|a| a["response"]["status_code"] == 200 && a["error"].is_null()));
    let tokens = |a: &Value| a["response"]["body"]["usage"]["completion_tokens"].as_u64();
    let first = texts.iter().find(|a| a["custom_id"] == "r3").unwrap();
    assert_eq!(tokens(first), Some(5 + 33 % 30));
    assert_eq!(first["response"]["body"]["choices"][0]["finish_reason"], "length");

    for width in ["3", "8"] {
        assert_eq!(answers(&input, &Scrap::new(&format!("batch-np{width}.jsonl")), &["-np", width]), whole);
    }
    let mut shards = Vec::new();
    for i in 1..=3 {
        let out = Scrap::new(&format!("batch-shard{i}.jsonl"));
        shards.extend(answers(&input, &out, &["--shard", &format!("{i}/3")]));
    }
    shards.sort();
    assert_eq!(shards, whole);

    // What a machine that lost power leaves: some answers, and half of one.
    let cut = format!("{}\n{}\n{}", whole[9], whole[4], &whole[6][..whole[6].len() / 2]);
    let out = Scrap::file("batch-cut.jsonl", &cut);
    assert_eq!(answers(&input, &out, &["--resume"]), whole);
    let text = std::fs::read_to_string(out.path()).unwrap();
    assert!(text.starts_with(&format!("{}\n{}\n", whole[9], whole[4])), "what was there stays");
    assert_eq!(answers(&input, &out, &["--resume"]), whole, "nothing is left to do");
}

#[test]
fn a_record_that_cannot_be_answered_does_not_stop_the_others() {
    let record = |id: &str, url: &str, body: Value| {
        format!("{}\n", json!({ "custom_id": id, "url": url, "body": body }))
    };
    let completions = "/v1/completions";
    let text = [
        record("url", "/v1/embeddings", json!({})),
        record("long", completions, json!({ "prompt": "word ".repeat(400) })),
        record("tools", completions, json!({ "prompt": "x", "tools": [] })),
        record("hot", completions, json!({ "prompt": "x", "temperature": -1 })),
        record("chat", "/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "x" }] })),
        record("empty", completions, json!(7)),
        record("good", completions, json!({ "prompt": "x", "max_tokens": 3, "stop": ["zzzz"] })),
    ];
    let input = Scrap::file("batch-bad.jsonl", text.concat());
    let answers = answers(&input, &Scrap::new("batch-bad-out.jsonl"), &[]);
    for (id, words) in [
        ("url", "url is \\\"/v1/embeddings\\\""),
        ("long", "do not fit into a context of 256"),
        ("tools", "tools is not supported"),
        ("hot", "temp"),
        ("chat", "base model, no chat template"),
        ("empty", "body is missing or no object"),
    ] {
        let line = answers.iter().find(|l| l.contains(&format!("\"custom_id\":\"{id}\""))).unwrap();
        assert!(line.contains("\"status_code\":400") && line.contains(words), "{line}");
    }
    assert_eq!(answers.iter().filter(|l| l.contains("\"status_code\":200")).count(), 1);
}

#[test]
fn files_that_would_be_lost_or_make_no_sense_are_refused() {
    let model = fixture("llama/model.gguf");
    let input = Scrap::file("batch-refused.jsonl", requests(1));
    let run = |input: &str, out: &str, more: &[&str]| {
        [&["batch", input, out, "-m", &model][..], more]
            .concat()
            .iter()
            .map(|s| (*s).to_owned())
            .collect::<Vec<_>>()
    };
    let refused = |args: Vec<String>, code: i32, words: &[&str]| {
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), code, words);
    };
    let there = Scrap::file("batch-there.jsonl", "{\"custom_id\":\"a\"}\n");
    refused(run(input.path(), there.path(), &[]), 1, &["is there and has answers", "--resume"]);
    refused(run(input.path(), input.path(), &["--resume"]), 1, &["is the input itself"]);
    let foreign = Scrap::file("batch-foreign.jsonl", "a poem\nand more\n");
    refused(run(input.path(), foreign.path(), &["--resume"]), 1, &["line 1", "no answer"]);
    assert_eq!(std::fs::read_to_string(foreign.path()).unwrap(), "a poem\nand more\n");
    refused(run("/nonexistent/in.jsonl", there.path(), &[]), 1, &["/nonexistent/in.jsonl"]);
    refused(run(input.path(), there.path(), &["--shard", "3/2"]), 2, &["1/4"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_130_and_leaves_whole_answers() {
    let model = fixture("llama/model.gguf");
    let input = Scrap::file("batch-stop.jsonl", requests(3000));
    let out = Scrap::new("batch-stop-out.jsonl");
    let args = ["batch", input.path(), out.path(), "-m", &model, "-c", "256", "--ignore-eos", "-np", "4"];
    let child = gable(&args).stderr(Stdio::piped()).spawn().unwrap();
    let some = || std::fs::metadata(out.path()).is_ok_and(|m| m.len() > 0);
    while !some() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let stopped = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(130), "{err}");
    assert!(err.contains("--resume"), "{err}");
    let before = lines(&out);
    assert!(!before.is_empty() && before.len() < 3000, "{}", before.len());
    assert!(before.iter().all(|l| serde_json::from_str::<Value>(l).is_ok()), "whole lines only");
}
