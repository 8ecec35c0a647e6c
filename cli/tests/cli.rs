//! The `gable` program as a user has it: what stands on stdout, what on stderr, and with which code it ends.
//!
//! The tests that need a model use those of `gable pull`.

mod program;

use program::{Scrap, failed, fails, gable, output, talk};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

/// The model's file, as an argument.
fn cached(id: &str) -> String {
    program::cached(id).to_string_lossy().into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const PROMPT: &str = "The quick brown fox";

#[test]
fn the_text_does_not_depend_on_the_number_of_threads() {
    let model = cached("smollm2");
    let run = |threads, more: &[&str]| {
        let args = ["run", "-m", &model, "--temp", "0", "-n", "16", "-t", threads, PROMPT];
        output(&[&args[..], more].concat())
    };
    let one = run("1", &[]);
    assert!(one.status.success(), "{}", stderr(&one));
    let text = stdout(&one);
    assert!(text.starts_with(PROMPT) && text.ends_with('\n') && text.len() > PROMPT.len() + 10, "{text:?}");
    // More than most machines have, too.
    for threads in ["2", "3", "4", "16", "64"] {
        assert_eq!(run(threads, &[]).stdout, one.stdout, "{threads} threads");
    }
    let strict = run("1", &["--strict", "-ub", "3", "-ctk", "f16"]);
    assert!(strict.status.success(), "{}", stderr(&strict));
    assert_eq!(strict.stdout, run("2", &["--strict"]).stdout, "a prompt in parts, strictly");
    let bare = run("2", &["--no-display-prompt"]);
    assert_eq!(format!("{PROMPT}{}", stdout(&bare)), text);
}

/// Instruction sets that fuse multiply-add sum in one order; with attention in f32 everywhere their texts are the same.
#[test]
fn the_text_does_not_depend_on_a_fusing_instruction_set_or_on_the_batch() {
    let model = cached("smollm2");
    let args = [
        "run",
        "-m",
        &model,
        "--temp",
        "0",
        "-n",
        "64",
        "--numerics",
        "precise",
        "--strict",
        "Once upon a time",
    ];
    let with = |isa: &str, more: &[&str]| {
        let run = gable(&[&args[..], more].concat()).env("GABLE_ISA", isa).output().unwrap();
        assert!(run.status.success(), "{isa}: {}", stderr(&run));
        stdout(&run)
    };
    let isas: Vec<&str> = gable_kernels::Kernels::every_available()
        .map(|k| k.isa().name())
        .filter(|isa| *isa != "portable")
        .collect();
    let Some(first) = isas.first() else { return };
    let text = with(first, &[]);
    for isa in &isas {
        assert_eq!(with(isa, &[]), text, "{isa} and {first}");
    }
    assert_eq!(with(first, &["-ub", "1"]), text);
}

#[test]
fn stderr_has_one_line_of_features_and_two_of_timings() {
    let model = cached("smollm2");
    let out = output(&["run", "-m", &model, "-n", "3", "-t", "2", "-s", "7", "-ngl", "99", PROMPT]);
    let err = stderr(&out);
    assert!(out.status.success(), "{err}");
    let count = |word: &str| err.lines().filter(|line| line.contains(word)).count();
    assert_eq!(count("threads 2, numerics fast, seed 7"), 1, "{err}");
    assert_eq!((count("isa "), count("tokens/s"), count("-ngl has no effect")), (1, 2, 1), "{err}");
}

#[test]
fn a_seed_repeats_the_draws_and_another_changes_them() {
    let model = cached("smollm2");
    let run =
        |seed: &str| output(&["run", "-m", &model, "-n", "16", "-s", seed, "--temp", "1.5", PROMPT]).stdout;
    let text = run("42");
    assert_eq!(run("42"), text);
    assert_ne!(run("43"), text);
}

#[test]
fn generation_stops_before_a_reverse_prompt() {
    let model = cached("smollm2");
    let run = |more: &[&str]| {
        let args = ["run", "-m", &model, "--temp", "0", "-n", "16", "--no-display-prompt", "-e"];
        stdout(&output(&[&args[..], more, &["-p", "One\\nTwo\\nThree\\n"]].concat()))
    };
    let free = run(&[]);
    let stop =
        free.trim_end().chars().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect::<String>();
    let want = free.split(&stop).next().unwrap();
    assert_eq!(run(&["-r", &stop]).trim_end_matches('\n'), want.trim_end_matches('\n'));
}

#[test]
fn what_is_no_model_is_named() {
    fails(&["run", "-m", "/nonexistent/x.gguf", "x"], 1, &["/nonexistent/x.gguf", "no such file"]);
    fails(&["run", "-m", "no-such-model", "x"], 1, &["no-such-model", "smollm2", "ollama pull"]);
    fails(&["run", "-m", "no/such:Q4_0", "x"], 1, &["hf download no/such"]);
    let folder = Scrap::new("empty");
    std::fs::create_dir(folder.path()).unwrap();
    fails(&["run", "-m", folder.path(), "x"], 1, &["config.json", folder.path()]);
    let page = Scrap::file("page.gguf", "<!DOCTYPE html><html><body>404</body></html>");
    fails(&["run", "-m", page.path(), "x"], 1, &["HTML page", page.path()]);
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    fails(&["run", "--no-such-flag", "x"], 2, &["--no-such-flag"]);
    fails(&["run", "--temp", "-1", "x"], 2, &["temp"]);
    fails(&["run", "--top-p", "2", "x"], 2, &["top-p is 2"]);
    fails(&["run", "--samplers", "top_x", "x"], 2, &["top_x"]);
    fails(&["run", "-ctk", "f16", "-ctv", "q8_0", "x"], 2, &["q8_0"]);
    fails(&["run"], 2, &["no prompt"]);
    fails(&["run", "-t", "0", "x"], 2, &["1 to 1024"]);
}

#[test]
fn guesses_change_no_text() {
    let model = cached("smollm2");
    let prompt = "one two three four five six seven eight nine ten. ".repeat(3);
    let args = ["run", "-m", &model, "-n", "40", "--seed", "5", "--temp", "0.5"];
    let plain = output(&[&args[..], &[&prompt]].concat());
    let guessed = output(&[&args[..], &["--draft", "12", &prompt]].concat());
    assert!(plain.status.success() && guessed.status.success(), "{}", stderr(&guessed));
    assert_eq!(stdout(&guessed), stdout(&plain));
    assert!(stderr(&guessed).contains("tokens guessed") && !stderr(&plain).contains("tokens guessed"));
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let model = cached("smollm2");
    let long = "word ".repeat(40);
    let out = output(&["run", "-m", &model, "-c", "16", &long]);
    failed(&out, 1, &["41 tokens do not fit into a context of 16"]);
}

#[test]
fn a_reader_who_leaves_ends_the_program_quietly() {
    let model = cached("smollm2");
    let mut child = gable(&["run", "-m", &model, "-n", "400", "--ignore-eos", "--no-display-prompt", PROMPT])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = child.stdout.take().unwrap();
    reader.read_exact(&mut [0; 4]).unwrap();
    drop(reader);
    let out = child.wait_with_output().unwrap();
    let err = stderr(&out);
    assert!(out.status.success() && !err.contains("panicked") && !err.contains("error"), "{err}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_130_after_the_text_so_far() {
    let model = cached("smollm2");
    let mut child =
        gable(&["run", "-m", &model, "-n", "2000", "--ignore-eos", "--no-display-prompt", PROMPT])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let mut reader = child.stdout.take().unwrap();
    let mut text = vec![0; 4];
    reader.read_exact(&mut text).unwrap();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    reader.read_to_end(&mut text).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", stderr(&out));
    assert!(text.ends_with(b"\n"));
    assert_eq!(stderr(&out).lines().filter(|line| line.contains("tokens/s")).count(), 2);
}

/// The prompt is one that takes this build a good while: the program has to stop in the middle of it.
#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_reading_of_a_prompt() {
    let model = cached("smollm2");
    let prompt = "word ".repeat(4000);
    let args =
        ["run", "-m", &model, "-c", "0", "--no-display-prompt", "--numerics", "exact", "-t", "1", &prompt];
    let mut child = gable(&args)
        .env("GABLE_ISA", "portable")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("isa ") {
        assert!(errors.read_line(&mut text).unwrap() > 0, "{text}");
    }
    // Until the prompt is begun, the program ends at once, without a word about what it has read.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    errors.read_to_string(&mut text).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{text}");
    assert!(stdout(&out).trim().is_empty(), "nothing was generated");
    let read = text.lines().find_map(|line| line.trim().split_once(" prompt tokens processed"));
    assert!(read.is_none_or(|(n, _)| n.parse::<usize>().unwrap() < 4000), "{text}");
}

/// Seconds of processor time that a process has used so far, also one that has ended and was not waited for.
#[cfg(target_os = "linux")]
fn cpu_seconds(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // Behind the name, which is in brackets: state, ten more, then user and system time.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // Linux counts them in hundredths of a second for everybody.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

/// By its processor time, which is the same on a machine that is busy otherwise.
#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_ends_a_prompt_and_a_text_after_little_more_work() {
    let model = cached("smollm2");
    let prompt = "word ".repeat(7000);
    for (text, in_prompt) in [(prompt.as_str(), true), (PROMPT, false)] {
        let args = ["run", "-m", &model, "-c", "0", "-n", "8000", "--ignore-eos", "-t", "1", text];
        let mut child = gable(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("isa ") {
            assert!(errors.read_line(&mut line).unwrap() > 0, "{line}");
        }
        match in_prompt {
            // Well into the prompt.
            true => {
                let start = cpu_seconds(child.id());
                while cpu_seconds(child.id()) < start + 0.3 {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
            false => out.read_exact(&mut vec![0; PROMPT.len() + 20]).unwrap(),
        }
        let before = cpu_seconds(child.id());
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        // Both end when the process has.
        out.read_to_end(&mut Vec::new()).unwrap();
        errors.read_to_string(&mut line).unwrap();
        let more = cpu_seconds(child.id()) - before;
        assert_eq!(child.wait().unwrap().code(), Some(130), "{line}");
        // Meant are 0.25 s; a slow machine may take four times as long, and the whole would be a minute.
        assert!(more < 1.0, "{more} s of work after Ctrl-C: {line}");
    }
}

#[test]
fn a_chat_shows_the_exact_prompt_and_remembers_the_turns() {
    let model = cached("smollm2");
    let args =
        ["chat", "-m", &model, "--system", "You're an apple.", "--show-prompt", "--temp", "0", "-n", "8"];
    let out = talk(&args, "Give me a bunnn\n\n/clear\nGive me a bunnn\n/regen\nAnd now?\n/exit\n");
    let (text, err) = (stdout(&out), stderr(&out));
    assert!(out.status.success(), "{err}");
    let first = "<|im_start|>system\nYou're an apple.<|im_end|>\n<|im_start|>user\nGive me a bunnn<|im_end|>\n\
                 <|im_start|>assistant\n";
    assert_eq!(err.matches(first).count(), 4, "{err}");
    let replies: Vec<&str> = text.lines().collect();
    assert!(replies.len() >= 4 && !text.contains("<|im_"), "{text:?}");
    assert_eq!(replies.first(), replies.get(1), "/clear begins anew");
    assert_eq!(replies.first(), replies.get(2), "/regen, greedily");
    assert!(
        err.contains("<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"),
        "{err}"
    );
}

#[test]
fn a_chat_that_keeps_its_cache_answers_as_one_that_begins_anew() {
    let model = cached("smollm2");
    let how = ["-m", &model, "--temp", "0", "-n", "12", "--numerics", "exact", "--strict"];
    let args = [&["chat", "--show-prompt", "--system", "Be brief."], &how[..]].concat();
    let kept = talk(&args, "What is the capital of France?\nAnd of Italy?\n");
    // The second prompt holds the first turn. Read in one piece by another process, it must lead to the same reply.
    let err = stderr(&kept);
    let (_, prompt) = err.rsplit_once("<|im_start|>system").unwrap();
    let prompt = format!("<|im_start|>system{}", prompt.strip_suffix('\n').unwrap());
    let whole = ["run", "--parse-special", "--no-display-prompt", "-p", &prompt];
    let anew = stdout(&output(&[&whole[..], &how[..]].concat()));
    assert!(
        stdout(&kept).ends_with(&anew) && anew.len() > 4,
        "{:?} does not end with {anew:?}",
        stdout(&kept)
    );
}

#[test]
fn a_reply_is_given_again_when_its_prompt_has_left_the_windows() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/gemma3/model.gguf");
    let args = ["chat", "-m", model, "--plain", "--temp", "0", "-n", "100", "-c", "1024", "--ignore-eos"];
    // The model's windows are of 8 positions, a page of the cache of 64: going back 100 is out of reach.
    let input = format!("{}\n/regen\n", "A long message. ".repeat(30));
    let windowed = talk(&args, &input);
    assert!(windowed.status.success(), "{}", stderr(&windowed));
    let text = stdout(&windowed);
    let (first, second) = text.split_at(text.len() / 2);
    assert!(first == second && first.len() > 50, "{text:?}");
    assert_eq!(stdout(&talk(&[&args[..], &["--swa-full"]].concat(), &input)), text);
}

#[test]
fn a_user_cannot_write_control_tokens() {
    let model = cached("smollm2");
    let args = ["chat", "-m", &model, "--temp", "0", "-n", "4", "-c", "64"];
    // As letters, the names are many tokens; as control tokens they would be a few.
    let out = talk(&args, &format!("{}\n", "<|im_end|>".repeat(20)));
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains("do not fit into a context of 64"), "{}", stderr(&out));
}

#[test]
fn a_base_model_is_refused_unless_the_transcript_is_plain() {
    let model = cached("gemma3");
    failed(
        &talk(&["chat", "-m", &model], "hello\n"),
        1,
        &["base model, no chat template", "--plain --names"],
    );
    let plain = ["--plain", "--names", "User,Apple", "--system", "You're an apple.", "--show-prompt"];
    let args = [&["chat", "-m", &model, "--temp", "0", "-n", "16"], &plain[..]].concat();
    let out = talk(&args, "Give me a bunnn\n");
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(stderr(&out).contains("You're an apple.\nUser: Give me a bunnn\nApple:"), "{}", stderr(&out));
    assert!(!stdout(&out).contains("User:") && !stdout(&out).trim().is_empty(), "{:?}", stdout(&out));
}
