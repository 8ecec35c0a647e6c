//! What scripts written for llama.cpp's tools do with their output, done with ours.
#![cfg(unix)]

mod program;

use program::{fixture, golden, json, output, stdout};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

/// What a shell pipeline makes of `input`.
fn pipe(script: &str, input: &str) -> String {
    let mut child =
        Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

const BENCH: [&str; 13] =
    ["bench", "-m", "synthetic:tiny:q4_0", "-p", "16", "-n", "4", "-d", "0,8", "-r", "2", "-t", "1"];

#[test]
fn awk_finds_test_and_speed_in_their_columns() {
    let text = stdout(&BENCH);
    let rows = "awk -F'|' 'NR > 2 && NF > 2 { gsub(/^ +| +$/, \"\", $7); split($8, s, \"±\"); print $7 \";\" s[1] + 0 }'";
    let found = pipe(rows, &text);
    let tests: Vec<&str> = found.lines().map(|line| line.split(';').next().unwrap()).collect();
    assert_eq!(tests, ["pp16", "tg4", "pp16 @ d8", "tg4 @ d8"]);
    for line in found.lines() {
        assert!(line.split(';').nth(1).unwrap().parse::<f64>().unwrap() > 0.0, "{line}");
    }
    // Every line of the table is as wide as the first, counted in characters.
    let widths: Vec<usize> = text.lines().filter(|l| l.starts_with('|')).map(|l| l.chars().count()).collect();
    assert!(widths.len() == 6 && widths.iter().all(|w| *w == widths[0]), "{text}");
    assert_eq!(pipe("grep -cE '^build: [0-9a-f.]+ \\([0-9]+\\)$'", &text), "1");
    assert_eq!(pipe("grep -oE '[0-9.]+ (MiB|GiB) ' | sort -u | wc -l", &text), "1");
}

/// llama-bench's keys, in its order.
const KEYS: [&str; 44] = [
    "build_commit",
    "build_number",
    "cpu_info",
    "gpu_info",
    "backends",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_batch",
    "n_ubatch",
    "n_threads",
    "cpu_mask",
    "cpu_strict",
    "poll",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "n_cpu_moe",
    "split_mode",
    "main_gpu",
    "no_kv_offload",
    "flash_attn",
    "devices",
    "tensor_split",
    "tensor_buft_overrides",
    "use_mmap",
    "use_direct_io",
    "embeddings",
    "no_op_offload",
    "no_host",
    "repack",
    "fit_target",
    "fit_min_ctx",
    "n_prompt",
    "n_gen",
    "n_depth",
    "test_time",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
    "samples_ns",
    "samples_ts",
];

#[test]
fn json_keys_come_in_llama_benchs_order_and_ours_behind() {
    let text = stdout(&[&BENCH[..], &["-o", "json"]].concat());
    let keys = pipe("grep -oE '^ +\"[a-z0-9_]+\":' | tr -d ' \":'", &text);
    let keys: Vec<&str> = keys.lines().collect();
    assert_eq!(keys[..KEYS.len()], KEYS);
    assert_eq!(keys.len() % 4, 0, "four tests");
    assert!(keys.len() / 4 > KEYS.len() && keys[keys.len() / 4] == "build_commit");
    let rows: Value = serde_json::from_str(&text).unwrap();
    assert!(rows[0]["cpu_strict"] == false && rows[0]["use_mmap"] == true && rows[0]["avg_ns"].is_u64());
    let time = rows[0]["test_time"].as_str().unwrap();
    assert_eq!(pipe("grep -cE '^20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-9:]{8}Z$'", time), "1");
    // A line is the same object.
    let lines = stdout(&[&BENCH[..], &["-o", "jsonl"]].concat());
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let names = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((lines.lines().count(), names(&first)), (4, names(&rows[0])));
}

#[test]
fn csv_and_sql_have_the_same_fields_without_the_samples() {
    let csv = stdout(&[&BENCH[..], &["-o", "csv"]].concat());
    let head: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let scalars: Vec<&str> = KEYS.into_iter().filter(|key| !key.starts_with("samples")).collect();
    assert_eq!(head[..scalars.len()], scalars);
    // The way cut and sed take it apart: every value stands in quotes.
    let speeds = format!("tail -n +2 | sed 's/^\"//; s/\",\"/;/g' | cut -d';' -f{}", scalars.len() - 1);
    for speed in pipe(&speeds, &csv).lines() {
        assert!(speed.parse::<f64>().unwrap() > 0.0, "{speed}");
    }
    let sql = stdout(&[&BENCH[..], &["-o", "sql"]].concat());
    assert_eq!(pipe("grep -c 'INSERT INTO llama_bench (build_commit, build_number, '", &sql), "4");
    let columns =
        pipe("sed -n '/CREATE TABLE IF NOT EXISTS llama_bench (/,/^);/p' | awk 'NF == 2 { print $1 }'", &sql);
    assert_eq!(columns.lines().collect::<Vec<_>>(), head);
    assert_eq!(
        pipe("grep -E '^  (avg_ts REAL|n_prompt INTEGER|use_mmap INTEGER|type_k TEXT),$' | wc -l", &sql),
        "4"
    );
}

fn perplexity(more: &[&str]) -> Vec<String> {
    let (model, text) = (fixture("llama/model.gguf"), golden("passage.txt"));
    let args = ["perplexity", "-m", &model, "-f", &text, "-c", "64", "--chunks", "8"];
    args.iter().chain(more).map(|s| (*s).to_owned()).collect()
}

#[test]
fn grep_and_sed_find_the_final_estimate_and_the_chunks() {
    let args = perplexity(&[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = output(&args);
    let both = [out.stdout.clone(), out.stderr].concat();
    let both = String::from_utf8(both).unwrap();
    let ppl = pipe("sed -nE 's/.*Final estimate: PPL = ([0-9.]+) \\+\\/- ([0-9.]+)$/\\1 \\2/p'", &both);
    let (ppl, error) = ppl.split_once(' ').unwrap();
    assert_eq!((ppl.split('.').nth(1).unwrap().len(), error.split('.').nth(1).unwrap().len()), (4, 5));
    let last = pipe("grep -oE '\\[8\\][0-9.]+' | sed 's/\\[8\\]//'", &both);
    assert_eq!(last, ppl);
    assert_eq!(pipe("grep -oE '\\[[0-9]+\\][0-9.]+,' | wc -l | tr -d ' '", &both), "8");
    assert_eq!(
        pipe("grep -cE 'perplexity: [0-9.]+ seconds per pass - ETA ([0-9]+ hours )?[0-9.]+ minutes$'", &both),
        "1"
    );
    assert_eq!(pipe("grep -c 'calculating perplexity over 8 chunks, n_ctx=64, '", &both), "1");
    let lines = stdout(&[&args[..], &["--ppl-output-type", "1"]].concat());
    let columns = pipe("awk 'NF == 4 { print $1 }'", &lines);
    assert_eq!(columns.lines().collect::<Vec<_>>(), ["0", "64", "128", "192", "256", "320", "384", "448"]);
    let found = json(&[&args[..], &["--json"]].concat());
    assert!((found["ppl"].as_f64().unwrap() - ppl.parse::<f64>().unwrap()).abs() < 1e-4);
}

#[test]
fn awk_finds_the_numbers_of_the_kl_blocks() {
    let text = perplexity(&["--vs", "exact", "--numerics", "fast"]);
    let text = stdout(&text.iter().map(String::as_str).collect::<Vec<_>>());
    for (label, unit) in [
        ("Mean PPL\\(Q\\)", ""),
        ("Mean    KLD", ""),
        ("99.9%   KLD", ""),
        ("RMS Δp", "%"),
        ("Same top p", "%"),
    ] {
        let number = pipe(&format!("awk -F: '/^{label} *:/ {{ print $2 }}' | awk '{{ print $1 }}'"), &text);
        let number = number.trim_end_matches(unit);
        assert!(number.parse::<f64>().is_ok(), "{label}: {number:?}\n{text}");
    }
    // Rows of chunks: number, then value ± error five times.
    let rows = pipe("awk '$1 ~ /^[0-9]+$/ && $3 == \"±\" { print $1, NF }'", &text);
    assert_eq!(rows.lines().count(), 8, "{text}");
    assert!(rows.lines().all(|row| row.ends_with(" 18")), "{rows}");
}
