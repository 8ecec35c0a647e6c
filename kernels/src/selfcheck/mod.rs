//! Every kernel, on every instruction set of this machine, against [`reference`](crate::reference): in one thread and
//! with nothing but the library, so that it runs wherever a finished program runs, emulators included.
//!
//! ```
//! use gable_kernels::selfcheck::{Effort, run};
//! assert!(run(Effort::Quick, &mut |outcome| println!("{outcome}")));
//! ```
//!
//! The problems are random with a fixed seed, at shapes that straddle the edges of tiles and blocks, plus the extremes
//! of the integer formats and rows that hold a NaN. The expected values of a problem are computed once and compared with
//! each instruction set's, within the bound that the kernel documents.
//!
//! To add a kernel, write a function that fills a `Sweep` and name it in `CHECKS`.

mod attention;
mod dense;
mod matmul;
mod random;
mod rows;
mod rowwise;

use crate::error::KernelError;
use crate::isa::{Isa, Kernels};
use crate::simd::vocabulary::Findings;
pub(crate) use random::Random;

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// A few small shapes of everything: a second at most, tens of seconds in an emulator.
    Quick,
    /// Many shapes: a few seconds.
    Full,
}

/// How one kernel did on one instruction set.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The instruction set.
    pub isa: Isa,
    /// The kernel.
    pub kernel: &'static str,
    /// Values that were compared.
    pub cases: usize,
    /// The largest error as a fraction of the bound that it must not exceed; 0 where results must be exact and are.
    pub worst: f64,
    /// The first value that was wrong.
    pub failure: Option<String>,
}

impl Outcome {
    /// Whether all values were right.
    pub fn passed(&self) -> bool {
        self.failure.is_none()
    }

    /// Counts a value that must be within `bound` of `want` (both NaN is fine). `place` tells where it is.
    pub(crate) fn compare(&mut self, got: f64, want: f64, bound: f64, place: impl FnOnce() -> String) {
        let error = (got - want).abs();
        let exact = got == want || (got.is_nan() && want.is_nan());
        if !exact && error.is_finite() {
            self.worst = self.worst.max(error / bound);
        }
        self.require(exact || error <= bound, || format!("{}: {got:e}, want {want:e} +- {bound:e}", place()));
    }

    /// Counts a value that must be as it is. `wrong` tells what is the matter with it.
    pub(crate) fn require(&mut self, right: bool, wrong: impl FnOnce() -> String) {
        self.cases += 1;
        if !right && self.failure.is_none() {
            self.failure = Some(wrong());
        }
    }

    /// Records a kernel's refusal as a failure.
    pub(crate) fn accept(&mut self, result: Result<(), KernelError>, place: impl FnOnce() -> String) {
        if let Err(error) = result {
            self.require(false, || format!("{}: {error}", place()));
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Outcome { isa, kernel, cases, worst, failure } = self;
        write!(f, "{:<11} {kernel:<22} {cases:>8} values, ", isa.name())?;
        match failure {
            Some(failure) => write!(f, "WRONG: {failure}"),
            None => write!(f, "largest error {worst:.3} of the bound"),
        }
    }
}

/// What a check is given: instruction sets to run on, and where to put what it finds.
pub(crate) struct Sweep {
    effort: Effort,
    isas: Vec<Kernels>,
    outcomes: Vec<Outcome>,
}

impl Sweep {
    /// The outcome of a kernel on an instruction set, to be added to.
    pub(crate) fn outcome(&mut self, kernels: Kernels, kernel: &'static str) -> &mut Outcome {
        let isa = kernels.isa();
        let known = self.outcomes.iter().position(|o| o.isa == isa && o.kernel == kernel);
        let at = known.unwrap_or_else(|| {
            self.outcomes.push(Outcome { isa, kernel, cases: 0, worst: 0.0, failure: None });
            self.outcomes.len() - 1
        });
        &mut self.outcomes[at]
    }

    /// Instruction sets to run on.
    pub(crate) fn isas(&self) -> Vec<Kernels> {
        self.isas.clone()
    }

    /// `quick` or `full`, as the effort is.
    pub(crate) fn choose<T>(&self, quick: T, full: T) -> T {
        match self.effort {
            Effort::Quick => quick,
            Effort::Full => full,
        }
    }
}

/// All checks, from the ground up.
const CHECKS: &[fn(&mut Sweep)] = &[
    vocabulary,
    rowwise::functions,
    rowwise::elements,
    rowwise::softmax,
    rowwise::norms,
    rowwise::pooling,
    rowwise::rope,
    rows::dequantize_row,
    rows::prepare,
    matmul::matmul,
    dense::dense,
    attention::attention,
];

/// Runs all checks, tells `report` each outcome as soon as its check is done, and returns whether all passed.
///
/// Only the calling thread is used. `GABLE_ISA` is not asked: every instruction set that the CPU has takes part.
#[must_use]
pub fn run(effort: Effort, report: &mut dyn FnMut(&Outcome)) -> bool {
    let mut sweep = Sweep { effort, isas: Kernels::every_available().collect(), outcomes: Vec::new() };
    let mut all_passed = true;
    for check in CHECKS {
        check(&mut sweep);
        for outcome in sweep.outcomes.drain(..) {
            all_passed &= outcome.passed();
            report(&outcome);
        }
    }
    all_passed
}

/// The vector operations that all kernels are made of.
fn vocabulary(sweep: &mut Sweep) {
    for kernels in sweep.isas() {
        let mut findings = Findings::default();
        kernels.table.vocabulary(&mut findings);
        let outcome = sweep.outcome(kernels, "vector operations");
        outcome.cases = findings.cases;
        outcome.failure = findings.wrong;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_beyond_its_bound_fails_and_the_first_such_is_named() {
        let mut sweep = Sweep { effort: Effort::Quick, isas: vec![Kernels::best()], outcomes: Vec::new() };
        let outcome = sweep.outcome(Kernels::best(), "sum");
        outcome.compare(1.0, 1.5, 2.0, || "a".into());
        outcome.compare(f64::NAN, f64::NAN, 0.0, || "b".into());
        assert!(outcome.passed() && outcome.worst == 0.25 && outcome.cases == 2);
        outcome.compare(f64::NAN, 1.0, 2.0, || "c".into());
        outcome.compare(9.0, 1.0, 2.0, || "d".into());
        assert!(!outcome.passed() && outcome.worst == 4.0);
        assert!(sweep.outcome(Kernels::best(), "sum").failure.as_deref().unwrap().starts_with("c: NaN"));
    }
}
