//! Attention of a batch, in pieces short enough that somebody who presses Ctrl-C need not wait.

use super::Pass;
use crate::RunError;
use crate::observer::{Observer, Site};
use gable_kernels::attention::{AttentionInput, AttentionParams, AttentionScratch, AttentionTap, Mask};
use gable_kernels::{MatMut, MatRef};

/// Multiplications of queries with keys that a thread does between two looks at the cancel flag: 20 ms with bf16 products on
/// a server core, 55 ms in f32. Other operations hand out small parts and look at the flag between them; attention hands
/// each thread a share of all the rows, which far behind the beginning takes longer than all the rest of the layer.
const PIECE: usize = 1 << 29;
/// Rows of a piece at least: fewer would read the cache more often than their products take time.
const LEAST_ROWS: usize = 32;

impl Pass<'_> {
    /// Attention with a tap on whatever the observer wants to see of scores and weights.
    pub(super) fn attend(
        &self,
        i: usize,
        input: AttentionInput<'_>,
        params: &AttentionParams,
        mut out: MatMut<'_>,
        scratch: &mut AttentionScratch,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        let wanted = [Site::Scores, Site::AttentionWeights].map(|site| observer.wants(i, site));
        let (rows, n_heads) = (input.rows.len(), params.n_heads);
        let positions = input.rows.iter().map(|r| r.position.saturating_add(1)).max().unwrap_or(0);
        if wanted == [false; 2] {
            let seen = match params.mask {
                Mask::Window(n) => positions.min(n.saturating_add(rows)),
                _ => positions,
            };
            let at_once = rows_at_once(seen.saturating_mul(input.q.cols()), self.team.threads());
            let mut start = 0;
            for piece in input.rows.chunks(at_once) {
                let end = start + piece.len();
                let input = AttentionInput { q: input.q.row_range(start..end), rows: piece, ..input };
                let out = out.row_range_mut(start..end);
                self.kernels.attention(self.team, input, params, out, scratch, None)?;
                start = end;
            }
            return Ok(());
        }
        let room = |wanted: bool| vec![0.0_f32; if wanted { rows * n_heads * positions } else { 0 }];
        let (mut scores, mut weights) = (room(wanted[0]), room(wanted[1]));
        let mut tap = AttentionTap {
            rows: 0..rows,
            heads: 0..n_heads,
            scores: wanted[0].then(|| MatMut::from_rows(&mut scores, positions)),
            weights: wanted[1].then(|| MatMut::from_rows(&mut weights, positions)),
        };
        self.kernels.attention(self.team, input, params, out, scratch, Some(&mut tap))?;
        for (site, values) in [(Site::Scores, &scores), (Site::AttentionWeights, &weights)] {
            self.show(observer, i, site, MatRef::from_rows(values, positions));
        }
        Ok(())
    }
}

/// How many rows of `work` multiplications each a piece has.
fn rows_at_once(work: usize, threads: usize) -> usize {
    let piece = PIECE.saturating_mul(threads);
    (piece / work.max(1)).max(LEAST_ROWS)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn short_prompts_are_one_piece_and_long_ones_many() {
        // 12 heads of 128, as of a model with 1.5 billion weights.
        let rows = |positions: usize, threads| rows_at_once(positions * 1536, threads);
        assert!(rows(512, 1) >= 512 && rows(1024, 2) >= 512);
        for (positions, threads) in [(4096, 1), (4096, 2), (8192, 2)] {
            assert!((LEAST_ROWS..256).contains(&rows(positions, threads)), "{positions}, {threads}");
            assert!(rows(positions, threads) * positions * 1536 <= threads * PIECE);
        }
        assert_eq!(rows_at_once(usize::MAX, 1), LEAST_ROWS);
        assert!(rows_at_once(0, 1) >= 512 && rows_at_once(1, usize::MAX) >= 512);
    }
}
