//! Values of a forward pass, kept to be looked at.

use super::{Look, MAX_RECORDED};
use crate::RunError;
use crate::observer::{Observer, Site};
use gable_kernels::MatRef;
use gable_kernels::gemm::Phase;
use std::collections::HashMap;

/// Keeps the values of the places that a function picks: `4 * rows * cols` bytes each (attention's scores and weights:
/// `4 * n_heads * tokens^2` per layer).
pub struct Recording<'w> {
    wants: Box<dyn Fn(usize, Site) -> bool + 'w>,
    kept: HashMap<(usize, Site), (Vec<f32>, usize)>,
}

impl std::fmt::Debug for Recording<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("places", &self.kept.len()).finish_non_exhaustive()
    }
}

impl<'w> Recording<'w> {
    /// Keeps what `wants` is true for. A second pass replaces what the first left.
    pub fn new(wants: impl Fn(usize, Site) -> bool + 'w) -> Recording<'w> {
        Recording { wants: Box::new(wants), kept: HashMap::new() }
    }

    /// The values at a place; `[0, 0]` if they were not wanted.
    pub fn at(&self, layer: usize, site: Site) -> MatRef<'_> {
        match self.kept.get(&(layer, site)) {
            Some((values, cols)) => MatRef::from_rows(values, *cols),
            None => MatRef::from_rows(&[], 0),
        }
    }

    /// One row of them, empty if there is none.
    pub fn row(&self, layer: usize, site: Site, row: usize) -> &[f32] {
        let values = self.at(layer, site);
        if row < values.rows() { values.row(row) } else { &[] }
    }

    /// The residual stream of a token before the first layer (0) or after `layer` layers, `[d_model]`.
    pub fn residual(&self, layer: usize, position: usize) -> &[f32] {
        match layer.checked_sub(1) {
            None => self.row(0, Site::Embed, position),
            Some(before) => self.row(before, Site::ResidualOut, position),
        }
    }
}

impl Observer for Recording<'_> {
    fn wants(&self, layer: usize, site: Site) -> bool {
        (self.wants)(layer, site)
    }

    fn observe(&mut self, layer: usize, site: Site, values: MatRef<'_>) {
        let mut all = Vec::with_capacity(values.rows().saturating_mul(values.cols()));
        (0..values.rows()).for_each(|i| all.extend_from_slice(values.row(i)));
        self.kept.insert((layer, site), (all, values.cols()));
    }
}

impl Look {
    /// Passes a text of up to [`MAX_RECORDED`] tokens through the model in one batch, as a prompt, and records what
    /// `wants` picks. The logits are those behind the last token.
    ///
    /// # Errors
    /// [`RunError::ContextFull`] for a longer text.
    pub fn record<'w>(
        &self,
        ids: &[u32],
        wants: impl Fn(usize, Site) -> bool + 'w,
    ) -> Result<(Recording<'w>, Vec<f32>), RunError> {
        let mut recording = Recording::new(wants);
        let logits = self.watch(ids, &mut recording)?;
        Ok((recording, logits))
    }

    /// The same with any observer.
    ///
    /// # Errors
    /// [`RunError::ContextFull`] for a longer text.
    pub fn watch(&self, ids: &[u32], observer: &mut dyn Observer) -> Result<Vec<f32>, RunError> {
        if ids.len() > MAX_RECORDED {
            return Err(RunError::ContextFull { needed: ids.len(), max: MAX_RECORDED });
        }
        let mut session = self.session(ids.len(), ids.len(), 1)?;
        let last = |i: usize| i.saturating_add(1) == ids.len();
        let logits = session.observe(Phase::Prompt, ids, last, observer)?;
        Ok(if logits.rows() > 0 { logits.row(0).to_vec() } else { Vec::new() })
    }
}
