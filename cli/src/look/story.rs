//! `gable look story`: whole continuations at several temperatures, with and without filters.

use super::OfText;
use super::next::temperature;
use super::terminal::{Screen, fit};
use anyhow::Result;
use gable_model::look::{Guess, Look};
use gable_model::sampler::{SamplerConfig, Stage};
use serde_json::json;
use std::io::Write;
use std::ops::ControlFlow;

/// Options of `gable look story`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gable look story 'Once upon a time, there was a' --temp 0,1,2,5\n  \
    gable look story 'The sea was' -n 60 --temp 0.5,1.5 --seed 7 --json\n\n\
    Every token is coloured by its place among the guesses: green 1, yellow 2 to 10, orange to 100, red beyond. \
    \"filtered\" draws from what top-k 40, top-p 0.95 and min-p 0.05 leave.")]
pub struct StoryArgs {
    /// Temperatures
    #[arg(long, value_name = "T,...", value_delimiter = ',', default_value = "0,1,2,5", value_parser = temperature, allow_negative_numbers = true)]
    temp: Vec<f64>,
    /// Tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = 40)]
    n_predict: usize,
    /// Chooses the random numbers
    #[arg(short, long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    of: OfText,
}

struct Story {
    temperature: f64,
    filtered: bool,
    told: Vec<(String, Guess)>,
}

impl Story {
    fn title(&self) -> String {
        let filters = if self.temperature == 0.0 {
            "always the most likely"
        } else if self.filtered {
            "filtered"
        } else {
            "unfiltered"
        };
        format!("T = {}, {filters}", self.temperature)
    }

    fn text(&self) -> String {
        self.told.iter().map(|(piece, _)| piece.as_str()).collect()
    }
}

/// Runs the command.
pub fn run(args: &StoryArgs) -> Result<()> {
    let (look, text, ids) = args.of.open()?;
    let mut stories = Vec::new();
    for &t in &args.temp {
        for filtered in [false, true] {
            if t > 0.0 || filtered {
                stories.push(tell(&look, &ids, args, t, filtered)?);
            }
        }
    }
    args.of.common.print(
        || {
            let stories: Vec<_> = stories
                .iter()
                .map(|s| {
                    let tokens: Vec<_> = s
                        .told
                        .iter()
                        .map(|(piece, g)| {
                            let found = g.found.unwrap_or((0, 0.0));
                            json!({ "id": g.next, "piece": piece, "rank": found.0, "p": found.1 })
                        })
                        .collect();
                    json!({ "temperature": s.temperature, "filtered": s.filtered, "text": s.text(), "tokens": tokens })
                })
                .collect();
            json!({ "prompt": text, "seed": args.seed, "stories": stories })
        },
        |out, screen| {
            writeln!(out, "{}\n", screen.strong(&text))?;
            let width = screen.width.saturating_sub(3) / 2;
            for t in &args.temp {
                #[expect(clippy::float_cmp, reason = "the same number")]
                let pair: Vec<&Story> = stories.iter().filter(|s| s.temperature == *t).collect();
                if width < 28 {
                    pair.iter().try_for_each(|s| columns(out, screen, &[s], screen.width))?;
                } else {
                    columns(out, screen, &pair, if pair.len() == 1 { screen.width } else { width })?;
                }
                writeln!(out)?;
            }
            Ok(())
        },
    )
}

fn tell(look: &Look, ids: &[u32], args: &StoryArgs, t: f64, filtered: bool) -> Result<Story> {
    #[expect(clippy::cast_possible_truncation, reason = "a temperature of a few digits")]
    let temperature = t as f32;
    let order = if filtered { Stage::DEFAULT_ORDER.to_vec() } else { vec![Stage::Temperature] };
    let config = SamplerConfig { temperature, order, seed: args.seed, ..SamplerConfig::default() };
    let mut told = Vec::new();
    look.tell(ids, &config, args.n_predict, 1, &mut |guess| {
        told.push((guess.next.map_or_else(String::new, |id| look.piece(id)), guess));
        ControlFlow::Continue(())
    })?;
    Ok(Story { temperature: t, filtered, told })
}

/// Stories beside each other, broken into lines of `width`.
fn columns(out: &mut dyn Write, screen: &Screen, stories: &[&Story], width: usize) -> std::io::Result<()> {
    let titles: Vec<String> = stories.iter().map(|s| screen.strong(&fit(&s.title(), width))).collect();
    writeln!(out, "{}", titles.join(" | "))?;
    let broken: Vec<Vec<(String, usize)>> = stories.iter().map(|s| lines(screen, s, width)).collect();
    for i in 0..broken.iter().map(Vec::len).max().unwrap_or(0) {
        let cell = |lines: &Vec<(String, usize)>| {
            let (text, used) = lines.get(i).cloned().unwrap_or_default();
            format!("{text}{}", " ".repeat(width.saturating_sub(used)))
        };
        let row: Vec<String> = broken.iter().map(cell).collect();
        writeln!(out, "{}", row.join(" | ").trim_end())?;
    }
    Ok(())
}

/// A story's lines with the columns that they take, every token in the colour of its place.
fn lines(screen: &Screen, story: &Story, width: usize) -> Vec<(String, usize)> {
    let mut lines = vec![(String::new(), 0_usize)];
    for (piece, guess) in &story.told {
        let colour = match guess.found.map_or(1, |f| f.0) {
            1 => 71,
            2..=10 => 178,
            11..=100 => 208,
            _ => 197,
        };
        for (i, part) in piece.replace('\r', "").split('\n').enumerate() {
            if i > 0 {
                lines.push((String::new(), 0));
            }
            let printable: String = part.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let mut part = printable.as_str();
            let needed = console::measure_text_width(part);
            if lines.last().is_some_and(|(_, used)| used.saturating_add(needed) > width) {
                lines.push((String::new(), 0));
                part = part.trim_start();
            }
            let cut = fit(part, console::measure_text_width(part).min(width));
            if let Some((text, used)) = lines.last_mut() {
                text.push_str(&screen.ink(&cut, colour));
                *used = used.saturating_add(console::measure_text_width(&cut));
            }
        }
    }
    lines
}
