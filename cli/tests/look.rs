//! `gable look` as a user has it.

mod program;

use program::{Scrap, failed, gable};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};

const CREATURE: &str = "a fluffy blue creature roamed the verdant forest";

fn output(args: &[&str]) -> Output {
    gable(&[&["look"], args].concat()).env("COLUMNS", "80").output().unwrap()
}

fn text(args: &[&str]) -> String {
    let output = output(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&text(&[args, &["--json"]].concat())).unwrap()
}

/// Ends with code 2 and says `words`.
fn refused(args: &[&str], words: &[&str]) {
    failed(&output(args), 2, words);
}

/// One call of each way of looking, but for those that need a file.
const CALLS: [&[&str]; 14] = [
    &["tokens", CREATURE],
    &["vector", "king"],
    &["analogy", "king - man + woman"],
    &["direction", "cat:cats", "dog:dogs", "--test", "bird:birds", "--score", "one,two,apples"],
    &["attention", "-l", "10", "-H", "6", "--word", "creature", CREATURE],
    &["heads", "--from", "creature", "--to", "fluffy,blue", CREATURE],
    &["context", "mole", "American shrew mole", "One mole of carbon dioxide", "Take a biopsy of the mole"],
    &["order", "dog bites man", "man bites dog"],
    &["lens", "The capital of France is", "--target", "Paris"],
    &["positions", CREATURE],
    &["next", "The capital of France is", "--why", "Paris,London"],
    &["story", "Once upon a time", "-n", "8"],
    &["step", "apple, banana, and bread are", "-n", "3"],
    &["ffn", "-l", "20", "--word", "creature", CREATURE],
];

#[test]
fn every_way_of_looking_explains_itself_by_example() {
    let all = CALLS.iter().map(|call| call[0]).chain(["window", "report"]);
    for name in all {
        let help = text(&[name, "--help"]);
        assert!(help.contains(&format!("gable look {name} ")), "{name}: an example\n{help}");
        assert!(help.contains("Example") && help.contains("--json") && help.contains("--model"), "{name}");
    }
    let help = text(&["--help"]);
    assert!(help.contains("Memory:") && help.contains("512 tokens"), "{help}");
}

#[test]
fn pictures_fit_the_width_and_have_no_colours_in_a_pipe() {
    for call in CALLS {
        let picture = text(call);
        assert!(!picture.contains('\u{1b}'), "{call:?}");
        for line in picture.lines() {
            assert!(console::measure_text_width(line) <= 80, "{call:?}: {line:?}");
        }
    }
}

#[test]
fn every_way_of_looking_gives_json() {
    for call in CALLS {
        assert!(json(call).is_object(), "{call:?}");
    }
}

/// Within 150 MB of data: Gemma's W_E as f32 alone would take 671. The mapped file does not count.
#[test]
#[cfg(target_os = "linux")]
fn weights_are_never_expanded_as_a_whole() {
    for call in ["analogy -m gemma3 king-man+woman", "vector -m gemma3 king", "lens -m gemma3 France"] {
        let command = format!("ulimit -d 150000 && exec {} look {call}", env!("CARGO_BIN_EXE_gable"));
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        assert!(output.status.success(), "{call}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn words_are_added_and_subtracted() {
    let found = json(&["analogy", "king - man + woman = queen"]);
    assert_eq!(
        (found["answers"][0]["piece"].as_str(), found["rank_of_right"].as_u64()),
        (Some(" queen"), Some(1))
    );
    let steps = json(&["analogy", "queen - king = woman - man"]);
    assert_eq!(steps["steps"][0]["words"], serde_json::json!(["queen", "king", "woman", "man"]));
    assert!(steps["cosine_of_sides"].as_f64().unwrap() > 0.4);
    let table = text(&["analogy", "king - man + woman"]);
    assert!(
        table.contains("W_E, a column per word") && table.contains("king      man       woman     queen"),
        "{table}"
    );
    let svg = Scrap::new("queen.svg");
    text(&["analogy", "king - man + woman", "--svg", svg.path()]);
    let svg = svg.read();
    assert!(svg.starts_with("<svg") && svg.matches("<circle").count() == 4 && !svg.contains("NaN"), "{svg}");
    refused(&["analogy", "niece - woman + man"], &["niece", "\" n\" \"iece\"", "another word"]);
    refused(&["analogy", "king = "], &["at most one ="]);
    refused(&["analogy", "king + queen", "--svg", "/nowhere/x.svg"], &["four words"]);
}

#[test]
fn heads_are_ranked_by_the_weakest_link_with_a_control() {
    let found = json(&["heads", "--from", "creature", "--to", "fluffy,blue", CREATURE]);
    let heads = found["heads"].as_array().unwrap();
    assert_eq!((heads.len(), &heads[0]["layer"], &heads[0]["head"]), (270, &10.into(), &6.into()));
    let head =
        |layer: u64, head: u64| heads.iter().find(|h| h["layer"] == layer && h["head"] == head).unwrap();
    assert_eq!(head(16, 0)["mark"], "previous token");
    assert_eq!(found["written"].as_array().unwrap().len(), 4);
    refused(&["heads", "--from", "blue", "--to", "forest", CREATURE], &["looks back only"]);
    refused(&["heads", "--from", "dragon", "--to", "blue", CREATURE], &["dragon", "stands in the text"]);
}

#[test]
fn the_sink_can_be_hidden_and_pieces_joined() {
    let args = ["attention", "-l", "6", "-H", "0", CREATURE];
    let whole = json(&args);
    assert_eq!(whole["words"].as_array().unwrap().len(), 8);
    assert!(whole["mean_on_first"].as_f64().unwrap() > 0.5, "layer 6, head 0 rests on the first token");
    assert!(whole["word_weights"][5][0].as_f64().unwrap() > 0.0);
    let hidden = json(&[&args[..], &["--hide-sink", "--pieces"]].concat());
    assert_eq!(hidden["words"].as_array().unwrap().len(), 10);
    assert!(hidden["word_weights"].as_array().unwrap().iter().all(|row| row[0] == 0.0));
    assert_eq!(hidden["weights"], whole["weights"], "the numbers themselves stay");
    let svg = Scrap::new("head.svg");
    text(&[&args[..], &["--svg", svg.path()]].concat());
    assert_eq!(svg.read().matches("<title>").count(), 8 * 9 / 2);
    refused(&["attention", "-l", "30", "-H", "0", "x"], &["layer is 30", "has 30"]);
}

#[test]
fn the_table_of_positions_means_what_perplexity_measures() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/golden/passage.txt");
    let passage: String = std::fs::read_to_string(file).unwrap().chars().take(900).collect();
    for model in ["smollm2", "gemma3"] {
        let scrap = Scrap::new(&format!("{model}.txt"));
        std::fs::write(scrap.path(), &passage).unwrap();
        let found = json(&["positions", "-m", model, "-f", scrap.path()]);
        let output = Command::new(env!("CARGO_BIN_EXE_gable"))
            .args(["perplexity", "-m", model, "-f", scrap.path(), "--whole", "--json"])
            .env_remove("GABLE_NUMERICS")
            .output()
            .unwrap();
        let measured: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["scored"], measured["scored"]);
        let (ours, theirs) = (found["nll"].as_f64().unwrap(), measured["nll"].as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-9, "{model}: {ours}, {theirs}");
    }
}

#[test]
fn temperatures_stand_side_by_side() {
    let found = json(&["next", "Once upon a time, there was a little", "--temp", "0,0.5,1,5"]);
    let bits: Vec<f64> = found["temperatures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["entropy_bits"].as_f64().unwrap())
        .collect();
    assert!(bits.len() == 4 && bits.is_sorted() && bits[0] == 0.0, "{bits:?}");
    assert_eq!(found["temperatures"][1]["top"][0]["piece"], " girl");
    assert_eq!(found["filters"][0]["kept"], 40);
    refused(&["next", "x", "--temp", "-1"], &["0 and positive"]);
    refused(&["next", "x", "--top-p", "2"], &["top-p", "0 to 1"]);
}

#[test]
fn stories_can_be_told_again_with_their_seed() {
    let tell = |seed| {
        json(&["story", "Once upon a time", "-n", "6", "--temp", "0,1", "--seed", seed])["stories"].clone()
    };
    let stories = tell("7");
    assert_eq!(stories.as_array().unwrap().len(), 3, "one without chance, two with");
    assert!(stories[0]["tokens"].as_array().unwrap().iter().all(|t| t["rank"] == 1));
    assert_eq!(stories, tell("7"));
    assert_ne!(stories[1], tell("8")[1]);
}

#[test]
fn steps_show_the_exact_prompt_of_a_system_text() {
    let found = json(&["step", "--system", "You're an apple.", "Give me a bunnn", "-n", "2"]);
    let prompt = "<|im_start|>system\nYou're an apple.<|im_end|>\n<|im_start|>user\nGive me a bunnn<|im_end|>\n\
                  <|im_start|>assistant\n";
    assert_eq!(found["prompt"], prompt);
    assert_eq!(found["rounds"].as_array().unwrap().len(), 2);
    assert_eq!(found["rounds"][1]["tokens"].as_u64(), found["rounds"][0]["tokens"].as_u64().map(|n| n + 1));
    let base = output(&["step", "-m", "gemma3", "--system", "You're an apple.", "Give me a bunnn"]);
    assert_eq!(base.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&base.stderr).contains("no chat template"));
}

#[test]
fn a_guess_needs_the_story() {
    let scrap = Scrap::new("story.txt");
    let story = "The old man was murdered at night. The cook was innocent, for he was in London that night. The \
        gardener had blood on his coat, and the gardener had the knife. The gardener hated the victim. The gardener \
        confessed to the murder. Everyone was shocked that it was the gardener. Therefore, the murderer was the\n";
    std::fs::write(scrap.path(), story).unwrap();
    let found = json(&["window", scrap.path(), "--target", "gardener"]);
    let visible = found["visible"].as_array().unwrap();
    assert!(visible[0]["rank"].as_u64().unwrap() > 10);
    assert_eq!(visible.last().unwrap()["rank"], 1);
    assert_eq!(visible.last().unwrap()["tokens"], found["tokens"]);
    assert!(found["looks"].as_array().unwrap().iter().take(12).any(|l| l["word"] == " gardener"));
    let table = text(&["window", scrap.path(), "--target", "gardener"]);
    assert!(table.lines().all(|line| console::measure_text_width(line) <= 80), "{table}");
}

#[test]
fn a_page_is_one_file_that_asks_for_nothing() {
    for (model, heads) in [("smollm2", 270), ("gemma3", 72)] {
        let page = Scrap::new(&format!("{model}.html"));
        let said = "</script><script src=\"https://example.org/x.js\"></script> & <b>\n\tthe end";
        text(&["report", "-m", model, said, "-o", page.path()]);
        let html = page.read();
        assert!(html.starts_with("<!doctype html>") && html.len() < 400_000, "{}", html.len());
        assert!(
            !html.contains("<script src")
                && !html.contains("<link rel=\"stylesheet\"")
                && !html.contains("@import")
        );
        assert!(html.contains("default-src 'none'"));
        let (_, data) = html.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
        let data: Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
        assert_eq!(data["text"], said);
        let n = data["tokens"].as_array().unwrap().len();
        let base64 = data["attention"].as_str().unwrap().trim_end_matches('=').len();
        assert_eq!(base64 * 3 / 4, heads * n * (n + 1) / 2);
        assert_eq!(data["grid"].as_array().unwrap().len(), data["layers"].as_array().unwrap().len());
    }
    let both = json(&[
        "report",
        "The capital of France is",
        "--vs",
        "smollm2",
        "-o",
        Scrap::new("both.html").path(),
    ]);
    assert_eq!(both["analogy"]["answers"][0][0], " queen");
    assert_eq!(both["vs"]["layers"].as_array().unwrap().len(), 30);
    assert_eq!(both["vs"]["next"][0], both["vs"]["next"][1], "a file does not differ from itself");
    refused(&["report", "x", "--vs", "gemma3", "-o", "/nowhere/x.html"], &["--vs", "another quantization"]);
    refused(&["report", &"word ".repeat(200), "-o", "/nowhere/x.html"], &["holds 96", "shorten"]);
    refused(
        &["report", "x", "--analogy", "niece - man", "-o", "/nowhere/x.html"],
        &["\"niece\" is not one token"],
    );
    refused(&["report", "text"], &["--output"]);
}

/// Needs `chromedriver` and `chromium`.
#[test]
#[ignore = "needs a browser; test.sh runs it in a step of its own"]
fn a_page_works_in_a_browser() {
    for model in ["smollm2", "gemma3"] {
        let page = Scrap::new(&format!("browser-{model}.html"));
        text(&["report", "-m", model, CREATURE, "-o", page.path()]);
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/check_report.py");
        let checked = Command::new("python3").arg(script).arg(page.path()).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
}
