//! All heads of all layers at a glance: every weight in one byte.

use super::Look;
use crate::RunError;
use crate::observer::{Observer, Site};
use gable_kernels::MatRef;

/// The weights of every head over a text, coarse enough to be put on a page.
#[derive(Debug, Clone)]
pub struct Overview {
    /// Tokens of the text, `n`.
    pub tokens: usize,
    /// `round(255 w[i][j])` for `j <= i`, row after row, head after head, layer after layer:
    /// `n_layers * n_heads * n (n + 1) / 2` bytes.
    pub weights: Vec<u8>,
}

impl Observer for Overview {
    fn wants(&self, _: usize, site: Site) -> bool {
        site == Site::AttentionWeights
    }

    fn observe(&mut self, _: usize, _: Site, weights: MatRef<'_>) {
        let n_heads = weights.rows() / self.tokens.max(1);
        for head in 0..n_heads {
            for i in 0..self.tokens {
                let row = weights.row(i.saturating_mul(n_heads).saturating_add(head));
                let visible = row.iter().take(i.saturating_add(1));
                self.weights.extend(visible.map(|w| (w.clamp(0.0, 1.0) * 255.0).round() as u8));
            }
        }
    }
}

impl Look {
    /// Every head's weights over a text, one layer at a time: nothing but the bytes is kept.
    ///
    /// # Errors
    /// As [`record`](Look::record).
    pub fn overview(&self, ids: &[u32]) -> Result<Overview, RunError> {
        let mut overview = Overview { tokens: ids.len(), weights: Vec::new() };
        self.watch(ids, &mut overview)?;
        Ok(overview)
    }
}
