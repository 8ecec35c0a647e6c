//! Positions of a cache as plain bytes: out of one and into another, without arithmetic.
//!
//! ```text
//! position   [ head 0 | head 1 | ... ]
//! head       [ K: head_dim elements | scales of K | V: head_dim elements | scales of V ]
//! ```
//!
//! Elements and scales are the cache's own bits in the machine's byte order, so what comes back from an import is
//! attended to with the same bits. How pages are laid out does not show.

use super::int8::groups;
use super::kv_cache::{KvCache, SequenceId};
use super::{CacheRow, PAGE};
use crate::attention::CacheType;
use crate::error::KernelError;
use crate::simd::LANES;
use std::ops::Range;

impl KvCache {
    /// Bytes of one position of one layer, as [`export`](KvCache::export) writes them:
    /// `2 * n_kv_heads * cache_type.head_bytes(head_dim)`.
    pub fn position_bytes(&self) -> usize {
        let shape = self.shape();
        shape.cache_type.head_bytes(shape.head_dim).saturating_mul(2).saturating_mul(shape.n_kv_heads)
    }

    /// Copies positions of one layer to `out`, `[positions][position_bytes]`: for each key head its key and its value,
    /// each followed by its f16 scales where the cache's type has any.
    ///
    /// # Errors
    /// [`KernelError::Value`] if the sequence has ended; [`KernelError::Shape`] if there is no such layer, if it does
    /// not hold all of the positions, or for an `out` of another length.
    pub fn export(
        &self,
        sequence: SequenceId,
        layer: usize,
        positions: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), KernelError> {
        const OP: &str = "KvCache::export";
        let view = self.layer(OP, sequence, layer)?;
        let refuse = |what, expected, found| Err(KernelError::Shape { op: OP, what, expected, found });
        if positions.start < view.released {
            return refuse("first position (at least)", view.released, positions.start);
        }
        if positions.end > view.len {
            return refuse("length of the layer (at least)", positions.end, view.len);
        }
        let position_bytes = self.position_bytes();
        let needed = positions.len().saturating_mul(position_bytes);
        if out.len() != needed {
            return refuse("bytes of out", needed, out.len());
        }
        let place = Place::new(self);
        for (position, out) in positions.zip(out.chunks_exact_mut(position_bytes)) {
            let Some(page) = view.table[position / PAGE] else {
                return refuse("first position (at least)", view.len, position);
            };
            for (head, out) in out.chunks_exact_mut(place.bytes).enumerate() {
                let bytes = self.pages.head_bytes(page, head);
                place.each(position % PAGE, |there, here| out[here].copy_from_slice(&bytes[there]));
            }
        }
        Ok(())
    }

    /// Appends positions to one layer of a sequence, from `first` on, with what [`export`](KvCache::export) gave: the
    /// layer ends behind them. An empty layer may begin at any multiple of 64, as if a sliding window had left behind
    /// what lies before it.
    ///
    /// Any bytes are taken: those that no cache has written give other numbers, or NaN, and nothing worse.
    ///
    /// # Errors
    /// [`KernelError::Value`] if the sequence has ended; [`KernelError::Shape`] if there is no such layer, if it does
    /// not end at `first`, for bytes that are not whole positions, or positions beyond the cache's;
    /// [`KernelError::CacheFull`]. Part of the positions may have been appended then: [`KvCache::truncate`] takes them
    /// off.
    pub fn import(
        &mut self,
        sequence: SequenceId,
        layer: usize,
        first: usize,
        bytes: &[u8],
    ) -> Result<(), KernelError> {
        const OP: &str = "KvCache::import";
        let index = self.layer_index(OP, sequence, layer)?;
        let position_bytes = self.position_bytes();
        let refuse = |what, expected, found| Err(KernelError::Shape { op: OP, what, expected, found });
        if !bytes.len().is_multiple_of(position_bytes) {
            let whole = bytes.len().next_multiple_of(position_bytes);
            return refuse("bytes (whole positions)", whole, bytes.len());
        }
        let len = self.len(sequence, layer)?;
        if len == 0 && first.is_multiple_of(PAGE) && first <= self.shape.max_positions {
            self.begin_at(index, first);
        } else if len != first {
            return refuse("first position", len, first);
        }
        let place = Place::new(self);
        let mut position = first;
        for bytes in bytes.chunks(PAGE * position_bytes) {
            let mut rows = [CacheRow { sequence, position: 0 }; PAGE];
            let rows = &mut rows[..bytes.len() / position_bytes];
            for (i, row) in rows.iter_mut().enumerate() {
                row.position = position + i;
            }
            self.make_room(layer, rows)?;
            for (row, bytes) in rows.iter().zip(bytes.chunks_exact(position_bytes)) {
                let Some(page) = self.layer(OP, sequence, layer)?.table[row.position / PAGE] else {
                    return refuse("pages", 1, 0);
                };
                for (head, bytes) in bytes.chunks_exact(place.bytes).enumerate() {
                    let to = self.pages.head_bytes_mut(page, head);
                    place.each(row.position % PAGE, |there, here| to[there].copy_from_slice(&bytes[here]));
                }
            }
            position += rows.len();
        }
        Ok(())
    }
}

/// Where a position's bytes lie within a head of a page.
struct Place {
    /// Bytes that lie together in the keys: an element, or a cell of four integers.
    unit: usize,
    /// Units of a key.
    units: usize,
    /// Bytes of the elements of a key or a value.
    elements: usize,
    /// Bytes from one value to the next, which are padded to whole vectors with zeros.
    stride: usize,
    /// Scales of a key or a value.
    groups: usize,
    /// Bytes of all: a key and a value with their scales.
    bytes: usize,
}

impl Place {
    fn new(cache: &KvCache) -> Place {
        let (head_dim, cache_type) = (cache.shape.head_dim, cache.shape.cache_type);
        let element = cache_type.bytes();
        let (unit, groups) = match cache_type {
            CacheType::Q8_0 => (4, groups(head_dim)),
            _ => (element, 0),
        };
        let elements = head_dim * element;
        Place {
            unit,
            units: elements / unit,
            elements,
            stride: head_dim.next_multiple_of(LANES) * element,
            groups,
            bytes: 2 * cache_type.head_bytes(head_dim),
        }
    }

    /// Calls `copy(there, here)` for every run of bytes: its place in the head of the page, and in the position's own.
    fn each(&self, position: usize, mut copy: impl FnMut(Range<usize>, Range<usize>)) {
        let mut here = 0;
        let mut run = |there: usize, bytes: usize| {
            copy(there..there + bytes, here..here + bytes);
            here += bytes;
        };
        let scales = 2 * PAGE * self.groups;
        for i in 0..self.units {
            run((i * PAGE + position) * self.unit, self.unit);
        }
        for g in 0..self.groups {
            run(self.elements * PAGE + 2 * (g * PAGE + position), 2);
        }
        let values = self.elements * PAGE + scales;
        run(values + position * self.stride, self.elements);
        for g in 0..self.groups {
            run(values + self.stride * PAGE + 2 * (g * PAGE + position), 2);
        }
    }
}
