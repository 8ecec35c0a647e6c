//! Which stretches of a text are fed, and from which position on they are scored.

use super::PerplexityArgs;
use crate::options::usage;
use anyhow::{Result, bail};
use gable_model::model::Model;

/// Context where none is asked for: llama-perplexity's.
const CONTEXT: usize = 512;

/// The chunks of a text. Position `j` of a chunk is scored for `first <= j < context - 1`, by what it says of token
/// `j + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Tokens of a chunk.
    pub context: usize,
    /// From the start of one chunk to that of the next.
    pub step: usize,
    /// First scored position.
    pub first: usize,
    /// How many.
    pub chunks: usize,
}

impl Plan {
    /// As the options say, for a text of `n` tokens.
    pub fn new(args: &PerplexityArgs, model: &Model, n: usize) -> Result<Plan> {
        let context = match args.session.ctx_size {
            Some(0) => model.config().max_seq_len,
            Some(n) => n,
            None if args.whole => n.max(2),
            None => CONTEXT,
        };
        if context < 2 || n < 2 {
            return Err(usage("at least two tokens are needed: one to begin with and one to score"));
        }
        if args.whole {
            if n > context {
                bail!("the text has {n} tokens and the context {context}; raise -c or limit --tokens");
            }
            return Ok(Plan { context: n, step: n, first: 0, chunks: 1 });
        }
        let plan = Plan::of(context, args.ppl_stride, n);
        if n < context.saturating_mul(2) || plan.chunks == 0 {
            bail!(
                "the text has {n} tokens, but chunks of {context} need at least {}; give more text, a smaller -c, \
                 or --whole",
                context.saturating_mul(2)
            );
        }
        let wanted = args.chunks.unwrap_or(if args.blame { 1 } else { usize::MAX });
        Ok(Plan { chunks: plan.chunks.min(wanted), ..plan })
    }

    /// Chunks side by side, their second halves scored; with a stride, overlapping ones that are half a stride longer,
    /// of which the last `stride` tokens are scored.
    fn of(context: usize, stride: usize, n: usize) -> Plan {
        if stride == 0 {
            return Plan { context, step: context, first: context / 2, chunks: n / context };
        }
        let context = context.saturating_add(stride / 2);
        let first = context.saturating_sub(stride).saturating_sub(1);
        Plan { context, step: stride, first, chunks: n.saturating_sub(context).div_ceil(stride) }
    }

    /// Where chunk `i` begins.
    pub fn start(self, i: usize) -> usize {
        i.saturating_mul(self.step)
    }

    /// The tokens of chunk `i`.
    pub fn chunk(self, ids: &[u32], i: usize) -> &[u32] {
        let end = self.start(i).saturating_add(self.context).min(ids.len());
        ids.get(self.start(i)..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn the_second_half_of_each_chunk_is_scored() {
        let plan = Plan::of(512, 0, 2000);
        assert_eq!(plan, Plan { context: 512, step: 512, first: 256, chunks: 3 });
        let ids: Vec<u32> = (0..2000).collect();
        assert_eq!(plan.chunk(&ids, 2), &ids[1024..1536]);
    }

    #[test]
    fn with_a_stride_every_token_behind_the_first_chunk_is_scored_once() {
        let (n, stride) = (1000, 64);
        let plan = Plan::of(128, stride, n);
        assert_eq!((plan.context, plan.step), (160, 64));
        let ids: Vec<u32> = (0..1000).collect();
        let scored: Vec<u32> = (0..plan.chunks)
            .filter(|&i| plan.chunk(&ids, i).len() == plan.context)
            .flat_map(|i| plan.chunk(&ids, i)[plan.first + 1..].to_vec())
            .collect();
        assert_eq!(scored, (96..96 + u32::try_from(scored.len()).unwrap()).collect::<Vec<_>>());
        // As llama-perplexity counts them.
        assert_eq!(plan.chunks, 14);
    }
}
