//! `gable bench sweep`: speed against depth, threads or batch.

use super::list::list;
use super::measure;
use super::options::{Form, MeasureArgs, Setting, Test};
use super::plot::{Panel, Point, svg};
use super::record::Record;
use super::table::{grid, line, print};
use crate::exit::say;
use crate::look::write_file;
use crate::options::usage;
use crate::statistics::{mean_and_deviation, median, median_interval};
use anyhow::Result;
use clap::ValueEnum;
use std::io::Write;
use std::path::PathBuf;

/// Options of `gable bench sweep`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gable bench sweep
  gable bench sweep --by threads --values 1-8 -n 64 --svg threads.svg
  gable bench sweep --by batch -n 0 -p 1024 -o csv
  gable bench sweep -m synthetic:llama-1b:q4_k --values 0-4096+1024 -r 3")]
pub struct SweepArgs {
    /// What changes from row to row
    #[arg(long, value_enum, default_value_t = By::Depth)]
    by: By,
    /// Its values, as a list or range [default: depth 0,512,1024,2048,4096; threads 1 to all cores; batch 1-512*2]
    #[arg(long, value_name = "LIST")]
    values: Vec<String>,
    /// Draws the medians and their 95 % intervals: tokens/s, against depth ms per token; with --roofline, the
    /// machine's limit beside them
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    measure: MeasureArgs,
}

/// `--by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// Tokens in the context before
    Depth,
    /// Threads
    Threads,
    /// Tokens of a prompt in a single pass
    Batch,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            By::Depth => "depth",
            By::Threads => "threads",
            By::Batch => "batch",
        }
    }

    fn defaults(self) -> Vec<usize> {
        match self {
            By::Depth => vec![0, 512, 1024, 2048, 4096],
            By::Threads => (1..=std::thread::available_parallelism().map_or(1, usize::from)).collect(),
            By::Batch => (0..10).map(|i| 1 << i).collect(),
        }
    }

    fn of(self, record: &Record) -> usize {
        match self {
            By::Depth => record.test.depth,
            By::Threads => record.about.setting.threads,
            By::Batch => record.about.setting.ubatch,
        }
    }
}

/// Runs the command.
pub fn run(args: &SweepArgs) -> Result<()> {
    if args.measure.model.len() != 1 {
        return Err(usage("a sweep takes one model at a time"));
    }
    args.measure.placement.pin()?;
    let mut plan = args.measure.plan()?;
    let values = if args.values.is_empty() { args.by.defaults() } else { list(&args.values)? };
    if args.by != By::Depth && values.contains(&0) {
        return Err(usage(format!("--values 0: the least {} is 1", args.by.name())));
    }
    let ([setting], true) =
        (&plan.settings[..], plan.tests.windows(2).all(|w| matches!(w, [a, b] if a.depth == b.depth)))
    else {
        return Err(usage(
            "a sweep changes one thing, with --values; give one value each for -d, -t, -b, -ub and -ctk",
        ));
    };
    let setting = *setting;
    match args.by {
        By::Depth => {
            let at =
                |&depth: &usize| plan.tests.iter().map(move |&t| Test { depth, ..t }).collect::<Vec<_>>();
            plan.tests = values.iter().flat_map(at).collect();
        }
        By::Threads => plan.settings = values.iter().map(|&threads| Setting { threads, ..setting }).collect(),
        By::Batch => {
            let with = |&n: &usize| Setting { ubatch: n, batch: setting.batch.max(n), ..setting };
            plan.settings = values.iter().map(with).collect();
        }
    }
    let records = measure::run(&args.measure, &plan)?;
    let mut out = std::io::stdout().lock();
    match args.measure.output {
        Form::Md => out.write_all(table(args.by, &values, &records).as_bytes())?,
        other => print(&mut out, other, &records, args.measure.roofline)?,
    }
    if let Some(path) = &args.svg {
        write_file(path, &picture(args.by, &records)?)?;
        say(&format!("picture written to {}", path.display()));
    }
    Ok(())
}

/// The name of a test without its depth.
fn series(record: &Record, by: By) -> String {
    if by == By::Depth { Test { depth: 0, ..record.test }.name() } else { record.test.name() }
}

/// The series in the order of their first row.
fn all_series(by: By, records: &[Record]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for record in records {
        let name = series(record, by);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// A row per value, a column per test.
fn table(by: By, values: &[usize], records: &[Record]) -> String {
    let names = all_series(by, records);
    let titles: Vec<String> = names.iter().map(|name| format!("{name} t/s")).collect();
    let mut columns = vec![(by.name(), 7)];
    columns.extend(titles.iter().map(|title| (title.as_str(), 20)));
    let mut out = String::new();
    if let Some(first) = records.first() {
        let s = first.about.setting;
        let rest = match by {
            By::Threads => format!("batch {}", s.batch.min(s.ubatch)),
            By::Batch => format!("{} threads", s.threads),
            By::Depth => format!("{} threads, batch {}", s.threads, s.batch.min(s.ubatch)),
        };
        out += &format!("{}, {rest}, isa {}\n\n", first.about.kind, first.about.isa);
    }
    out += &grid(&columns);
    for &value in values {
        let cell = |name: &String| {
            let row = records.iter().find(|r| by.of(r) == value && &series(r, by) == name);
            let text = row.map_or_else(String::new, |row| {
                let (mean, deviation) = mean_and_deviation(&row.speeds());
                format!("{mean:.2} ± {deviation:.2}")
            });
            (text, 20)
        };
        out += &line(std::iter::once((value.to_string(), 7)).chain(names.iter().map(cell)));
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "coordinates of a picture")]
fn picture(by: By, records: &[Record]) -> Result<String> {
    let panel = |name: String| {
        let rows = records.iter().filter(|r| series(r, by) == name);
        let points = rows.map(|r| {
            let (x, speeds) = (by.of(r) as f64, r.speeds());
            let (y, (low, high)) = (median(&speeds), median_interval(&speeds));
            let limit = r.percent_of_limit().map(|percent| y / percent * 100.0);
            let speed = Point { x, y, low, high, limit };
            if by == By::Depth { time_per_token(speed) } else { speed }
        });
        Panel { points: points.collect(), title: name }
    };
    let panels: Vec<Panel> = all_series(by, records).into_iter().map(panel).collect();
    let title =
        records.first().map_or_else(String::new, |r| format!("{}, isa {}", r.about.kind, r.about.isa));
    let y_name = if by == By::Depth { "ms/token" } else { "tokens/s" };
    svg(&title, [by.name(), y_name], &panels, by == By::Batch)
}

/// What a token takes in milliseconds: it grows with depth by the bytes that are read more, in a straight line.
fn time_per_token(Point { x, y, low, high, limit }: Point) -> Point {
    let ms = |speed: f64| 1000.0 / speed;
    Point { x, y: ms(y), low: ms(high), high: ms(low), limit: limit.map(ms) }
}
