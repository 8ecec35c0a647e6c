//! The cache of keys and values: sequences, their page tables, and the pages behind them.
//!
//! ```text
//! sequence 0   layer 0 [ 7 | 2 | 5 ]       a page holds 64 positions of one layer, all its key heads
//!              layer 1 [ 1 | 4 | 9 ]
//! sequence 1   layer 0 [ 7 | 3 ]           a fork: page 7 is shared
//! ```
//!
//! Positions are absolute and pages begin at multiples of 64, so where a page was before, who shares it and how a
//! prompt was cut cannot be seen by the attention that reads it.
//!
//! * **append** ([`Kernels::append`]) writes rows at the end of their sequences;
//! * **truncate** shortens a sequence and gives back pages;
//! * **fork** makes a sequence that shares another one's beginning; a shared page is copied when somebody appends to
//!   it (only the last, partly filled page can be);
//! * **release_before** gives back the pages of one layer that a sliding window has left behind;
//! * **export** and **import** (`transfer.rs`) copy positions out and in again, to keep them in a file.
//!
//! A layer's length is its own: within a forward pass the first layers are ahead of the last ones. All tables are
//! allocated by [`KvCache::new`]; nothing here allocates afterwards.

use super::append::Keys;
use super::pages::{CacheType, Element, Float, PageId, Pages};
use super::pairs::HeadPage;
use super::{CacheRow, PAGE, append};
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::MatRef;
use crate::pool::Team;
use crate::rowwise::require;

/// What errors call it.
pub(super) const APPEND: &str = "append";

/// Which sequence of a [`KvCache`]. Ids of ended sequences are recognised and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SequenceId {
    slot: u32,
    generation: u32,
}

/// What a [`KvCache`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers of the model.
    pub n_layers: usize,
    /// Key heads per layer.
    pub n_kv_heads: usize,
    /// Elements per head: a multiple of 8.
    pub head_dim: usize,
    /// How elements are stored.
    pub cache_type: CacheType,
    /// Positions that one sequence can have.
    pub max_positions: usize,
    /// Sequences at the same time.
    pub max_sequences: usize,
    /// Pages of 64 positions and one layer, for all sequences together.
    pub max_pages: usize,
}

impl CacheShape {
    /// The pages that every sequence needs to reach its last position.
    pub fn pages_for_all(&self) -> usize {
        self.max_positions.div_ceil(PAGE).saturating_mul(self.n_layers).saturating_mul(self.max_sequences)
    }

    /// The pages that one layer of one sequence holds at most, if its rows attend to the last `window` positions only,
    /// what they have left behind is [released](KvCache::release_before) before every call, and a call appends at most
    /// `rows` positions.
    pub fn pages_for_window(&self, window: usize, rows: usize) -> usize {
        // From the first key of the first row, anywhere in its page, to the last row.
        let reach = window.saturating_sub(1).saturating_add(rows).saturating_add(PAGE - 1);
        reach.min(self.max_positions).div_ceil(PAGE)
    }
}

/// One layer of one sequence.
#[derive(Debug, Clone, Copy, Default)]
struct LayerState {
    /// Positions appended.
    len: usize,
    /// Positions before this one may have been given back; a multiple of 64.
    released: usize,
}

/// Keys and values of past positions, in pages. See the module.
pub struct KvCache {
    pub(super) shape: CacheShape,
    pub(super) pages: Pages,
    /// `[max_sequences]`: odd while the sequence lives.
    generations: Vec<u32>,
    /// `[max_sequences][n_layers]`
    layers: Vec<LayerState>,
    /// `[max_sequences][n_layers][pages_per_layer]`
    tables: Vec<Option<PageId>>,
    pages_per_layer: usize,
}

/// What attention sees of one layer of a sequence.
#[derive(Clone, Copy)]
pub(crate) struct LayerView<'a> {
    /// The page of positions `64 i ..`.
    pub(crate) table: &'a [Option<PageId>],
    pub(crate) len: usize,
    pub(crate) released: usize,
}

impl KvCache {
    /// An empty cache. Its memory is reserved here and taken from the system when positions are first written.
    ///
    /// # Errors
    /// [`KernelError::Value`] for a head dimension that is not a positive multiple of 8 or without key heads;
    /// [`KernelError::Memory`] if the size overflows or the system refuses.
    pub fn new(shape: CacheShape) -> Result<Self, KernelError> {
        const OP: &str = "KvCache::new";
        if shape.head_dim == 0 || !shape.head_dim.is_multiple_of(8) || shape.head_dim > 1024 {
            let found = shape.head_dim.to_string();
            return Err(KernelError::Value {
                op: OP,
                what: "head_dim",
                found,
                allowed: "multiples of 8 up to 1024",
            });
        }
        if shape.n_kv_heads == 0 {
            let found = shape.n_kv_heads.to_string();
            return Err(KernelError::Value { op: OP, what: "n_kv_heads", found, allowed: "1 or more" });
        }
        let pages_per_layer = shape.max_positions.div_ceil(PAGE);
        let states = shape.max_sequences.saturating_mul(shape.n_layers);
        let entries = states.saturating_mul(pages_per_layer);
        let tables = filled("the page table", entries, None)?;
        let layers = filled("the page table", states, LayerState::default())?;
        let generations = filled("the page table", shape.max_sequences, 0)?;
        Ok(KvCache {
            shape,
            pages: Pages::new(shape.max_pages, shape.n_kv_heads, shape.head_dim, shape.cache_type)?,
            generations,
            layers,
            tables,
            pages_per_layer,
        })
    }

    /// What the cache was made for.
    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// Bytes of one page.
    pub fn page_bytes(&self) -> usize {
        self.pages.page_bytes()
    }

    /// Pages that no sequence holds.
    pub fn free_pages(&self) -> usize {
        self.pages.available()
    }

    /// Begins an empty sequence.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `max_sequences` are alive.
    pub fn new_sequence(&mut self) -> Result<SequenceId, KernelError> {
        let Some(slot) = self.generations.iter().position(|g| g % 2 == 0) else {
            return Err(KernelError::Shape {
                op: "KvCache::new_sequence",
                what: "max_sequences (at least)",
                expected: self.generations.len() + 1,
                found: self.generations.len(),
            });
        };
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        let slot32 = u32::try_from(slot).unwrap_or(u32::MAX);
        Ok(SequenceId { slot: slot32, generation: self.generations[slot] })
    }

    /// Begins a sequence whose first `len` positions are those of `from`, sharing their pages.
    ///
    /// # Errors
    /// As [`KvCache::new_sequence`]; [`KernelError::Shape`] if a layer of `from` is shorter than `len` or has given
    /// back positions up to beyond it; [`KernelError::Value`] if `from` has ended.
    pub fn fork(&mut self, from: SequenceId, len: usize) -> Result<SequenceId, KernelError> {
        let source = self.slot("KvCache::fork", from)?;
        for layer in 0..self.shape.n_layers {
            let state = self.layers[source * self.shape.n_layers + layer];
            if len > state.len {
                return Err(KernelError::Shape {
                    op: "KvCache::fork",
                    what: "length of the source (at least)",
                    expected: len,
                    found: state.len,
                });
            }
            Self::check_released("KvCache::fork", state, len)?;
        }
        let id = self.new_sequence()?;
        let target = id.slot as usize;
        for layer in 0..self.shape.n_layers {
            let (from, to) = (source * self.shape.n_layers + layer, target * self.shape.n_layers + layer);
            self.layers[to] = LayerState { len, ..self.layers[from] };
            for i in 0..len.div_ceil(PAGE) {
                let page = self.tables[from * self.pages_per_layer + i];
                self.tables[to * self.pages_per_layer + i] = page;
                page.into_iter().for_each(|p| self.pages.share(p));
            }
        }
        Ok(id)
    }

    /// Ends a sequence and gives its pages back.
    ///
    /// # Errors
    /// [`KernelError::Value`] if it has ended already.
    pub fn end_sequence(&mut self, sequence: SequenceId) -> Result<(), KernelError> {
        let slot = self.slot("KvCache::end_sequence", sequence)?;
        for layer in 0..self.shape.n_layers {
            self.shorten(slot * self.shape.n_layers + layer, 0);
        }
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        Ok(())
    }

    /// How many positions a layer of a sequence has.
    ///
    /// # Errors
    /// [`KernelError::Value`] if the sequence has ended, [`KernelError::Shape`] if there is no such layer.
    pub fn len(&self, sequence: SequenceId, layer: usize) -> Result<usize, KernelError> {
        Ok(self.layer("KvCache::len", sequence, layer)?.len)
    }

    /// The first position that a layer of a sequence still holds; a multiple of 64.
    ///
    /// # Errors
    /// [`KernelError::Value`] if the sequence has ended, [`KernelError::Shape`] if there is no such layer.
    pub fn first_held(&self, sequence: SequenceId, layer: usize) -> Result<usize, KernelError> {
        Ok(self.layer("KvCache::first_held", sequence, layer)?.released)
    }

    /// Forgets the positions from `len` on, in every layer.
    ///
    /// # Errors
    /// [`KernelError::Value`] if the sequence has ended; [`KernelError::Shape`] if a layer has given back positions
    /// up to beyond `len`, unless `len` is 0.
    pub fn truncate(&mut self, sequence: SequenceId, len: usize) -> Result<(), KernelError> {
        let slot = self.slot("KvCache::truncate", sequence)?;
        let states = slot * self.shape.n_layers..(slot + 1) * self.shape.n_layers;
        for state in &self.layers[states.clone()] {
            Self::check_released("KvCache::truncate", *state, len)?;
        }
        states.for_each(|s| self.shorten(s, len));
        Ok(())
    }

    /// Gives back the pages of a layer that lie wholly before `position`, which no later row will attend to: for a
    /// window of `n` and a next row at `p`, that is `p + 1 - n`.
    ///
    /// # Errors
    /// [`KernelError::Value`] if the sequence has ended, [`KernelError::Shape`] if there is no such layer.
    pub fn release_before(
        &mut self,
        sequence: SequenceId,
        layer: usize,
        position: usize,
    ) -> Result<(), KernelError> {
        let index = self.layer_index("KvCache::release_before", sequence, layer)?;
        let state = self.layers[index];
        let end = position.min(state.len) / PAGE;
        for i in state.released / PAGE..end {
            if let Some(page) = self.tables[index * self.pages_per_layer + i].take() {
                self.pages.release(page);
            }
        }
        self.layers[index].released = state.released.max(end * PAGE);
        Ok(())
    }

    fn check_released(op: &'static str, state: LayerState, len: usize) -> Result<(), KernelError> {
        if len < state.released && len != 0 {
            let (expected, found) = (state.released, len);
            return Err(KernelError::Shape { op, what: "length (0, or at least)", expected, found });
        }
        Ok(())
    }

    /// The index of a living sequence.
    fn slot(&self, op: &'static str, sequence: SequenceId) -> Result<usize, KernelError> {
        let slot = sequence.slot as usize;
        if self.generations.get(slot) != Some(&sequence.generation) {
            let found = format!("number {slot}, which has ended");
            return Err(KernelError::Value {
                op,
                what: "sequence",
                found,
                allowed: "living sequences of this cache",
            });
        }
        Ok(slot)
    }

    /// The index of one layer of a living sequence.
    pub(super) fn layer_index(
        &self,
        op: &'static str,
        sequence: SequenceId,
        layer: usize,
    ) -> Result<usize, KernelError> {
        let slot = self.slot(op, sequence)?;
        if layer >= self.shape.n_layers {
            let (expected, found) = (layer + 1, self.shape.n_layers);
            return Err(KernelError::Shape { op, what: "number of layers (at least)", expected, found });
        }
        Ok(slot * self.shape.n_layers + layer)
    }

    pub(crate) fn layer(
        &self,
        op: &'static str,
        sequence: SequenceId,
        layer: usize,
    ) -> Result<LayerView<'_>, KernelError> {
        let index = self.layer_index(op, sequence, layer)?;
        let LayerState { len, released } = self.layers[index];
        let table = &self.tables[index * self.pages_per_layer..][..self.pages_per_layer];
        Ok(LayerView { table, len, released })
    }

    /// One head of a page: see [`Pages::head`].
    #[inline(always)]
    pub(crate) fn head<E: Element>(&self, page: PageId, head: usize) -> (&[E], &[E]) {
        self.pages.head(page, head)
    }

    /// The same, to be packed, and after it the one of `next`.
    pub(crate) fn head_page<E: Float>(&self, page: PageId, next: PageId, head: usize) -> HeadPage<'_, E> {
        let (keys, values) = self.head(page, head);
        HeadPage { keys, values, next: self.head::<E>(next, head).0.as_ptr() }
    }

    /// Shortens one layer of one sequence.
    fn shorten(&mut self, index: usize, len: usize) {
        let old = self.layers[index].len;
        if len == 0 {
            self.layers[index].released = 0;
        }
        if len < old {
            self.layers[index].len = len;
            for i in len.div_ceil(PAGE)..old.div_ceil(PAGE) {
                if let Some(page) = self.tables[index * self.pages_per_layer + i].take() {
                    self.pages.release(page);
                }
            }
        }
    }

    /// Makes an empty layer begin at a position, as if what lies before it had been given back.
    pub(super) fn begin_at(&mut self, index: usize, first: usize) {
        self.layers[index] = LayerState { len: first, released: first };
    }

    /// Makes room for rows at the end of their sequences: every row has a page of its own afterwards. All or none.
    pub(super) fn make_room(&mut self, layer: usize, rows: &[CacheRow]) -> Result<(), KernelError> {
        const OP: &str = APPEND;
        for (i, row) in rows.iter().enumerate() {
            let checked = self.layer_index(OP, row.sequence, layer).and_then(|index| {
                let len = self.layers[index].len;
                if row.position != len {
                    let (expected, found) = (len, row.position);
                    return Err(KernelError::Shape { op: OP, what: "position", expected, found });
                }
                if len >= self.shape.max_positions {
                    let (expected, found) = (len + 1, self.shape.max_positions);
                    return Err(KernelError::Shape {
                        op: OP,
                        what: "max_positions (at least)",
                        expected,
                        found,
                    });
                }
                self.layers[index].len += 1;
                Ok(())
            });
            if let Err(error) = checked {
                self.take_back(layer, &rows[..i]);
                return Err(error);
            }
        }
        let available = self.pages.available();
        let mut taken = 0;
        let mut needed = 0;
        for row in rows {
            let entry = (row.sequence.slot as usize * self.shape.n_layers + layer) * self.pages_per_layer
                + row.position / PAGE;
            let old = self.tables[entry];
            if old.is_some_and(|page| !self.pages.is_shared(page)) {
                continue;
            }
            needed += 1;
            let Some(page) = self.pages.take() else { continue };
            taken += 1;
            if let Some(old) = old {
                self.pages.copy(old, page);
                self.pages.release(old);
            }
            self.tables[entry] = Some(page);
        }
        if taken < needed {
            self.take_back(layer, rows);
            // Rows of one missing page each counted: what is needed is a page per page begun.
            return Err(KernelError::CacheFull { needed: self.pages_begun(layer, rows), available });
        }
        Ok(())
    }

    /// Undoes the lengths that the rows had been given.
    fn take_back(&mut self, layer: usize, rows: &[CacheRow]) {
        for row in rows.iter().rev() {
            self.shorten(row.sequence.slot as usize * self.shape.n_layers + layer, row.position);
        }
    }

    /// Pages that appending the rows would take (at most).
    fn pages_begun(&self, layer: usize, rows: &[CacheRow]) -> usize {
        rows.iter()
            .filter(|row| {
                let index = row.sequence.slot as usize * self.shape.n_layers + layer;
                let page = self.tables[index * self.pages_per_layer + row.position / PAGE];
                let first_row = row.position == self.layers[index].len || row.position.is_multiple_of(PAGE);
                first_row && page.is_none_or(|page| self.pages.is_shared(page))
            })
            .count()
    }
}

/// `len` times `value`, or an error where there is no memory for it.
fn filled<T: Clone>(what: &'static str, len: usize, value: T) -> Result<Vec<T>, KernelError> {
    let mut entries = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    entries.try_reserve_exact(len).map_err(|_| KernelError::Memory { what, bytes })?;
    entries.resize(len, value);
    Ok(entries)
}

/// Whether keys of this extent, and values, are those of the rows.
pub(super) fn check_extents(
    cache: &KvCache,
    rows: &[CacheRow],
    (k_rows, k_cols): (usize, usize),
    v: MatRef<'_>,
) -> Result<(), KernelError> {
    let cols = cache.shape.n_kv_heads * cache.shape.head_dim;
    require(APPEND, "k.rows", rows.len(), k_rows)?;
    require(APPEND, "v.rows", rows.len(), v.rows())?;
    require(APPEND, "k.cols", cols, k_cols)?;
    require(APPEND, "v.cols", cols, v.cols())
}

impl Kernels {
    /// Appends keys and values to one layer of a cache: row `i` of `k` and `v` becomes position `rows[i].position`
    /// of sequence `rows[i].sequence`.
    ///
    /// **Shapes**: `k` and `v` are `rows.len() x (n_kv_heads * head_dim)` and may be strips of a fused projection.
    /// **Accuracy**: an f32 cache holds the very values, an f16 cache the nearest halves (ties to even; beyond 65504
    /// infinite), a bf16 cache the nearest bf16 (denormals may become 0), a q8_0 cache what [`CacheType`] says. **Threads**: heads and pages are spread over the team; nothing is allocated.
    ///
    /// # Errors
    /// [`KernelError::Shape`] for extents that do not match, a position that is not the next one of its sequence, or
    /// `max_positions` reached; [`KernelError::CacheFull`]; [`KernelError::Value`] for a sequence that has ended. The
    /// cache is unchanged then.
    pub fn append(
        self,
        team: &Team<'_>,
        cache: &mut KvCache,
        layer: usize,
        rows: &[CacheRow],
        k: MatRef<'_>,
        v: MatRef<'_>,
    ) -> Result<(), KernelError> {
        check_extents(cache, rows, (k.rows(), k.cols()), v)?;
        self.append_keys(team, cache, layer, rows, &Keys::Ready(k), v)
    }

    /// Appends to a layer what has been checked.
    pub(super) fn append_keys(
        self,
        team: &Team<'_>,
        cache: &mut KvCache,
        layer: usize,
        rows: &[CacheRow],
        keys: &Keys<'_>,
        v: MatRef<'_>,
    ) -> Result<(), KernelError> {
        cache.make_room(layer, rows)?;
        let KvCache { shape, pages, tables, pages_per_layer, .. } = cache;
        let page_of = |row: &CacheRow| {
            let index = row.sequence.slot as usize * shape.n_layers + layer;
            tables[index * *pages_per_layer + row.position / PAGE]
        };
        append::write(self, team, shape, pages, rows, &page_of, keys, v);
        Ok(())
    }
}

impl std::fmt::Debug for KvCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvCache").field("shape", &self.shape).field("free_pages", &self.free_pages()).finish()
    }
}
