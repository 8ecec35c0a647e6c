//! What a kernel call can refuse, with the argument's name and both values.

use crate::isa::Isa;
use crate::quant::Format;

/// Why a kernel call was refused. Nothing was written to any output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// An argument has another length or extent than the operation needs.
    #[error("{op}: {what} is {found}, but {expected} is needed")]
    Shape {
        /// The operation that was called.
        op: &'static str,
        /// The argument and the extent that is wrong, e.g. `out.cols`.
        what: &'static str,
        /// What the other arguments ask for.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// An argument has a value the operation does not define.
    #[error("{op}: {what} is {found}; allowed: {allowed}")]
    Value {
        /// The operation that was called.
        op: &'static str,
        /// The argument that is wrong.
        what: &'static str,
        /// What was given.
        found: String,
        /// What the operation accepts.
        allowed: &'static str,
    },
    /// A row length does not divide into the format's blocks.
    #[error("{format} packs blocks of {block} values, so {cols} columns cannot be stored in it")]
    BlockLength {
        /// The block format.
        format: Format,
        /// Values per block.
        block: usize,
        /// The row length that was asked for.
        cols: usize,
    },
    /// A token lies further along than the position embedding reaches.
    #[error("position {position} is beyond the model's {max_positions} positions")]
    PositionOutOfRange {
        /// The token's position, counted from 0.
        position: u32,
        /// How many positions there are.
        max_positions: usize,
    },
    /// A forced instruction set is not one this CPU (or this build) has.
    #[error("instruction set {isa} is not available on this machine; available: {available}")]
    IsaUnavailable {
        /// What was asked for.
        isa: Isa,
        /// Names of what there is.
        available: String,
    },
    /// A name that is no instruction set.
    #[error("{0:?} is not an instruction set; known: {known}", known = Isa::names())]
    UnknownIsa(String),
    /// The cache has no page left for more positions.
    #[error(
        "the key-value cache has {available} free pages, but {needed} are needed; end or shorten a sequence, or make the cache larger"
    )]
    CacheFull {
        /// Pages that the call would have taken.
        needed: usize,
        /// Pages that were free.
        available: usize,
    },
    /// Memory that the system does not give.
    #[error("no memory for {what} ({bytes} bytes); make the context or the batch smaller")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// Bytes that were asked for; `usize::MAX` if their number is beyond the address space.
        bytes: usize,
    },
    /// The caller's cancel flag was set while the operation ran.
    #[error("cancelled")]
    Cancelled,
}
