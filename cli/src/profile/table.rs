//! The profile in a terminal.

use super::breakdown::{Breakdown, Part, Row};
use crate::look::terminal::{Screen, bar, fit};
use std::io::Write;

/// Columns that are worth their room from this width on.
const WITH_WHAT: usize = 110;
const WITH_LAYERS: usize = 80;
const WITH_CALLS: usize = 64;

/// Writes both parts.
pub fn print(out: &mut impl Write, breakdown: &Breakdown) -> std::io::Result<()> {
    let screen = Screen::of_stdout();
    for (i, part) in breakdown.parts.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        print_part(out, &screen, part)?;
    }
    Ok(())
}

fn print_part(out: &mut impl Write, screen: &Screen, part: &Part) -> std::io::Result<()> {
    let (passes, tokens) = (part.passes, part.tokens);
    let passes = if passes == 1 { "1 pass".to_owned() } else { format!("{passes} passes") };
    let ms = part.wall * 1e3;
    #[expect(clippy::cast_precision_loss, reason = "for a speed")]
    let speed = tokens as f64 / part.wall.max(1e-12);
    let title = format!("{}: {tokens} tokens in {passes}, {ms:.2} ms, {speed:.1} tokens/s", part.name);
    writeln!(out, "{}", screen.strong(fit(&title, screen.width).trim_end()))?;
    let mut line = |cells: Cells| -> std::io::Result<()> {
        let mut text = fit(&cells.name, 15);
        if screen.width >= WITH_LAYERS {
            text += &format!(" {}", fit(&cells.layers, 10));
        }
        if screen.width >= WITH_WHAT {
            text += &format!(" {}", fit(&cells.what, 26));
        }
        if screen.width >= WITH_CALLS {
            text += &format!(" {:>6}", cells.calls);
        }
        text += &format!(" {:>9} {:>6}", cells.ms, cells.share);
        text += &format!(" {:>8} {:>7} {:>6}", cells.gflops, cells.gigabytes, cells.limit);
        if screen.width >= WITH_LAYERS {
            text += &format!(" {}", cells.end);
        }
        writeln!(out, "{}", fit(text.trim_end(), screen.width).trim_end())
    };
    line(Cells::titles())?;
    for row in &part.rows {
        line(Cells::of(row, part.wall))?;
    }
    for (name, seconds) in [("sampling", part.sampling), ("text", part.text)] {
        if seconds > 0.0 {
            line(Cells::outside(name, seconds, part.wall))?;
        }
    }
    line(Cells::outside("rest", part.wall - part.accounted(), part.wall))?;
    line(Cells {
        limit: format!("{:.0}%", 100.0 * part.limit() / part.wall),
        ..Cells::outside("all", part.wall, part.wall)
    })?;
    let l = &part.limits;
    let [f32, bf16, int8] = [l.f32, l.bf16, l.int8].map(|x| x / 1e9);
    #[expect(clippy::cast_precision_loss, reason = "for a time")]
    let forks = part.calls() as f64 * part.fork_and_join;
    let notes = [
        format!(
            "this machine now: {:.1} GB/s; GFLOP/s int8 {int8:.0}, bf16 {bf16:.0}, f32 {f32:.0}",
            l.read / 1e9
        ),
        format!(
            "{} operations; threads begin and end one in {:.2} us, together {:.1} % of the time",
            part.calls(),
            part.fork_and_join * 1e6,
            100.0 * forks / part.wall
        ),
    ];
    for note in notes {
        writeln!(out, "{}", crate::look::terminal::wrapped(&note, screen.width))?;
    }
    Ok(())
}

/// The cells of a line.
#[derive(Default)]
struct Cells {
    name: String,
    layers: String,
    what: String,
    calls: String,
    ms: String,
    share: String,
    gflops: String,
    gigabytes: String,
    limit: String,
    end: String,
}

impl Cells {
    fn titles() -> Cells {
        let text = str::to_owned;
        Cells {
            name: text("operation"),
            layers: text("layers"),
            what: text("what"),
            calls: text("calls"),
            ms: text("ms"),
            share: text("share"),
            gflops: text("GFLOP/s"),
            gigabytes: text("GB/s"),
            limit: text("limit"),
            end: text("bound by"),
        }
    }

    fn of(row: &Row, wall: f64) -> Cells {
        let number = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{x:.1}"));
        Cells {
            layers: layers(&row.layers),
            what: row.what.clone(),
            calls: row.calls.to_string(),
            gflops: number(row.gflops()),
            gigabytes: number(row.gigabytes()),
            limit: row.percent_of_limit().map_or_else(|| "-".to_owned(), |x| format!("{x:.0}%")),
            end: format!("{:<6} {}", row.bound, bar(row.seconds / wall, 10)),
            ..Cells::outside(row.name(), row.seconds, wall)
        }
    }

    /// Something without work that could be counted.
    fn outside(name: &str, seconds: f64, wall: f64) -> Cells {
        Cells {
            name: name.to_owned(),
            ms: format!("{:.3}", seconds * 1e3),
            share: format!("{:.1}%", 100.0 * seconds / wall),
            ..Cells::default()
        }
    }
}

/// `0-29`, `0-4,6-10`; nothing for what is outside of layers.
fn layers(list: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &layer in list {
        match ranges.last_mut().filter(|(_, last)| last.saturating_add(1) == layer) {
            Some((_, last)) => *last = layer,
            None => ranges.push((layer, layer)),
        }
    }
    let range = |&(a, b): &(usize, usize)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn layers_are_written_as_ranges() {
        assert_eq!(layers(&[0, 1, 2, 4, 6, 7]), "0-2,4,6-7");
        assert_eq!(layers(&[]), "");
    }
}
