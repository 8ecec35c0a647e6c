//! Lists and ranges of numbers, as llama-bench reads them.

use crate::options::usage;
use anyhow::Result;

/// Largest number.
pub const MOST: usize = 1 << 20;
/// Most values of a list.
const MOST_VALUES: usize = 10_000;

/// `PP,TG`
pub fn pair(text: &str) -> Result<(usize, usize), String> {
    let number = |text: &str| text.parse::<usize>().ok().filter(|&n| n <= MOST);
    let parts = text.split_once(',').and_then(|(p, g)| Some((number(p)?, number(g)?)));
    parts.ok_or_else(|| "write prompt and generated tokens, e.g. 512,128".to_owned())
}

/// The numbers of `1,2`, `1-4`, `1-9+2`, `1-64*2`.
pub fn list(texts: &[String]) -> Result<Vec<usize>> {
    let mut out = Vec::new();
    for text in texts.iter().flat_map(|t| t.split(',')) {
        let bad =
            || usage(format!("{text:?}: write numbers up to {MOST}, or ranges like 1-4, 1-9+2, 1-64*2"));
        let number = |t: &str| t.parse::<usize>().ok().filter(|&n| n <= MOST).ok_or_else(bad);
        let Some((first, rest)) = text.split_once('-') else {
            out.push(number(text)?);
            continue;
        };
        let by = |by: &str, least: usize| number(by).map(|n| n.max(least));
        let (last, plus, times) = match (rest.split_once('+'), rest.split_once('*')) {
            (Some((last, step)), _) => (last, by(step, 1)?, 1),
            (_, Some((last, step))) => (last, 0, by(step, 2)?),
            _ => (rest, 1, 1),
        };
        let (mut n, last) = (number(first)?, number(last)?);
        if n == 0 && plus == 0 && last > 0 {
            return Err(usage(format!("{text:?}: a multiple of 0 stays 0; begin with 1")));
        }
        while n <= last && out.len() < MOST_VALUES {
            out.push(n);
            n = n.saturating_mul(times).saturating_add(plus).max(n.saturating_add(1));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn lists_and_ranges_are_those_of_llama_bench() {
        let of = |text: &str| list(&[text.to_owned()]).unwrap();
        assert_eq!(of("1,5"), [1, 5]);
        assert_eq!(of("2-4"), [2, 3, 4]);
        assert_eq!(of("1-7+3"), [1, 4, 7]);
        assert_eq!(of("1-9*2,3"), [1, 2, 4, 8, 3]);
        assert_eq!(of("0-2"), [0, 1, 2]);
        assert_eq!(list(&["1".to_owned(), "3-4".to_owned()]).unwrap(), [1, 3, 4]);
        for bad in ["x", "", "1-", "-1", "1-4+x", "0-8*2", "1048577"] {
            assert!(list(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
