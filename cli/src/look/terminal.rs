//! What pictures in a terminal are made of: its width, its colours, bars, and tokens made visible.

use console::{Term, measure_text_width};

/// Width where there is no terminal to ask.
const DEFAULT_WIDTH: usize = 100;

/// Where a picture goes.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// Columns.
    pub width: usize,
    /// Whether colours are understood and wanted.
    pub colour: bool,
}

impl Screen {
    /// Colours only on a terminal whose user did not set `NO_COLOR`; the width is the terminal's, or `COLUMNS`.
    pub fn of_stdout() -> Screen {
        let term = Term::stdout();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let columns = || std::env::var("COLUMNS").ok()?.parse::<usize>().ok();
        let width = match term.size_checked() {
            Some((_, width)) => usize::from(width),
            None => columns().unwrap_or(DEFAULT_WIDTH),
        };
        Screen { width: width.clamp(20, 400), colour: wanted && term.is_term() }
    }

    /// Text on a ground that is the stronger the nearer `share` is to 1.
    pub fn heat(&self, text: &str, share: f32) -> String {
        // From black to yellow through blue and red in the 216 colours that every terminal has.
        const RAMP: [u8; 10] = [232, 17, 18, 54, 90, 126, 161, 202, 214, 226];
        if !self.colour {
            return text.to_owned();
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the ramp")]
        let step = (share.clamp(0.0, 1.0) * 9.0).round() as usize;
        let ground = RAMP.get(step).copied().unwrap_or(232);
        let ink = if step >= 7 { 16 } else { 231 };
        format!("\u{1b}[38;5;{ink};48;5;{ground}m{text}\u{1b}[0m")
    }

    /// Text in one of the 256 colours.
    pub fn ink(&self, text: &str, colour: u8) -> String {
        if self.colour { format!("\u{1b}[38;5;{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// A heading.
    pub fn strong(&self, text: &str) -> String {
        if self.colour { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A piece as one word that can be seen: spaces as dots, control characters as escapes.
pub fn shown(piece: &str) -> String {
    let mut out = String::new();
    for c in piece.chars() {
        match c {
            ' ' => out.push('\u{b7}'),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    if out.is_empty() { "\u{2205}".to_owned() } else { out }
}

/// Cut or filled to exactly `width` columns, the text at the left.
pub fn fit(text: &str, width: usize) -> String {
    let mut out = String::new();
    let mut used = 0_usize;
    let whole = measure_text_width(text) <= width;
    for c in text.chars() {
        let mut buffer = [0_u8; 4];
        let next = used.saturating_add(measure_text_width(c.encode_utf8(&mut buffer)));
        if next > if whole { width } else { width.saturating_sub(1) } {
            break;
        }
        out.push(c);
        used = next;
    }
    if !whole && width > 0 {
        out.push('\u{2026}');
        used = used.saturating_add(1);
    }
    out.extend(std::iter::repeat_n(' ', width.saturating_sub(used)));
    out
}

/// A line broken at spaces where it is wider than `width`; what follows is indented.
pub fn wrapped(line: &str, width: usize) -> String {
    if measure_text_width(line) <= width {
        return line.trim_end().to_owned();
    }
    let mut out = String::new();
    let mut used = 0_usize;
    for word in line.split_inclusive(' ') {
        let needed = measure_text_width(word.trim_end());
        if used > 2 && used.saturating_add(needed) > width {
            out.truncate(out.trim_end().len());
            out.push_str("\n  ");
            used = 2;
        }
        out.push_str(word);
        used = used.saturating_add(measure_text_width(word));
    }
    out.truncate(out.trim_end().len());
    out
}

/// A bar of up to `width` columns, in eighths.
pub fn bar(share: f64, width: usize) -> String {
    const PARTS: [char; 8] =
        [' ', '\u{258f}', '\u{258e}', '\u{258d}', '\u{258c}', '\u{258b}', '\u{258a}', '\u{2589}'];
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "clamped to the width"
    )]
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let mut out = "\u{2588}".repeat(eighths / 8);
    if let Some(part) = PARTS.get(eighths % 8).filter(|part| **part != ' ') {
        out.push(*part);
    }
    out
}

/// A probability for people: `38.3%`, `0.04%`, `2e-9`.
pub fn percent(p: f64) -> String {
    match p {
        p if p >= 0.0005 => format!("{:.1}%", p * 100.0),
        p if p > 0.0 => format!("{p:.0e}"),
        _ => "0%".to_owned(),
    }
}

/// A number with its sign and `digits` places.
pub fn signed(x: f64, digits: usize) -> String {
    format!("{x:+.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fit_their_columns_whatever_they_hold() {
        for text in ["", "a", "abcdef", "\u{65e5}\u{672c}\u{8a9e}", "\u{e9}t\u{e9}"] {
            for width in 0..8 {
                assert_eq!(measure_text_width(&fit(text, width)), width, "{text:?} in {width}");
            }
        }
        assert_eq!(fit("creature", 5), "crea\u{2026}");
    }

    #[test]
    fn sentences_are_broken_at_spaces() {
        assert_eq!(wrapped("one two three", 20), "one two three");
        assert_eq!(wrapped("one two three four", 9), "one two\n  three\n  four");
        assert_eq!(wrapped("\u{1b}[1mone two\u{1b}[0m three", 8), "\u{1b}[1mone two\u{1b}[0m\n  three");
        assert_eq!(wrapped("unbreakable", 4), "unbreakable");
    }

    #[test]
    fn bars_grow_by_eighths() {
        assert_eq!((bar(0.0, 4).as_str(), bar(1.0, 2).as_str()), ("", "\u{2588}\u{2588}"));
        assert_eq!(bar(0.5, 1), "\u{258c}");
        assert_eq!(bar(7.0, 1), "\u{2588}");
    }

    #[test]
    fn pieces_are_seen() {
        assert_eq!(shown(" the\n"), "\u{b7}the\\n");
        assert_eq!(shown(""), "\u{2205}");
    }

    #[test]
    fn without_colour_nothing_but_text_is_written() {
        let screen = Screen { width: 80, colour: false };
        assert_eq!(screen.heat("a", 0.5) + &screen.ink("b", 3) + &screen.strong("c"), "abc");
    }
}
