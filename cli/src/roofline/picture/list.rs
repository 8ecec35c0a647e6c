//! The list below the plot: what the numbers stand for, and how much of its limit each kernel reaches.

use super::{Area, Drawn, FAINT, INK, Numbered, WIDTH, colour, has_place};
use crate::roofline::case::Group;
use crate::roofline::measure::{Measured, Verdict};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const COLUMNS: usize = 3;
const LINE: i32 = 17;
const TOP: i32 = 8;
/// From a column's left edge: number, name, bar, share.
const NUMBER: i32 = 40;
const NAME: i32 = 50;
const BAR: i32 = 330;
const BAR_WIDTH: i32 = 44;
const SHARE: i32 = 380;

/// Why a dot may be below its line by more than the list says.
const NOTE: &str = "Lines are the best of the whole run. Shares are of the limits that were measured right before and right \
    behind each kernel: memory may have been slower then. Row-wise kernels count no operations and have no dot.";

/// A line of it.
enum Line<'a> {
    Heading(Group),
    Kernel(usize, &'a Measured),
    Nothing,
}

/// All lines.
pub struct List<'a> {
    lines: Vec<Line<'a>>,
}

impl<'a> List<'a> {
    /// Of kernels that are sorted by their kind.
    pub fn new(rows: &[Numbered<'a>]) -> List<'a> {
        let mut lines: Vec<Line<'a>> = Vec::new();
        let mut last = None;
        for &(number, row) in rows {
            if last != Some(row.group) {
                if last.is_some() {
                    lines.push(Line::Nothing);
                }
                lines.push(Line::Heading(row.group));
                last = Some(row.group);
            }
            lines.push(Line::Kernel(number, row));
        }
        List { lines }
    }

    /// In columns of nearly equal length, each of which begins with a kernel or a heading and ends with a kernel.
    fn columns(&self) -> Vec<&[Line<'a>]> {
        let (mut rest, mut out) = (self.lines.as_slice(), Vec::new());
        for left in (1..=COLUMNS).rev() {
            let mut n = rest.len().div_ceil(left);
            while let Some(Line::Heading(_) | Line::Nothing) = n.checked_sub(1).and_then(|i| rest.get(i)) {
                n = n.saturating_sub(1);
            }
            let (column, behind) = rest.split_at(n.min(rest.len()));
            out.push(column);
            rest = match behind {
                [Line::Nothing, behind @ ..] => behind,
                _ => behind,
            };
        }
        out
    }

    /// Pixels that it takes.
    pub fn height(&self) -> u32 {
        let longest = self.columns().iter().map(|column| column.len()).max().unwrap_or(0);
        let lines = i32::try_from(longest).unwrap_or(i32::MAX);
        u32::try_from(lines.saturating_mul(LINE).saturating_add(2 * TOP + 3 * LINE)).unwrap_or(0)
    }

    /// Draws it.
    pub fn draw(&self, area: &Area<'_>) -> Drawn {
        let width = i32::try_from(WIDTH).unwrap_or(i32::MAX) / i32::try_from(COLUMNS).unwrap_or(1);
        let (mut left, mut y) = (0_i32, TOP);
        for column in self.columns() {
            for line in column {
                y = y.saturating_add(LINE);
                match line {
                    Line::Heading(group) => {
                        text(area, (left, NAME, y), group.name(), 13, HPos::Left, colour(*group))?
                    }
                    Line::Kernel(number, row) => kernel(area, left, y, *number, row)?,
                    Line::Nothing => {}
                }
            }
            (left, y) = (left.saturating_add(width), TOP);
        }
        let bottom = i32::try_from(self.height()).unwrap_or(i32::MAX).saturating_sub(TOP);
        text(area, (0, NAME, bottom), NOTE, 11, HPos::Left, FAINT)
    }
}

fn kernel(area: &Area<'_>, left: i32, y: i32, number: usize, row: &Measured) -> Drawn {
    let colour = colour(row.group);
    if has_place(row) {
        text(area, (left, NUMBER, y), &number.to_string(), 11, HPos::Right, colour)?;
    }
    text(area, (left, NAME, y), &row.name, 11, HPos::Left, INK)?;
    if row.verdict() == Verdict::Void {
        return text(area, (left, SHARE, y), "void", 11, HPos::Left, FAINT);
    }
    let corner = |x: i32, y: i32| (left.saturating_add(BAR).saturating_add(x), y);
    let (top, bottom) = (y.saturating_sub(9), y.saturating_sub(1));
    #[expect(clippy::cast_possible_truncation, reason = "at most the bar's width")]
    let filled = (row.share().clamp(0.0, 1.0) * f64::from(BAR_WIDTH)).round() as i32;
    area.draw(&Rectangle::new([corner(0, top), corner(BAR_WIDTH, bottom)], BLACK.mix(0.07).filled()))?;
    area.draw(&Rectangle::new([corner(0, top), corner(filled, bottom)], colour.filled()))?;
    let share = format!("{:.0} % of {}", 100.0 * row.share(), row.bound());
    text(area, (left, SHARE, y), &share, 11, HPos::Left, INK)
}

/// A text whose lower edge is at `y`.
fn text(
    area: &Area<'_>,
    (left, x, y): (i32, i32, i32),
    text: &str,
    size: u32,
    side: HPos,
    ink: RGBColor,
) -> Drawn {
    let style = ("sans-serif", size).into_font().color(&ink).pos(Pos::new(side, VPos::Bottom));
    area.draw(&Text::new(text.to_owned(), (left.saturating_add(x), y), style))?;
    Ok(())
}
