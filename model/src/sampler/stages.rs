//! The stages over a list of candidates. None of them leaves the list empty or changes its order.

use std::cmp::Ordering;

/// A token that can still be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    /// Neither NaN nor -inf nor negative zero when it comes in.
    pub logit: f32,
    pub id: u32,
}

/// The likelier first, among equals the lower id.
fn by_likelihood(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

pub(super) fn most_likely(candidates: &[Candidate]) -> Option<Candidate> {
    candidates.iter().copied().min_by(by_likelihood)
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
    candidates.retain(|c| by_likelihood(c, &last) != Ordering::Greater);
}

/// One pass with room for `2 k`: almost all of a vocabulary is turned away by a single comparison.
pub(super) fn top_k(candidates: &mut Vec<Candidate>, scratch: &mut Vec<Candidate>, k: usize) {
    if k == 0 || k >= candidates.len() {
        return;
    }
    scratch.clear();
    let room = k.saturating_mul(2).min(candidates.len());
    let mut least = None; // the k-th highest logit so far
    for candidate in candidates.iter() {
        // Ids ascend, so of equals the ones that come later lose.
        if least.is_none_or(|least| candidate.logit > least) {
            scratch.push(*candidate);
            if scratch.len() == room {
                least = Some(shorten(scratch, k));
            }
        }
    }
    if scratch.len() > k {
        shorten(scratch, k);
    }
    scratch.sort_unstable_by_key(|c| c.id);
    candidates.clear();
    candidates.extend_from_slice(scratch);
}

/// Keeps the `k` likeliest, in any order; the lowest logit among them.
pub(super) fn shorten(candidates: &mut Vec<Candidate>, k: usize) -> f32 {
    let (_, last, _) = candidates.select_nth_unstable_by(k.saturating_sub(1), by_likelihood);
    let least = last.logit;
    candidates.truncate(k);
    least
}

pub(super) fn top_p(candidates: &mut Vec<Candidate>, scratch: &mut Vec<Candidate>, p: f32) {
    let Some(first) = most_likely(candidates).filter(|_| p < 1.0) else { return };
    let total: f64 = candidates.iter().map(|c| weight(c.logit, first.logit)).sum();
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
            rest.select_nth_unstable_by(size.saturating_sub(1), by_likelihood);
        }
        let (head, tail) = rest.split_at_mut(size);
        head.sort_unstable_by(by_likelihood);
        for candidate in head.iter() {
            reached += weight(candidate.logit, first.logit);
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
    let least = first.logit + p.ln(); // infinite where the highest is
    candidates.retain(|c| c.logit >= least || c.logit == first.logit);
}

/// Divides by a positive temperature, saturating: finite logits stay finite. Where even the highest one would saturate,
/// the temperature is as good as zero, and the highest stay alone.
pub(super) fn temperature(candidates: &mut Vec<Candidate>, t: f32) {
    let Some(first) = most_likely(candidates).filter(|first| first.logit.is_finite()) else { return };
    if !(first.logit / t).is_finite() {
        candidates.retain(|c| c.logit >= first.logit);
        return;
    }
    for candidate in candidates {
        candidate.logit = (candidate.logit / t).max(f32::MIN);
    }
}

/// The candidate in whose share of the total weight `uniform`, in `[0, 1)`, falls, shares laid out in the order of ids.
pub(super) fn draw(candidates: &[Candidate], uniform: f64) -> Option<u32> {
    let highest = most_likely(candidates)?.logit;
    let total: f64 = candidates.iter().map(|c| weight(c.logit, highest)).sum();
    let target = uniform * total;
    let mut reached = 0.0;
    let mut chosen = None;
    for candidate in candidates {
        let share = weight(candidate.logit, highest);
        if share > 0.0 {
            chosen = Some(candidate.id); // rounding may leave the target just above the sum: then the last one
            reached += share;
            if target < reached {
                break;
            }
        }
    }
    chosen
}
