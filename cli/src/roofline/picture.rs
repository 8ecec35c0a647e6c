//! The roofs and the kernels below them, as SVG: operations per byte to the right, operations per second upwards, both by
//! their logarithm. A dot's number leads to the list below the plot.

mod labels;
mod list;

use super::Report;
use super::case::Group;
use super::machine::Roofs;
use super::measure::{Measured, Verdict};
use super::table::threads;
use anyhow::{Context, Result, anyhow};
use labels::Labels;
use plotters::coord::Shift;
use plotters::coord::combinators::LogCoord;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, LogCoord<f64>>>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

const WIDTH: u32 = 1400;
const PLOT_HEIGHT: u32 = 720;
const INK: RGBColor = RGBColor(0x1d, 0x24, 0x33);
const FAINT: RGBColor = RGBColor(0x66, 0x70, 0x8a);
const MEMORY: RGBColor = RGBColor(0x8a, 0x94, 0xae);
const PEAK: RGBColor = RGBColor(0x1d, 0x24, 0x33);

/// A kernel and the number of its dot.
type Numbered<'a> = (usize, &'a Measured);

fn colour(group: Group) -> RGBColor {
    match group {
        Group::Dense => RGBColor(0x33, 0x67, 0xd6),
        Group::Prompt => RGBColor(0x2f, 0x8f, 0x4e),
        Group::Decode => RGBColor(0xd0, 0x62, 0x2b),
        Group::Attention => RGBColor(0x8e, 0x5b, 0xc0),
        Group::RowWise => FAINT,
    }
}

/// What was measured with the most threads.
pub fn svg(report: &Report) -> Result<String> {
    let most = report.rows.iter().map(|row| row.threads).max().unwrap_or(1);
    let roofs = report.roofs.iter().find(|roofs| roofs.threads == most).context("no limits were measured")?;
    let mut rows: Vec<Numbered<'_>> = Vec::new();
    for group in Group::ALL {
        for row in report.rows.iter().filter(|row| row.threads == most && row.group == group) {
            rows.push((rows.len().saturating_add(1), row));
        }
    }
    let list = list::List::new(&rows);
    let mut text = String::new();
    {
        let size = (WIDTH, PLOT_HEIGHT.saturating_add(list.height()));
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let title = format!("Roofline of {}, {}, {}", report.cpu, report.isa, threads(most));
        draw(&root, &title, roofs, &rows, &list)
            .map_err(|error| anyhow!("the picture could not be drawn: {error}"))?;
    }
    Ok(text)
}

fn draw(root: &Area<'_>, title: &str, roofs: &Roofs, rows: &[Numbered<'_>], list: &list::List<'_>) -> Drawn {
    root.fill(&WHITE)?;
    let (plot, below) = root.split_vertically(PLOT_HEIGHT);
    let [x, y] = ranges(roofs, rows);
    let mut chart = ChartBuilder::on(&plot)
        .caption(title, ("sans-serif", 19).into_font().color(&INK))
        .margin(14)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d((x[0]..x[1]).log_scale(), (y[0]..y[1]).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("operations per byte of operands and results")
        .y_desc("GFLOP/s")
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .axis_desc_style(("sans-serif", 14).into_font().color(&INK))
        .label_style(("sans-serif", 12).into_font().color(&INK))
        .light_line_style(BLACK.mix(0.03))
        .bold_line_style(BLACK.mix(0.10))
        .draw()?;
    let mut labels = Labels::new(chart.plotting_area().get_pixel_range());
    let dots: Vec<Dot> = rows.iter().filter(|(_, row)| has_place(row)).map(|row| dot(&chart, row)).collect();
    for dot in &dots {
        labels.take_dot(dot.at);
    }
    draw_roofs(root, &mut chart, &mut labels, roofs, [x, y])?;
    draw_kernels(root, &mut labels, &dots)?;
    list.draw(&below)?;
    root.present()?;
    Ok(())
}

/// A number without needless digits.
fn short(x: f64) -> String {
    if x >= 0.999 { format!("{x:.0}") } else { format!("{x}") }
}

/// Only kernels that compute have a place, and only figures that are worth something.
fn has_place(row: &Measured) -> bool {
    row.verdict() != Verdict::Void && row.work.operations() > 0.0
}

/// From where to where the axes go: around all kernels and roofs.
fn ranges(roofs: &Roofs, rows: &[Numbered<'_>]) -> [[f64; 2]; 2] {
    let placed = || rows.iter().map(|(_, row)| row).filter(|row| has_place(row));
    let top = roofs.peaks.iter().fold(1.0_f64, |top, peak| top.max(peak / 1e9));
    let left = placed().map(|row| row.intensity()).fold(0.5, f64::min);
    let right = placed().map(|row| row.intensity()).fold(64.0, f64::max);
    let slowest = roofs.read.iter().fold(f64::INFINITY, |low, read| low.min(read / 1e9)).max(1e-3);
    let bottom = placed().map(|row| row.operations() / 1e9).fold(left * slowest, f64::min);
    [[left / 2.5, right * 4.0], [bottom / 1.6, top * 2.2]]
}

/// A kernel's place in the plot.
struct Dot {
    number: usize,
    at: labels::Pixel,
    colour: RGBColor,
}

fn dot(chart: &Chart<'_, '_>, &(number, row): &Numbered<'_>) -> Dot {
    let at = chart.backend_coord(&(row.intensity(), row.operations() / 1e9));
    Dot { number, at, colour: colour(row.group) }
}

fn draw_roofs(
    root: &Area<'_>,
    chart: &mut Chart<'_, '_>,
    labels: &mut Labels,
    roofs: &Roofs,
    [x, y]: [[f64; 2]; 2],
) -> Drawn {
    let top = roofs.peaks.iter().fold(0.0_f64, |top, peak| top.max(peak / 1e9));
    let fastest = roofs.read.iter().fold(1e-3_f64, |top, read| top.max(read / 1e9));
    let mut sloped = Vec::new();
    for (name, read) in roofs.reads() {
        let read = (read / 1e9).max(1e-3);
        let ends = [x[0].max(y[0] / read), top / read].map(|x| (x, x * read));
        chart.draw_series(LineSeries::new(ends, MEMORY.stroke_width(2)))?;
        let ends = ends.map(|end| chart.backend_coord(&end));
        labels.take_line(ends);
        sloped.push((ends, format!("{name} {read:.0} GB/s")));
    }
    for (name, peak) in roofs.peaks() {
        let peak = peak / 1e9;
        let ends = [peak / fastest, x[1]].map(|x| (x, peak));
        chart.draw_series(LineSeries::new(ends, PEAK.stroke_width(2)))?;
        let ends = ends.map(|end| chart.backend_coord(&end));
        labels.take_line(ends);
        let text = format!("{name} {peak:.0} GFLOP/s");
        let place = (ends[1].0.saturating_sub(6), ends[1].1.saturating_sub(4));
        labels.take_left_of(place, &text);
        let style = ("sans-serif", 12).into_font().color(&INK).pos(Pos::new(HPos::Right, VPos::Bottom));
        root.draw(&Text::new(text, place, style))?;
    }
    for ([_, end], text) in sloped {
        let place = labels.above(end, &text);
        let style = ("sans-serif", 12).into_font().color(&FAINT).pos(Pos::new(HPos::Left, VPos::Bottom));
        root.draw(&Text::new(text, place, style))?;
    }
    Ok(())
}

fn draw_kernels(root: &Area<'_>, labels: &mut Labels, dots: &[Dot]) -> Drawn {
    // Numbers before dots, so that no line to a number crosses one.
    for Dot { number, at, colour } in dots {
        let place = labels.number(*at);
        if place.far {
            let line = PathElement::new(vec![*at, place.line_end], colour.mix(0.5).stroke_width(1));
            root.draw(&line)?;
        }
        let style = ("sans-serif", 11).into_font().color(colour).pos(Pos::new(HPos::Center, VPos::Center));
        root.draw(&Text::new(number.to_string(), place.centre, style))?;
    }
    for Dot { at, colour, .. } in dots {
        root.draw(&Circle::new(*at, 5, WHITE.filled()))?;
        root.draw(&Circle::new(*at, 4, colour.filled()))?;
    }
    Ok(())
}
