//! The forms of the output: llama-bench's Markdown, CSV, JSON, JSON lines and SQL.

use super::options::Form;
use super::record::{Field, Record};
use crate::statistics::mean_and_deviation;
use anyhow::Result;
use std::io::Write;

/// Writes all rows.
pub fn print(out: &mut impl Write, form: Form, rows: &[Record], roofline: bool) -> Result<()> {
    let text = match form {
        Form::Md => markdown(rows, roofline),
        Form::Csv => csv(rows),
        Form::Json => {
            let object = |row: &Record| {
                let lines: Vec<String> = row
                    .fields()
                    .iter()
                    .map(|(key, value)| format!("    \"{key}\": {}", json(value)))
                    .collect();
                format!("  {{\n{}\n  }}", lines.join(",\n"))
            };
            format!("[\n{}\n]\n", rows.iter().map(object).collect::<Vec<_>>().join(",\n"))
        }
        Form::Jsonl => {
            let line = |row: &Record| {
                let parts: Vec<String> =
                    row.fields().iter().map(|(key, value)| format!("\"{key}\": {}", json(value))).collect();
                format!("{{{}}}\n", parts.join(", "))
            };
            rows.iter().map(line).collect()
        }
        Form::Sql => sql(rows),
    };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// As JSON has it; numbers that are none become null.
fn json(field: &Field) -> String {
    let number = |x: f64| if x.is_finite() { format!("{x:.6}") } else { "null".to_owned() };
    match field {
        Field::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
        Field::Integer(n) => n.to_string(),
        Field::Bool(yes) => yes.to_string(),
        Field::Float(x) => number(*x),
        Field::Nothing => "null".to_owned(),
        Field::List(list) => {
            let short = |x: &f64| if x.fract() == 0.0 { format!("{x:.0}") } else { number(*x) };
            format!("[ {} ]", list.iter().map(short).collect::<Vec<_>>().join(", "))
        }
    }
}

/// As CSV and SQL have it.
fn plain(field: &Field) -> String {
    match field {
        Field::Text(text) => text.clone(),
        Field::Bool(yes) => u8::from(*yes).to_string(),
        Field::Nothing => String::new(),
        other => json(other),
    }
}

/// Fields without the lists.
fn scalars(row: &Record) -> Vec<(&'static str, Field)> {
    row.fields().into_iter().filter(|(_, value)| !matches!(value, Field::List(_))).collect()
}

fn csv(rows: &[Record]) -> String {
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let fields = scalars(row);
        if i == 0 {
            out += &fields.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(",");
            out.push('\n');
        }
        let quoted = fields.iter().map(|(_, value)| format!("\"{}\"", plain(value).replace('"', "\"\"")));
        out += &quoted.collect::<Vec<_>>().join(",");
        out.push('\n');
    }
    out
}

fn sql(rows: &[Record]) -> String {
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let fields = scalars(row);
        if i == 0 {
            let column = |(key, value): &(&str, Field)| {
                let kind = match value {
                    Field::Text(_) => "TEXT",
                    Field::Integer(_) | Field::Bool(_) => "INTEGER",
                    _ => "REAL",
                };
                format!("  {key} {kind}")
            };
            let columns: Vec<String> = fields.iter().map(column).collect();
            out += &format!("CREATE TABLE IF NOT EXISTS llama_bench (\n{}\n);\n\n", columns.join(",\n"));
        }
        let names: Vec<&str> = fields.iter().map(|(key, _)| *key).collect();
        let value = |(_, value): &(&str, Field)| match value {
            Field::Nothing => "NULL".to_owned(),
            value => format!("'{}'", plain(value).replace('\'', "''")),
        };
        let values: Vec<String> = fields.iter().map(value).collect();
        out += &format!("INSERT INTO llama_bench ({}) VALUES ({});\n", names.join(", "), values.join(", "));
    }
    out
}

/// A column of the table: its title, its width, negative for left-aligned, and what stands in it.
type Column<'a> = (&'a str, isize, fn(&Record) -> String);

/// llama-bench's table; columns whose value is not the default appear where it puts them.
fn markdown(rows: &[Record], roofline: bool) -> String {
    let any = |f: fn(&Record) -> bool| rows.iter().any(f);
    let mut columns: Vec<Column<'_>> = vec![
        ("model", -30, |r| r.about.kind.clone()),
        ("size", 10, |r| size(r.about.bytes)),
        ("params", 10, |r| params(r.about.params)),
        ("backend", -10, |_| "CPU".to_owned()),
        ("threads", 7, |r| r.about.setting.threads.to_string()),
    ];
    if any(|r| r.about.setting.batch != 2048) {
        columns.push(("n_batch", 7, |r| r.about.setting.batch.to_string()));
    }
    if any(|r| r.about.setting.ubatch != 512) {
        columns.push(("n_ubatch", 8, |r| r.about.setting.ubatch.to_string()));
    }
    if any(|r| r.about.cache_type != "f16") {
        columns.push(("type_k", 6, |r| r.about.cache_type.to_owned()));
        columns.push(("type_v", 6, |r| r.about.cache_type.to_owned()));
    }
    columns.push(("test", 15, |r| r.test.name()));
    columns.push(("t/s", 20, |r| {
        let (mean, deviation) = mean_and_deviation(&r.speeds());
        format!("{mean:.2} ± {deviation:.2}")
    }));
    if roofline {
        columns.push(("isa", -10, |r| r.about.isa.to_owned()));
        columns.push(("GB/s", 8, |r| format!("{:.2}", r.gigabytes_per_second())));
        columns.push(("% of limit", 10, |r| optional(r.percent_of_limit())));
        columns.push(("ttft ms", 9, |r| optional(r.first_token_ms())));
        columns.push(("p95 ms/t", 9, |r| optional(r.slow_token_ms())));
    }
    let mut out = grid(&columns.iter().map(|c| (c.0, c.1)).collect::<Vec<_>>());
    for row in rows {
        out += &line(columns.iter().map(|&(_, width, cell)| (cell(row), width)));
    }
    out.push_str(&format!("\nbuild: {} (0)\n", env!("CARGO_PKG_VERSION")));
    out
}

fn optional(x: Option<f64>) -> String {
    x.map_or_else(|| "-".to_owned(), |x| format!("{x:.2}"))
}

/// Titles and the line under them.
pub fn grid(columns: &[(&str, isize)]) -> String {
    let mut out = line(columns.iter().map(|&(title, width)| (title.to_owned(), width)));
    out.push('|');
    for &(_, width) in columns {
        let dashes = "-".repeat(width.unsigned_abs().saturating_sub(usize::from(width > 0)));
        out.push_str(&format!(" {dashes}{} |", if width > 0 { ":" } else { "" }));
    }
    out.push('\n');
    out
}

/// One line of cells, each with its width.
pub fn line(cells: impl Iterator<Item = (String, isize)>) -> String {
    let mut out = String::from("|");
    for (text, width) in cells {
        let n = width.unsigned_abs();
        out.push_str(&if width < 0 { format!(" {text:<n$} |") } else { format!(" {text:>n$} |") });
    }
    out.push('\n');
    out
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn size(bytes: usize) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.2} MiB") } else { format!("{:.2} GiB", mib / 1024.0) }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn params(n: usize) -> String {
    let n = n as f64;
    if n < 1e9 { format!("{:.2} M", n / 1e6) } else { format!("{:.2} B", n / 1e9) }
}

#[cfg(test)]
mod unit {
    use super::super::measure::Bench;
    use super::super::options::{Plan, Setting, Test};
    use super::super::record::Sample;
    use super::*;
    use clap::Parser;
    use std::time::Duration;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        measure: super::super::options::MeasureArgs,
    }

    /// A record of a made-up model that takes half a second, then a whole one.
    fn records(test: Test) -> Vec<Record> {
        let args = Args::parse_from(["bench", "-m", "synthetic:tiny:q4_0"]).measure;
        let setting = Setting { threads: 2, batch: 2048, ubatch: 512, cache_type: None };
        let mut records =
            Bench::new(&args, &Plan { settings: vec![setting], tests: vec![test] }).unwrap().finish();
        for ms in [500, 1000] {
            let all = Duration::from_millis(ms);
            records[0].add(Sample::new(all, None, Duration::ZERO, &[all]), None);
        }
        records
    }

    #[test]
    fn the_table_has_the_columns_and_widths_of_llama_bench() {
        let text = markdown(&records(Test { prompt: 0, generate: 128, depth: 512 }), false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "| model                          |       size |     params | backend    | threads |            test |                  t/s |",
                "| ------------------------------ | ---------: | ---------: | ---------- | ------: | --------------: | -------------------: |",
                "| llama 1M Q4_0                  |   0.78 MiB |     1.44 M | CPU        |       2 |    tg128 @ d512 |       192.00 ± 90.51 |",
            ]
        );
        assert_eq!(lines[3..], ["", &format!("build: {} (0)", env!("CARGO_PKG_VERSION"))]);
    }

    #[test]
    fn values_with_quotes_survive_csv_sql_and_json() {
        let mut rows = records(Test { prompt: 1, generate: 0, depth: 0 });
        rows[0].about.file = "it's \"x\".gguf".to_owned();
        assert!(csv(&rows).contains("\"it's \"\"x\"\".gguf\""));
        assert!(sql(&rows).contains("'it''s \"x\".gguf'"));
        let mut out = Vec::new();
        print(&mut out, Form::Json, &rows, false).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(found[0]["model_filename"], "it's \"x\".gguf");
        assert_eq!(json(&Field::Float(f64::NAN)), "null");
    }
}
