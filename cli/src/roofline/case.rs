//! What is measured: a kernel on operands of its own, what it has to do, and where those lie.

use crate::caches::Sizes;
use crate::limits::Access;
use crate::work::Work;
use anyhow::{Context, Result};
use gable_kernels::{KernelError, Kernels, Team};
use std::ops::{Deref, DerefMut};

/// Kinds of kernels, in the order they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Products of dense matrices.
    Dense,
    /// Products with block formats, many rows.
    Prompt,
    /// Products with block formats, one row.
    Decode,
    /// Attention.
    Attention,
    /// One row after another.
    RowWise,
}

impl Group {
    /// All of them.
    pub const ALL: [Group; 5] =
        [Group::Dense, Group::Prompt, Group::Decode, Group::Attention, Group::RowWise];

    /// In a few words.
    pub fn name(self) -> &'static str {
        match self {
            Group::Dense => "dense",
            Group::Prompt => "prompt",
            Group::Decode => "decode",
            Group::Attention => "attention",
            Group::RowWise => "row-wise",
        }
    }
}

/// What cases are made for.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Whose kernels.
    pub kernels: Kernels,
    /// What the caches hold.
    pub sizes: Sizes,
}

/// Computes it once.
pub type Run = Box<dyn FnMut(&Team<'_>) -> Result<(), KernelError>>;

/// A kernel with its operands.
pub struct Case {
    /// What one run has to do at least: operations, and each byte of operands and results once.
    pub work: Work,
    /// How it goes through memory.
    pub access: Access,
    /// Bytes that it comes back to: what one run touches, or all that runs take in turn.
    pub working_set: usize,
    /// Whether runs take in turn what no cache holds.
    pub rotates: bool,
    /// One run.
    pub run: Run,
}

impl Case {
    /// Reads `turns` operands of `bytes` in turn, which no cache holds if they are more than one, and `few` bytes beside.
    pub fn reading(
        work: Work,
        [bytes, turns, few]: [usize; 3],
        run: impl FnMut(&Team<'_>) -> Result<(), KernelError> + 'static,
    ) -> Case {
        Case {
            work,
            access: Access::Read,
            working_set: bytes.saturating_mul(turns).saturating_add(few),
            rotates: turns > 1,
            run: Box::new(run),
        }
    }
}

/// Makes a case.
type Make = Box<dyn Fn(&Setting) -> Result<Case>>;

/// A case that is yet to be made: its operands may take much memory.
pub struct Row {
    /// What kind of kernel.
    pub group: Group,
    /// Types and shapes.
    pub name: String,
    /// Whether it belongs to the smaller set.
    pub quick: bool,
    make: Make,
}

impl Row {
    /// Of these parts; not in the smaller set.
    pub fn new(
        group: Group,
        name: impl Into<String>,
        make: impl Fn(&Setting) -> Result<Case> + 'static,
    ) -> Row {
        Row { group, name: name.into(), quick: false, make: Box::new(make) }
    }

    /// The same, in the smaller set if so.
    #[must_use]
    pub fn quick(self, quick: bool) -> Row {
        Row { quick, ..self }
    }

    /// Kind and name, as one asks for it.
    pub fn title(&self) -> String {
        format!("{} {}", self.group.name(), self.name)
    }

    /// Makes the operands.
    pub fn case(&self, setting: &Setting) -> Result<Case> {
        (self.make)(setting).with_context(|| self.title())
    }
}

/// How many operands of `bytes` no cache holds, not even a good part of them; two at least.
pub fn copies(setting: &Setting, bytes: usize) -> usize {
    setting.sizes.beyond().div_ceil(bytes.max(1)).saturating_add(1)
}

/// A number of operations or bytes.
#[expect(clippy::cast_precision_loss, reason = "for a speed")]
pub fn count(factors: &[usize]) -> f64 {
    factors.iter().map(|&n| n as f64).product()
}

/// Numbers that begin with a cache line, as a model's buffers do.
pub struct Operand<T> {
    all: Vec<T>,
    start: usize,
}

/// What operands are aligned to, in bytes.
const ALIGN: usize = 64;

impl<T: Copy> Operand<T> {
    /// So many numbers, from -1 to 1 before they are converted; the same every time.
    pub fn new(len: usize, from: impl Fn(f32) -> T) -> Result<Operand<T>> {
        let mut state = 1_u32;
        Operand::filled(len, || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let bits = u16::try_from(state >> 16).unwrap_or(0);
            from(f32::from(bits) / 32_768.0 - 1.0)
        })
    }

    /// So many, one after another.
    pub fn filled(len: usize, mut next: impl FnMut() -> T) -> Result<Operand<T>> {
        let mut all: Vec<T> = Vec::new();
        all.try_reserve_exact(len.saturating_add(ALIGN))
            .with_context(|| format!("no memory for an operand of {len} numbers"))?;
        let start = all.as_ptr().align_offset(ALIGN).min(ALIGN);
        all.extend(std::iter::repeat_with(&mut next).take(start.saturating_add(len)));
        Ok(Operand { all, start })
    }
}

impl<T> Deref for Operand<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.all.get(self.start..).unwrap_or_default()
    }
}

impl<T> DerefMut for Operand<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.all.get_mut(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn operands_begin_with_a_cache_line_and_are_from_minus_one_to_one() {
        for len in [0, 1, 1000, 1_000_000] {
            let x = Operand::new(len, |x| x).unwrap();
            assert!(x.len() == len && x.as_ptr().align_offset(ALIGN) == 0);
            assert!(x.iter().all(|x| (-1.0..=1.0).contains(x)));
        }
    }
}
