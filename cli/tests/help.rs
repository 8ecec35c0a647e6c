//! What the program says of itself: help texts, completions, manual pages.

mod program;

use program::{Scrap, gable, output, snapshot, stdout};

/// Names of all subcommands, from the program's own help.
fn commands() -> Vec<String> {
    let help = stdout(&["--help"]);
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let lines = list.lines().take_while(|line| !line.is_empty());
    lines
        .filter_map(|line| line.split_whitespace().next())
        .filter(|c| *c != "help")
        .map(str::to_owned)
        .collect()
}

/// A command's help in a terminal of this width.
fn help(command: &[&str], width: usize) -> String {
    let args = [command, &["--help"]].concat();
    let output = gable(&args).env("COLUMNS", width.to_string()).output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_shows_examples_that_name_it() {
    let all = commands();
    assert!(all.len() >= 14, "{all:?}");
    for command in &all {
        let text = help(&[command], 100);
        let (_, examples) =
            text.split_once("Examples:").unwrap_or_else(|| panic!("{command} has none:\n{text}"));
        assert!(examples.contains(&format!("gable {command}")), "{command}: {examples}");
        let short = stdout(&[command, "-h"]);
        assert!(short.lines().count() <= text.lines().count(), "{command}");
    }
}

#[test]
fn help_fits_into_a_narrow_terminal() {
    for command in commands() {
        let text = help(&[&command], 50);
        let (options, _) = text.split_once("Examples:").unwrap();
        // A single word, such as the name of an option with all that it takes, may be longer.
        let long =
            options.lines().filter(|l| l.chars().count() > 50 && l.trim().contains(' ')).collect::<Vec<_>>();
        let hopeless = |l: &&str| {
            l.trim_start().starts_with('-') || l.trim_start().starts_with('[') || l.starts_with("Usage")
        };
        assert!(long.iter().all(hopeless), "{command}: {long:#?}");
    }
}

#[test]
fn help_texts_are_as_they_were_looked_at() {
    for command in [
        "run",
        "chat",
        "batch",
        "bench",
        "profile",
        "roofline",
        "perplexity",
        "quantize",
        "imatrix",
        "score",
        "logits",
        "embed",
        "tokenize",
        "inspect",
        "look",
        "pull",
        "doctor",
        "explain",
        "selftest",
        "completions",
        "man",
    ] {
        snapshot(&format!("help-{command}"), &help(&[command], 90));
    }
    snapshot("help-bench-compare", &help(&["bench", "compare"], 90));
    snapshot("help-bench-sweep", &help(&["bench", "sweep"], 90));
    snapshot("help-score-narrow", &help(&["score"], 50));
}

#[test]
fn what_is_piped_has_no_colour() {
    let plain = |variable: Option<(&str, &str)>, args: &[&str]| {
        let mut command = gable(args);
        if let Some((name, value)) = variable {
            command.env(name, value);
        }
        let output = command.output().unwrap();
        ![output.stdout, output.stderr].concat().contains(&0x1b)
    };
    assert!(plain(None, &["--help"]) && plain(None, &["bench", "--no-such-flag"]));
    assert!(
        plain(Some(("NO_COLOR", "1")), &["--help"])
            && plain(Some(("NO_COLOR", "1")), &["bench", "--no-such"])
    );
}

#[test]
fn completions_know_every_command_and_its_options() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let text = stdout(&["completions", shell]);
        for command in commands() {
            assert!(text.contains(&command), "{shell}: {command}");
        }
        assert!(text.contains("ppl-stride") && text.contains("roofline"), "{shell}");
    }
    let out = output(&["completions", "tcsh"]);
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn bash_reads_its_completions() {
    let script = Scrap::file("completions.bash", stdout(&["completions", "bash"]));
    let run = format!(
        ". {}; COMP_WORDS=(gable perp); COMP_CWORD=1; COMP_LINE='gable perp'; _gable gable perp gable; \
         echo \"${{COMPREPLY[@]}}\"",
        script.path()
    );
    let out = std::process::Command::new("bash").args(["--norc", "-c", &run]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&out.stdout).trim(),
        "perplexity",
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let folder = Scrap::new("man");
    assert_eq!(stdout(&["man", folder.path()]), "");
    for command in commands() {
        let page = std::fs::read_to_string(format!("{}/gable-{command}.1", folder.path())).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains("Examples:"), "{command}");
    }
    assert!(
        std::fs::read_to_string(format!("{}/gable-bench-sweep.1", folder.path())).unwrap().contains("svg")
    );
}
