//! How fast memory is: buffers of chosen sizes, read, copied or updated by all threads, each on its own part.
//!
//! A buffer that the caches hold is gone through often, as the operands of a kernel that is called often are. Reading is
//! tried in several ways, of which the best counts: in several orders, in memory of the process and in a mapped file, which a machine may back with pages of different size.

use anyhow::{Context, Result};
use gable_kernels::{Kernels, ProbeOrder, ProbeWalk, Team};
use gable_model::mapped_file::MappedFile;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What is done with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Loads.
    Read,
    /// Loads from one half, stores to the other.
    Copy,
    /// Loads and stores of the same.
    Update,
    /// Loads from two thirds, stores to the third.
    Join,
}

/// The ways that may be fastest.
const WALKS: [ProbeWalk; 4] = [
    ProbeWalk { order: ProbeOrder::Narrow, ahead: false },
    ProbeWalk { order: ProbeOrder::Wide, ahead: false },
    ProbeWalk { order: ProbeOrder::Wide, ahead: true },
    ProbeWalk { order: ProbeOrder::Apart, ahead: false },
];
/// Bytes that a probe goes through at least, so that it can be timed.
const LEAST: usize = 64 << 20;
/// What a line of the caches, and the widest vector, begins with a multiple of: loads across two lines are slower.
const ALIGN: usize = 64;
const PAGE: usize = 4096;
const APART: usize = 5 * ALIGN;

/// Memory to be measured.
pub struct Memory {
    kernels: Kernels,
    anonymous: Vec<u8>,
    mapped: Option<Arc<MappedFile>>,
}

impl Memory {
    /// So many bytes.
    pub fn new(kernels: Kernels, bytes: usize) -> Result<Memory> {
        let refused =
            || format!("no memory for {bytes} bytes to be read, by which the machine's limit is measured");
        let mut anonymous: Vec<u8> = Vec::new();
        anonymous.try_reserve_exact(bytes.saturating_add(ALIGN)).with_context(refused)?;
        // Written, so that every page is there.
        anonymous.resize(bytes.saturating_add(ALIGN), 1);
        Ok(Memory { kernels, anonymous, mapped: None })
    }

    /// The same with as much of a file, which lives only as long as it is mapped.
    pub fn with_mapped(kernels: Kernels, bytes: usize) -> Result<Memory> {
        let mapped =
            scrap(&vec![1; bytes]).context("a file by which the limit of mapped memory is measured")?;
        Ok(Memory { mapped: Some(mapped), ..Memory::new(kernels, bytes)? })
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.anonymous.len().saturating_sub(ALIGN)
    }

    /// The ways to read it; see [`Memory::read`].
    pub fn ways(&self) -> usize {
        WALKS.len().saturating_mul(if self.mapped.is_some() { 2 } else { 1 })
    }

    /// Reads the first `bytes` by all threads, often enough to be timed; gives how many bytes that were.
    pub fn read(&self, team: &Team<'_>, bytes: usize, way: usize) -> usize {
        let [narrow, ..] = WALKS;
        let walk = WALKS.get(way % WALKS.len()).copied().unwrap_or(narrow);
        let all = match self.mapped.as_deref().filter(|_| way >= WALKS.len()) {
            Some(mapped) => mapped.bytes(),
            None => self.anonymous.get(lead(&self.anonymous)..).unwrap_or_default(),
        };
        let bytes = bytes.min(self.len());
        let all = all.get(..bytes).unwrap_or(all);
        let parts: Vec<&[u8]> = all.chunks(part_len(bytes, team)).collect();
        let turns = turns(bytes);
        team.run(parts.len(), &|i| {
            for _ in 0..turns {
                self.kernels.probe_walk(parts.get(i).copied().unwrap_or_default(), walk);
            }
        });
        bytes.saturating_mul(turns)
    }

    /// The ways to write to it; see [`Memory::write`].
    pub fn write_ways(&self) -> usize {
        WALKS.len()
    }

    /// Goes through the first `bytes` as [`Memory::read`] does, and writes some of them; gives how many were read or written.
    pub fn write(&mut self, team: &Team<'_>, bytes: usize, access: Access, way: usize) -> usize {
        let [narrow, ..] = WALKS;
        let walk = WALKS.get(way).copied().unwrap_or(narrow);
        let (kernels, bytes) = (self.kernels, bytes.min(self.len()));
        let lead = lead(&self.anonymous);
        let all = self.anonymous.get_mut(lead..).unwrap_or_default();
        let all = all.get_mut(..bytes).unwrap_or_default();
        // A lock for each part: threads get theirs from a closure that all of them share.
        let parts: Vec<Mutex<&mut [u8]>> = all.chunks_mut(part_len(bytes, team)).map(Mutex::new).collect();
        let (turns, touched) = (turns(bytes), AtomicUsize::new(0));
        team.run(parts.len(), &|i| {
            let Some(Ok(mut part)) = parts.get(i).map(Mutex::lock) else { return };
            let mut sum = 0_usize;
            for _ in 0..turns {
                sum = sum.saturating_add(once(kernels, &mut part, access, walk));
            }
            touched.fetch_add(sum, Ordering::Relaxed);
        });
        touched.into_inner()
    }
}

/// Goes through a part once; gives how many bytes were read or written.
fn once(kernels: Kernels, part: &mut [u8], access: Access, walk: ProbeWalk) -> usize {
    let len = part.len();
    match access {
        Access::Copy => {
            let (from, to) = part.split_at_mut(piece(len, 2));
            kernels.probe_copy(from, to, walk);
            to.len().min(from.len()).saturating_mul(2)
        }
        Access::Join => {
            let (a, rest) = part.split_at_mut(piece(len, 3));
            let (b, to) = rest.split_at_mut(a.len().min(rest.len()));
            kernels.probe_join([a, b], to, walk);
            to.len().min(b.len()).saturating_mul(3)
        }
        Access::Read => {
            kernels.probe_walk(part, walk);
            len
        }
        Access::Update => {
            kernels.probe_update(part, walk);
            len.saturating_mul(2)
        }
    }
}

/// Length of one of some pieces of a part: not a multiple of a page, for loads would wait for stores whose addresses end alike.
fn piece(len: usize, pieces: usize) -> usize {
    let page = if len > 64 * PAGE { PAGE } else { ALIGN };
    (len / pieces.max(1)).next_multiple_of(page).saturating_add(APART).min(len)
}

/// Bytes before the first cache line.
fn lead(memory: &[u8]) -> usize {
    memory.as_ptr().align_offset(ALIGN).min(ALIGN)
}

/// Bytes of a thread's part.
fn part_len(bytes: usize, team: &Team<'_>) -> usize {
    bytes.div_ceil(team.threads()).next_multiple_of(ALIGN).max(ALIGN)
}

fn turns(bytes: usize) -> usize {
    (LEAST / bytes.max(1)).max(1)
}

/// Bytes in a mapped file that has no name any more.
pub fn scrap(bytes: &[u8]) -> Result<Arc<MappedFile>> {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("gable-roofline-{}-{number}", std::process::id()));
    let write = || std::fs::File::create_new(&path)?.write_all(bytes);
    let mapped = write()
        .with_context(|| format!("could not write {} bytes to {}", bytes.len(), path.display()))
        .and_then(|()| Ok(MappedFile::open(&path)?));
    let _ = std::fs::remove_file(&path);
    mapped
}
