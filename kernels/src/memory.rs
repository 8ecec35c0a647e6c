//! Memory of a size that a caller chose: refused with an error, where `vec!` would end the program.

use crate::error::KernelError;
use memmap2::MmapMut;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

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

/// What a buffer's first element is aligned to, in bytes: a cache line, and the widest vector.
///
/// It matters: matrices whose rows do not begin with a line have lines that belong to two panels, and two threads that
/// write them take them from each other (two threads multiplied int8 at 478 instead of 677 GOP/s).
pub const ALIGN: usize = 64;

/// From how many bytes on memory is asked for in huge pages.
///
/// Where pages have 4 KB, to look up where each of them is takes longer than to read it: one core of a Zen 4 virtual
/// machine read 17 GB/s of them, and 32 of pages of 2 MB.
const HUGE: usize = 4 << 20;

/// Numbers that begin with a cache line. Behaves like a slice.
pub struct Buffer<T> {
    start: NonNull<T>,
    len: usize,
    memory: Memory,
}

/// What a buffer gives back.
enum Memory {
    None,
    /// An allocation, in which the buffer starts at the first aligned place.
    Heap(NonNull<u8>, Layout),
    /// Pages of its own.
    Pages(#[expect(dead_code, reason = "held for its drop")] MmapMut),
}

// SAFETY: it owns its numbers, as a Vec does.
unsafe impl<T: Send> Send for Buffer<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Buffer<T> {}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Buffer { start: NonNull::dangling(), len: 0, memory: Memory::None }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised values (see `zeros`), or none.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and owned.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Memory::Heap(memory, layout) = self.memory {
            // SAFETY: allocated with this layout; `Zero` types need no drop.
            unsafe { dealloc(memory.as_ptr(), layout) }
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// `len` zeros, the first at a multiple of [`ALIGN`]; `what` they are for stands in the error.
///
/// They come zeroed from the system (`calloc`, or pages where they fill many) and are not touched: memory is taken when it
/// is first written.
///
/// ```
/// use gable_kernels::memory::zeros;
/// assert_eq!(zeros::<f32>("logits", 2)?[..], [0.0, 0.0]);
/// assert!(zeros::<f32>("logits", usize::MAX / 4).is_err());
/// # Ok::<(), gable_kernels::KernelError>(())
/// ```
///
/// # Errors
/// [`KernelError::Memory`] if the system refuses, or the size is beyond the address space.
pub fn zeros<T: Zero>(what: &'static str, len: usize) -> Result<Buffer<T>, KernelError> {
    if len == 0 {
        return Ok(Buffer::default());
    }
    let refused = || KernelError::Memory { what, bytes: len.saturating_mul(size_of::<T>()) };
    // Room to move the start: a layout that asks for the alignment would be zeroed, and so touched, by hand.
    let bytes = len.checked_mul(size_of::<T>()).and_then(|n| n.checked_add(ALIGN)).ok_or_else(refused)?;
    if bytes >= HUGE {
        let mut pages = MmapMut::map_anon(bytes).map_err(|_| refused())?;
        // Not every system can; small pages do as well, only slower.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::HugePage);
        let start = NonNull::new(pages.as_mut_ptr().cast::<T>()).ok_or_else(refused)?;
        return Ok(Buffer { start, len, memory: Memory::Pages(pages) });
    }
    let layout = Layout::from_size_align(bytes, align_of::<T>()).map_err(|_| refused())?;
    // SAFETY: the layout is not empty.
    let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
    let offset = memory.as_ptr().addr().next_multiple_of(ALIGN) - memory.as_ptr().addr();
    // SAFETY: less than `ALIGN` bytes on, so that `len` values of T remain, aligned, and initialised, since bits of zero are
    // a T (`Zero` is sealed over such types).
    let start = unsafe { memory.add(offset).cast::<T>() };
    Ok(Buffer { start, len, memory: Memory::Heap(memory, layout) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_with_a_line_and_hold_zeros() {
        for len in [0, 1, 15, 16, 17, 1000, 100_000, HUGE / 4 - 16, HUGE / 4] {
            let mut buffers: Vec<Buffer<f32>> = (0..5).map(|_| zeros("a test", len).unwrap()).collect();
            for buffer in &mut buffers {
                assert!(len == 0 || buffer.as_ptr().addr().is_multiple_of(ALIGN));
                assert!(buffer.len() == len && buffer.iter().all(|x| *x == 0.0));
                buffer.fill(1.0);
            }
        }
    }
}
