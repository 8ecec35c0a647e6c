//! When each operation of each pass began and ended.
//!
//! ```text
//! pass       |-----------------------------------------------|      sampling ...      |------- next pass ---
//! spans      | Enter | Begin | Embed | Norm | Prepare | Qkv ... Unembed |
//! ```
//!
//! The spans of a pass lie end to end, so that no time inside it is lost: what forks, joins and waits for the slowest
//! thread belongs to the operation that does it. Taking a time costs some 20 ns, of which a layer needs a dozen; without
//! a timeline nothing is taken.

use crate::observer::{Observer, Operation, Site};
use gable_kernels::MatRef;
use gable_kernels::gemm::Phase;
use std::time::{Duration, Instant};

/// An operation of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Which.
    pub operation: Operation,
    /// Of which layer; outside of layers 0 before and `n_layers` after them.
    pub layer: usize,
    /// Since the timeline's beginning.
    pub start: Duration,
    /// Since the timeline's beginning.
    pub end: Duration,
}

/// One pass of a batch through the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedPass {
    /// Whose order of summation it has.
    pub phase: Phase,
    /// Position of its first row.
    pub first: usize,
    /// Its rows.
    pub rows: usize,
    /// Since the timeline's beginning.
    pub start: Duration,
    /// Since the timeline's beginning.
    pub end: Duration,
    /// What it did, in order and end to end.
    pub spans: Vec<Span>,
}

/// The passes of a session since it was told to keep their times.
#[derive(Debug)]
pub struct Timeline {
    zero: Instant,
    passes: Vec<TimedPass>,
}

impl Timeline {
    /// Begins now.
    pub(crate) fn new() -> Timeline {
        Timeline { zero: Instant::now(), passes: Vec::new() }
    }

    /// Now, since the beginning.
    pub fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    /// When it began.
    pub fn zero(&self) -> Instant {
        self.zero
    }

    /// The passes in their order; the last one may have failed.
    pub fn passes(&self) -> &[TimedPass] {
        &self.passes
    }

    pub(crate) fn begin(&mut self, phase: Phase, first: usize, rows: usize) {
        // As many spans as the pass before had: no list grows while times are taken.
        let spans = Vec::with_capacity(self.passes.last().map_or(512, |p| p.spans.len()));
        let start = self.now();
        self.passes.push(TimedPass { phase, first, rows, start, end: start, spans });
    }

    pub(crate) fn end(&mut self) {
        let now = self.now();
        if let Some(pass) = self.passes.last_mut() {
            pass.end = now;
        }
    }

    /// An observer that takes the times and lets another one look.
    pub(crate) fn watch<'a>(&'a mut self, observer: &'a mut dyn Observer) -> impl Observer + 'a {
        Watch { timeline: self, observer }
    }
}

struct Watch<'a> {
    timeline: &'a mut Timeline,
    observer: &'a mut dyn Observer,
}

impl Observer for Watch<'_> {
    fn wants(&self, layer: usize, site: Site) -> bool {
        self.observer.wants(layer, site)
    }

    fn observe(&mut self, layer: usize, site: Site, values: MatRef<'_>) {
        self.observer.observe(layer, site, values);
    }

    fn observe_expert(&mut self, layer: usize, expert: usize, site: Site, values: MatRef<'_>) {
        self.observer.observe_expert(layer, expert, site, values);
    }

    fn done(&mut self, layer: usize, operation: Operation) {
        let end = self.timeline.now();
        if let Some(pass) = self.timeline.passes.last_mut() {
            let start = pass.spans.last().map_or(pass.start, |span| span.end);
            pass.spans.push(Span { operation, layer, start, end });
        }
        self.observer.done(layer, operation);
    }
}
