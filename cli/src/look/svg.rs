//! Pictures for files: the parallelogram of an analogy, the heat map of a head. They follow the reader's light or dark
//! setting and need nothing but themselves.

use super::terminal::shown;
use gable_model::look::Parallelogram;
use std::fmt::Write;

const STYLE: &str = "<style>text{font:14px system-ui,sans-serif;fill:#1d2433}.faint{fill:#66708a;font-size:12px}\
    .line{stroke:#3367d6;stroke-width:2;fill:none}.other{stroke:#d0622b;stroke-width:2;fill:none}\
    .ground{fill:#fff}.dot{fill:#1d2433}@media(prefers-color-scheme:dark){text{fill:#e6e9f2}.faint{fill:#98a2bd}\
    .ground{fill:#12151d}.dot{fill:#e6e9f2}.line{stroke:#7aa5ff}.other{stroke:#ff9a66}}</style>";

/// A text inside XML.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no place for these, not even escaped.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The four words of an analogy in the plane of their steps: equal steps have equal colours.
pub fn parallelogram(picture: &Parallelogram) -> String {
    let reach = picture.points.iter().flatten().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let place = picture.points.map(|[x, y]| (320.0 + x / reach * 210.0, 210.0 - y / reach * 150.0));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 440\" role=\"img\">{STYLE}\
         <rect class=\"ground\" width=\"640\" height=\"440\"/>"
    );
    for (i, class) in ["line", "other", "line", "other"].iter().enumerate() {
        let (from, to) = (place[i], place[(i + 1) % 4]);
        let _ = write!(
            out,
            "<path class=\"{class}\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>",
            from.0, from.1, to.0, to.1
        );
    }
    for ((x, y), word) in place.iter().zip(&picture.corners) {
        let (dx, anchor) = if *x < 320.0 { (-10.0, "end") } else { (10.0, "start") };
        let _ = write!(
            out,
            "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            x + dx,
            y + 5.0,
            escaped(&word.text)
        );
    }
    let [a, b, d, c] = picture.corners.each_ref().map(|w| escaped(&w.text));
    let _ = writeln!(
        out,
        "<text class=\"faint\" x=\"320\" y=\"420\" text-anchor=\"middle\">E({a}) - E({b}) and E({c}) - E({d}), \
         projected into their plane: {:.0} % of the figure</text></svg>",
        picture.kept * 100.0
    );
    out
}

/// Who listens to whom: a row per listening word, a column per word listened to.
pub fn heat_map(title: &str, words: &[String], weights: &[Vec<f32>]) -> String {
    const CELL: usize = 34;
    const LEFT: usize = 130;
    let n = words.len();
    let side = n.saturating_mul(CELL);
    let (width, height) = (side.saturating_add(LEFT + 20), side.saturating_add(LEFT + 50));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">{STYLE}\
         <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\
         <text x=\"10\" y=\"24\">{}</text>",
        escaped(title)
    );
    let highest = weights.iter().flatten().copied().fold(f32::MIN_POSITIVE, f32::max);
    for (i, (word, row)) in words.iter().zip(weights).enumerate() {
        let at = i.saturating_mul(CELL).saturating_add(LEFT);
        let middle = at.saturating_add(CELL / 2);
        let name = escaped(&shown(word.trim()));
        let y = at.saturating_add(40);
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>\
             <text transform=\"translate({middle},{}) rotate(-50)\">{name}</text>",
            LEFT - 8,
            y.saturating_add(CELL / 2 + 5),
            LEFT + 32
        );
        for (j, weight) in row.iter().enumerate().take(i.saturating_add(1)) {
            let x = j.saturating_mul(CELL).saturating_add(LEFT);
            let _ = write!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"3\" fill=\"#3367d6\" \
                 fill-opacity=\"{:.3}\"><title>{} listens to {}: {weight:.3}</title></rect>",
                CELL - 2,
                CELL - 2,
                0.04 + 0.96 * weight / highest,
                name,
                escaped(&shown(words.get(j).map_or("", |w| w.trim()))),
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_cannot_leave_their_text() {
        let svg = heat_map("<t>", &["a<b>\"&\u{1}".to_owned()], &[vec![1.0]]);
        assert!(
            !svg.contains("a<b>") && !svg.contains('\u{1}') && svg.contains("a&lt;b&gt;&quot;&amp;"),
            "{svg}"
        );
    }
}
