//! `gable bench --against`: a llama-bench on the same machine and file, in turns with ours.
//!
//! Each round runs all our tests once and then starts the other program with `-r 1`, so that whatever happens to the
//! machine happens to both.

use super::compare::{Contest, Verdict, contests, parse, table};
use super::measure::Bench;
use super::options::{Form, MeasureArgs, Plan};
use super::record::Record;
use crate::exit::say;
use crate::options::{CacheTypeName, NumericsName, usage};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs both.
pub fn run(args: &MeasureArgs, program: &Path) -> Result<()> {
    let plan = args.plan()?;
    let [model] = &args.model[..] else {
        return Err(usage("--against takes one model at a time"));
    };
    if model.starts_with("synthetic:") {
        return Err(usage("--against needs a file that both can read: -m MODEL.gguf"));
    }
    if !matches!(args.output, Form::Md | Form::Json | Form::Jsonl) {
        return Err(usage("--against prints md, json or jsonl"));
    }
    let file = crate::locate::model(model)?;
    let mut bench = Bench::new(args, &plan)?;
    if !args.no_warmup {
        bench.round(None)?;
    }
    let mut theirs: Vec<Value> = Vec::new();
    for i in 0..args.repetitions {
        bench.round(Some(i))?;
        if args.progress {
            say(&format!(
                "gable bench: {}, run {}/{}",
                program.display(),
                i.saturating_add(1),
                args.repetitions
            ));
        }
        merge(&mut theirs, other(args, &plan, program, &file)?);
    }
    let ours = bench.finish();
    let contests = contests(&theirs, &rows(&ours)?);
    if contests.len() < ours.len() {
        bail!(
            "{} gave {} of our {} tests; does it know all of the options?",
            program.display(),
            contests.len(),
            ours.len()
        );
    }
    let name = program.file_stem().map_or_else(|| "other".to_owned(), |s| s.to_string_lossy().into_owned());
    print(args.output, &contests, &name)
}

/// Our records as rows, as the other program's are.
fn rows(records: &[Record]) -> Result<Vec<Value>> {
    let mut text = Vec::new();
    super::table::print(&mut text, Form::Jsonl, records, false)?;
    parse(&String::from_utf8_lossy(&text))
}

/// One round of the other program.
fn other(args: &MeasureArgs, plan: &Plan, program: &Path, file: &Path) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    for setting in &plan.settings {
        for depth in depths(plan) {
            let mut command = Command::new(program);
            command.arg("-m").arg(file).args(["-r", "1", "-o", "json", "-ngl", "0"]);
            command.args(["-t", &setting.threads.to_string(), "-d", &depth.to_string()]);
            command.args(["-b", &setting.batch.to_string(), "-ub", &setting.ubatch.to_string()]);
            // Exact numerics have a cache of f32, whose name must be the same on both sides.
            let exact = (args.numerics == NumericsName::Exact).then_some(CacheTypeName::F32);
            if let Some(kind) = setting.cache_type.or(exact) {
                command.args(["-ctk", kind.name(), "-ctv", kind.name()]);
            }
            if args.no_warmup {
                command.arg("--no-warmup");
            }
            let tests = || plan.tests.iter().filter(|t| t.depth == depth);
            let join = |list: Vec<usize>| match list.is_empty() {
                true => "0".to_owned(),
                false => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            };
            let prompts = tests().filter(|t| t.generate == 0).map(|t| t.prompt).collect();
            let gens = tests().filter(|t| t.prompt == 0).map(|t| t.generate).collect();
            command.args(["-p", &join(prompts), "-n", &join(gens)]);
            for test in tests().filter(|t| t.prompt > 0 && t.generate > 0) {
                command.args(["-pg", &format!("{},{}", test.prompt, test.generate)]);
            }
            rows.extend(output(command, program)?);
        }
    }
    Ok(rows)
}

fn depths(plan: &Plan) -> Vec<usize> {
    let mut depths: Vec<usize> = plan.tests.iter().map(|t| t.depth).collect();
    depths.dedup();
    depths
}

fn output(mut command: Command, program: &Path) -> Result<Vec<Value>> {
    let name = program.display();
    command.stdin(Stdio::null());
    let output = command.output().with_context(|| format!("could not start {name}"))?;
    if !output.status.success() {
        let err = String::from_utf8_lossy(&output.stderr);
        let last = err.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing on stderr");
        bail!("{name} ended with {}: {last}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).with_context(|| format!("{name} did not print what llama-bench prints with -o json"))
}

/// Adds the speeds of a round to those of the rounds before.
fn merge(all: &mut Vec<Value>, round: Vec<Value>) {
    if all.is_empty() {
        *all = round;
        return;
    }
    for (row, new) in all.iter_mut().zip(round) {
        if let (Some(list), Some(more)) =
            (row.get_mut("samples_ts").and_then(Value::as_array_mut), new["samples_ts"].as_array())
        {
            list.extend(more.iter().cloned());
        }
    }
}

fn print(form: Form, contests: &[Contest], name: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match form {
        Form::Md => {
            write!(out, "{}\n{}\n", table(contests, [name, "gable"]), conclusion(contests, name))?;
        }
        Form::Json => {
            let all: Vec<Value> = contests.iter().map(|c| c.json(["other", "gable"])).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        }
        _ => {
            for contest in contests {
                writeln!(out, "{}", contest.json(["other", "gable"]))?;
            }
        }
    }
    Ok(())
}

/// Where we lose, in words.
fn conclusion(contests: &[Contest], name: &str) -> String {
    let with = |wanted: Verdict| -> Vec<String> {
        let of = |c: &Contest| {
            let (ratio, _, verdict) = c.verdict();
            (verdict == wanted).then(|| format!("{} ({ratio:.2}x)", c.test))
        };
        contests.iter().filter_map(of).collect()
    };
    let (lost, won, open) = (with(Verdict::Slower), with(Verdict::Faster), with(Verdict::NotDistinguishable));
    let mut out = Vec::new();
    if !lost.is_empty() {
        out.push(format!("Gable loses against {name}: {}", lost.join(", ")));
    }
    if !won.is_empty() {
        out.push(format!("Gable wins against {name}: {}", won.join(", ")));
    }
    if !open.is_empty() {
        out.push(format!("Not distinguishable: {}", open.join(", ")));
    }
    out.join("\n")
}
