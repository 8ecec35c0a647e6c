//! The roofs: what so many threads compute at most, and read at most from each level of memory.

use super::measure::Measured;
use crate::caches::{Level, Sizes};
use crate::limits::{Access, Prober};
use gable_kernels::ProbeKind;
use serde_json::{Map, Value, json};

/// Of one number of threads, per second.
#[derive(Debug, Clone, PartialEq)]
pub struct Roofs {
    /// How many.
    pub threads: usize,
    /// Operations, by their kind: see [`KINDS`].
    pub peaks: [f64; 3],
    /// Bytes read, by level: see [`Level::ALL`].
    pub read: [f64; 4],
}

/// Kinds of arithmetic, and what they are called.
pub const KINDS: [(ProbeKind, &str); 3] =
    [(ProbeKind::F32, "f32"), (ProbeKind::Bf16, "bf16"), (ProbeKind::Int8, "int8")];

impl Roofs {
    /// Measures all of them, a few times.
    pub fn measure(prober: &mut Prober, sizes: Sizes, threads: usize) -> Roofs {
        const TIMES: usize = 3;
        let mut best = Roofs { threads, peaks: [0.0; 3], read: [0.0; 4] };
        for _ in 0..TIMES {
            for (peak, (kind, _)) in best.peaks.iter_mut().zip(KINDS) {
                *peak = peak.max(prober.peak(kind, threads));
            }
            for (read, level) in best.read.iter_mut().zip(Level::ALL) {
                *read = read.max(prober.memory(Access::Read, sizes.inside(level, threads), threads));
            }
        }
        best
    }

    /// What was measured around a kernel was this machine's too.
    pub fn raise(&mut self, row: &Measured) {
        let limits = row.limits;
        for (peak, found) in self.peaks.iter_mut().zip([limits.f32, limits.bf16, limits.int8]) {
            if found.is_finite() {
                *peak = peak.max(found);
            }
        }
        for (read, level) in self.read.iter_mut().zip(Level::ALL) {
            if row.access == Access::Read && row.level == level {
                *read = read.max(limits.read);
            }
        }
    }

    /// Roofs of arithmetic with their names.
    pub fn peaks(&self) -> impl Iterator<Item = (&'static str, f64)> {
        KINDS.into_iter().zip(self.peaks).map(|((_, name), peak)| (name, peak))
    }

    /// Roofs of memory with their names.
    pub fn reads(&self) -> impl Iterator<Item = (&'static str, f64)> {
        Level::ALL.into_iter().zip(self.read).map(|(level, read)| (level.name(), read))
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let peaks: Map<String, Value> =
            self.peaks().map(|(name, x)| (name.to_owned(), (x / 1e9).into())).collect();
        let reads: Map<String, Value> =
            self.reads().map(|(name, x)| (name.to_owned(), (x / 1e9).into())).collect();
        json!({ "threads": self.threads, "gflop_s": peaks, "read_gb_s": reads })
    }
}
