//! Memory of a size that a caller chose: refused with an error, where `vec!` would end the program.

use crate::error::KernelError;
use std::alloc::{Layout, alloc_zeroed};

/// Numbers whose zero is all bits zero.
pub trait Zero: Copy + sealed::Sealed {}

mod sealed {
    /// Only this crate says which types are zero if their bits are.
    pub trait Sealed {}
}

macro_rules! zero {
    ($($t:ty),*) => {$(
        impl sealed::Sealed for $t {}
        impl Zero for $t {}
    )*};
}
zero!(f32, i8, i32, u16, u32);

/// `len` zeros; `what` they are for stands in the error.
///
/// They come zeroed from the system (`calloc`) and are not touched: memory is taken when it is first written.
///
/// ```
/// use gable_kernels::memory::zeros;
/// assert_eq!(zeros::<f32>("logits", 2)?, [0.0, 0.0]);
/// assert!(zeros::<f32>("logits", usize::MAX / 4).is_err());
/// # Ok::<(), gable_kernels::KernelError>(())
/// ```
///
/// # Errors
/// [`KernelError::Memory`] if the system refuses, or the size is beyond the address space.
pub fn zeros<T: Zero>(what: &'static str, len: usize) -> Result<Vec<T>, KernelError> {
    if len == 0 {
        return Ok(Vec::new());
    }
    let refused = || KernelError::Memory { what, bytes: len.saturating_mul(size_of::<T>()) };
    let layout = Layout::array::<T>(len).map_err(|_| refused())?;
    // SAFETY: the layout is not empty: `len` is not 0 and no `Zero` type has size 0. A null pointer is turned away.
    // Otherwise the allocation comes from the global allocator with exactly the layout of `len` values of T, all
    // initialised, since bits of zero are a T (`Zero` is sealed over such types), and nothing else owns it.
    unsafe {
        let memory = alloc_zeroed(layout).cast::<T>();
        if memory.is_null() {
            return Err(refused());
        }
        Ok(Vec::from_raw_parts(memory, len, len))
    }
}
