//! The rows of `W_E` or `W_U` as a dictionary: which tokens' vectors lie closest to a given one?

use super::Look;
use crate::RunError;
use crate::tokenizer::TokenType;
use crate::weights::WeightMatrix;
use gable_kernels::MatMut;
use gable_kernels::matrix::for_rows;

/// Vectors looked up at a time: bounds the memory for their products with all rows.
pub const QUERIES: usize = 16;

/// A token with a score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// The token.
    pub id: u32,
    /// How well it fits: a cosine, a dot product, a logit.
    pub score: f32,
}

/// A matrix with one row per token, and the length of every row.
#[derive(Debug)]
pub struct Dictionary<'a> {
    look: &'a Look,
    matrix: &'a WeightMatrix,
    norms: Vec<f32>, // [vocab_size]
}

impl Look {
    /// `E(token)`: the token's row of `W_E`, bit-equal to the file's format.
    ///
    /// # Errors
    /// [`RunError::Kernel`] for an id outside the vocabulary.
    pub fn embedding(&self, id: u32) -> Result<Vec<f32>, RunError> {
        self.row(&self.model.weights().embedding, id as usize)
    }

    /// `W_E` to search in. Reads it once for the lengths of its rows: `4 * vocab_size` bytes.
    ///
    /// # Errors
    /// None for a bound model.
    pub fn embeddings(&self) -> Result<Dictionary<'_>, RunError> {
        self.dictionary(&self.model.weights().embedding)
    }

    /// `W_U` to search in.
    ///
    /// # Errors
    /// None for a bound model.
    pub fn unembeddings(&self) -> Result<Dictionary<'_>, RunError> {
        self.dictionary(self.model.weights().unembedding())
    }

    fn dictionary<'a>(&'a self, matrix: &'a WeightMatrix) -> Result<Dictionary<'a>, RunError> {
        let weights = matrix.view(self.model.files())?;
        let mut norms = vec![0.0_f32; matrix.rows()];
        self.pool.enter(|team| {
            for_rows(team, MatMut::from_rows(&mut norms, 1), |rows, mut part| {
                let mut row = vec![0.0; weights.cols()];
                for (i, at) in rows.enumerate() {
                    // Cannot fail: the row exists, and the buffer has its length.
                    let read = self.kernels.dequantize_row(&weights, at, &mut row);
                    let norm = read.map_or(0.0, |()| super::norm(&row));
                    part.row_mut(i).fill(norm as f32);
                }
            });
        });
        Ok(Dictionary { look: self, matrix, norms })
    }

    /// Whether a token stands for text: lists of near tokens leave the others out.
    fn is_text(&self, id: u32) -> bool {
        matches!(self.model.tokenizer().token_type(id), TokenType::Normal | TokenType::UserDefined)
    }
}

impl Dictionary<'_> {
    /// Length of a token's row.
    pub fn norm(&self, id: u32) -> f32 {
        self.norms.get(id as usize).copied().unwrap_or(0.0)
    }

    /// `W[i] . q` for all rows `i`, per vector `q`.
    ///
    /// # Errors
    /// None for vectors of the rows' length.
    pub fn products(&self, vectors: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, RunError> {
        self.look.times(self.matrix, vectors)
    }

    /// `cos(W[i], q)` for all rows `i`, per vector `q`.
    ///
    /// # Errors
    /// As [`products`](Dictionary::products).
    pub fn cosines(&self, vectors: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, RunError> {
        let mut all = self.products(vectors)?;
        for (scores, vector) in all.iter_mut().zip(vectors) {
            let length = super::norm(vector) as f32;
            for (score, norm) in scores.iter_mut().zip(&self.norms) {
                let lengths = norm * length;
                *score = if lengths > 0.0 { *score / lengths } else { 0.0 };
            }
        }
        Ok(all)
    }

    /// The `k` text tokens whose rows have the smallest angle to `vector`, without those in `except`.
    ///
    /// # Errors
    /// As [`products`](Dictionary::products).
    pub fn nearest(&self, vector: &[f32], k: usize, except: &[u32]) -> Result<Vec<Scored>, RunError> {
        let cosines = self.cosines(&[vector.to_vec()])?;
        let scores = cosines.first().map_or(&[][..], Vec::as_slice);
        Ok(top(scores, k, |id| self.look.is_text(id) && !except.contains(&id)))
    }

    /// The same for several vectors at once.
    ///
    /// # Errors
    /// As [`products`](Dictionary::products).
    pub fn nearest_of_all(&self, vectors: &[Vec<f32>], k: usize) -> Result<Vec<Vec<Scored>>, RunError> {
        let mut all = Vec::with_capacity(vectors.len());
        for part in vectors.chunks(QUERIES) {
            let cosines = self.cosines(part)?;
            all.extend(cosines.iter().map(|scores| top(scores, k, |id| self.look.is_text(id))));
        }
        Ok(all)
    }
}

/// The `k` highest scores among the tokens that `keep` lets through, highest first, among equals the lower id.
pub fn top(scores: &[f32], k: usize, keep: impl Fn(u32) -> bool) -> Vec<Scored> {
    let mut all: Vec<Scored> = (0..)
        .zip(scores)
        .filter(|(id, score)| !score.is_nan() && keep(*id))
        .map(|(id, score)| Scored { id, score: *score })
        .collect();
    let order = |a: &Scored, b: &Scored| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id));
    if k > 0 && k < all.len() {
        all.select_nth_unstable_by(k, order);
    }
    all.truncate(k);
    all.sort_by(order);
    all
}

/// The place of a token when all are ordered by score: 1 for the highest; `None` outside the vocabulary.
pub fn rank(scores: &[f32], id: u32) -> Option<usize> {
    let own = *scores.get(id as usize)?;
    Some(scores.iter().filter(|score| **score > own).count().saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_come_first_and_of_equals_the_lower_id() {
        let scores = [1.0, 3.0, f32::NAN, 3.0, 2.0];
        let ids = |k| top(&scores, k, |id| id != 4).iter().map(|s| s.id).collect::<Vec<_>>();
        assert_eq!(ids(2), [1, 3]);
        assert_eq!(ids(9), [1, 3, 0]);
        assert!(ids(0).is_empty());
        assert_eq!((rank(&scores, 3), rank(&scores, 0), rank(&scores, 9)), (Some(1), Some(4), None));
    }
}
