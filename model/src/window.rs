//! What layers with a sliding window need of the past, and what they have left behind.
//!
//! A row at position `p` of a layer with window `n` attends to `p + 1 - n ..= p`. Before a pass, the cache's pages before
//! the first row's window are given back, so such a layer never holds more than window and batch together. The price:
//! a sequence can then be shortened only as far as the windows that remain reach. Further back, everything is forgotten
//! and the text read again.

use crate::config::ModelConfig;
use gable_kernels::KernelError;
use gable_kernels::attention::{CacheShape, KvCache, SequenceId};

/// The pages that sequences of this shape hold at most, if passes of up to `batch` rows of a sequence are preceded by
/// [`release`].
pub fn max_pages(config: &ModelConfig, shape: &CacheShape, batch: usize) -> usize {
    let of_layer = |window: &Option<usize>| {
        // Without a window, the whole context is one.
        shape.pages_for_window(window.unwrap_or(shape.max_positions), batch)
    };
    let per_sequence = config.windows.iter().fold(0_usize, |n, window| n.saturating_add(of_layer(window)));
    per_sequence.saturating_mul(shape.max_sequences)
}

/// Gives back the pages that no row of the sequence from position `next` on will attend to.
///
/// # Errors
/// [`KernelError`] for a sequence that has ended.
pub fn release(
    config: &ModelConfig,
    cache: &mut KvCache,
    sequence: SequenceId,
    next: usize,
) -> Result<(), KernelError> {
    for (layer, n) in windows(config) {
        cache.release_before(sequence, layer, first_key(next, n))?;
    }
    Ok(())
}

/// Whether the next row of the sequence can be at position `next`: every layer still holds what it would attend to.
///
/// # Errors
/// [`KernelError`] for a sequence that has ended.
pub fn holds(
    config: &ModelConfig,
    cache: &KvCache,
    sequence: SequenceId,
    next: usize,
) -> Result<bool, KernelError> {
    for (layer, n) in windows(config) {
        // An empty sequence needs nothing, and begins anew.
        if next > 0 && cache.first_held(sequence, layer)? > first_key(next, n) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn windows(config: &ModelConfig) -> impl Iterator<Item = (usize, usize)> {
    config.windows.iter().enumerate().filter_map(|(layer, window)| Some((layer, (*window)?)))
}

/// The first position that a row at `position` attends to.
pub(crate) fn first_key(position: usize, window: usize) -> usize {
    position.saturating_add(1).saturating_sub(window)
}
