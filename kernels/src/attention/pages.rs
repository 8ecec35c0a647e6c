//! The memory of a cache: equal pages in one allocation, counted references, a free list.
//!
//! ```text
//! page     [ head 0 | head 1 | ... ]
//! head     [ K: head_dim x 64 keys, transposed | V: 64 keys x head_dim, rows padded to whole vectors ]
//! ```
//!
//! Keys lie in lanes, so a page's scores are `q[d] * K[d][..]` summed over `d`, without a horizontal sum; values lie
//! as rows, so the output is `p[key] * V[key][..]` summed over keys. One head's K and V are neighbours: a thread that
//! decodes one head reads one stream per page.
//!
//! The memory comes zeroed from the system (`calloc`) and is not touched, so a large cache costs address space until
//! it is used. Pages given back are taken again first.

#![allow(unsafe_code)]

use super::{PAGE, int8};
use crate::error::KernelError;
use crate::memory::{Buffer, zeros};
use crate::simd::{LANES, Simd, VECTOR_BYTES};
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::ops::Range;

/// How a cache stores its keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheType {
    /// 32-bit floats: what was computed.
    F32,
    /// IEEE halves: half the memory; magnitudes above 65504 become infinite.
    F16,
    /// The upper halves of f32: the range of f32 with eight bits of precision.
    Bf16,
    /// int8 with an f16 scale for each 32 elements of a head, each element within 1/254 of the largest of them: 17/32 of
    /// the memory of halves. Keys are multiplied as integers with queries that are rounded likewise, values in f32,
    /// whatever [`Arithmetic`](super::Arithmetic) is asked for.
    Q8_0,
}

impl CacheType {
    /// As it is called on command lines: `f32`, `f16`, `bf16`, `q8_0`.
    pub fn name(self) -> &'static str {
        match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
            CacheType::Bf16 => "bf16",
            CacheType::Q8_0 => "q8_0",
        }
    }

    /// Bytes of one head's key or value at one position.
    pub fn head_bytes(self, head_dim: usize) -> usize {
        head_dim.saturating_mul(self.bytes()).saturating_add(self.scale_bytes(head_dim))
    }

    /// Bytes of an element.
    pub(super) fn bytes(self) -> usize {
        match self {
            CacheType::F32 => 4,
            CacheType::F16 | CacheType::Bf16 => 2,
            CacheType::Q8_0 => 1,
        }
    }

    /// Bytes of the scales of one key or value, and nothing where there are none.
    fn scale_bytes(self, head_dim: usize) -> usize {
        if self == CacheType::Q8_0 { 2 * int8::groups(head_dim) } else { 0 }
    }
}

/// What the memory of a cache is divided into.
pub(crate) trait Element: Copy + 'static {
    /// The type that this is the element of.
    const TYPE: CacheType;
}

impl Element for f32 {
    const TYPE: CacheType = CacheType::F32;
}

impl Element for half::f16 {
    const TYPE: CacheType = CacheType::F16;
}

impl Element for half::bf16 {
    const TYPE: CacheType = CacheType::Bf16;
}

/// Integers and the bytes of their scales.
impl Element for i8 {
    const TYPE: CacheType = CacheType::Q8_0;
}

/// A number that a cache can hold.
pub(crate) trait Float: Element {
    /// Any value.
    const ZERO: Self;
    /// # Safety
    /// `p` must be readable for 16 elements.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32;
    /// # Safety
    /// `p` must be writable for 16 elements.
    unsafe fn store<S: Simd>(s: S, p: *mut Self, v: S::F32);
}

impl Float for f32 {
    const ZERO: f32 = 0.0;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::F32) {
        // SAFETY: the caller's promise.
        unsafe { s.store(p, v) }
    }
}

impl Float for half::f16 {
    const ZERO: half::f16 = half::f16::ZERO;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const half::f16) -> S::F32 {
        // SAFETY: the caller's promise; `f16` is a transparent u16.
        unsafe { s.load_f16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut half::f16, v: S::F32) {
        // SAFETY: the caller's promise; `f16` is a transparent u16.
        unsafe { s.store_f16(p.cast(), v) }
    }
}

impl Float for half::bf16 {
    const ZERO: half::bf16 = half::bf16::ZERO;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const half::bf16) -> S::F32 {
        // SAFETY: the caller's promise; `bf16` is a transparent u16.
        unsafe { s.load_bf16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut half::bf16, v: S::F32) {
        let mut bytes = [0; VECTOR_BYTES];
        // SAFETY: 64 bytes, of which the first 32 are the caller's 16 elements; `bf16` is a transparent u16.
        unsafe {
            s.store_bytes(bytes.as_mut_ptr(), s.narrow_bf16(v, v));
            p.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), VECTOR_BYTES / 2);
        }
    }
}

/// A page's number, stored plus one: a table of no pages is a table of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageId(NonZeroU32);

impl PageId {
    fn new(index: usize) -> Option<Self> {
        u32::try_from(index).ok()?.checked_add(1).and_then(NonZeroU32::new).map(PageId)
    }

    pub(crate) fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// All pages of a cache.
pub(crate) struct Pages {
    memory: Buffer<u32>,
    geometry: Geometry,
    /// References to each page.
    references: Buffer<u32>,
    /// Pages that were used and given back.
    free: Vec<PageId>,
    /// Pages from here on were never used.
    untouched: usize,
}

/// Where pages and heads lie in the memory.
#[derive(Clone, Copy)]
struct Geometry {
    page_words: usize,
    pages: usize,
    /// Elements of one head's keys and of its values.
    key_elements: usize,
    value_elements: usize,
    cache_type: CacheType,
}

impl Geometry {
    /// The words of one head of a page: below `pages * page_words`, the length of the memory at most.
    #[inline(always)]
    fn head_words<E: Element>(&self, page: PageId, head: usize) -> Range<usize> {
        assert!(E::TYPE == self.cache_type);
        self.words_of_head(page, head, size_of::<E>())
    }

    /// The same for elements of `bytes`.
    #[inline(always)]
    fn words_of_head(&self, page: PageId, head: usize, bytes: usize) -> Range<usize> {
        let head_words = (self.key_elements + self.value_elements) * bytes / 4;
        assert!((head + 1) * head_words <= self.page_words && page.index() < self.pages);
        let start = page.index() * self.page_words + head * head_words;
        start..start + head_words
    }
}

impl Pages {
    pub(crate) fn new(
        count: usize,
        n_kv_heads: usize,
        head_dim: usize,
        cache_type: CacheType,
    ) -> Result<Self, KernelError> {
        let scales = cache_type.scale_bytes(head_dim);
        let elements = |n: usize| n.checked_add(scales)?.checked_mul(PAGE);
        let key_elements = elements(head_dim);
        let value_elements = head_dim.checked_next_multiple_of(LANES).and_then(elements);
        let sizes = || {
            let (keys, values) = (key_elements?, value_elements?);
            let page_bytes =
                keys.checked_add(values)?.checked_mul(n_kv_heads)?.checked_mul(cache_type.bytes())?;
            let words = (page_bytes / 4).checked_mul(count)?;
            PageId::new(count)?;
            Some((keys, values, page_bytes / 4, words))
        };
        const WHAT: &str = "the key-value cache";
        let Some((key_elements, value_elements, page_words, words)) = sizes() else {
            return Err(KernelError::Memory { what: WHAT, bytes: usize::MAX });
        };
        let mut free = Vec::new();
        let refused =
            |_| KernelError::Memory { what: WHAT, bytes: count.saturating_mul(size_of::<PageId>()) };
        free.try_reserve_exact(count).map_err(refused)?;
        Ok(Pages {
            memory: zeros(WHAT, words)?,
            geometry: Geometry { page_words, pages: count, key_elements, value_elements, cache_type },
            references: zeros(WHAT, count)?,
            free,
            untouched: 0,
        })
    }

    pub(crate) fn page_bytes(&self) -> usize {
        4 * self.geometry.page_words
    }

    /// How many pages can still be taken.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.references.len() - self.untouched
    }

    /// A page with one reference and whatever was in it.
    pub(crate) fn take(&mut self) -> Option<PageId> {
        let page = match self.free.pop() {
            Some(page) => page,
            None if self.untouched < self.references.len() => {
                self.untouched += 1;
                PageId::new(self.untouched - 1)?
            }
            None => return None,
        };
        self.references[page.index()] = 1;
        Some(page)
    }

    /// One reference more.
    pub(crate) fn share(&mut self, page: PageId) {
        self.references[page.index()] += 1;
    }

    /// One reference less; the last one gives the page back.
    pub(crate) fn release(&mut self, page: PageId) {
        let count = &mut self.references[page.index()];
        *count -= 1;
        if *count == 0 {
            self.free.push(page);
        }
    }

    pub(crate) fn is_shared(&self, page: PageId) -> bool {
        self.references[page.index()] > 1
    }

    /// Copies one page's content to another.
    pub(crate) fn copy(&mut self, from: PageId, to: PageId) {
        let Geometry { page_words, .. } = self.geometry;
        let (from, to) = (from.index() * page_words, to.index() * page_words);
        self.memory.copy_within(from..from + page_words, to);
    }

    /// One head's keys `[head_dim][64]` and values `[64][head_dim up to whole vectors]`.
    #[inline(always)]
    pub(crate) fn head<E: Element>(&self, page: PageId, head: usize) -> (&[E], &[E]) {
        let words = &self.memory[self.geometry.head_words::<E>(page, head)];
        // SAFETY: the words are initialised and borrowed for as long as the result; every bit pattern is an f32, an
        // f16, a bf16 or an i8, whose alignment is at most a word's; `head_words` counted keys and values in this element type.
        unsafe {
            let keys = words.as_ptr().cast::<E>();
            let values = keys.add(self.geometry.key_elements);
            (
                std::slice::from_raw_parts(keys, self.geometry.key_elements),
                std::slice::from_raw_parts(values, self.geometry.value_elements),
            )
        }
    }

    /// The bytes of one head of a page, keys and then values, as they lie in memory.
    pub(crate) fn head_bytes(&self, page: PageId, head: usize) -> &[u8] {
        let words = self.geometry.words_of_head(page, head, self.geometry.cache_type.bytes());
        bytemuck::cast_slice(&self.memory[words])
    }

    /// The same, to write.
    pub(crate) fn head_bytes_mut(&mut self, page: PageId, head: usize) -> &mut [u8] {
        let words = self.geometry.words_of_head(page, head, self.geometry.cache_type.bytes());
        bytemuck::cast_slice_mut(&mut self.memory[words])
    }

    /// A handle through which several threads write heads of pages at once.
    pub(crate) fn writer(&mut self) -> PageWriter<'_> {
        PageWriter { memory: self.memory.as_mut_ptr(), geometry: self.geometry, lifetime: PhantomData }
    }
}

/// Writes to heads of pages from several threads.
pub(crate) struct PageWriter<'a> {
    memory: *mut u32,
    geometry: Geometry,
    lifetime: PhantomData<&'a mut Pages>,
}

// SAFETY: the writer borrows the pages exclusively; whoever calls `head` keeps the heads that it takes apart.
unsafe impl Sync for PageWriter<'_> {}

impl PageWriter<'_> {
    /// Like [`Pages::head`], to write.
    ///
    /// # Safety
    /// Slices of one (page, head) must not be alive twice.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn head<E: Element>(&self, page: PageId, head: usize) -> (&mut [E], &mut [E]) {
        let words = self.geometry.head_words::<E>(page, head);
        // SAFETY: within the memory (see `head_words`), exclusive by the caller's promise; else as in `Pages::head`.
        unsafe {
            let keys = self.memory.add(words.start).cast::<E>();
            let values = keys.add(self.geometry.key_elements);
            (
                std::slice::from_raw_parts_mut(keys, self.geometry.key_elements),
                std::slice::from_raw_parts_mut(values, self.geometry.value_elements),
            )
        }
    }
}
