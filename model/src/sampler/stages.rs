//! The stages over a list of candidates. None of them leaves the list empty or changes its order.

use gable_kernels::largest::{Entry, Largest};
use std::cmp::Ordering;

/// A token that can still be drawn: its logit, neither NaN nor -inf nor negative zero when it comes in, and its id.
pub(super) type Candidate = Entry;

pub(super) fn most_likely(candidates: &[Candidate]) -> Option<Candidate> {
    candidates.iter().copied().min_by(Candidate::larger_first)
}

/// Probability up to a common factor: `exp(logit - highest)`, where an infinite logit takes all.
fn weight(logit: f32, highest: f32) -> f64 {
    if highest == f32::INFINITY {
        return f64::from(u8::from(logit == f32::INFINITY));
    }
    (f64::from(logit) - f64::from(highest)).exp()
}

/// Keeps what is not less likely than `last`.
fn keep_through(candidates: &mut Vec<Candidate>, last: Candidate) {
    candidates.retain(|c| c.larger_first(&last) != Ordering::Greater);
}

/// One pass: almost all of a vocabulary is turned away by a single comparison.
pub(super) fn top_k(candidates: &mut Vec<Candidate>, likeliest: &mut Largest) {
    if likeliest.k() == 0 || likeliest.k() >= candidates.len() {
        return;
    }
    likeliest.clear();
    candidates.iter().for_each(|candidate| likeliest.offer(*candidate));
    likeliest.finish();
    if let Ok(kept) = likeliest.entries() {
        candidates.clear();
        candidates.extend_from_slice(kept);
    }
}

pub(super) fn top_p(candidates: &mut Vec<Candidate>, scratch: &mut Vec<Candidate>, p: f32) {
    let Some(first) = most_likely(candidates).filter(|_| p < 1.0) else { return };
    let total: f64 = candidates.iter().map(|c| weight(c.value, first.value)).sum();
    let wanted = f64::from(p) * total;
    scratch.clear();
    scratch.extend_from_slice(candidates);
    // The most likely ones are put in order chunk by chunk, each four times the last, until they reach `wanted`.
    let mut rest = scratch.as_mut_slice();
    let mut chunk = 256usize;
    let mut reached = 0.0;
    while !rest.is_empty() {
        let size = chunk.min(rest.len());
        if size < rest.len() {
            rest.select_nth_unstable_by(size.saturating_sub(1), Candidate::larger_first);
        }
        let (head, tail) = rest.split_at_mut(size);
        head.sort_unstable_by(Candidate::larger_first);
        for candidate in head.iter() {
            reached += weight(candidate.value, first.value);
            if reached >= wanted {
                let last = *candidate;
                keep_through(candidates, last);
                return;
            }
        }
        rest = tail;
        chunk = chunk.saturating_mul(4);
    }
}

pub(super) fn min_p(candidates: &mut Vec<Candidate>, p: f32) {
    let Some(first) = most_likely(candidates).filter(|_| p > 0.0) else { return };
    let least = first.value + p.ln(); // infinite where the highest is
    candidates.retain(|c| c.value >= least || c.value == first.value);
}

/// Divides by a positive temperature, saturating: finite logits stay finite. Where even the highest one would saturate,
/// the temperature is as good as zero, and the highest stay alone.
pub(super) fn temperature(candidates: &mut Vec<Candidate>, t: f32) {
    let Some(first) = most_likely(candidates).filter(|first| first.value.is_finite()) else { return };
    if !(first.value / t).is_finite() {
        candidates.retain(|c| c.value >= first.value);
        return;
    }
    for candidate in candidates {
        candidate.value = (candidate.value / t).max(f32::MIN);
    }
}

/// The candidate in whose share of the total weight `uniform`, in `[0, 1)`, falls, shares laid out in the order of ids.
pub(super) fn draw(candidates: &[Candidate], uniform: f64) -> Option<u32> {
    let highest = most_likely(candidates)?.value;
    let total: f64 = candidates.iter().map(|c| weight(c.value, highest)).sum();
    let target = uniform * total;
    let mut reached = 0.0;
    let mut chosen = None;
    for candidate in candidates {
        let share = weight(candidate.value, highest);
        if share > 0.0 {
            chosen = Some(candidate.index); // rounding may leave the target just above the sum: then the last one
            reached += share;
            if target < reached {
                break;
            }
        }
    }
    chosen
}
