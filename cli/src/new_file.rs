//! Files that appear whole or not at all.
//!
//! Data go to a hidden file beside the wanted one, which takes its place only when everything has reached the disk.
//! Whatever interrupts that leaves at most the hidden file, which the next attempt takes over.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file in the making.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    hidden: PathBuf,
    out: Option<BufWriter<File>>,
}

impl NewFile {
    /// Begins the file at `path`, which must not be one of `sources`, by whatever name or link.
    pub fn create(path: &Path, sources: &[&Path]) -> Result<NewFile> {
        let Some(name) = path.file_name() else {
            bail!("{}: no name of a file to write", path.display());
        };
        for source in sources {
            if same_file(source, path) {
                bail!(
                    "{} is {} itself; a model is read while it is written, so write to another file",
                    path.display(),
                    source.display()
                );
            }
        }
        if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
            bail!("{}: is there and is no regular file; name a file to write", path.display());
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".part");
        let hidden = path.with_file_name(hidden);
        if fs::symlink_metadata(&hidden).is_ok_and(|m| !m.is_file()) {
            bail!("{}: is there and is no regular file; remove it", hidden.display());
        }
        let open = || File::options().write(true).create(true).truncate(false).open(&hidden);
        let file = open().with_context(|| format!("could not create {}", hidden.display()))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                bail!("{}: another process is writing this file", path.display())
            }
            // Some file systems have no locks; then two writers at once are the user's affair.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let out = BufWriter::with_capacity(1 << 20, file);
        let new = NewFile { path: path.to_owned(), hidden, out: Some(out) };
        new.file()
            .map_or(Ok(()), |f| f.set_len(0))
            .with_context(|| format!("could not empty {}", new.hidden.display()))?;
        Ok(new)
    }

    fn file(&self) -> Option<&File> {
        self.out.as_ref().map(BufWriter::get_ref)
    }

    /// Brings everything to the disk and the file to its name.
    pub fn commit(mut self) -> Result<()> {
        let context = || format!("could not write {}", self.path.display());
        if let Some(out) = &mut self.out {
            out.flush().with_context(context)?;
            out.get_ref().sync_all().with_context(context)?;
        }
        fs::rename(&self.hidden, &self.path).with_context(context)?;
        self.out = None;
        // The name, too, shall survive a power failure; not every file system can promise that.
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|f| f.sync_all());
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.as_mut().map_or(Ok(0), |out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(out) = self.out.take() {
            // What is still buffered is not worth a write that may fail again.
            let (file, _) = out.into_parts();
            drop(file);
            let _ = fs::remove_file(&self.hidden);
        }
    }
}

/// Whether two names lead to one file, through links of either kind.
pub fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
        id(a).is_some() && id(a) == id(b)
    }
    #[cfg(not(unix))]
    {
        let full = |path: &Path| fs::canonicalize(path).ok();
        full(a).is_some() && full(a) == full(b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("gable-new-file-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_with_its_commit_and_not_before() {
        let folder = folder("commit");
        let path = folder.join("out");
        fs::write(&path, "old").unwrap();
        let mut new = NewFile::create(&path, &[]).unwrap();
        new.write_all(b"new").unwrap();
        new.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let err = NewFile::create(&path, &[]).unwrap_err().to_string();
        assert!(err.contains("another process is writing"), "{err}");
        new.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(&folder), ["out"]);
        let _ = fs::remove_dir_all(folder);
    }

    #[test]
    fn what_is_not_committed_leaves_nothing_and_a_leftover_is_taken_over() {
        let folder = folder("drop");
        let path = folder.join("out");
        drop(NewFile::create(&path, &[]).unwrap());
        assert!(names(&folder).is_empty());
        fs::write(folder.join(".out.part"), "left by a process that was killed").unwrap();
        let mut new = NewFile::create(&path, &[]).unwrap();
        new.write_all(b"x").unwrap();
        new.commit().unwrap();
        assert_eq!((names(&folder), fs::read(&path).unwrap()), (vec!["out".to_owned()], b"x".to_vec()));
        let _ = fs::remove_dir_all(folder);
    }

    #[cfg(unix)]
    #[test]
    fn a_source_is_recognised_through_links_and_devices_are_refused() {
        let folder = folder("links");
        let source = folder.join("source");
        fs::write(&source, "weights").unwrap();
        let (soft, hard) = (folder.join("soft"), folder.join("hard"));
        std::os::unix::fs::symlink(&source, &soft).unwrap();
        fs::hard_link(&source, &hard).unwrap();
        for path in
            [&source, &soft, &hard, &folder.join("../").join(folder.file_name().unwrap()).join("soft")]
        {
            let err = NewFile::create(path, &[&source]).unwrap_err().to_string();
            assert!(err.contains("itself"), "{err}");
        }
        let err = NewFile::create(Path::new("/dev/full"), &[&source]).unwrap_err().to_string();
        assert!(err.contains("no regular file"), "{err}");
        assert!(NewFile::create(&folder, &[&source]).is_err());
        assert_eq!(fs::read(&source).unwrap(), b"weights");
        assert_eq!(names(&folder), ["hard", "soft", "source"]);
        let _ = fs::remove_dir_all(folder);
    }
}
