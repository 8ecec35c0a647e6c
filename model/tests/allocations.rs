//! A decoded token allocates nothing, on any thread.
#![allow(unsafe_code)]

mod common;

use common::{model, session};
use gable_kernels::Kernels;
use gable_model::forward::Numerics;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is asked of the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_decoded_token_allocates_nothing() {
    for numerics in [Numerics::Fast, Numerics::Exact] {
        let mut session = session(&model("smollm2"), Kernels::best(), numerics, 200, 1);
        session.prefill(&[1, 2, 3]).unwrap();
        session.decode(4).unwrap();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        // Across the end of a page of the cache.
        for token in 0..70 {
            session.decode(token).unwrap();
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "{numerics:?}");
        let mut top = session.top_k(40).unwrap();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for token in 0..70 {
            session.decode_top_k(token, &mut top).unwrap();
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "{numerics:?}, the highest scores");
    }
}
