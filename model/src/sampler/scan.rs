//! The likeliest of many logits: one pass that looks at each once, and turns most away [`CHUNK`] at a time.

use super::stages::{Candidate, shorten};
use crate::RunError;

/// Logits that are turned away by one comparison.
const CHUNK: usize = 64;
/// Numbers that are compared at the same time.
const LANES: usize = 16;

/// Puts the `k` likeliest of `logits` into `candidates`, in the order of ids, and of equal ones those with lower ids.
///
/// Errors: the first NaN; nothing but `-inf`.
pub(super) fn likeliest(logits: &[f32], k: usize, candidates: &mut Vec<Candidate>) -> Result<(), RunError> {
    candidates.clear();
    let room = k.saturating_mul(2).max(1);
    let mut least = f32::NEG_INFINITY; // what cannot be among them: the k-th highest logit so far
    for (first, chunk) in (0u32..).step_by(CHUNK).zip(logits.chunks(CHUNK)) {
        let (largest, has_nan) = largest(chunk);
        if has_nan {
            let at = chunk.iter().zip(first..).find(|(logit, _)| logit.is_nan());
            return Err(RunError::NanLogits { id: at.map_or(first, |(_, id)| id) });
        }
        if largest <= least {
            continue;
        }
        for (logit, id) in chunk.iter().zip(first..) {
            // Ids ascend, so of equals the ones that come later lose.
            if *logit > least {
                candidates.push(Candidate { logit: logit + 0.0, id }); // -0 becomes +0: they are equal
                if candidates.len() >= room {
                    least = shorten(candidates, k);
                }
            }
        }
    }
    if candidates.len() > k {
        shorten(candidates, k);
    }
    candidates.sort_unstable_by_key(|c| c.id);
    if candidates.is_empty() { Err(RunError::NoCandidate) } else { Ok(()) }
}

/// The largest of a chunk, and whether there is a NaN, which counts as nothing.
fn largest(chunk: &[f32]) -> (f32, bool) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut nan = [false; LANES];
    let (vectors, rest) = chunk.as_chunks::<LANES>();
    for vector in vectors {
        for ((largest, nan), x) in largest.iter_mut().zip(&mut nan).zip(vector) {
            *largest = if *x > *largest { *x } else { *largest };
            *nan |= x.is_nan();
        }
    }
    let all = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m });
    (all, nan.contains(&true) || rest.iter().any(|x| x.is_nan()))
}
