//! The functions and filters that Hugging Face gives a chat template beyond plain Jinja.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest range a template may make.
const MAX_RANGE: i64 = 100_000;
/// Levels of lists and dictionaries that `tojson` follows.
const MAX_JSON_DEPTH: usize = 64;
/// Widest indentation of `tojson`.
const MAX_INDENT: usize = 16;

pub(super) fn register(env: &mut Environment<'static>) {
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", |format: &str| strftime(format, now()));
    env.add_function("range", range);
    env.add_filter("tojson", tojson);
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.chars().take(1000).collect::<String>()))
}

/// `range(stop)`, `range(start, stop)`, `range(start, stop, step)`, at most [`MAX_RANGE`] numbers.
fn range(first: i64, second: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, stop) = second.map_or((0, first), |stop| (first, stop));
    let step = step.unwrap_or(1);
    let refuse = |reason: String| Err(Error::new(ErrorKind::InvalidOperation, reason));
    if step == 0 {
        return refuse("range with a step of 0".to_owned());
    }
    let span =
        if step > 0 { i128::from(stop) - i128::from(start) } else { i128::from(start) - i128::from(stop) };
    let stride = i128::from(step).abs();
    let count = if span <= 0 { 0 } else { (span + stride - 1) / stride };
    if count > i128::from(MAX_RANGE) {
        return refuse(format!("range of {count} numbers; allowed: {MAX_RANGE}"));
    }
    let numbers = std::iter::successors(Some(start), move |at| at.checked_add(step));
    Ok(numbers.take(usize::try_from(count).unwrap_or(0)).map(Value::from).collect())
}

/// As Python's `json.dumps` writes it, without the HTML escapes of Jinja's own filter.
fn tojson(state: &State, value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        None => None,
        Some(v) if v.is_none() => None,
        Some(v) => Some(v.as_usize().filter(|n| *n <= MAX_INDENT).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidOperation,
                format!("tojson: indent is {v}; allowed: 0 to {MAX_INDENT}"),
            )
        })?),
    };
    let (mut item, mut key) = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(pair) = kwargs.get::<Option<Value>>("separators")?.filter(|v| !v.is_none()) {
        item = pair.get_item_by_index(0)?.to_string();
        key = pair.get_item_by_index(1)?.to_string();
    }
    let writer = JsonWriter {
        state,
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    writer.write(&mut out, value, 0)?;
    Ok(Value::from(out))
}

struct JsonWriter<'s, 't, 'e> {
    state: &'s State<'t, 'e>,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<usize>,
    item: String,
    key: String,
}

impl JsonWriter<'_, '_, '_> {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_JSON_DEPTH {
            let reason = format!("tojson: more than {MAX_JSON_DEPTH} levels of lists and dictionaries");
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
        self.state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&value.to_string()),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|v| (None, v)).collect();
                self.container(out, ('[', ']'), items, depth)?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    items.push((Some(key), item));
                }
                if self.sort_keys {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.container(out, ('{', '}'), items, depth)?;
            }
            other => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: cannot write a value of kind {other}"),
                ));
            }
        }
        Ok(())
    }

    fn container(
        &self,
        out: &mut String,
        (open, close): (char, char),
        items: Vec<(Option<Value>, Value)>,
        depth: usize,
    ) -> Result<(), Error> {
        out.push(open);
        let inside = depth.saturating_add(1);
        let empty = items.is_empty();
        for (i, (key, item)) in items.into_iter().enumerate() {
            if i > 0 {
                self.state.consume_fuel(fuel_for(&self.item))?;
                out.push_str(&self.item);
            }
            self.new_line(out, inside)?;
            if let Some(key) = key {
                self.string(out, &key.to_string())?;
                self.state.consume_fuel(fuel_for(&self.key))?;
                out.push_str(&self.key);
            }
            self.write(out, &item, inside)?;
        }
        if !empty {
            self.new_line(out, depth)?;
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, out: &mut String, depth: usize) -> Result<(), Error> {
        if let Some(width) = self.indent {
            self.state.consume_fuel(1)?;
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width.saturating_mul(depth)));
        }
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str) -> Result<(), Error> {
        self.state.consume_fuel(fuel_for(text))?;
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if u32::from(c) < 0x20 || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
        Ok(())
    }
}

/// A step for every 64 bytes, as the engine charges for its own strings.
fn fuel_for(text: &str) -> u64 {
    u64::try_from(text.len() / 64).unwrap_or(u64::MAX).saturating_add(1)
}

fn now() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    i64::try_from(seconds).unwrap_or(0)
}

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `seconds` since 1970 in C's notation, in UTC: which zone the user lives in is not a model's business.
fn strftime(format: &str, seconds: i64) -> Result<String, Error> {
    let days = seconds.div_euclid(86_400);
    let second_of_day = seconds.rem_euclid(86_400);
    let (year, month, day, day_of_year) = civil(days);
    let name = |names: &[&'static str], at: i64| {
        usize::try_from(at).ok().and_then(|i| names.get(i).copied()).unwrap_or("")
    };
    let weekday = name(&DAYS, (days + 4).rem_euclid(7));
    let month_name = name(&MONTHS, month - 1);
    let short = |word: &str| word.chars().take(3).collect::<String>();
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        let unpadded = code == Some('-');
        if unpadded {
            code = chars.next();
        }
        let two = |n: i64| if unpadded { n.to_string() } else { format!("{n:02}") };
        out.push_str(&match code {
            Some('Y') => year.to_string(),
            Some('y') => two(year.rem_euclid(100)),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('e') => format!("{day:2}"),
            Some('H') => two(hour),
            Some('I') => two((hour + 11) % 12 + 1),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('j') => format!("{day_of_year:03}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('a') => short(weekday),
            Some('A') => weekday.to_owned(),
            Some('b' | 'h') => short(month_name),
            Some('B') => month_name.to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let reason =
                    format!("strftime_now: unknown code %{}", other.map_or_else(String::new, String::from));
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        });
    }
    Ok(out)
}

/// Year, month, day and day of the year of a day counted from 1970-01-01, in the Gregorian calendar. Years are counted
/// from March, so that the leap day is a year's last.
fn civil(days: i64) -> (i64, i64, i64, i64) {
    let from_march = days + 719_468; // days since 0000-03-01
    let era = from_march.div_euclid(146_097);
    let day_of_era = from_march.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_from_march + 2) / 153;
    let day = day_from_march - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let january_first = if month <= 2 { day_from_march - 306 } else { day_from_march + 59 + i64::from(leap) };
    (year, month, day, january_first + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_agree_with_the_calendar() {
        let date = |seconds| strftime("%Y-%m-%d %j %a %b %H:%M:%S %I%p %-d", seconds).unwrap();
        assert_eq!(date(0), "1970-01-01 001 Thu Jan 00:00:00 12AM 1");
        assert_eq!(date(951_782_400), "2000-02-29 060 Tue Feb 00:00:00 12AM 29");
        assert_eq!(date(951_868_800), "2000-03-01 061 Wed Mar 00:00:00 12AM 1");
        assert_eq!(date(1_735_689_599), "2024-12-31 366 Tue Dec 23:59:59 11PM 31");
        assert_eq!(date(-1), "1969-12-31 365 Wed Dec 23:59:59 11PM 31");
        assert!(strftime("%Q", 0).is_err());
    }

    #[test]
    fn ranges_count_as_python_does_and_are_capped() {
        let list = |a, b, c| range(a, b, c).map(|v| v.to_string());
        assert_eq!(list(3, None, None).unwrap(), "[0, 1, 2]");
        assert_eq!(list(5, Some(0), Some(-2)).unwrap(), "[5, 3, 1]");
        assert_eq!(list(2, Some(2), None).unwrap(), "[]");
        assert_eq!(
            list(i64::MAX - 1, Some(i64::MAX), Some(i64::MAX)).unwrap(),
            format!("[{}]", i64::MAX - 1)
        );
        for (a, b, c) in [
            (1_000_000_000, None, None),
            (i64::MIN, Some(i64::MAX), None),
            (0, Some(i64::MIN), Some(-1)),
            (0, Some(9), Some(0)),
        ] {
            assert!(range(a, b, c).is_err());
        }
    }
}
