//! Inside a feed-forward layer: each inner row asks a question of the vector and writes something if the answer is yes.
//!
//! ```text
//! a = act(W_gate n) * (W_up n)      n = norm(x): row i of W_gate is the question
//! x += sum_i a[i] W_down[:, i]      column i of W_down is what is written
//! ```

use super::{Look, Scored};
use crate::RunError;
use crate::observer::Site;

/// One inner row.
#[derive(Debug, Clone)]
pub struct Neuron {
    /// Which row.
    pub index: usize,
    /// Its value at the token that was looked at.
    pub activation: f32,
    /// Its value at every token of the text.
    pub everywhere: Vec<f32>,
    /// What it asks: the words whose plain embeddings fit its row of `W_gate` (of `W_up` without a gate) best, the norm's
    /// weights included. In deep layers vectors are no plain words any more, and this says little.
    pub asks: Vec<Scored>,
    /// What it writes: the words towards which its column of `W_down`, with the sign of the activation, pushes.
    pub writes: Vec<Scored>,
}

impl Look {
    /// The `n` rows of a layer's feed-forward network with the largest values at `position`, each with `k` words.
    ///
    /// # Errors
    /// [`RunError::Option`] for a layer that the model does not have; as [`record`](Look::record).
    pub fn neurons(
        &self,
        ids: &[u32],
        layer: usize,
        position: usize,
        n: usize,
        k: usize,
    ) -> Result<Vec<Neuron>, RunError> {
        self.check_layer(layer)?;
        let Some(block) = self.model.weights().layers.get(layer) else { return Ok(Vec::new()) };
        let Some(ffn) = block.ffn.dense() else {
            let (found, allowed) =
                (format!("{layer}, which has experts"), "layers with one feed-forward network");
            return Err(RunError::Option { name: "layer", found, allowed });
        };
        let (recording, _) = self.record(ids, |l, site| l == layer && site == Site::FfnActivation)?;
        let values = recording.row(layer, Site::FfnActivation, position);
        let mut order: Vec<usize> = (0..values.len()).collect();
        let size = |i: &usize| values.get(*i).map_or(0.0, |a| a.abs());
        order.sort_by(|a, b| size(b).total_cmp(&size(a)));
        order.truncate(n);

        let mut questions = Vec::with_capacity(order.len());
        let mut answers = Vec::with_capacity(order.len());
        for &i in &order {
            let asking = ffn.gate.as_ref().unwrap_or(&ffn.up);
            let row = self.row(&asking.weight, i)?;
            questions.push(row.iter().zip(&block.ffn_norm.weight).map(|(w, g)| w * g).collect::<Vec<f32>>());
            let mut alone = vec![0.0; ffn.down.weight.cols()];
            if let (Some(slot), Some(value)) = (alone.get_mut(i), values.get(i)) {
                *slot = value.signum();
            }
            answers.push(alone);
        }
        let asks = self.embeddings()?.nearest_of_all(&questions, k)?;
        let writes = self.spoken(&self.times(&ffn.down.weight, &answers)?, k)?;
        let all = order.into_iter().zip(asks.into_iter().zip(writes));
        Ok(all
            .map(|(index, (asks, writes))| {
                let at = |row: usize| {
                    recording.row(layer, Site::FfnActivation, row).get(index).copied().unwrap_or(0.0)
                };
                let everywhere = (0..ids.len()).map(at).collect();
                Neuron { index, activation: at(position), everywhere, asks, writes }
            })
            .collect())
    }
}
