//! `gable bench` as a user has it, on models that are made up.

mod program;

use program::{Scrap, fails, gable, json, output, snapshot, stdout};
use serde_json::{Value, json};

const TINY: &str = "synthetic:tiny:q4_k";

fn records(more: &[&str]) -> Vec<Value> {
    let args = [&["bench", "-m", TINY, "-o", "json", "-r", "2"], more].concat();
    json(&args).as_array().unwrap().clone()
}

#[test]
fn every_combination_runs_in_llama_benchs_order() {
    let found = records(&["-p", "8,16", "-n", "2", "-pg", "4,2", "-d", "0,3", "-t", "1-2", "-ub", "8-16*2"]);
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap();
    let tests: Vec<_> = found[..8]
        .iter()
        .map(|r| (number(r, "n_prompt"), number(r, "n_gen"), number(r, "n_depth")))
        .collect();
    assert_eq!(
        tests,
        [(8, 0, 0), (16, 0, 0), (0, 2, 0), (4, 2, 0), (8, 0, 3), (16, 0, 3), (0, 2, 3), (4, 2, 3)]
    );
    let settings: Vec<_> =
        found.iter().step_by(8).map(|r| (number(r, "n_ubatch"), number(r, "n_threads"))).collect();
    assert_eq!(settings, [(8, 1), (8, 2), (16, 1), (16, 2)]);
}

#[test]
fn statistics_are_those_of_the_samples() {
    for row in records(&["-p", "8", "-n", "4", "-pg", "8,4", "-r", "5"]) {
        let list = |key: &str| -> Vec<f64> {
            row[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        let number = |key: &str| row[key].as_f64().unwrap();
        let (ns, ts) = (list("samples_ns"), list("samples_ts"));
        assert_eq!((ns.len(), ts.len()), (5, 5));
        let tokens = number("n_prompt") + number("n_gen");
        for (ns, ts) in ns.iter().zip(&ts) {
            assert!((tokens * 1e9 / ns / ts - 1.0).abs() < 1e-3, "{ns} {ts}");
        }
        assert!((ts.iter().sum::<f64>() / 5.0 / number("avg_ts") - 1.0).abs() < 1e-6);
        let mut sorted = ts.clone();
        sorted.sort_by(f64::total_cmp);
        assert!((sorted[2] - number("median_ts")).abs() < 1e-3);
        assert!(
            number("median_ts_low") <= number("median_ts") && number("median_ts") <= number("median_ts_high")
        );
        assert!(number("median_ts_low") >= sorted[0] - 1e-3 && number("median_ts_high") <= sorted[4] + 1e-3);
        // The first token's time belongs to prompts, a token's time to generation.
        assert_eq!(row["ttft_ms"].is_null(), row["n_prompt"] == 0);
        assert_eq!(row["p95_ms"].is_null(), row["n_gen"] == 0);
    }
}

#[test]
fn the_bytes_of_a_generated_token_are_the_weights_and_the_cache() {
    let row = &records(&["-p", "0", "-n", "1", "-d", "9", "-r", "1"])[0];
    let seconds = row["samples_ns"][0].as_f64().unwrap() / 1e9;
    let bytes = row["gb_s"].as_f64().unwrap() * 1e9 * seconds;
    // Two layers of 2 kv heads x 64 as halves, keys and values, at ten positions; the embedding is only looked up, one
    // row of 256 values, and norms are small vectors.
    let cache = 10 * 2 * 2 * (2 * 64) * 2;
    let matrices = row["model_size"].as_u64().unwrap() - 512 * 256 / 256 * 144 - 5 * 256 * 4;
    assert!((bytes / (matrices + cache) as f64 - 1.0).abs() < 1e-3, "{bytes} {matrices} {cache}");
}

#[test]
fn roofline_columns_stand_behind_the_speed() {
    let args = ["bench", "-m", TINY, "-p", "8", "-n", "2", "-r", "1", "-t", "1"];
    let columns = |text: String| -> Vec<String> {
        text.lines().next().unwrap().split('|').map(|c| c.trim().to_owned()).collect()
    };
    let plain = columns(stdout(&args));
    assert_eq!(plain[1..8], ["model", "size", "params", "backend", "threads", "test", "t/s"]);
    let more = columns(stdout(&[&args[..], &["--roofline"]].concat()));
    assert_eq!(more[..8], plain[..8]);
    assert_eq!(more[8..13], ["isa", "GB/s", "% of limit", "ttft ms", "p95 ms/t"]);
    let changed = columns(stdout(&[&args[..], &["-b", "16", "-ub", "4", "-ctk", "f32"]].concat()));
    assert_eq!(changed[6..12], ["n_batch", "n_ubatch", "type_k", "type_v", "test", "t/s"]);
}

#[test]
fn a_share_of_the_limit_is_measured_only_if_it_is_asked_for() {
    let args = ["-p", "64", "-n", "16", "-pg", "64,16"];
    assert!(records(&args).iter().all(|row| row["limit_percent"].is_null()));
    for row in records(&[&args[..], &["--roofline"]].concat()) {
        // Clocks may rise between probe and test, but nothing computes twice as fast as it can.
        let percent = row["limit_percent"].as_f64().unwrap();
        assert!(percent > 0.0 && percent < 200.0, "{row}");
    }
}

#[test]
fn results_go_to_stderr_too_and_progress_only_there() {
    let args =
        ["bench", "-m", TINY, "-p", "8", "-n", "0", "-r", "1", "-t", "1", "-oe", "jsonl", "--progress"];
    let out = output(&args);
    let (text, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(text.starts_with("| model") && !text.contains("run 1/1"), "{text}");
    assert!(err.contains("benchmark 1/1: pp8, 1 threads, run 1/1"), "{err}");
    let line = err.lines().find(|line| line.starts_with('{')).unwrap();
    assert_eq!(serde_json::from_str::<Value>(line).unwrap()["n_prompt"], 8);
}

#[test]
fn what_cannot_be_measured_is_refused_with_a_reason() {
    let run = |more: &[&str], words: &[&str]| fails(&[&["bench", "-m", TINY], more].concat(), 2, words);
    run(&["-p", "0", "-n", "0"], &["nothing to measure"]);
    run(&["-p", "1-x"], &["1-x", "1-64*2"]);
    run(&["-t", "0"], &["1 to 1024"]);
    run(&["-ngl", "99"], &["everything runs on the CPU"]);
    run(&["-sm", "row"], &["everything runs on the CPU"]);
    run(&["-ctk", "f16", "-ctv", "f32"], &["differ"]);
    fails(&["bench", "-m", "synthetic:huge:q4_k"], 2, &["huge", "llama-1b"]);
    fails(&["bench", "-m", "synthetic:tiny:q9"], 2, &["q9", "Q4_K"]);
    // 576 values are no whole number of blocks of 256.
    fails(&["bench", "-m", "synthetic:smollm2-135m:q4_k"], 1, &["token_embd.weight", "Q4_K"]);
    assert!(
        output(&[
            "bench", "-m", TINY, "-p", "4", "-n", "0", "-r", "1", "-ngl", "0", "-mmp", "1", "-fa", "on"
        ])
        .status
        .success()
    );
}

#[test]
fn a_made_up_model_leaves_no_file() {
    let folder = Scrap::new("made-up");
    std::fs::create_dir(folder.path()).unwrap();
    let mut command = gable(&["bench", "-m", TINY, "-p", "4", "-n", "0", "-r", "1"]);
    assert!(command.env("TMPDIR", folder.path()).output().unwrap().status.success());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Rows as llama-bench and `gable bench` print them with `-o json`.
fn rows(tests: &[(u64, u64, [f64; 5])]) -> Value {
    let row = |&(prompt, generate, speeds): &(u64, u64, [f64; 5])| {
        json!({
            "model_type": "llama 1M Q4_K", "n_batch": 2048, "n_ubatch": 512, "n_threads": 1, "type_k": "f16",
            "type_v": "f16", "n_prompt": prompt, "n_gen": generate, "n_depth": 0, "samples_ts": speeds,
        })
    };
    tests.iter().map(row).collect()
}

const BEFORE: [(u64, u64, [f64; 5]); 3] = [
    (512, 0, [1000.0, 1010.0, 990.0, 1005.0, 995.0]),
    (0, 128, [100.0, 101.0, 99.0, 100.5, 99.5]),
    (512, 128, [300.0, 310.0, 290.0, 305.0, 295.0]),
];

#[test]
fn compare_tells_faster_from_slower_from_neither() {
    let after = [
        (512, 0, [1100.0, 1110.0, 1090.0, 1105.0, 1095.0]),
        (0, 128, [90.0, 91.0, 89.0, 90.5, 89.5]),
        (512, 128, [301.0, 308.0, 292.0, 304.0, 297.0]),
    ];
    let (a, b) =
        (Scrap::file("a.json", rows(&BEFORE).to_string()), Scrap::file("b.json", rows(&after).to_string()));
    let text = stdout(&["bench", "compare", a.path(), b.path()]);
    snapshot("bench-compare", &text);
    let lines = stdout(&["bench", "compare", "--json", a.path(), b.path()]);
    let verdicts: Vec<Value> =
        lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["verdict"].clone()).collect();
    assert_eq!(verdicts, ["faster", "slower", "not distinguishable"]);
    // The other way round, lines instead of an array.
    let lines: String = rows(&after).as_array().unwrap().iter().map(|r| format!("{r}\n")).collect();
    let c = Scrap::file("c.jsonl", lines);
    let text = stdout(&["bench", "compare", c.path(), a.path()]);
    assert!(text.lines().nth(2).unwrap().contains("| slower "), "{text}");
}

#[test]
fn compare_refuses_what_has_nothing_in_common() {
    let (a, b) = (
        Scrap::file("d.json", rows(&BEFORE[..1]).to_string()),
        Scrap::file("e.json", rows(&BEFORE[1..2]).to_string()),
    );
    fails(&["bench", "compare", a.path(), b.path()], 1, &["no test in common"]);
    let c = Scrap::file("f.json", "| model |");
    fails(&["bench", "compare", a.path(), c.path()], 1, &["-o json"]);
}

#[test]
fn a_sweep_has_a_row_per_value_and_a_panel_per_test() {
    let picture = Scrap::new("sweep.svg");
    let args = ["bench", "sweep", "-m", TINY, "-p", "8", "-n", "2", "-r", "2", "-t", "1"];
    let depth = stdout(&[&args[..], &["--values", "0-8+4", "--svg", picture.path()]].concat());
    let cells: Vec<Vec<&str>> =
        depth.lines().skip(2).map(|l| l.split('|').map(str::trim).collect()).collect();
    assert_eq!(cells[0][1..4], ["depth", "pp8 t/s", "tg2 t/s"]);
    assert_eq!(cells[2..].iter().map(|c| c[1]).collect::<Vec<_>>(), ["0", "4", "8"]);
    let svg = std::fs::read_to_string(picture.path()).unwrap();
    assert!(svg.contains("<svg") && svg.contains("pp8") && svg.contains("tg2") && svg.contains("depth"));
    assert!(svg.contains("ms/token"), "against depth, time");
    assert_eq!(svg.matches("<circle").count(), 6);
    let threads = stdout(&[&args[..], &["--by", "threads", "--values", "1,2", "-o", "csv"]].concat());
    assert_eq!(threads.lines().count(), 1 + 2 * 2);
    fails(&[&args[..], &["--by", "batch", "--values", "0"]].concat(), 2, &["least batch is 1"]);
    fails(&[&args[..], &["-d", "0,8"]].concat(), 2, &["one thing", "--values"]);
    fails(&[&args[..], &["-ub", "8,16"]].concat(), 2, &["one thing"]);
}

/// A program that answers as llama-bench does, with these speeds for pp8 and tg2.
#[cfg(unix)]
fn fake_llama_bench(name: &str, body: &str) -> Scrap {
    use std::os::unix::fs::PermissionsExt;
    let script = Scrap::file(name, format!("#!/bin/sh\n{body}\n"));
    std::fs::set_permissions(script.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[cfg(unix)]
#[test]
fn against_says_where_gable_loses_and_where_it_wins() {
    let row = |prompt: u64, generate: u64, speed: f64| {
        let mut row = rows(&[(prompt, generate, [0.0; 5])])[0].clone();
        row["samples_ts"] = json!([speed]);
        row.to_string()
    };
    let log = Scrap::new("against.log");
    let body = format!("echo \"$@\" >> {}\necho '[{}, {}]'", log.path(), row(8, 0, 1e12), row(0, 2, 1e-3));
    let script = fake_llama_bench("fake-bench", &body);
    let model = program::fixture("llama/model.gguf");
    let args =
        ["bench", "-m", &model, "-p", "8", "-n", "2", "-r", "3", "-t", "1", "--against", script.path()];
    let text = stdout(&args);
    let (lost, won) = (text.lines().find(|l| l.contains("loses")), text.lines().find(|l| l.contains("wins")));
    assert!(lost.unwrap().contains("pp8") && !lost.unwrap().contains("tg2"), "{text}");
    assert!(won.unwrap().contains("tg2"), "{text}");
    let calls = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(calls.lines().count(), 3, "one run per round: {calls}");
    let expected = format!("-m {model} -r 1 -o json -ngl 0 -t 1 -d 0 -b 2048 -ub 512 -p 8 -n 2");
    assert_eq!(calls.lines().next(), Some(expected.as_str()));
    let found = json(&[&args[..], &["-o", "json"]].concat());
    assert_eq!((&found[0]["verdict"], &found[1]["verdict"]), (&"slower".into(), &"faster".into()));
}

#[cfg(unix)]
#[test]
fn against_a_program_that_fails_says_what_it_said() {
    let model = program::fixture("llama/model.gguf");
    let run = |name: &str, body: &str, words: &[&str]| {
        let script = fake_llama_bench(name, body);
        let args = ["bench", "-m", &model, "-p", "8", "-n", "0", "-r", "1", "--against", script.path()];
        fails(&args, 1, words);
    };
    run("fails", "echo unknown argument >&2; exit 1", &["unknown argument"]);
    run("talks", "echo hello", &["did not print"]);
    run("nothing", "echo '[]'", &["0 of our 1 tests"]);
    fails(
        &["bench", "-m", &model, "-p", "8", "-n", "0", "-r", "1", "--against", "/no/such"],
        1,
        &["/no/such"],
    );
    fails(&["bench", "-m", TINY, "--against", "/no/such"], 2, &["a file that both can read"]);
}
