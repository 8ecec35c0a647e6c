//! `gable look step`: the prediction loop, one token at a time.

use super::terminal::{bar, fit, percent, shown};
use super::{OfText, guesses_json, required_text};
use crate::chat::prompt::{Form, template};
use anyhow::{Result, bail};
use gable_model::chat_template::Message;
use gable_model::look::{Guess, Look};
use gable_model::sampler::SamplerConfig;
use serde_json::json;
use std::ops::ControlFlow;

/// Options of `gable look step`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable look step 'apple, banana, and bread are' -n 5\n  \
    gable look step --system \"You're an apple.\" 'Give me a bunnn' -n 8\n\n\
    Each round: all tokens so far go in, scores of the next come out, one token is chosen and put behind the others.")]
pub struct StepArgs {
    /// Rounds
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    n_predict: usize,
    /// Puts the text into the model's chat template, behind this system prompt, and shows the exact result
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Temperature; 0 takes the most likely token always
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temp: f32,
    /// Chooses the random numbers
    #[arg(short, long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Guesses to show per round
    #[arg(short, value_name = "N", default_value_t = 5)]
    k: usize,
    #[command(flatten)]
    of: OfText,
}

/// Runs the command.
pub fn run(args: &StepArgs) -> Result<()> {
    let text = required_text(&args.of.text)?;
    let look = args.of.common.look()?;
    let (prompt, ids) = match &args.system {
        Some(system) => in_template(&look, system, &text)?,
        None => (text.clone(), look.encode(&text)?),
    };
    let config = SamplerConfig { temperature: args.temp, seed: args.seed, ..SamplerConfig::default() };
    let mut rounds: Vec<Guess> = Vec::new();
    look.tell(&ids, &config, args.n_predict, args.k, &mut |guess| {
        rounds.push(guess);
        ControlFlow::Continue(())
    })?;
    let tokenizer = look.model().tokenizer();
    args.of.common.print(
        || {
            let rounds: Vec<_> = rounds
                .iter()
                .map(|g| {
                    json!({
                        "tokens": g.position.saturating_add(1), "top": guesses_json(&look, &g.top),
                        "entropy": g.entropy, "chosen": g.next, "piece": g.next.map(|id| look.piece(id)),
                        "p": g.found.map(|f| f.1),
                    })
                })
                .collect();
            json!({ "prompt": prompt, "ids": ids, "rounds": rounds })
        },
        |out, screen| {
            writeln!(out, "{}\n{prompt}\n", screen.strong(&format!("the prompt, {} tokens", ids.len())))?;
            let mut new: Vec<u32> = Vec::new();
            for (i, g) in rounds.iter().enumerate() {
                let tokens = ids.len().saturating_add(i);
                writeln!(
                    out,
                    "{}",
                    screen.strong(&format!("round {}: {tokens} tokens in", i.saturating_add(1)))
                )?;
                for (id, p) in &g.top {
                    let chosen = if Some(*id) == g.next { "<- chosen, goes behind the others" } else { "" };
                    let room = screen.width.saturating_sub(66).clamp(5, 30);
                    let length = fit(&bar(*p, room), room);
                    let line = format!(
                        "  {} {:>6} {length} {chosen}",
                        fit(&shown(&look.piece(*id)), 18),
                        percent(*p)
                    );
                    writeln!(out, "{}", line.trim_end())?;
                }
                if let (Some(id), Some((rank, p))) = (g.next, g.found) {
                    if !g.top.iter().any(|(other, _)| *other == id) {
                        writeln!(
                            out,
                            "  {} {:>6} drawn, place {rank}",
                            fit(&shown(&look.piece(id)), 18),
                            percent(p)
                        )?;
                    }
                    new.push(id);
                }
            }
            writeln!(out, "\nbehind the prompt now stands {:?}", tokenizer.decode(&new))
        },
    )
}

/// The text as a user's message behind a system prompt, as the model's template writes it.
fn in_template(look: &Look, system: &str, text: &str) -> Result<(String, Vec<u32>)> {
    let model = look.model();
    let Some(source) = model.chat_template() else {
        bail!(
            "{}: base model, no chat template; leave --system out, or write the transcript as the text: \
             \"User: ...\\nApple:\" with -e",
            model.name()
        );
    };
    let form = Form::Template(Box::new(template(source, model.tokenizer())?));
    let messages = [Message::new("system", system), Message::new("user", text)];
    let prompt = form.prompt(&messages, model.tokenizer())?;
    Ok((prompt.text, prompt.ids))
}
