//! What the property tests share: matrices that notice strays, hostile values, and the account of what ran where.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use gable_kernels::{Isa, Kernels, MatMut, MatRef, Pool, Team};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{LazyLock, Mutex, Once};

/// A small generator, so that a case is a seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) ^ (self.0 >> 7)
    }
    /// Uniform in -1 ..= 1.
    pub fn float(&mut self) -> f32 {
        (self.next() % 200_001) as f32 / 100_000.0 - 1.0
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    /// Mostly ordinary, now and then zero, tiny or large; always finite and of magnitude up to `scale`.
    pub fn value(&mut self, scale: f32) -> f32 {
        match self.below(16) {
            0 => 0.0,
            1 => self.float() * 1e-6,
            2 => -0.0,
            3 => f32::from_bits(self.next() as u32 & 0x007f_ffff), // a denormal
            _ => self.float() * scale,
        }
    }
    pub fn values(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.value(scale)).collect()
    }
}

/// A NaN that no computation produces: what lies around every matrix.
const CANARY: u32 = 0x7fa5_a5a5;

/// A matrix inside a larger buffer: canaries before, between (if the rows are padded) and behind the rows.
/// An element read from outside makes a result NaN; one written outside is found by [`Guarded::assert_intact`].
#[derive(Clone)]
pub struct Guarded {
    buffer: Vec<f32>,
    start: usize,
    pub rows: usize,
    pub cols: usize,
    stride: usize,
}

impl Guarded {
    /// `shift` puts the first row at any of the alignments f32 can have.
    pub fn new(
        rows: usize,
        cols: usize,
        padding: usize,
        shift: usize,
        mut value: impl FnMut() -> f32,
    ) -> Self {
        let (stride, start) = (cols + padding, 19 + shift);
        let buffer = vec![f32::from_bits(CANARY); start + rows * stride + 35];
        let mut m = Guarded { buffer, start, rows, cols, stride };
        for i in 0..rows {
            m.row_mut(i).fill_with(&mut value);
        }
        m
    }
    pub fn row(&self, i: usize) -> &[f32] {
        &self.buffer[self.start + i * self.stride..][..self.cols]
    }
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.buffer[self.start + i * self.stride..][..self.cols]
    }
    pub fn mat(&self) -> MatRef<'_> {
        MatRef::new(&self.buffer[self.start..], self.rows, self.cols, self.stride).unwrap()
    }
    pub fn mat_mut(&mut self) -> MatMut<'_> {
        MatMut::new(&mut self.buffer[self.start..], self.rows, self.cols, self.stride).unwrap()
    }
    /// All elements, row after row, as bits.
    pub fn bits(&self) -> Vec<u32> {
        (0..self.rows).flat_map(|i| self.row(i).iter().map(|x| x.to_bits())).collect()
    }
    /// # Panics
    /// If anything around the rows was written.
    pub fn assert_intact(&self) {
        for (i, x) in self.buffer.iter().enumerate() {
            let inside = i
                .checked_sub(self.start)
                .is_some_and(|i| i / self.stride.max(1) < self.rows && i % self.stride.max(1) < self.cols);
            assert!(inside || x.to_bits() == CANARY, "element {i} outside the matrix was written");
        }
    }
}

/// Pools of the sizes that determinism is tested with.
static POOLS: LazyLock<Vec<Pool>> = LazyLock::new(|| [2, 3, 7].map(Pool::new).into());

/// Calls `f` with teams of 1, 2, 3 and 7 threads.
pub fn for_every_team(mut f: impl FnMut(&Team<'_>)) {
    f(&Team::serial());
    for pool in POOLS.iter() {
        pool.enter(|team| f(team));
    }
}

/// Calls `f` with every instruction set of this machine and books a case of each of the kernels for it.
pub fn on_every_isa(kernels_tested: &[&'static str], mut f: impl FnMut(Kernels)) {
    for kernels in Kernels::every_available() {
        f(kernels);
        for name in kernels_tested {
            ran(name, kernels.isa(), 1);
        }
    }
}

type Ledger = BTreeMap<(&'static str, Isa), u64>;
static LEDGER: Mutex<Ledger> = Mutex::new(BTreeMap::new());

/// Books that `cases` cases of a kernel were checked on an instruction set. When the process ends, the account is
/// printed, and the process fails if a kernel was not run on an instruction set that `GABLE_REQUIRE_ISA` names.
///
/// # Panics
/// If the tables have no such kernel.
pub fn ran(kernel: &'static str, isa: Isa, cases: u64) {
    assert!(Kernels::operations().contains(&kernel), "no table has a kernel {kernel}");
    static AT_EXIT: Once = Once::new();
    AT_EXIT.call_once(|| {
        unsafe extern "C" {
            fn atexit(f: extern "C" fn()) -> i32;
        }
        // SAFETY: C's atexit, with a function of the type it asks for. libtest has no hook of its own.
        unsafe { atexit(close_ledger) };
    });
    *LEDGER.lock().unwrap_or_else(|e| e.into_inner()).entry((kernel, isa)).or_default() += cases;
}

/// The instruction sets that `GABLE_REQUIRE_ISA` names.
///
/// # Panics
/// If it names something else.
pub fn required_isas() -> Vec<Isa> {
    let list = std::env::var("GABLE_REQUIRE_ISA").unwrap_or_default();
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| name.parse().unwrap_or_else(|e| panic!("GABLE_REQUIRE_ISA: {e}"))).collect()
}

extern "C" fn close_ledger() {
    let ledger = LEDGER.lock().unwrap_or_else(|e| e.into_inner());
    let isas: Vec<Isa> = Kernels::every_available().map(Kernels::isa).collect();
    let mut kernels: Vec<&str> = ledger.keys().map(|(kernel, _)| *kernel).collect();
    kernels.dedup();
    let mut table = format!("\n{:24}", "cases checked");
    for isa in &isas {
        table += &format!("{:>12}", isa.name());
    }
    table.push('\n');
    let mut missing = Vec::new();
    for kernel in kernels {
        table += &format!("{kernel:24}");
        for isa in &isas {
            table += &format!("{:>12}", ledger.get(&(kernel, *isa)).unwrap_or(&0));
        }
        table.push('\n');
        let absent = |isa: &Isa| !ledger.contains_key(&(kernel, *isa));
        missing.extend(required_isas().into_iter().filter(absent).map(|isa| format!("{kernel} on {isa}")));
    }
    // Not eprint!: libtest would swallow it.
    let _ = std::io::stderr().write_all(table.as_bytes());
    if !missing.is_empty() {
        let _ = writeln!(std::io::stderr(), "required, but not run: {}", missing.join(", "));
        std::process::abort();
    }
}
