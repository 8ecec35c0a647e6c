//! The limits and the kernels in a terminal.

use super::Report;
use super::case::Group;
use super::machine::Roofs;
use super::measure::{Measured, Verdict};
use crate::caches::Sizes;
use crate::look::terminal::{Screen, bar, fit, wrapped};
use std::io::Write;

/// Widths from which on columns are worth their room.
const WITH_BAR: usize = 100;
const WITH_INTENSITY: usize = 88;
const WITH_MS: usize = 76;

/// Writes everything.
pub fn print(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let screen = Screen::of_stdout();
    let Sizes { l1, l2, l3 } = report.sizes;
    let caches = format!("L1 {}, L2 {} per core, L3 {}", size(l1), size(l2), size(l3));
    writeln!(out, "{}", wrapped(&format!("{}, {}: {caches}", report.cpu, report.isa), screen.width))?;
    machine(out, &screen, &report.roofs)?;
    for group in Group::ALL {
        for roofs in &report.roofs {
            let of = |row: &&Measured| row.group == group && row.threads == roofs.threads;
            let rows: Vec<&Measured> = report.rows.iter().filter(of).collect();
            if !rows.is_empty() {
                kernels(out, &screen, &format!("{}, {}", group.name(), threads(roofs.threads)), &rows)?;
            }
        }
    }
    let void = report.rows.iter().filter(|row| row.verdict() == Verdict::Void).count();
    if void > 0 {
        let note = "void: read faster than the memory that it should have come from";
        writeln!(out, "{}", wrapped(note, screen.width))?;
    }
    Ok(())
}

/// `1 thread`, `2 threads`.
pub fn threads(n: usize) -> String {
    format!("{n} thread{}", if n == 1 { "" } else { "s" })
}

/// In the largest unit that gives a whole number.
fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{} MiB", b >> 20),
        b => format!("{} KiB", b >> 10),
    }
}

fn machine(out: &mut impl Write, screen: &Screen, all: &[Roofs]) -> std::io::Result<()> {
    let Some(first) = all.first() else { return Ok(()) };
    let mut title = fit("threads", 8);
    for (name, _) in first.peaks() {
        title += &format!(" {:>8}", name);
    }
    for (name, _) in first.reads() {
        title += &format!(" {:>7}", name);
    }
    writeln!(out)?;
    writeln!(out, "{}", fit(&format!("{}  GFLOP/s, then GB/s read", title), screen.width).trim_end())?;
    for roofs in all {
        let mut line = format!("{:>7} ", roofs.threads);
        for (_, peak) in roofs.peaks() {
            line += &format!(" {:>8.1}", peak / 1e9);
        }
        for (_, read) in roofs.reads() {
            line += &format!(" {:>7.1}", read / 1e9);
        }
        writeln!(out, "{}", fit(&line, screen.width).trim_end())?;
    }
    Ok(())
}

fn kernels(out: &mut impl Write, screen: &Screen, title: &str, rows: &[&Measured]) -> std::io::Result<()> {
    writeln!(out)?;
    let text = str::to_owned;
    let heading = [text(title), text("ms"), text("GFLOP/s"), text("GB/s"), text("op/byte"), text("limit")];
    writeln!(out, "{}", screen.strong(&line(screen, &heading, "bound by")))?;
    for row in rows {
        let number = |x: f64| if row.work.operations() > 0.0 { format!("{x:.1}") } else { text("-") };
        let share = match row.verdict() {
            Verdict::Void => text("void"),
            _ => format!("{:.0}%", 100.0 * row.share()),
        };
        let cells = [
            row.name.clone(),
            format!("{:.3}", row.seconds * 1e3),
            number(row.operations() / 1e9),
            format!("{:.1}", row.bytes() / 1e9),
            number(row.intensity()),
            share,
        ];
        let end = match screen.width >= WITH_BAR {
            true => format!("{:<8} {}", row.bound(), bar(row.share().min(1.0), 8)),
            false => text(row.bound()),
        };
        writeln!(out, "{}", line(screen, &cells, &end))?;
    }
    Ok(())
}

/// As many columns as there is room for; the name takes what is left.
fn line(screen: &Screen, [name, ms, operations, bytes, intensity, limit]: &[String; 6], end: &str) -> String {
    let mut rest = String::new();
    if screen.width >= WITH_MS {
        rest += &format!(" {ms:>8}");
    }
    rest += &format!(" {operations:>7} {bytes:>6}");
    if screen.width >= WITH_INTENSITY {
        rest += &format!(" {intensity:>7}");
    }
    rest += &format!(" {limit:>5} ");
    // The end of a heading is shorter than that of a row.
    let width = if screen.width >= WITH_BAR { 17 } else { 8 };
    let room = screen.width.saturating_sub(rest.len()).saturating_sub(width);
    format!("{}{rest}{end}", fit(name, room.clamp(12, 52))).trim_end().to_owned()
}
