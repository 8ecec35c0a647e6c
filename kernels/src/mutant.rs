//! Deliberate faults, to see that the tests find each of them.
//!
//! `scripts/mutants.py` builds the tests with `--cfg gable_mutants` and runs them once for every name that a call of
//! [`mutant`] has, with that name in `GABLE_MUTANT`. Without the cfg every call is `false` to the compiler, and nothing of
//! this is left in a kernel.

#[cfg(gable_mutants)]
static CHOSEN: std::sync::LazyLock<Option<String>> =
    std::sync::LazyLock::new(|| std::env::var("GABLE_MUTANT").ok());

/// Whether this run has the fault called `name`.
#[cfg(gable_mutants)]
pub(crate) fn mutant(name: &str) -> bool {
    CHOSEN.as_deref() == Some(name)
}

/// Whether this run has the fault called `name`.
#[cfg(not(gable_mutants))]
#[inline(always)]
pub(crate) const fn mutant(_name: &str) -> bool {
    false
}
