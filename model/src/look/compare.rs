//! Where two models part over the same text: two quantizations of one model, or one model with two kinds of numbers.

use super::{Look, cosine};
use crate::RunError;
use crate::observer::Site;

/// How far one layer's results lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parting {
    /// The layer, from 0.
    pub layer: usize,
    /// Smallest cosine between both vectors of a token after the layer.
    pub cosine: f64,
    /// That token's position.
    pub token: usize,
    /// The attention weight that differs most.
    pub link: DifferingLink,
}

/// An attention weight in both models, to 1/255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DifferingLink {
    /// The head, from 0.
    pub head: usize,
    /// Position of the token that listens.
    pub from: usize,
    /// Position of the token that is listened to.
    pub to: usize,
    /// The weight here and there.
    pub weights: [f32; 2],
}

impl DifferingLink {
    /// `|here - there|`
    pub fn difference(&self) -> f32 {
        (self.weights[0] - self.weights[1]).abs()
    }
}

impl Look {
    /// Compares every layer. Keeps, for both, `4 * n_layers * tokens * d_model` bytes of vectors and one byte per head and
    /// pair of tokens.
    ///
    /// # Errors
    /// [`RunError::Option`] for a model of another shape; as [`record`](Look::record).
    pub fn compare(&self, other: &Look, ids: &[u32]) -> Result<Vec<Parting>, RunError> {
        let shape = |look: &Look| {
            let c = look.model.config();
            (c.n_layers, c.n_heads, c.d_model, c.vocab_size)
        };
        if shape(self) != shape(other) {
            let (here, there) = (shape(self), shape(other));
            return Err(RunError::Option {
                name: "model to compare with",
                found: format!("of shape {there:?}, not {here:?} (layers, heads, dimensions, vocabulary)"),
                allowed: "another quantization of the same model",
            });
        }
        let after = |_: usize, site: Site| site == Site::ResidualOut;
        let (a, b) = (self.record(ids, after)?.0, other.record(ids, after)?.0);
        let (here, there) = (self.overview(ids)?.weights, other.overview(ids)?.weights);
        let n_heads = self.model.config().n_heads;
        let triangle = ids.len().saturating_mul(ids.len().saturating_add(1)) / 2;
        let per_layer = triangle.saturating_mul(n_heads).max(1);
        let links = here.chunks(per_layer).zip(there.chunks(per_layer));
        Ok(links
            .enumerate()
            .map(|(layer, (here, there))| {
                let of =
                    |i: usize| cosine(a.row(layer, Site::ResidualOut, i), b.row(layer, Site::ResidualOut, i));
                let (token, cosine) =
                    (0..ids.len()).map(|i| (i, of(i))).min_by(|x, y| x.1.total_cmp(&y.1)).unwrap_or((0, 1.0));
                Parting { layer, cosine, token, link: most_different(here, there, triangle) }
            })
            .collect())
    }
}

/// The largest difference in one layer's bytes.
fn most_different(here: &[u8], there: &[u8], triangle: usize) -> DifferingLink {
    let apart = |(_, (a, b)): &(usize, (&u8, &u8))| a.abs_diff(**b);
    let pairs = here.iter().zip(there).enumerate();
    let Some((at, (a, b))) = pairs.max_by_key(apart) else {
        return DifferingLink { head: 0, from: 0, to: 0, weights: [0.0; 2] };
    };
    let (head, mut to) = (at / triangle.max(1), at % triangle.max(1));
    let mut from = 0_usize;
    while to > from {
        to = to.saturating_sub(from.saturating_add(1));
        from = from.saturating_add(1);
    }
    DifferingLink { head, from, to, weights: [a, b].map(|w| f32::from(*w) / 255.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_byte_is_found_again() {
        let triangle = 10; // four tokens
        let mut place = 0;
        for head in 0..2 {
            for from in 0..4 {
                for to in 0..=from {
                    let mut here = [0; 20];
                    here[place] = 255;
                    let link = most_different(&here, &[0; 20], triangle);
                    assert_eq!((link.head, link.from, link.to), (head, from, to));
                    assert_eq!((link.weights, link.difference()), ([1.0, 0.0], 1.0));
                    place += 1;
                }
            }
        }
    }
}
