//! What stands around the loop that generates: forms of texts, saved sessions, full contexts, gaps.

mod program;

use program::{Scrap, failed, fails, fixture, json, output, stdout, talk};
use serde_json::{Value, json};
use std::process::Output;

fn cached(id: &str) -> String {
    program::cached(id).to_str().unwrap().to_owned()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn notes(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const LIST: &str = r#"{"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 3}"#;

#[test]
fn a_schema_from_the_command_line_or_a_file_decides_what_is_printed() {
    let model = cached("smollm2");
    let file = Scrap::file("schema.json", LIST);
    let at = format!("@{}", file.path());
    let mut texts = Vec::new();
    for form in [["-j", LIST], ["--json-schema", &at], ["-jf", file.path()]] {
        let args =
            ["run", "-m", &model, "-s", "7", "--temp", "1.5", "--no-display-prompt", "-n", "60", "A list: "];
        let printed = stdout(&[&args[..], &form].concat());
        let list: Vec<String> = serde_json::from_str(&printed).unwrap();
        assert!((2..=3).contains(&list.len()), "{printed}");
        texts.push(printed);
    }
    assert!(texts[0] == texts[1] && texts[1] == texts[2]);
    let done = json(&[
        "run", "-m", &model, "--json", "-j", LIST, "--draft", "8", "-s", "7", "--temp", "1.5", "A list: ",
    ]);
    assert_eq!(
        (&done["stop"], done["text"].as_str().unwrap().trim()),
        (&json!("GrammarEnd"), texts[0].trim())
    );
}

#[test]
fn a_grammar_holds_in_every_turn_of_a_chat() {
    let model = cached("smollm2");
    let grammar = Scrap::file("answer.gbnf", "root ::= (\"yes\" | \"no\") \"!\"");
    let out = talk(
        &["chat", "-m", &model, "--temp", "1.2", "--grammar-file", grammar.path()],
        "Is it cold?\n/regen\nAnd now?\n",
    );
    let replies = text(&out);
    assert_eq!(replies.lines().count(), 3, "{replies}");
    assert!(replies.lines().all(|line| ["yes!", "no!"].contains(&line)), "{replies}");
}

#[test]
fn a_form_that_cannot_be_is_a_wrong_command_line() {
    let model = cached("smollm2");
    let run = |form: &[&str], words: &[&str]| fails(&[&["run", "-m", &model, "x"], form].concat(), 2, words);
    run(&["-j", "{"], &["grammar: the schema is no JSON"]);
    run(&["-j", r#"{"type": "integer", "minimum": 5, "maximum": 4}"#], &["grammar"]);
    run(&["--grammar", "root ::= [a"], &["GBNF, line 1: ] is expected"]);
    run(&["--grammar", "start: nothing"], &["nothing"]);
    run(&["--grammar", "root ::= \"a\"", "-j", "{}"], &["cannot be used with"]);
    fails(&["run", "-m", &model, "x", "-jf", "/no/such/file"], 1, &["/no/such/file"]);
}

#[test]
fn a_record_of_a_batch_asks_for_its_own_form() {
    let record = |id: &str, format: Value| {
        let body =
            json!({ "prompt": "List: ", "max_tokens": 60, "temperature": 1.3, "response_format": format });
        format!("{}\n", json!({ "custom_id": id, "url": "/v1/completions", "body": body }))
    };
    let schema: Value = serde_json::from_str(LIST).unwrap();
    let records = [
        record("list", json!({ "type": "json_schema", "json_schema": { "name": "l", "schema": schema } })),
        record("text", json!({ "type": "text" })),
        record("bad", json!({ "type": "xml" })),
        record("none", json!({ "type": "json_schema", "json_schema": {} })),
    ];
    let (input, out) = (Scrap::file("forms.jsonl", records.concat()), Scrap::new("forms-out.jsonl"));
    text(&output(&["batch", input.path(), out.path(), "-m", &cached("smollm2"), "-c", "256"]));
    let lines = std::fs::read_to_string(out.path()).unwrap();
    let answer = |id: &str| -> Value {
        let answers = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        answers.into_iter().find(|a| a["custom_id"] == id).unwrap()["response"].take()
    };
    let list = answer("list");
    let choice = &list["body"]["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    let list: Vec<String> = serde_json::from_str(choice["text"].as_str().unwrap()).unwrap();
    assert!((2..=3).contains(&list.len()));
    assert_eq!(answer("text")["status_code"], 200);
    assert!(answer("bad")["body"].to_string().contains("response_format.type"));
    assert!(answer("none")["body"].to_string().contains("has no schema"));
}

#[test]
fn a_prompt_that_was_kept_is_not_read_again_and_the_text_is_the_same() {
    let model = cached("smollm2");
    let file = Scrap::new("prompt.session");
    let prompt = "The quick brown fox jumps over the lazy dog, and then it sleeps. ".repeat(6);
    let run = |prompt: &str, more: &[&str]| {
        let args = ["run", "-m", &model, "--temp", "0", "-n", "12", "--no-display-prompt", "-p", prompt];
        output(&[&args[..], more].concat())
    };
    let cache = ["--prompt-cache", file.path()];
    let plain = run(&prompt, &[]);
    let read = |out: &Output| -> usize {
        let notes = notes(out);
        let line = notes.lines().find(|l| l.contains("prompt tokens processed")).unwrap().trim().to_owned();
        line.split(' ').next().unwrap().parse().unwrap()
    };
    let whole = read(&plain);
    let first = run(&prompt, &cache);
    assert_eq!((text(&first), read(&first)), (text(&plain), whole));
    let bytes = std::fs::read(file.path()).unwrap();
    let second = run(&prompt, &cache);
    assert_eq!((text(&second), read(&second)), (text(&plain), 1));
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes, "nothing new, nothing written");
    // A longer one is added to the file, unless it is to stay as it is.
    let longer = format!("{prompt}It dreams of");
    let ro = run(&longer, &["--prompt-cache", file.path(), "--prompt-cache-ro"]);
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    let third = run(&longer, &["--session", file.path(), "--prompt-cache-all"]);
    assert_eq!((text(&third), read(&third)), (text(&ro), read(&ro)));
    assert!(read(&third) < 8 && std::fs::read(file.path()).unwrap().len() > bytes.len());
    // What was generated is there now: its text read as a prompt is known up to its last tokens.
    let all = format!("{longer}{}", text(&third).trim_end_matches('\n'));
    assert!(read(&run(&all, &[&cache[..], &["--prompt-cache-ro"]].concat())) < 8);
}

#[test]
fn a_text_that_was_kept_goes_on_without_a_prompt() {
    for (model, draft) in [("smollm2", "0"), ("smollm2", "8"), ("gemma3", "0")] {
        let model = cached(model);
        let file = Scrap::new(&format!("text-{draft}.session"));
        let run = |n: &str, more: &[&str]| {
            // Strictly, since the token that comes next is read as a prompt.
            let args = ["run", "-m", &model, "--strict", "--temp", "0", "-n", n, "--draft", draft];
            output(&[&args[..], &["--no-display-prompt"], more].concat())
        };
        let line = |out: &Output| text(out).trim_end_matches('\n').to_owned();
        let prompt = ["-p", "One, two, three, four, five, six,"];
        let cache = ["--prompt-cache", file.path()];
        let all = [&cache[..], &["--prompt-cache-all"]].concat();
        let whole = line(&run("24", &prompt));
        // Of the prompt alone, as often as one likes.
        assert_eq!(line(&run("4", &[&cache[..], &prompt].concat())), line(&run("4", &prompt)));
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(line(&run("24", &cache)), whole);
        assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
        // And piece by piece.
        let parts = ["8", "9", "7"].map(|n| line(&run(n, &all)));
        assert_eq!(parts.concat(), whole, "{parts:?}");
        // Another last word is another text.
        let other = ["-p", "One, two, three, four, five, six"];
        run("1", &[&cache[..], &["--prompt-cache-all"], &other].concat());
        run("1", &[&cache[..], &other].concat());
        let json: Value =
            serde_json::from_str(&text(&run("5", &[&cache[..], &["--json"]].concat()))).unwrap();
        assert_eq!((&json["prompt"], &json["prompt_tokens"]), (&"".into(), &1.into()));
        if draft == "0" && model.contains("smollm2") {
            // A chat begins anew: it was none that was kept.
            let chat = talk(&["chat", "-m", &model, "-n", "1", cache[0], cache[1]], "Hello\n");
            assert!(chat.status.success(), "{}", notes(&chat));
        }
    }
    let none = Scrap::new("none.session");
    let model = fixture("llama/model.gguf");
    fails(&["run", "-m", &model, "--prompt-cache", none.path()], 2, &["no prompt"]);
}

#[test]
fn a_chat_goes_on_where_it_was_left() {
    let model = cached("smollm2");
    let file = Scrap::new("chat.session");
    let args = ["chat", "-m", &model, "--temp", "0", "-n", "10", "--show-prompt", "--system", "Be brief."];
    let kept = [&args[..], &["--session", file.path()]].concat();
    let first = talk(&kept, "My name is Ada.\n");
    let second = talk(&kept, "What is my name?\n");
    let together = talk(&args, "My name is Ada.\nWhat is my name?\n");
    assert_eq!(text(&first) + &text(&second), text(&together));
    assert!(notes(&second).contains("the conversation has 3 messages"), "{}", notes(&second));
    assert!(notes(&second).contains("My name is Ada.<|im_end|>"));
    let anew = talk(&kept, "/clear\nMy name is Ada.\n");
    assert_eq!(text(&anew), text(&first));
}

#[test]
fn a_file_that_is_no_session_of_this_model_is_named_and_stays() {
    let model = fixture("llama/model.gguf");
    let file = Scrap::file("no.session", "a text of mine that is to stay");
    let run = |model: &str, file: &Scrap| {
        output(&[
            "run",
            "-m",
            model,
            "-n",
            "2",
            "--prompt-cache",
            file.path(),
            "-p",
            "some text, long enough",
        ])
    };
    failed(&run(&model, &file), 1, &["no.session", "is no saved session"]);
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "a text of mine that is to stay");
    let file = Scrap::new("other.session");
    text(&run(&model, &file));
    let bytes = std::fs::read(file.path()).unwrap();
    failed(&run(&fixture("qwen2/model.gguf"), &file), 1, &["other.session", "model is", "needed"]);
    std::fs::write(file.path(), &bytes[..bytes.len() / 2]).unwrap();
    failed(&run(&model, &file), 1, &["cut short"]);
    fails(&["run", "-m", &model, "x", "--prompt-cache-all"], 2, &["--prompt-cache"]);
}

#[test]
fn a_full_context_ends_the_text_or_is_shifted() {
    let model = fixture("llama/model.gguf");
    let args =
        ["run", "-m", &model, "-c", "64", "-n", "150", "--ignore-eos", "-s", "1", "--json", "-p", "abc"];
    let ended = json(&args);
    assert_eq!(ended["stop"], "ContextFull");
    let shifted = json(&[&args[..], &["--context-shift", "--keep", "-1"]].concat());
    assert_eq!((&shifted["stop"], &shifted["generated_tokens"]), (&json!("MaxTokens"), &json!(150)));
    assert!(shifted["text"].as_str().unwrap().starts_with(ended["text"].as_str().unwrap()));
    let out = output(&[&args[..], &["--context-shift"]].concat());
    assert!(notes(&out).contains("times the context was full and shifted"), "{}", notes(&out));
    fails(&[&args[..], &["--context-shift", "--keep", "63"]].concat(), 2, &["--keep is 63", "64"]);
    fails(&[&args[..], &["--keep", "3"]].concat(), 2, &["--context-shift"]);
}

#[test]
fn a_chat_longer_than_its_context_goes_on_if_it_may() {
    let model = cached("smollm2");
    let args = ["chat", "-m", &model, "--temp", "0", "-n", "40", "-c", "128", "--system", "Tell stories."];
    let input = "A story about a fox.\nAnd about a dog, a long one please.\nAnd about a cat and a mouse.\n";
    assert_eq!(talk(&args, input).status.code(), Some(1));
    let out = talk(&[&args[..], &["--context-shift", "--keep", "16"]].concat(), input);
    assert!(text(&out).lines().filter(|line| !line.is_empty()).count() >= 3);
}

#[test]
fn a_coder_model_fills_a_gap_and_others_say_that_they_cannot() {
    let coder = cached("qwen2.5-coder");
    let filled = stdout(&[
        "run",
        "-m",
        &coder,
        "--temp",
        "0",
        "-n",
        "12",
        "--fim-prefix",
        "def add(a, b):\n    return ",
        "--fim-suffix",
        "\n\nprint(add(1, 2))\n",
    ]);
    assert!(filled.starts_with("a + b"), "{filled:?}");
    failed(
        &output(&["run", "-m", &cached("smollm2"), "--fim-prefix", "a", "--fim-suffix", "b"]),
        1,
        &["no tokens for filling in the middle"],
    );
    fails(&["run", "-m", &coder, "--fim-prefix", "a", "a prompt"], 2, &["cannot be used with"]);
}
