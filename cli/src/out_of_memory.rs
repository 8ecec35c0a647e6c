//! No memory for a small thing: a message and exit code 1 instead of a crash.
//!
//! What may be large, a cache, a batch, a copy of the weights, is asked for with an error in mind that says what it was for.
//! The many small things are not, and there the standard library aborts. The allocator notes that it has refused a request,
//! and the handler of the abort's signal ends the program as errors do. Any other abort does what it would have done.

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

/// The system's allocator, which remembers whether it has ever said no.
struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

static REFUSED: AtomicBool = AtomicBool::new(false);

fn noted(memory: *mut u8) -> *mut u8 {
    if memory.is_null() {
        REFUSED.store(true, Ordering::Relaxed);
    }
    memory
}

// SAFETY: everything is left to the system's allocator, which keeps the promises.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        noted(unsafe { System.alloc(layout) })
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        noted(unsafe { System.alloc_zeroed(layout) })
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        noted(unsafe { System.realloc(memory, layout, size) })
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Handles SIGABRT from now on.
pub fn watch() {
    let action = SigAction::new(SigHandler::Handler(handle), SaFlags::empty(), SigSet::empty());
    // SAFETY: `handle` calls nothing but functions that are safe in a handler, and takes no lock.
    let _ = unsafe { sigaction(Signal::SIGABRT, &action) };
}

extern "C" fn handle(_: c_int) {
    if REFUSED.load(Ordering::Relaxed) {
        let message = b"error: no memory left; close other programs or raise the limit (ulimit -v), or choose a smaller model, \
                        context (-c) or batch (-b, -ub)\n";
        // SAFETY: the bytes can be read for their length; `_exit` ends the process in whatever state it is.
        unsafe {
            libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
            libc::_exit(1);
        }
    }
    // On return, abort() takes the handler away and raises the signal again.
}
