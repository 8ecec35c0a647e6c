//! `gable profile` as a user has it, on models of `gable pull`.

mod program;

use program::{Scrap, fails, fixture, gable, json, stdout};
use serde_json::Value;

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"))
}

fn operations<'a>(phase: &'a Value, name: &str) -> Vec<&'a Value> {
    phase["operations"].as_array().unwrap().iter().filter(|o| o["operation"] == name).collect()
}

#[test]
fn the_parts_add_up_to_the_time_by_the_clock() {
    let found = json(&["profile", "-m", "smollm2", "--n-prompt", "48", "-n", "8", "--json"]);
    let (wall, accounted) = (number(&found, "wall_ms"), number(&found, "accounted_ms"));
    assert!((accounted / wall - 1.0).abs() < 0.05, "{accounted} of {wall} ms");
    for phase in found["phases"].as_array().unwrap() {
        let all = phase["operations"].as_array().unwrap();
        let ms: f64 = all.iter().map(|o| number(o, "ms")).sum();
        let outside = number(phase, "sampling_ms") + number(phase, "text_ms") + number(phase, "rest_ms");
        assert!(((ms + outside) / number(phase, "wall_ms") - 1.0).abs() < 1e-9, "{phase}");
        assert!(all.is_sorted_by(|a, b| number(a, "ms") >= number(b, "ms")), "longest first");
        assert!(number(phase, "sampling_ms") > 0.0 && number(phase, "percent_of_limit") > 0.0);
    }
    assert!(number(&found["phases"][1], "text_ms") > 0.0);
}

#[test]
fn every_pass_calls_every_operation_of_every_layer() {
    let found = json(&["profile", "-m", "smollm2", "--n-prompt", "40", "-ub", "16", "-n", "5", "--json"]);
    // The first token comes out of the prompt, the last is not read again.
    for (phase, passes, tokens) in [("prompt", 3, 40), ("generation", 4, 4)] {
        let phase = found["phases"].as_array().unwrap().iter().find(|p| p["phase"] == phase).unwrap();
        assert_eq!((&phase["passes"], &phase["tokens"]), (&passes.into(), &tokens.into()));
        // The activation belongs to "W_gate W_up": one operation.
        for name in ["W_Q W_K W_V", "rope and cache", "attention", "W_O", "W_gate W_up", "W_down"] {
            let rows = operations(phase, name);
            assert_eq!(rows.len(), 1, "{name}: all layers have one shape");
            assert_eq!(rows[0]["calls"], passes * 30, "{name}");
            assert_eq!(rows[0]["layers"].as_array().unwrap().len(), 30, "{name}");
        }
        // Logits are computed of one row.
        assert_eq!(operations(phase, "W_U")[0]["calls"], if tokens == 40 { 1 } else { 4 });
    }
}

#[test]
fn generation_reads_each_weight_once_per_token() {
    let found = json(&["profile", "-m", "smollm2", "--n-prompt", "4", "-n", "3", "-ctk", "f16", "--json"]);
    let inspected = json(&["inspect", "-m", "smollm2", "--json"]);
    let phase = &found["phases"][1];
    let bytes = |o: &Value| o["gb_s"].as_f64().unwrap_or(0.0) * number(o, "ms") * 1e6;
    let read: f64 = phase["operations"].as_array().unwrap().iter().map(bytes).sum();
    // Two tokens, at positions 4 and 5, which see 5 and 6.
    let weights = 2.0 * number(&inspected, "bytes_per_token");
    let cache = 11.0 * number(&inspected, "cache_bytes_per_token");
    assert!((read / (weights + cache) - 1.0).abs() < 1e-6, "{read}, {weights} and {cache}");
}

/// Gemma's layers differ in the types of their matrices, and in how far they see.
#[test]
fn layers_that_do_the_same_are_one_row() {
    let found = json(&["profile", "-m", "gemma3", "--n-prompt", "8", "-n", "2", "--json"]);
    for phase in found["phases"].as_array().unwrap() {
        let attention = operations(phase, "attention");
        let whats: Vec<_> = attention.iter().map(|o| o["what"].as_str().unwrap()).collect();
        assert!(whats.contains(&"window 512") && whats.contains(&"all positions"), "{whats:?}");
        let layers = |o: &&Value| o["layers"].as_array().unwrap().len();
        assert_eq!(attention.iter().map(layers).sum::<usize>(), 18);
        let down = operations(phase, "W_down");
        assert!(down.len() == 2 && down.iter().map(layers).sum::<usize>() == 18, "{down:?}");
    }
}

#[test]
fn a_table_fits_the_terminal_and_has_no_colours_in_a_pipe() {
    let model = fixture("gemma3/model.gguf");
    let args = ["profile", "-m", &model, "--n-prompt", "9", "-n", "3", "-t", "1"];
    for width in ["57", "80", "120"] {
        let output = gable(&args).env("COLUMNS", width).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let widest = text.lines().map(console::measure_text_width).max().unwrap();
        assert!(widest <= width.parse().unwrap() && !text.contains('\u{1b}'), "{width}: {text}");
        for word in
            ["prompt: 9 tokens in 1 pass", "generation: 2 tokens in 2 passes", "rope and cache", "post norm"]
        {
            assert!(text.contains(word), "{width}, {word}: {text}");
        }
    }
    let alone = stdout(&["profile", "-m", &model, "--n-prompt", "9", "-n", "0"]);
    assert!(alone.contains("prompt: 9 tokens") && !alone.contains("generation"), "{alone}");
}

#[test]
fn the_picture_has_every_layer_and_operation() {
    let model = fixture("llama/model.gguf");
    let picture = Scrap::new("timeline.svg");
    stdout(&["profile", "-m", &model, "-n", "3", "--svg", picture.path(), "the cat and the"]);
    let svg = std::fs::read_to_string(picture.path()).unwrap();
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
    for title in ["layer 0: ", "layer 1: ", "layer 1, W_down: ", "<title>sampling: ", "<title>W_U: "] {
        assert!(svg.contains(title), "{title}: {svg}");
    }
    // A prompt and two passes of single tokens.
    assert_eq!(svg.matches("<title>token, ").count(), 2);
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = fixture("llama/model.gguf");
    fails(&["profile", "-m", &model, "--n-prompt", "40", "-c", "16"], 1, &["context of 16"]);
    fails(&["profile", "-m", &model, "--n-prompt", "0"], 2, &["1 to"]);
    fails(&["profile", "-m", &model, "--temp", "-1"], 2, &["temp"]);
}
