//! A feed-forward network that is chosen row by row.
//!
//! ```text
//! p = softmax(W_R n)                                  a probability for each expert
//! chosen: the most probable ones                      (their weights made to sum to 1)
//! x += sum over the chosen e of p_e W_down,e (act(W_gate,e n) * (W_up,e n))
//! ```
//!
//! Experts take turns, in the order of their numbers, and each computes all rows that chose it: its matrices are read once
//! per pass, those of others not at all. A row's terms are added in the same order whoever else is in the batch, so its bits
//! depend on it alone.

use super::Pass;
use crate::RunError;
use crate::observer::{Observer, Operation, Site};
use crate::scratch::{Choice, ExpertParts, Scratch, view};
use crate::weights::{Dense, Experts, Layer};
use gable_kernels::quant::{Activations, Forms};
use gable_kernels::{KernelError, MatMut, MatRef, Team};

impl Pass<'_> {
    /// `x += sum_e p_e FFN_e(n)`
    pub(super) fn experts_block(
        &self,
        i: usize,
        layer: &Layer,
        experts: &Experts,
        scratch: &mut Scratch,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        let ExpertParts { x, activations, hidden, gathered, gate_up, mut scores, chosen, mut sum, term } =
            scratch.expert_parts();
        let forms = self.forms(experts.list.iter().flat_map(|e| e.gate.iter().chain([&e.up])));
        let both = forms.union(self.forms([&experts.router]));
        self.norm(&layer.ffn_norm, x.as_ref(), activations, both)?;
        observer.done(i, Operation::Norm);
        self.show(observer, i, Site::FfnInput, activations.f32());
        self.linear(&experts.router, activations, scores.reborrow(), false)?;
        self.kernels.softmax(self.team, 1.0, None, scores.reborrow())?;
        self.choose(scores.as_ref(), chosen);

        (0..sum.rows()).for_each(|row| sum.row_mut(row).fill(0.0));
        for group in chosen.chunk_by(|a, b| a.expert == b.expert) {
            let Some(number) = group.first().map(|choice| choice.expert) else { continue };
            let Some(expert) = experts.list.get(number) else { continue };
            let input = if group.len() == sum.rows() {
                &*activations // all rows, in their order
            } else {
                self.gather(activations.f32(), group, both, gathered)?;
                &*gathered
            };
            let out = &mut *term;
            self.expert((i, number), expert, input, gate_up, hidden, out, observer)?;
            let width = sum.cols();
            for (choice, term) in group.iter().zip(out.chunks_exact_mut(width)) {
                let mut term = MatMut::from_rows(term, width);
                self.kernels.scale(&Team::serial(), choice.weight, term.reborrow())?;
                let row = MatMut::from_rows(sum.row_mut(choice.row), width);
                self.kernels.add(&Team::serial(), row, term.as_ref())?;
            }
            observer.done(i, Operation::Down);
        }
        self.kernels.add(self.team, x, sum.as_ref())?;
        observer.done(i, Operation::Down);
        self.show(observer, i, Site::FfnOut, sum.as_ref());
        Ok(())
    }

    /// The most probable experts of each row and their weights, ordered by expert, then by row. Of equals the first is
    /// taken.
    fn choose(&self, probabilities: MatRef<'_>, chosen: &mut Vec<Choice>) {
        let Some(config) = self.model.config().experts else { return };
        chosen.clear();
        for row in 0..probabilities.rows() {
            let first = chosen.len();
            for _ in 0..config.used {
                let taken = chosen.get(first..).unwrap_or_default();
                let free = |e: &usize| taken.iter().all(|choice| choice.expert != *e);
                let candidates = probabilities.row(row).iter().enumerate().filter(|(e, _)| free(e));
                // NaN, of damaged weights, is taken like any other.
                let best = candidates.reduce(|a, b| if b.1.total_cmp(a.1).is_gt() { b } else { a });
                let Some((expert, &weight)) = best else { break };
                chosen.push(Choice { expert, row, weight });
            }
            let mine = chosen.get_mut(first..).unwrap_or_default();
            if config.normalized {
                let sum: f32 = mine.iter().map(|choice| choice.weight).sum();
                mine.iter_mut().for_each(|choice| choice.weight /= sum);
            }
        }
        chosen.sort_unstable_by_key(|choice| (choice.expert, choice.row));
    }

    /// The rows that chose an expert, in the forms that all rows were made in.
    fn gather(
        &self,
        rows: MatRef<'_>,
        group: &[Choice],
        forms: Forms,
        gathered: &mut Activations,
    ) -> Result<(), KernelError> {
        let mut to = gathered.begin(group.len(), rows.cols())?;
        for (i, choice) in group.iter().enumerate() {
            to.row_mut(i).copy_from_slice(rows.row(choice.row));
        }
        self.kernels.prepare(self.team, gathered, forms)
    }

    /// `W_down (act(W_gate a) * (W_up a))` into the first rows of `out`.
    #[expect(clippy::too_many_arguments, reason = "the borrowed pieces of the scratch, by name")]
    fn expert(
        &self,
        (i, number): (usize, usize),
        expert: &Dense,
        a: &Activations,
        gate_up: &mut [f32],
        hidden: &mut Activations,
        out: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        let config = self.model.config();
        let (rows, d_ff, d_model) = (a.rows(), config.d_ff, config.d_model);
        let Some(gate) = &expert.gate else { return Ok(()) };
        self.show_expert(observer, i, number, Site::FfnInput, a.f32());
        let inner = hidden.begin(rows, d_ff)?;
        self.gated([gate, &expert.up], a, gate_up, inner)?;
        observer.done(i, Operation::GateUp);
        self.show_expert(observer, i, number, Site::FfnActivation, hidden.f32());
        self.kernels.prepare(self.team, hidden, self.forms([&expert.down]))?;
        observer.done(i, Operation::Prepare);
        self.linear(&expert.down, hidden, view(out, rows, d_model), false)
    }

    fn show_expert(
        &self,
        observer: &mut dyn Observer,
        i: usize,
        expert: usize,
        site: Site,
        values: MatRef<'_>,
    ) {
        if observer.wants(i, site) {
            observer.observe_expert(i, expert, site, values);
        }
    }
}
