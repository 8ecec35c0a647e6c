//! A picture of speeds or times: one panel per test, medians with their intervals, as SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// One measured value.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Depth, threads or batch.
    pub x: f64,
    /// Median.
    pub y: f64,
    /// Its interval's lower end.
    pub low: f64,
    /// Its interval's upper end.
    pub high: f64,
    /// What the machine allows, where that was measured.
    pub limit: Option<f64>,
}

/// The values of one test.
#[derive(Debug)]
pub struct Panel {
    /// Name of the test.
    pub title: String,
    /// In the order they are joined.
    pub points: Vec<Point>,
}

const WIDTH: u32 = 720;
const HEIGHT: u32 = 300;
const LINE: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const LIMIT: RGBColor = RGBColor(0x88, 0x88, 0x88);

/// The panels under one another, each with an axis of its own from 0; the machine's limit is a grey line.
///
/// With `doubling`, x is drawn by its logarithm: from one mark to the next it doubles.
pub fn svg(title: &str, [x_name, y_name]: [&str; 2], panels: &[Panel], doubling: bool) -> Result<String> {
    let n = u32::try_from(panels.len()).unwrap_or(1).clamp(1, 64);
    let mut text = String::new();
    {
        let size = (WIDTH, HEIGHT.saturating_mul(n).saturating_add(40));
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let failed = |e: &dyn std::fmt::Display| anyhow!("the picture could not be drawn: {e}");
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let root = root.titled(title, ("sans-serif", 18)).map_err(|e| failed(&e))?;
        let areas = root.split_evenly((usize::try_from(n).unwrap_or(1), 1));
        for (area, panel) in areas.iter().zip(panels) {
            draw(area, panel, [x_name, y_name], doubling).map_err(|e| failed(&e))?;
        }
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(
    area: &Area<'_>,
    panel: &Panel,
    [x_name, y_name]: [&str; 2],
    doubling: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let at = |p: &Point| if doubling { p.x.log2() } else { p.x };
    let mark = |x: f64| match doubling {
        false => format!("{x:.0}"),
        true if x.fract() == 0.0 => format!("{:.0}", x.exp2()),
        true => String::new(),
    };
    let ends = panel
        .points
        .iter()
        .map(at)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    let (left, right) = ends;
    let margin = ((right - left) * 0.03).max(0.2);
    let top = panel.points.iter().fold(f64::MIN_POSITIVE, |top, p| top.max(p.high));
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(left - margin..right + margin, 0.0..top * 1.1)?;
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc(y_name)
        .x_label_formatter(&|x| mark(*x))
        .y_label_formatter(&|y| if top < 10.0 { format!("{y:.1}") } else { format!("{y:.0}") })
        .light_line_style(WHITE.mix(0.0))
        .bold_line_style(BLACK.mix(0.12))
        .draw()?;
    let limits = panel.points.iter().filter_map(|p| Some((at(p), p.limit?)));
    chart.draw_series(LineSeries::new(limits, LIMIT.stroke_width(2)))?;
    let points = || panel.points.iter().map(|p| (at(p), p.y));
    chart.draw_series(LineSeries::new(points(), LINE.stroke_width(2)))?;
    chart.draw_series(points().map(|at| Circle::new(at, 3, LINE.filled())))?;
    let bar = |p: &Point| PathElement::new(vec![(at(p), p.low), (at(p), p.high)], LINE.stroke_width(1));
    let bars = panel.points.iter().map(bar);
    chart.draw_series(bars)?;
    Ok(())
}
