//! Which thread computes what: tiles of rows, blocks of heads, chunks of the cache.
//!
//! A *tile* is a few neighbouring rows of one sequence, a *block* some of the query heads of one key head. A unit of
//! work is (tile, block) over all chunks or, when these would be too few to keep the threads busy, (tile, block,
//! chunk) into a buffer, of which whoever is the last at a (tile, block) merges the results: no thread waits for another.
//! Both ways run the same arithmetic on a row in the same order, so which one is taken may depend on the number of threads.

#![allow(unsafe_code)]

use super::int8;
use super::leaf::{self, Row, Total};
use super::pages::{CacheType, PageId};
use super::pairs::{self, PairScratch};
use super::{Arithmetic, AttentionInput, AttentionParams, AttentionTap, Mask, PAGE};
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, for_units};
use crate::memory::{Buffer, zeros};
use crate::mutant::mutant;
use crate::pool::Team;
use crate::simd::LANES;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Positions of the smallest and of the largest chunk.
const CHUNKS: [usize; 2] = [512, 1024];
/// Most query rows of a unit, (tokens) x (heads that share a key head), with any arithmetic.
const MAX_ROWS: usize = if leaf::MAX_ROWS > pairs::MAX_ROWS { leaf::MAX_ROWS } else { pairs::MAX_ROWS };
/// Units per thread below which the cache is cut too.
const UNITS_PER_THREAD: usize = 4;
/// Alignment of scratch in elements: a cache line.
const ALIGN: usize = 16;
/// What the memory is for.
const WHAT: &str = "attention's partial results";

/// Positions of a chunk: a multiple of a page. Half-sized ones keep two threads equally busy over a thousand positions
/// of two or three key heads; where all is f32, and slow, the merging that they cost is avoided.
fn chunk_len(arithmetic: Arithmetic, cache_type: CacheType) -> usize {
    CHUNKS[usize::from((arithmetic, cache_type) == (Arithmetic::F32, CacheType::F32))]
}

/// Which leaves take a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Floats,
    Pairs,
    Int8,
}

impl Leaves {
    const ALL: [Leaves; 3] = [Leaves::Floats, Leaves::Pairs, Leaves::Int8];

    fn of(arithmetic: Arithmetic, cache_type: CacheType) -> Self {
        match (cache_type, arithmetic) {
            (CacheType::Q8_0, _) => Leaves::Int8,
            (_, Arithmetic::F32) => Leaves::Floats,
            (_, Arithmetic::Bf16) => Leaves::Pairs,
        }
    }
}

/// Neighbouring rows of one sequence.
#[derive(Debug, Clone)]
struct Tile {
    rows: Range<usize>,
    /// Positions that its rows attend to.
    keys: Range<usize>,
    /// Number of its first unit when chunks are units.
    first_unit: usize,
}

impl Tile {
    fn chunks(&self, len: usize) -> Range<usize> {
        self.keys.start / len..self.keys.end.div_ceil(len)
    }
}

/// Memory that attention works in. It grows when a call needs more; [`reserve`](AttentionScratch::reserve) makes it
/// large enough beforehand.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    tiles: Vec<Tile>,
    slots: Buffer<f32>,
    partials: Buffer<f32>,
    /// Of units that several threads have chunks of: how many are not done yet.
    pending: Vec<AtomicUsize>,
}

impl AttentionScratch {
    /// Nothing reserved yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for calls of at most `rows` rows by `threads` threads over sequences of at most `positions`
    /// positions; such calls, without a tap, allocate nothing.
    ///
    /// # Errors
    /// [`KernelError::Memory`] if the system refuses.
    pub fn reserve(
        &mut self,
        threads: usize,
        rows: usize,
        positions: usize,
        n_heads: usize,
        head_dim: usize,
    ) -> Result<(), KernelError> {
        let bytes = rows.saturating_mul(size_of::<Tile>());
        let tiles = rows.saturating_sub(self.tiles.len());
        self.tiles.try_reserve(tiles).map_err(|_| KernelError::Memory { what: WHAT, bytes })?;
        let slots = Leaves::ALL.map(|leaves| SlotShape::new(head_dim, leaves, false).len());
        let slot = slots.into_iter().fold(0, usize::max);
        grow(&mut self.slots, threads.max(1).saturating_mul(slot))?;
        // Only fewer units than this are split.
        let most_units = UNITS_PER_THREAD.saturating_mul(threads);
        expect(&mut self.pending, most_units)?;
        let split_rows = rows.min(most_units);
        let partial = partial_len(n_heads, head_dim) + n_heads * ALIGN;
        let chunks = positions.div_ceil(CHUNKS[0]);
        grow(&mut self.partials, chunks.saturating_mul(split_rows).saturating_mul(partial))
    }
}

/// Makes `buffer` hold `len` elements.
fn grow(buffer: &mut Buffer<f32>, len: usize) -> Result<(), KernelError> {
    if buffer.len() < len {
        // The old one first: both together are never needed.
        *buffer = Buffer::default();
        *buffer = zeros(WHAT, len)?;
    }
    Ok(())
}

/// Makes room for `units` counts.
fn expect(pending: &mut Vec<AtomicUsize>, units: usize) -> Result<(), KernelError> {
    let more = units.saturating_sub(pending.len());
    let bytes = units.saturating_mul(size_of::<AtomicUsize>());
    pending.try_reserve(more).map_err(|_| KernelError::Memory { what: WHAT, bytes })?;
    pending.extend((0..more).map(|_| AtomicUsize::new(0)));
    Ok(())
}

/// Elements of a head's output in whole vectors.
fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Elements of a unit's result: outputs, maxima and sums of its rows, to a multiple of a cache line.
fn partial_len(rows: usize, head_dim: usize) -> usize {
    rows * padded(head_dim) + (2 * rows).next_multiple_of(ALIGN)
}

/// One thread's scratch.
#[derive(Clone, Copy)]
struct SlotShape {
    /// Most rows of a unit.
    rows: usize,
    padded: usize,
    /// Scores, and what else a unit needs while it looks at a page.
    scores: usize,
    /// Cells of queries, keys and values.
    cells: [usize; 3],
    tapped: bool,
}

impl SlotShape {
    fn new(head_dim: usize, leaves: Leaves, tapped: bool) -> Self {
        let padded = padded(head_dim);
        match leaves {
            Leaves::Int8 => {
                let (rows, scores) = (int8::MAX_ROWS, int8::scratch_len(head_dim));
                SlotShape { rows, padded, scores, cells: [0; 3], tapped }
            }
            Leaves::Floats => {
                let rows = leaf::MAX_ROWS;
                SlotShape { rows, padded, scores: rows * PAGE, cells: [0; 3], tapped }
            }
            Leaves::Pairs => {
                let (rows, [keys, values]) = (pairs::MAX_ROWS, pairs::panel_cells(head_dim));
                let cells = [rows * pairs::query_cells(head_dim), keys, values];
                SlotShape { rows, padded, scores: pairs::TILE_SCRATCH, cells, tapped }
            }
        }
    }

    fn len(self) -> usize {
        let tap = if self.tapped { CHUNKS[1] } else { 0 };
        let rows = self.rows * (LANES + 2 * self.padded + tap) + 2 * self.rows.next_multiple_of(ALIGN);
        (self.scores + self.cells.iter().sum::<usize>() + rows).next_multiple_of(ALIGN)
    }

    fn cut(self, mut slot: &mut [f32]) -> Slot<'_> {
        let mut take = |n: usize| slot.split_off_mut(..n).unwrap_or_default();
        let [q, keys, values] = self.cells;
        let sums = self.rows.next_multiple_of(ALIGN);
        let pairs = PairScratch { keys: take(keys), values: take(values), q: take(q) };
        let (scores, lane_sums) = (take(self.scores), take(self.rows * LANES));
        let (output, total) = (take(self.rows * self.padded), take(self.rows * self.padded));
        let (max, sum) = (take(sums), take(sums));
        Slot { desk: Desk { pairs, scores, lane_sums, tap: slot }, output, total, max, sum }
    }
}

/// One thread's scratch, cut: see [`leaf::Partial`]; `total` is the output over several chunks.
struct Slot<'a> {
    desk: Desk<'a>,
    output: &'a mut [f32],
    total: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
}

/// What a chunk works in besides its results.
struct Desk<'a> {
    pairs: PairScratch<'a>,
    scores: &'a mut [f32],
    lane_sums: &'a mut [f32],
    tap: &'a mut [f32],
}

/// A checked call.
struct Job<'a> {
    kernels: Kernels,
    input: AttentionInput<'a>,
    params: &'a AttentionParams,
    tap: Option<&'a AttentionTap<'a>>,
    out: &'a MatMut<'a>,
    tiles: &'a [Tile],
    /// Positions of a chunk.
    chunk: usize,
    /// Query heads per key head, and per block.
    group: usize,
    block_heads: usize,
    blocks_per_group: usize,
}

/// Attention of checked arguments.
pub(super) fn run(
    kernels: Kernels,
    team: &Team<'_>,
    input: AttentionInput<'_>,
    params: &AttentionParams,
    out: MatMut<'_>,
    scratch: &mut AttentionScratch,
    tap: Option<&mut AttentionTap<'_>>,
) -> Result<(), KernelError> {
    let shape = *input.cache.shape();
    let leaves = Leaves::of(params.arithmetic, shape.cache_type);
    let slot_shape = SlotShape::new(shape.head_dim, leaves, tap.is_some());
    let chunk = chunk_len(params.arithmetic, shape.cache_type);
    let group = params.n_heads / shape.n_kv_heads;
    let blocks_per_group = group.div_ceil(slot_shape.rows);
    let block_heads = group.div_ceil(blocks_per_group);
    let blocks = shape.n_kv_heads * blocks_per_group;

    let AttentionScratch { tiles, slots, partials, pending } = scratch;
    // As many rows as may be, unless that leaves threads without work.
    let share = (input.rows.len() * blocks).div_ceil(UNITS_PER_THREAD * team.threads());
    let least = leaf::MAX_ROWS / block_heads;
    let most_rows = share.max(least).min(slot_shape.rows / block_heads).max(1);
    let chunk_units = make_tiles(tiles, &input, params, most_rows, chunk)?;
    let positions = tiles.iter().map(|tile| tile.keys.end).max().unwrap_or(0);
    let tap = match tap {
        Some(tap) => {
            tap.prepare(input.rows.len(), params.n_heads, positions)?;
            Some(&*tap)
        }
        None => None,
    };
    let job =
        Job { kernels, input, params, tap, out: &out, tiles, chunk, group, block_heads, blocks_per_group };

    let units = tiles.len() * blocks;
    let few = UNITS_PER_THREAD * team.threads();
    // Rows that see nothing have no chunk whose end could be waited for.
    let split = team.threads() > 1
        && units < few
        && input.rows.len() <= few
        && chunk_units > tiles.len()
        && tiles.iter().all(|tile| !tile.keys.is_empty());
    let most_units = if split { chunk_units * blocks } else { units };
    let threads = team.threads().min(most_units);
    grow(slots, threads * slot_shape.len())?;
    let slots = MatMut::new(slots, threads, slot_shape.len(), slot_shape.len())?;
    if !split {
        for_units(team, slots, units, |unit, slot| {
            // Later tiles see more keys: the longest go first.
            let tile = &job.tiles[job.tiles.len() - 1 - unit / blocks];
            job.whole(tile, unit % blocks, &mut slot_shape.cut(slot));
        });
        return Ok(());
    }
    let widest = tiles.iter().map(|tile| tile.rows.len()).max().unwrap_or(0);
    let cols = partial_len(widest * block_heads, shape.head_dim);
    grow(partials, most_units * cols)?;
    let partials = MatMut::new(partials, most_units, cols, cols)?;
    expect(pending, units)?;
    for (unit, pending) in pending.iter_mut().take(units).enumerate() {
        *pending.get_mut() = job.tiles[unit / blocks].chunks(chunk).len();
    }
    for_units(team, slots, most_units, |unit, slot| {
        let (tile_chunk, block) = (unit / blocks, unit % blocks);
        let tile = job.tile_of(tile_chunk);
        let slot = &mut slot_shape.cut(slot);
        // The next unit but those that the other threads take meanwhile.
        let next = unit + threads;
        let then = job.first_page(next / blocks, next % blocks, chunk_units);
        {
            // SAFETY: each unit is handed out once, and its row is its own until its chunk is counted as done.
            let mut partial = unsafe { partials.strip(unit..unit + 1, 0..cols) };
            job.one_chunk(&job.tiles[tile], (tile_chunk, block), then, slot, partial.row_mut(0));
        }
        // Release: our chunk is there for whoever merges. Acquire: the others' are there for us.
        if pending[tile * blocks + block].fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let tile = &job.tiles[tile];
        let partial = |i: usize| {
            let row = (tile.first_unit + i) * blocks + block;
            // SAFETY: all chunks of the unit are done, so nobody writes to its rows, and nobody else reads them.
            unsafe { partials.strip(row..row + 1, 0..cols) }
        };
        job.merge_chunks(tile, block, slot, partial);
    });
    Ok(())
}

/// Cuts the rows into tiles of at most `most_rows` and counts their chunks.
fn make_tiles(
    tiles: &mut Vec<Tile>,
    input: &AttentionInput<'_>,
    params: &AttentionParams,
    most_rows: usize,
    chunk: usize,
) -> Result<usize, KernelError> {
    tiles.clear();
    let mut chunks = 0;
    for (i, row) in input.rows.iter().enumerate() {
        let keys = visible(input, params, i)?;
        match tiles.last_mut() {
            Some(tile) if tile.rows.len() < most_rows && input.rows[i - 1].sequence == row.sequence => {
                chunks -= tile.chunks(chunk).len();
                tile.rows.end = i + 1;
                tile.keys = tile.keys.start.min(keys.start)..tile.keys.end.max(keys.end);
                chunks += tile.chunks(chunk).len();
            }
            _ => {
                let tile = Tile { rows: i..i + 1, keys, first_unit: chunks };
                chunks += tile.chunks(chunk).len();
                tiles.push(tile);
            }
        }
    }
    Ok(chunks)
}

/// The positions that row `i` attends to.
fn visible(
    input: &AttentionInput<'_>,
    params: &AttentionParams,
    i: usize,
) -> Result<Range<usize>, KernelError> {
    const OP: &str = "attention";
    let row = input.rows[i];
    let layer = input.cache.layer(OP, row.sequence, input.layer)?;
    if row.position >= layer.len && params.mask != Mask::Bidirectional {
        let (expected, found) = (row.position + 1, layer.len);
        return Err(KernelError::Shape { op: OP, what: "cached positions (at least)", expected, found });
    }
    let keys = match params.mask {
        Mask::Causal => 0..row.position + 1,
        Mask::Window(n) if mutant("window one key too wide") => {
            row.position.saturating_sub(n)..row.position + 1
        }
        Mask::Window(n) => (row.position + 1).saturating_sub(n)..row.position + 1,
        Mask::Bidirectional => 0..layer.len,
    };
    if keys.start < layer.released && !keys.is_empty() {
        let (expected, found) = (layer.released, keys.start);
        return Err(KernelError::Shape { op: OP, what: "first key (at least)", expected, found });
    }
    if let Some(bias) = input.bias.filter(|bias| bias.cols() < keys.end) {
        let (expected, found) = (keys.end, bias.cols());
        return Err(KernelError::Shape { op: OP, what: "bias.cols (at least)", expected, found });
    }
    Ok(keys)
}

/// The result of one chunk for the rows of a unit.
struct Sums<'a> {
    output: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
}

impl<'a> Job<'a> {
    /// Key head and query heads of a block.
    fn heads(&self, block: usize) -> (usize, Range<usize>) {
        let (kv_head, i) = (block / self.blocks_per_group, block % self.blocks_per_group);
        let end = (kv_head + 1) * self.group;
        let first = kv_head * self.group + i * self.block_heads;
        (kv_head, first.min(end)..(first + self.block_heads).min(end))
    }

    /// Row of the batch and head of each row of a unit: heads within tokens.
    fn members(&self, tile: &Tile, block: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (_, heads) = self.heads(block);
        tile.rows.clone().flat_map(move |row| heads.clone().map(move |head| (row, head)))
    }

    /// The number of the tile that a chunk belongs to when chunks are units.
    fn tile_of(&self, tile_chunk: usize) -> usize {
        self.tiles.partition_point(|tile| tile.first_unit <= tile_chunk) - 1
    }

    /// Where a chunk's first page is, if `tile_chunk` is one of `count` chunks.
    fn first_page(&self, tile_chunk: usize, block: usize, count: usize) -> Option<(PageId, usize)> {
        let tile = (tile_chunk < count).then(|| &self.tiles[self.tile_of(tile_chunk)])?;
        let chunk = tile.chunks(self.chunk).start + tile_chunk - tile.first_unit;
        let sequence = self.input.rows[tile.rows.start].sequence;
        let view = self.input.cache.layer("attention", sequence, self.input.layer).ok()?;
        let page = view.table.get((chunk * self.chunk).max(tile.keys.start) / PAGE)?;
        Some(((*page)?, self.heads(block).0))
    }

    /// What row `i` sees; `make_tiles` has seen that it is there.
    fn visible(&self, i: usize) -> Range<usize> {
        visible(&self.input, self.params, i).unwrap_or(0..0)
    }

    /// A unit over all its chunks.
    fn whole(&self, tile: &Tile, block: usize, slot: &mut Slot<'_>) {
        let padded = padded(self.input.cache.shape().head_dim);
        let n = tile.rows.len() * self.heads(block).1.len();
        let mut totals = [None; MAX_ROWS];
        let Slot { desk, output, total, max, sum } = slot;
        for chunk in tile.chunks(self.chunk) {
            let sums = Sums { output: &mut output[..n * padded], max: &mut max[..n], sum: &mut sum[..n] };
            self.chunk(tile, block, chunk, None, desk, sums);
            self.merge(tile, block, chunk, &mut totals, total, (&**output, &**max, &**sum));
        }
        self.finish(tile, block, &totals, total);
    }

    /// One chunk of a unit, into a partial result.
    fn one_chunk(
        &self,
        tile: &Tile,
        (tile_chunk, block): (usize, usize),
        then: Option<(PageId, usize)>,
        slot: &mut Slot<'_>,
        partial: &mut [f32],
    ) {
        let padded = padded(self.input.cache.shape().head_dim);
        let n = tile.rows.len() * self.heads(block).1.len();
        let (output, rest) = partial.split_at_mut(n * padded);
        let (max, rest) = rest.split_at_mut(n);
        let sums = Sums { output, max, sum: &mut rest[..n] };
        let chunk = tile.chunks(self.chunk).start + tile_chunk - tile.first_unit;
        self.chunk(tile, block, chunk, then, &mut slot.desk, sums);
    }

    /// Merges the partial results of a unit's chunks.
    fn merge_chunks<'b>(
        &self,
        tile: &Tile,
        block: usize,
        slot: &mut Slot<'_>,
        partial: impl Fn(usize) -> MatMut<'b>,
    ) {
        let padded = padded(self.input.cache.shape().head_dim);
        let n = tile.rows.len() * self.heads(block).1.len();
        let mut totals = [None; MAX_ROWS];
        for (i, chunk) in tile.chunks(self.chunk).enumerate() {
            let mut partial = partial(i);
            let (output, rest) = partial.row_mut(0).split_at(n * padded);
            let (max, sum) = rest.split_at(n);
            self.merge(tile, block, chunk, &mut totals, slot.total, (output, max, sum));
        }
        self.finish(tile, block, &totals, slot.total);
    }

    /// The rows of a unit against one chunk.
    fn chunk(
        &self,
        tile: &Tile,
        block: usize,
        chunk: usize,
        then: Option<(PageId, usize)>,
        desk: &mut Desk<'_>,
        sums: Sums<'_>,
    ) {
        let AttentionInput { q, cache, layer, rows: places, bias } = self.input;
        let Desk { pairs: cells, scores, lane_sums, tap } = desk;
        let head_dim = cache.shape().head_dim;
        let (kv_head, _) = self.heads(block);
        let mut rows = [Row { q: &[], bias: &[], visible: (0, 0) }; MAX_ROWS];
        let mut n = 0;
        let mut tapped = false;
        for (i, head) in self.members(tile, block) {
            let keys = self.visible(i);
            let q = &q.row(i)[head * head_dim..(head + 1) * head_dim];
            let bias = bias.map_or(&[][..], |bias| bias.row(if bias.rows() == 1 { 0 } else { i }));
            rows[n] = Row { q, bias, visible: (keys.start, keys.end) };
            n += 1;
            tapped |= self.tap.is_some_and(|tap| tap.row(i, head).is_some());
        }
        let Ok(view) = cache.layer("attention", places[tile.rows.start].sequence, layer) else { return };
        let first = (chunk * self.chunk).max(tile.keys.start) / PAGE;
        let end = ((chunk + 1) * self.chunk).min(tile.keys.end).div_ceil(PAGE);
        let args = leaf::Chunk {
            cache,
            head: kv_head,
            pages: &view.table[first..end],
            then,
            position: first * PAGE,
            scale: self.params.scale,
            soft_cap: self.params.soft_cap.unwrap_or(0.0),
        };
        let tap_stride = (end - first) * PAGE;
        let tap = if tapped { &mut tap[..n * tap_stride] } else { &mut [] };
        let Sums { output, max, sum } = sums;
        let partial = leaf::Partial { scores, lane_sums, max, sum, output, tap: &mut *tap };
        let (table, rows) = (self.kernels.table, &rows[..n]);
        match (self.params.arithmetic, cache.shape().cache_type) {
            (_, CacheType::Q8_0) => table.attention_chunk_q8(args, rows, partial),
            (Arithmetic::Bf16, _) => pairs::chunk(table, args, rows, cells, partial),
            (_, CacheType::F32) => table.attention_chunk_f32(args, rows, partial),
            (_, CacheType::F16) => table.attention_chunk_f16(args, rows, partial),
            (_, CacheType::Bf16) => table.attention_chunk_bf16(args, rows, partial),
        }
        if let Some(wanted) = self.tap.filter(|_| tapped) {
            for (r, (i, head)) in self.members(tile, block).enumerate() {
                if let Some(row) = wanted.row(i, head) {
                    // SAFETY: this row, head and chunk belong to this unit alone.
                    unsafe { wanted.put(row, first * PAGE, &tap[r * tap_stride..][..tap_stride]) };
                }
            }
        }
    }

    /// Adds one chunk to the totals of the rows that see some of it.
    fn merge(
        &self,
        tile: &Tile,
        block: usize,
        chunk: usize,
        totals: &mut [Option<Total>; MAX_ROWS],
        total: &mut [f32],
        (output, max, sum): (&[f32], &[f32], &[f32]),
    ) {
        let padded = padded(self.input.cache.shape().head_dim);
        for (r, (i, _)) in self.members(tile, block).enumerate() {
            let keys = self.visible(i);
            if keys.start.max(chunk * self.chunk) < keys.end.min((chunk + 1) * self.chunk) {
                let range = r * padded..(r + 1) * padded;
                let part = Total { max: max[r], sum: sum[r] };
                self.kernels.table.attention_merge(
                    &mut totals[r],
                    &mut total[range.clone()],
                    part,
                    &output[range],
                );
            }
        }
    }

    /// Writes the rows of a unit to the output.
    fn finish(&self, tile: &Tile, block: usize, totals: &[Option<Total>; MAX_ROWS], total: &[f32]) {
        let head_dim = self.input.cache.shape().head_dim;
        let padded = padded(head_dim);
        for (r, (i, head)) in self.members(tile, block).enumerate() {
            let sums = totals[r].unwrap_or(Total::NONE);
            // SAFETY: `check` has seen that row and columns are within `out`, and this row's head belongs to this
            // unit alone.
            let mut out = unsafe { self.out.strip(i..i + 1, head * head_dim..(head + 1) * head_dim) };
            self.kernels.table.attention_finish(sums, &total[r * padded..][..padded], out.row_mut(0));
            if let Some((tap, row)) = self.tap.and_then(|tap| Some((tap, tap.row(i, head)?))) {
                // SAFETY: as above, and all chunks of the row are done.
                unsafe { tap.finish(self.kernels, row, sums) };
            }
        }
    }
}
