//! `gable quantize` and `gable imatrix` as a user has them: files that are whole or not there, and what is said of them.

mod program;

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures").join(name).join("model.gguf")
}

/// The default model, for what takes a moment.
fn smollm2() -> PathBuf {
    program::cached("smollm2")
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("gable-quantize-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn gable<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gable"));
    command.args(args).stdin(Stdio::null()).env_remove("GABLE_MODEL").env_remove("GABLE_THREADS");
    command
}

fn quantize(words: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = gable(&["quantize"]);
    words.iter().for_each(|w| {
        command.arg(w);
    });
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Ends with `code` and says `words` on stderr.
fn fails(output: &Output, code: i32, words: &[&str]) {
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{err}");
    for word in words {
        assert!(err.contains(word), "{err:?} lacks {word:?}");
    }
}

/// Names and types of a file's tensors.
fn types(path: &Path) -> BTreeMap<String, String> {
    let output = gable(&["inspect", "--json", "-m", path.to_str().unwrap()]).output().unwrap();
    let json: Value = serde_json::from_str(&succeeds(&output)).unwrap();
    let tensors = json["tensors"].as_array().unwrap().iter();
    let string = |v: &Value| v.as_str().unwrap().to_owned();
    tensors.map(|t| (string(&t["name"]), string(&t["type"]))).collect()
}

/// The next token and its log-probability.
fn next(path: &Path) -> (u64, f64) {
    let args = ["logits", "--numerics", "exact", "-m", path.to_str().unwrap(), "the cat and the"];
    let json: Value = serde_json::from_str(&succeeds(&gable(&args).output().unwrap())).unwrap();
    (json["top"][0]["id"].as_u64().unwrap(), json["top"][0]["logprob"].as_f64().unwrap())
}

#[test]
fn every_type_makes_a_file_that_opens_and_foresees_much_the_same() {
    let (folder, source) = (Folder::new("types"), fixture("llama"));
    let (token, logprob) = next(&source);
    for (name, main, output, tolerance) in [
        ("F32", "F32", "F32", 0.0),
        ("f16", "F16", "F16", 0.01),
        ("bf16", "BF16", "BF16", 0.05),
        ("7", "Q8_0", "Q8_0", 0.05),
        ("Q5_0", "Q5_0", "Q8_0", 0.5),
        ("q5_1", "Q5_1", "Q8_0", 0.5),
        ("Q4_0", "Q4_0", "Q8_0", 1.0),
        ("Q4_1", "Q4_1", "Q8_0", 1.0),
        // 64 and 96 columns are no multiple of 256.
        ("Q4_K_M", "Q5_0", "Q8_0", 0.5),
        ("Q5_K_S", "Q5_1", "Q8_0", 0.5),
        ("18", "Q8_0", "Q8_0", 0.05),
        ("IQ4_XS", "IQ4_NL", "Q8_0", 1.0),
        ("25", "IQ4_NL", "Q8_0", 1.0),
    ] {
        let target = folder.at("out.gguf");
        succeeds(&quantize(&[&source, &target, &name]));
        let types = types(&target);
        assert_eq!(types["blk.0.attn_q.weight"], main, "{name}");
        assert_eq!(types["output.weight"], output, "{name}");
        assert_eq!(types["blk.1.ffn_norm.weight"], "F32", "{name}");
        let (found, p) = next(&target);
        assert!((p - logprob).abs() <= tolerance, "{name}: {p} against {logprob}");
        assert!(found == token || tolerance > 0.1, "{name}");
    }
    assert_eq!(folder.names(), ["out.gguf"]);
}

#[test]
fn lines_and_totals_are_those_of_llama_quantize() {
    let (folder, source) = (Folder::new("lines"), fixture("llama"));
    let out = succeeds(&quantize(&[&source, &folder.at("a.gguf"), &"q4_k_m", &"2"]));
    let lines: Vec<&str> = out.lines().collect();
    let start = "[   1/  21]                    token_embd.weight - [   64,   288,     1,     1], type =    f32, \
                 converting to q5_0 .. size =     0.07 MiB ->     0.01 MiB, rmse ";
    assert!(lines[0].starts_with(start), "{}", lines[0]);
    assert!(
        lines[0].ends_with(" - fallback: 64 columns are not divisible by 256, required for q4_K"),
        "{}",
        lines[0]
    );
    assert_eq!(
        lines[19],
        "[  20/  21]                   output_norm.weight - [   64,     1,     1,     1], type =    f32, size =    0.000 MiB"
    );
    assert!(
        out.contains("\nmodel size  =     0.38 MiB (32.00 BPW)\nquant size  =     0.08 MiB (6.40 BPW)"),
        "{out}"
    );
    // The output matrix gets eight bits by rule, without falling back.
    assert!(
        out.contains("\nWARNING: 15 of 16 tensor(s) required fallback quantization\nquantize time = "),
        "{out}"
    );
}

#[test]
fn a_dry_run_says_the_same_sizes_and_writes_nothing() {
    let (folder, source) = (Folder::new("dry"), fixture("llama"));
    let json = |more: &[&dyn AsRef<std::ffi::OsStr>]| -> Value {
        let target = folder.at("x.gguf");
        let words: [&dyn AsRef<std::ffi::OsStr>; 4] = [&"--json", &source, &target, &"Q8_0"];
        serde_json::from_str(&succeeds(&quantize(&[&words[..], more].concat()))).unwrap()
    };
    let dry = json(&[&"--dry-run"]);
    assert!(folder.names().is_empty());
    let wet = json(&[]);
    for key in ["model_bytes", "quant_bytes", "converted", "fallbacks"] {
        assert_eq!(dry[key], wet[key], "{key}");
    }
    assert_eq!((&wet["converted"], &wet["fallbacks"]), (&Value::from(16), &Value::from(0)));
    let relative = wet["tensors"][1]["relative"].as_f64().unwrap();
    assert!(relative > 1e-3 && relative < 1e-2, "{relative}");
    assert!(wet["tensors"][19]["rmse"].is_null());
}

#[test]
fn flags_choose_the_types_of_single_tensors() {
    let (folder, source) = (Folder::new("flags"), fixture("llama"));
    let target = folder.at("out.gguf");
    let run = |flags: &[&str]| {
        let mut words: Vec<&dyn AsRef<std::ffi::OsStr>> = flags.iter().map(|f| f as _).collect();
        words.extend([&source as &dyn AsRef<std::ffi::OsStr>, &target, &"Q4_0"]);
        succeeds(&quantize(&words));
        types(&target)
    };
    let found = run(&["--output-tensor-type", "q5_1", "--token-embedding-type", "F16"]);
    assert_eq!([&found["output.weight"], &found["token_embd.weight"]], ["Q5_1", "F16"]);
    let found = run(&["--tensor-type", "attn_[kv]=Q8_0", "--tensor-type", r"blk\.1\.=q5_0"]);
    let layer = |i: usize| [format!("blk.{i}.attn_v.weight"), format!("blk.{i}.attn_q.weight")];
    assert_eq!(layer(0).map(|n| found[&n].clone()), ["Q8_0", "Q4_0"]);
    assert_eq!(layer(1).map(|n| found[&n].clone()), ["Q8_0", "Q5_0"]);
    for flag in ["--leave-output-tensor", "--keep-output"] {
        assert_eq!(run(&[flag])["output.weight"], "F32");
    }
    let pure = run(&["--pure"]);
    assert!(pure.iter().all(|(name, t)| t == if name.contains("norm") { "F32" } else { "Q4_0" }), "{pure:?}");
}

#[test]
fn the_output_may_be_left_out_and_lies_beside_the_input() {
    let folder = Folder::new("beside");
    fs::copy(fixture("llama"), folder.at("in.gguf")).unwrap();
    succeeds(&quantize(&[&folder.at("in.gguf"), &"q8_0", &"1"]));
    assert_eq!(folder.names(), ["ggml-model-Q8_0.gguf", "in.gguf"]);
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let (folder, source) = (Folder::new("threads"), fixture("llama"));
    for type_name in ["Q4_0", "Q5_K_M"] {
        succeeds(&quantize(&[&source, &folder.at("one"), &type_name, &"1"]));
        succeeds(&quantize(&[&"-t", &"3", &source, &folder.at("three"), &type_name]));
        assert_eq!(fs::read(folder.at("one")).unwrap(), fs::read(folder.at("three")).unwrap());
    }
}

#[test]
fn the_parts_of_a_split_model_become_one_file() {
    let folder = Folder::new("split");
    let source = fixture("split").with_file_name("tiny-00001-of-00002.gguf");
    succeeds(&quantize(&[&source, &folder.at("whole.gguf"), &"f32"]));
    assert_eq!(types(&folder.at("whole.gguf")).len(), types(&source).len());
    assert_eq!(next(&folder.at("whole.gguf")), next(&source));
}

#[cfg(unix)]
#[test]
fn a_model_is_not_written_over_itself() {
    let folder = Folder::new("itself");
    let source = folder.at("in.gguf");
    fs::copy(fixture("llama"), &source).unwrap();
    let before = fs::read(&source).unwrap();
    std::os::unix::fs::symlink(&source, folder.at("soft")).unwrap();
    fs::hard_link(&source, folder.at("hard")).unwrap();
    for target in ["in.gguf", "soft", "hard"] {
        fails(&quantize(&[&source, &folder.at(target), &"Q8_0"]), 1, &["itself", "write to another file"]);
        fails(&quantize(&[&folder.at(target), &source, &"Q8_0"]), 1, &["itself"]);
    }
    fails(&quantize(&[&source, &"/dev/full", &"Q8_0"]), 1, &["/dev/full", "no regular file"]);
    fails(&quantize(&[&source, &folder.at("absent/out.gguf"), &"Q8_0"]), 1, &["could not create", "absent"]);
    assert_eq!(fs::read(&source).unwrap(), before);
    assert_eq!(folder.names(), ["hard", "in.gguf", "soft"]);
}

/// The limit on the size of files stands for a disk that is full: writing fails in the middle.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_behind() {
    let folder = Folder::new("full");
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    for (target, old) in [("new.gguf", None), ("old.gguf", Some("what was there before"))] {
        let target = folder.at(target);
        if let Some(old) = old {
            fs::write(&target, old).unwrap();
        }
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_gable"), "quantize"]);
        let output = command.arg(fixture("llama")).arg(&target).arg("F16").output().unwrap();
        fails(&output, 1, &["could not write"]);
        assert_eq!(fs::read_to_string(&target).ok().as_deref(), old);
    }
    assert_eq!(folder.names(), ["old.gguf"]);
}

/// Kills `n` runs at times spread over a whole one; what is under the final name is never half a file.
fn kills(name: &str, n: u32) {
    let (folder, source) = (Folder::new(name), smollm2());
    let whole = folder.at("whole.gguf");
    let begin = std::time::Instant::now();
    let words: [&dyn AsRef<std::ffi::OsStr>; 4] = [&"--allow-requantize", &source, &whole, &"Q8_0"];
    succeeds(&quantize(&words));
    let (duration, whole) = (begin.elapsed(), fs::read(whole).unwrap());
    let target = folder.at("out.gguf");
    for i in 0..n {
        let mut child = gable(&["quantize", "--allow-requantize"])
            .args([&source, &target])
            .args(["Q8_0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(duration * i / n);
        let _ = child.kill();
        child.wait().unwrap();
        match fs::read(&target) {
            Err(_) => {}
            Ok(found) => assert!(found == whole, "kill {i} of {n}"),
        }
        let _ = fs::remove_file(&target);
    }
    let words: [&dyn AsRef<std::ffi::OsStr>; 4] = [&"--allow-requantize", &source, &target, &"Q8_0"];
    succeeds(&quantize(&words));
    assert_eq!(folder.names(), ["out.gguf", "whole.gguf"], "what killed runs left was taken over");
}

#[test]
fn a_killed_run_leaves_no_half_file() {
    kills("kill", 8);
}

#[test]
#[ignore = "a minute or two"]
fn two_hundred_killed_runs_leave_no_half_file() {
    kills("kills", 200);
}

#[test]
fn quantized_tensors_are_converted_again_only_if_that_is_wanted() {
    let (folder, source) = (Folder::new("again"), fixture("llama"));
    let q8 = folder.at("q8.gguf");
    succeeds(&quantize(&[&source, &q8, &"Q8_0"]));
    let again = folder.at("q4.gguf");
    fails(
        &quantize(&[&q8, &again, &"Q4_0"]),
        1,
        &["token_embd.weight", "Q8_0 already", "--allow-requantize"],
    );
    succeeds(&quantize(&[&"--allow-requantize", &q8, &again, &"Q4_0"]));
    assert_eq!(types(&again)["token_embd.weight"], "Q4_0");
    // To the same type nothing is converted, so nothing is lost.
    succeeds(&quantize(&[&q8, &again, &"Q8_0"]));
    assert_eq!(fs::read(&again).unwrap(), fs::read(&q8).unwrap());
}

#[test]
fn damaged_weights_are_named_and_give_no_file() {
    let (folder, source) = (Folder::new("damaged"), fixture("llama"));
    let check = |path: &Path| gable(&["inspect", "--check", "-m", path.to_str().unwrap()]).output().unwrap();
    let q8 = folder.at("q8.gguf");
    succeeds(&quantize(&[&source, &q8, &"Q8_0"]));
    succeeds(&check(&q8));
    // The last tensor's first block begins with its scale.
    let mut bytes = fs::read(&q8).unwrap();
    let output = 288 * 2 * 34;
    let at = bytes.len() - output + 3 * 34;
    bytes[at..at + 2].copy_from_slice(&0x7c00_u16.to_le_bytes());
    fs::write(&q8, bytes).unwrap();
    let words = "output.weight: row 1, scale of the block at column 32 is infinity";
    fails(&check(&q8), 1, &["weights that are not finite", words]);
    fails(&quantize(&[&q8, &folder.at("a.gguf"), &"Q8_0"]), 1, &["output.weight", "is infinity"]);
    let mut bytes = fs::read(&source).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(folder.at("f32.gguf"), bytes).unwrap();
    let f32 = folder.at("f32.gguf");
    fails(&check(&f32), 1, &["output.weight: row 287, value at column 63 is NaN"]);
    fails(
        &quantize(&[&f32, &folder.at("a.gguf"), &"Q8_0"]),
        1,
        &["output.weight", "row 287", "NaN at column 63"],
    );
    assert_eq!(folder.names(), ["f32.gguf", "q8.gguf"]);
}

#[test]
fn importance_is_collected_and_used() {
    let (folder, source) = (Folder::new("imatrix"), fixture("llama"));
    let model = source.to_str().unwrap();
    fs::write(folder.at("text"), "the cat and the other cat in the hat ".repeat(20)).unwrap();
    let (text_file, imatrix) = (folder.at("text"), folder.at("i.gguf"));
    let collect = |more: &[&str]| {
        let args = [
            "imatrix",
            "-m",
            model,
            "-c",
            "32",
            "-f",
            text_file.to_str().unwrap(),
            "-o",
            imatrix.to_str().unwrap(),
        ];
        gable(&[&args[..], more].concat()).output().unwrap()
    };
    let output = collect(&["--chunks", "3", "--json"]);
    let said: Value = serde_json::from_str(&succeeds(&output)).unwrap();
    assert_eq!((&said["matrices"], &said["chunk_tokens"]), (&14.into(), &32.into()));
    assert!(text(&output.stderr).contains("14 matrices, 3 chunks of 32 tokens"), "{}", text(&output.stderr));
    let bytes = fs::read(&imatrix).unwrap();
    for words in ["imatrix.datasets", "blk.1.ffn_down.weight.in_sum2", "blk.0.attn_q.weight.counts"] {
        assert!(bytes.windows(words.len()).any(|w| w == words.as_bytes()), "{words}");
    }
    let (with, without) = (folder.at("with.gguf"), folder.at("without.gguf"));
    let output = quantize(&[&"--imatrix", &imatrix, &source, &with, &"Q4_0"]);
    succeeds(&output);
    assert!(
        text(&output.stderr).contains("have importance for 14 of the tensors"),
        "{}",
        text(&output.stderr)
    );
    succeeds(&quantize(&[&source, &without, &"Q4_0"]));
    let (with, without) = (fs::read(with).unwrap(), fs::read(without).unwrap());
    assert!(with.len() > without.len() && with.windows(21).any(|w| w == b"quantize.imatrix.file"));
    // The last tensor is the output matrix, which was not collected; the one before it is not converted.
    let n = 288 * 2 * 34 + 64 * 4 + 2 * 64 * 4;
    assert_eq!(with[with.len() - n..], without[without.len() - n..]);
    let down = 64 * 3 * 18;
    assert_ne!(
        with[with.len() - n - down..with.len() - n],
        without[without.len() - n - down..without.len() - n]
    );
    // A second collection adds to the first.
    let before = bytes;
    fs::rename(&imatrix, folder.at("first.gguf")).unwrap();
    let first = folder.at("first.gguf");
    let output = collect(&["--chunks", "2", "--process-output", "--in-file", first.to_str().unwrap()]);
    succeeds(&output);
    assert!(text(&output.stderr).contains("15 matrices"), "{}", text(&output.stderr));
    assert_eq!(fs::read(&first).unwrap(), before);
    fails(&collect(&["--in-file", imatrix.to_str().unwrap()]), 1, &["itself"]);
    let other = fixture("qwen2");
    fails(
        &quantize(&[&"--imatrix", &imatrix, &other, &folder.at("x"), &"Q8_0"]),
        1,
        &["columns", "in the importance matrix, which is of another model"],
    );
    fails(
        &quantize(&[&"--imatrix", &source, &source, &folder.at("x"), &"Q8_0"]),
        1,
        &["general.type", "no importance matrix"],
    );
}

#[test]
fn experts_are_quantized_by_what_each_of_them_has_seen() {
    let (folder, source) = (Folder::new("experts"), fixture("qwen3moe"));
    fs::write(folder.at("text"), "the cat and the other cat in the hat ".repeat(20)).unwrap();
    let (words, imatrix) = (folder.at("text"), folder.at("i.gguf"));
    let [model, words, out] = [&source, &words, &imatrix].map(|path| path.to_str().unwrap());
    let output =
        gable(&["imatrix", "-m", model, "-c", "32", "-f", words, "-o", out, "--json"]).output().unwrap();
    let said: Value = serde_json::from_str(&succeeds(&output)).unwrap();
    assert_eq!(said["matrices"], 16);
    let (with, without) = (folder.at("with.gguf"), folder.at("without.gguf"));
    let output = quantize(&[&"--imatrix", &imatrix, &source, &with, &"Q4_0"]);
    succeeds(&output);
    // The routers stay as they are.
    let said = text(&output.stderr);
    assert!(said.contains("have importance for 14 of the tensors"), "{said}");
    succeeds(&quantize(&[&source, &without, &"Q4_0"]));
    assert_eq!(types(&with), types(&without));
    assert_eq!(types(&with)["blk.0.ffn_down_exps.weight"], "Q4_0");
    let logits = [&source, &with, &without].map(|path| next(path));
    assert!(logits[1] != logits[2], "{logits:?}");
}

#[test]
fn folders_of_every_kind_become_files_that_open() {
    for name in ["phi3", "qwen3moe", "bert"] {
        let (folder, scrap) = (Folder::new(&format!("folder-{name}")), Folder::new(&format!("made-{name}")));
        let source = fixture(name).with_file_name("hf");
        for entry in fs::read_dir(&source).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
            fs::copy(entry.path(), folder.at(entry.file_name().to_str().unwrap())).unwrap();
        }
        if name != "bert" {
            fs::copy(
                fixture("gpt2").with_file_name("hf").join("tokenizer.json"),
                folder.at("tokenizer.json"),
            )
            .unwrap();
        }
        let target = scrap.at("made.gguf");
        succeeds(&quantize(&[&folder.0, &target, &"Q8_0"]));
        assert!(types(&target).values().any(|kind| kind == "Q8_0"), "{name}");
        let command = if name == "bert" { "embed" } else { "run" };
        let mut args = vec![command, "-m", target.to_str().unwrap(), "-p", "the cat"];
        if command == "run" {
            args.extend(["-n", "3"]);
        }
        succeeds(&gable(&args).output().unwrap());
    }
}

#[test]
fn a_wrong_command_line_is_explained() {
    let (folder, source) = (Folder::new("usage"), fixture("llama"));
    let target = folder.at("x.gguf");
    fails(&quantize(&[&source, &target, &"Q4_X"]), 2, &["\"Q4_X\" is no type", "Q4_K_M"]);
    fails(&quantize(&[&source, &target, &"Q4_0", &"0"]), 2, &["NTHREADS must be 1 to 1024"]);
    fails(&quantize(&[&source]), 2, &["required"]);
    fails(&quantize(&[&"--tensor-type", &"attn=q9", &source, &target, &"Q4_0"]), 2, &["allowed: F32, F16"]);
    fails(&quantize(&[&"--tensor-type", &"(=q8_0", &source, &target, &"Q4_0"]), 2, &["unclosed group"]);
    fails(&quantize(&[&"--output-tensor-type", &"q2_k", &source, &target, &"Q4_0"]), 2, &["can be made"]);
    fails(&quantize(&[&folder.at("no.gguf"), &target, &"Q4_0"]), 1, &["no.gguf", "no such file"]);
    assert!(folder.names().is_empty());
}

#[test]
fn a_folder_is_quantized_as_its_gguf_file_is() {
    let folder = Folder::new("folder");
    let (source, made, given) =
        (fixture("gpt2").with_file_name("hf"), folder.at("a.gguf"), folder.at("b.gguf"));
    succeeds(&quantize(&[&source, &made, &"Q8_0"]));
    succeeds(&quantize(&[&fixture("gpt2"), &given, &"Q8_0"]));
    assert_eq!(types(&made), types(&given));
    let ((a, p), (b, q)) = (next(&made), next(&given));
    assert!(a == b && (p - q).abs() < 1e-3, "{a} {p}, {b} {q}");
}

fn passage() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/golden/passage.txt")
}

/// Mean divergence of a file from another.
fn divergence(model: &Path, base: &Path, tokens: &str) -> f64 {
    let mut command = gable(&["perplexity", "--json", "-c", "64", "--tokens", tokens, "--vs"]);
    let output = command.arg(base).arg("-m").arg(model).arg("-f").arg(passage()).output().unwrap();
    let json: Value = serde_json::from_str(&succeeds(&output)).unwrap();
    json["kl_mean"].as_f64().unwrap()
}

/// Quantizes to Q4_0, lets --blame rank, and spends `bits` by that ranking and, as the control, by the reversed one.
/// Gives the divergences of the plain file and of the two.
fn spend(folder: &Folder, original: &Path, bits: &str, context: &str, tokens: &str) -> [f64; 3] {
    let (plain, blame) = (folder.at("plain.gguf"), folder.at("blame.json"));
    succeeds(&quantize(&[&original, &plain, &"Q4_0"]));
    let mut command = gable(&["perplexity", "--blame", "--json", "-c", context, "--vs"]);
    let output = command.arg(original).arg("-m").arg(&plain).arg("-f").arg(passage()).output().unwrap();
    let mut ranking: Value = serde_json::from_str(&succeeds(&output)).unwrap();
    let reversed = folder.at("reversed.json");
    fs::write(&blame, ranking.to_string()).unwrap();
    for piece in ranking["blame"].as_array_mut().unwrap() {
        piece["kl"] = (1e-6 / piece["kl"].as_f64().unwrap().max(1e-12)).into();
    }
    fs::write(&reversed, ranking.to_string()).unwrap();
    let made = [(&blame, "best.gguf"), (&reversed, "worst.gguf")].map(|(ranking, name)| {
        let target = folder.at(name);
        let output = quantize(&[&"--budget", &bits, &"--blame", ranking, &original, &target, &"Q4_0"]);
        let said = succeeds(&output);
        let used = said.lines().find(|l| l.starts_with("quant size")).unwrap();
        let used = used.split_once('(').unwrap().1.trim_end_matches(" BPW)").parse::<f64>().unwrap();
        let wanted = bits.trim_end_matches("bpw").parse::<f64>().unwrap();
        assert!(used <= wanted + 0.005 && used > wanted - 0.3, "{used} of {wanted}");
        assert!(text(&output.stderr).contains("tensors get a better type"));
        target
    });
    [&plain, &made[0], &made[1]].map(|file| divergence(file, original, tokens))
}

#[test]
fn a_budget_is_kept_and_spent_where_it_helps_most() {
    let folder = Folder::new("budget");
    let [plain, best, worst] = spend(&folder, &fixture("llama"), "8.0bpw", "32", "256");
    assert!(best < plain && best < worst, "{plain} {best} {worst}");
    let blame = folder.at("blame.json");
    let with = |bits: &str, ranking: &Path| {
        quantize(&[
            &"--budget",
            &bits,
            &"--blame",
            &ranking,
            &fixture("llama"),
            &folder.at("no.gguf"),
            &"Q4_0",
        ])
    };
    fails(&with("2bpw", &blame), 1, &["more than --budget 2bpw", "smaller type"]);
    fails(&with("none", &blame), 2, &["4.5bpw"]);
    fs::write(folder.at("exact.json"), "{\"vs\":\"exact\",\"blame\":[]}").unwrap();
    fails(&with("8bpw", &folder.at("exact.json")), 1, &["--vs exact", "original"]);
    fs::write(
        folder.at("other.json"),
        "{\"vs\":\"x\",\"blame\":[{\"name\":\"y\",\"type\":\"Q4_0\",\"kl\":1}]}",
    )
    .unwrap();
    fails(&with("8bpw", &folder.at("other.json")), 1, &["another model"]);
    fs::write(folder.at("text.json"), "hello").unwrap();
    fails(&with("8bpw", &folder.at("text.json")), 1, &["--blame --json"]);
    assert!(!folder.names().contains(&"no.gguf".to_owned()));
}

/// SmolLM2 as Q4_0, which is not what its file is: the tensors that suffer most are its values.
#[test]
#[ignore = "two minutes"]
fn a_budget_helps_a_real_model_most_where_it_was_blamed() {
    let folder = Folder::new("budget-smollm2");
    let original = folder.at("f16.gguf");
    succeeds(&quantize(&[&"--allow-requantize", &smollm2(), &original, &"F16"]));
    let [plain, best, worst] = spend(&folder, &original, "5.7bpw", "32", "512");
    assert!(best < plain / 2.0 && best < worst / 1.5, "{plain} {best} {worst}");
}

/// Of one model in three types, the divergence from it falls with the bits, and so does the number of changed minds.
#[test]
fn more_bits_are_nearer_to_the_original_on_a_real_model() {
    let folder = Folder::new("nearer");
    let original = folder.at("f16.gguf");
    succeeds(&quantize(&[&"--allow-requantize", &smollm2(), &original, &"F16"]));
    let found: Vec<Value> = ["Q4_0", "Q5_0", "Q8_0"]
        .iter()
        .map(|name| {
            let file = folder.at("typed.gguf");
            succeeds(&quantize(&[&original, &file, name]));
            let mut command = gable(&["perplexity", "--json", "-c", "128", "--tokens", "512", "--vs"]);
            let output =
                command.arg(&original).arg("-m").arg(&file).arg("-f").arg(passage()).output().unwrap();
            serde_json::from_str(&succeeds(&output)).unwrap()
        })
        .collect();
    let of = |key: &str| found.iter().map(|f| f[key].as_f64().unwrap()).collect::<Vec<_>>();
    let (kl, same, ppl) = (of("kl_mean"), of("top1_agreement"), of("ppl"));
    assert!(kl[0] > 2.0 * kl[1] && kl[1] > 4.0 * kl[2] && kl[2] > 0.0, "{kl:?}");
    assert!(same.is_sorted() && same[2] > 0.95 && same[0] < 0.9, "{same:?}");
    assert!(of("kl_p99").iter().zip(&kl).all(|(p99, mean)| p99 > mean));
    let base = of("ppl_base");
    assert!(
        base.windows(2).all(|w| w[0] == w[1])
            && (ppl[2] / base[2] - 1.0).abs() < 0.05
            && ppl[0] > 1.3 * base[0],
        "{ppl:?} {base:?}"
    );
}
