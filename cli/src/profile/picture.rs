//! The timeline as a picture: the whole run pass by pass, then one pass of the prompt and one of a token, layer by layer
//! and operation by operation.

use super::Measured;
use super::breakdown::name;
use crate::look::svg::escaped;
use gable_kernels::gemm::Phase;
use gable_model::observer::Operation;
use gable_model::timeline::TimedPass;
use std::fmt::Write;
use std::time::Duration;

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 20.0;
const HEIGHT: f64 = 26.0;
const STYLE: &str = "<style>text{font:13px system-ui,sans-serif;fill:#1d2433}.ground{fill:#fff}.layer{fill:#98a2bd}\
    .weights{fill:#3367d6}.attention{fill:#d0622b}.rows{fill:#3f9c5a}.cache{fill:#8e5bc0}.outside{fill:#66708a}\
    rect:hover{opacity:.6}@media(prefers-color-scheme:dark){text{fill:#e6e9f2}.ground{fill:#12151d}\
    .layer{fill:#48506a}.weights{fill:#7aa5ff}.attention{fill:#ff9a66}.rows{fill:#6fcf8d}.cache{fill:#c39bea}\
    .outside{fill:#98a2bd}}</style>";
const LEGEND: [(&str, &str); 5] = [
    ("weights", "products with weights"),
    ("attention", "attention"),
    ("rows", "norms, activations, quantizing"),
    ("cache", "positions and cache"),
    ("outside", "waking, embedding, sampling, text"),
];

fn class(operation: Operation) -> &'static str {
    use Operation::{Activate, Append, Attention, AttentionOutput, Down, GateUp, Norm};
    match operation {
        Operation::Qkv | AttentionOutput | GateUp | Down | Operation::Unembed => "weights",
        Attention => "attention",
        Norm | Activate | Operation::Prepare | Operation::PostNorm => "rows",
        Append | Operation::Begin => "cache",
        _ => "outside",
    }
}

/// A box on a line of time.
struct Piece {
    start: Duration,
    end: Duration,
    class: &'static str,
    title: String,
}

/// Lines of time that share their scale.
struct Strip {
    title: String,
    lines: Vec<Vec<Piece>>,
}

/// The whole picture.
pub fn svg(model: &str, n_layers: usize, measured: &Measured) -> String {
    let mut strips = vec![whole(measured)];
    let of = |phase| measured.passes.iter().filter(move |p| p.phase == phase);
    strips.extend(of(Phase::Prompt).next().map(|p| inside("a pass of the prompt", p, n_layers)));
    // One of medium length: others may have been interrupted.
    let mut tokens: Vec<&TimedPass> = of(Phase::Decode).collect();
    tokens.sort_by_key(|p| p.end.saturating_sub(p.start));
    let medium = tokens.get(tokens.len() / 2);
    strips.extend(medium.map(|p| inside("a generated token's pass, of medium length", p, n_layers)));
    let mut body = String::new();
    let mut y = 44.0;
    for strip in &strips {
        y = draw(&mut body, strip, y);
    }
    let mut x = LEFT;
    for (class, text) in LEGEND {
        let _ = write!(
            body,
            "<rect class=\"{class}\" x=\"{x:.0}\" y=\"{y:.0}\" width=\"14\" height=\"14\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{text}</text>",
            x + 20.0,
            y + 12.0
        );
        x += 50.0 + 7.0 * f64::from(u32::try_from(text.len()).unwrap_or(0));
    }
    let (width, height) = (WIDTH + 2.0 * LEFT, y + 30.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">{STYLE}\
         <rect class=\"ground\" width=\"{width:.0}\" height=\"{height:.0}\"/>\
         <text x=\"{LEFT}\" y=\"24\">{}</text>{body}</svg>\n",
        escaped(model)
    )
}

/// Every pass, and what lies between them.
fn whole(measured: &Measured) -> Strip {
    let mut line = Vec::new();
    for pass in &measured.passes {
        let (class, what) = match pass.phase {
            Phase::Prompt => ("weights", "prompt"),
            Phase::Decode => ("rows", "token"),
        };
        let title = format!("{what}, position {} and {} rows", pass.first, pass.rows);
        line.push(Piece { start: pass.start, end: pass.end, class, title });
    }
    for &drawn in &measured.drawn {
        let start = measured.passes.iter().rev().find(|p| p.end <= drawn).map_or(drawn, |p| p.end);
        line.push(Piece { start, end: drawn, class: "outside", title: "sampling".to_owned() });
    }
    Strip { title: "all passes".to_owned(), lines: vec![line] }
}

/// One pass: its layers, and under them their operations.
fn inside(title: &str, pass: &TimedPass, n_layers: usize) -> Strip {
    let (mut layers, mut operations): (Vec<Piece>, Vec<Piece>) = (Vec::new(), Vec::new());
    let mut last = None;
    for span in &pass.spans {
        let (start, end) = (span.start, span.end);
        let layer = (span.operation > Operation::Embed && span.layer < n_layers).then_some(span.layer);
        let title = match layer {
            Some(layer) => format!("layer {layer}, {}", name(span.operation)),
            None => name(span.operation).to_owned(),
        };
        operations.push(Piece { start, end, class: class(span.operation), title });
        match (layer, layers.last_mut()) {
            (Some(_), Some(piece)) if last == layer => piece.end = end,
            (Some(i), _) => layers.push(Piece { start, end, class: "layer", title: format!("layer {i}") }),
            _ => {}
        }
        last = layer;
    }
    Strip {
        title: format!("{title}: {}", milliseconds(pass.start, pass.end)),
        lines: vec![layers, operations],
    }
}

fn milliseconds(start: Duration, end: Duration) -> String {
    format!("{:.3} ms", end.saturating_sub(start).as_secs_f64() * 1e3)
}

/// Draws a strip at `y`; gives where the next one may begin.
fn draw(body: &mut String, strip: &Strip, mut y: f64) -> f64 {
    let pieces = || strip.lines.iter().flatten();
    let zero = pieces().map(|p| p.start).min().unwrap_or_default();
    let end = pieces().map(|p| p.end).max().unwrap_or_default();
    let scale = WIDTH / end.saturating_sub(zero).as_secs_f64().max(1e-9);
    let _ = write!(body, "<text x=\"{LEFT}\" y=\"{:.0}\">{}</text>", y + 16.0, escaped(&strip.title));
    y += 24.0;
    for line in &strip.lines {
        for piece in line {
            let x = LEFT + piece.start.saturating_sub(zero).as_secs_f64() * scale;
            let width = piece.end.saturating_sub(piece.start).as_secs_f64() * scale;
            let _ = write!(
                body,
                "<rect class=\"{}\" x=\"{x:.2}\" y=\"{y:.0}\" width=\"{:.2}\" height=\"{HEIGHT:.0}\">\
                 <title>{}: {}</title></rect>",
                piece.class,
                (width - 0.3).max(0.2),
                escaped(&piece.title),
                milliseconds(piece.start, piece.end)
            );
        }
        y += HEIGHT + 4.0;
    }
    y + 14.0
}
