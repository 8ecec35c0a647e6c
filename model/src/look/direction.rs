//! A meaning as a direction: pairs of words that differ in it give the vector, and a dot product says how much of it
//! another word has.

use super::{Look, Word, combined, dot, norm};
use crate::RunError;

/// The vectors of two words that differ in one thing, `[d_model]` each.
pub type VectorPair = (Vec<f32>, Vec<f32>);

/// A direction of length 1, from pairs of words.
#[derive(Debug, Clone)]
pub struct Direction {
    /// `mean_p(E(p.1) - E(p.0))`, divided by its length; `[d_model]`.
    pub unit: Vec<f32>,
    /// That length before it was divided.
    pub length: f64,
    /// Where the pairs' middle lies along the direction: words with less are on the first side.
    pub middle: f64,
}

impl Direction {
    /// The direction from the first words to the second ones.
    ///
    /// # Errors
    /// [`RunError::Option`] without a pair, or if the differences cancel out.
    pub fn new(pairs: &[VectorPair]) -> Result<Direction, RunError> {
        let share = 1.0 / (pairs.len().max(1) as f32);
        let of_pair = |(a, b): &VectorPair| combined([(1.0, b.as_slice()), (-1.0, a)]);
        let differences: Vec<Vec<f32>> = pairs.iter().map(of_pair).collect();
        let mean = combined(differences.iter().map(|d| (share, d.as_slice())));
        let length = norm(&mean);
        if !(length > 0.0 && length.is_finite()) {
            let found = format!("{} pairs whose mean difference is {length}", pairs.len());
            return Err(RunError::Option { name: "direction", found, allowed: "pairs of different words" });
        }
        let unit = combined([((1.0 / length) as f32, mean.as_slice())]);
        let middle =
            pairs.iter().map(|(a, b)| (dot(a, &unit) + dot(b, &unit)) / 2.0).sum::<f64>() * f64::from(share);
        Ok(Direction { unit, length, middle })
    }

    /// `E(word) . unit`: how much of the meaning a vector has.
    pub fn score(&self, vector: &[f32]) -> f64 {
        dot(vector, &self.unit)
    }
}

impl Look {
    /// The embeddings of pairs of words.
    ///
    /// # Errors
    /// [`RunError::NotOneToken`].
    pub fn pairs(&self, pairs: &[(Word, Word)]) -> Result<Vec<VectorPair>, RunError> {
        pairs.iter().map(|(a, b)| Ok((self.embedding(a.id)?, self.embedding(b.id)?))).collect()
    }
}

/// For each pair in turn: whether the direction that the *other* pairs give puts its second word above its first.
///
/// # Errors
/// As [`Direction::new`]; two pairs at least are needed.
pub fn leave_one_out(pairs: &[VectorPair]) -> Result<Vec<bool>, RunError> {
    let mut right = Vec::with_capacity(pairs.len());
    for (i, (a, b)) in pairs.iter().enumerate() {
        let others: Vec<_> =
            pairs.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, p)| p.clone()).collect();
        let direction = Direction::new(&others)?;
        right.push(direction.score(b) > direction.score(a));
    }
    Ok(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direction_is_the_mean_difference_made_one_long() {
        let pairs = [(vec![0.0, 1.0], vec![2.0, 1.0]), (vec![1.0, -1.0], vec![5.0, -1.0])];
        let d = Direction::new(&pairs).unwrap();
        assert_eq!((d.unit.as_slice(), d.length, d.middle), (&[1.0, 0.0][..], 3.0, 2.0));
        assert!((d.score(&[7.0, 9.0]) - 7.0).abs() < 1e-12);
        assert_eq!(leave_one_out(&pairs).unwrap(), [true, true]);
        assert!(Direction::new(&[]).is_err());
    }
}
