//! Models in several files: `name-00001-of-00003.gguf` and its siblings.
//!
//! The file names say how many parts there are and which is which; the keys `split.count`, `split.no` (from 0) and
//! `split.tensors.count` must say the same. Paths are made from the first name only.

use std::path::{Path, PathBuf};

use super::metadata::Metadata;
use crate::LoadError;

/// Stem, number (from 1) and count of a name of the form `stem-00001-of-00003.gguf`.
fn parse_name(name: &str) -> Option<(&str, u32, u32)> {
    let digits = |text: &str| {
        let five = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        five.then(|| text.parse().ok()).flatten()
    };
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    Some((stem, digits(number)?, digits(count)?))
}

/// The paths of parts 2 and on, if `path` is the first part of a split model.
pub(super) fn other_parts(path: &Path, metadata: &Metadata) -> Result<Vec<PathBuf>, LoadError> {
    let refuse = |reason: String| Err(LoadError::Metadata { key: "split.count".to_string(), reason });
    let declared = metadata.get::<u32>("split.count")?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((stem, number, count)) = parse_name(name) else {
        return match declared {
            Some(n) if n > 1 => refuse(format!(
                "is {n}, but the file is not called NAME-00001-of-{n:05}.gguf; parts are found by their names"
            )),
            _ => Ok(Vec::new()),
        };
    };
    match declared {
        None | Some(1) if count == 1 => return Ok(Vec::new()),
        None | Some(0) => return refuse(format!("is missing, but the name says part {number} of {count}")),
        Some(n) if n != count => {
            return refuse(format!("is {n}, but the name says part {number} of {count}"));
        }
        Some(_) => {}
    }
    if number != 1 {
        return refuse(format!(
            "is {count} and this is part {number}; open the first part, {stem}-00001-of-{count:05}.gguf"
        ));
    }
    check_number(metadata, 0)?;
    Ok((2..=count).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"))).collect())
}

/// Fails unless `part` belongs to `first` as number `index` (from 0).
pub(super) fn check_part(first: &Metadata, part: &Metadata, index: usize) -> Result<(), LoadError> {
    let (want, got) = (first.require::<u32>("split.count")?, part.require::<u32>("split.count")?);
    if want != got {
        let reason = format!("is {got}, but the first part says {want}");
        return Err(LoadError::Metadata { key: "split.count".to_string(), reason });
    }
    check_number(part, index)
}

fn check_number(part: &Metadata, index: usize) -> Result<(), LoadError> {
    let number = part.require::<usize>("split.no")?;
    if number == index {
        return Ok(());
    }
    let reason = format!("is {number}, but the file's name says {index} (counted from 0)");
    Err(LoadError::Metadata { key: "split.no".to_string(), reason })
}

/// Fails unless the parts together hold as many tensors as the first one says.
pub(super) fn check_total(first: &Metadata, parts: usize, tensors: usize) -> Result<(), LoadError> {
    match first.get::<usize>("split.tensors.count")? {
        Some(total) if parts > 1 && total != tensors => {
            let reason = format!("is {total}, but the {parts} parts hold {tensors} tensors");
            Err(LoadError::Metadata { key: "split.tensors.count".to_string(), reason })
        }
        None if parts > 1 => {
            let reason = format!("is missing in the first of {parts} parts");
            Err(LoadError::Metadata { key: "split.tensors.count".to_string(), reason })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_five_digits_are_parts() {
        assert_eq!(parse_name("m-q4-00001-of-00003.gguf"), Some(("m-q4", 1, 3)));
        for whole in [
            "m.gguf",
            "m-1-of-3.gguf",
            "m-00001-of-+0003.gguf",
            "m-00001-of-00003.bin",
            "00001-of-00003.gguf",
        ] {
            assert_eq!(parse_name(whole), None, "{whole}");
        }
    }
}
