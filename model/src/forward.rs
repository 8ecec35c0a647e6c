//! The transformer, top to bottom.
//!
//! ```text
//! x = W_E[token] (+ position)
//! for each layer:
//!     q, k, v = W_Q n, W_K n, W_V n           with n = norm(x); q and k turned by position
//!     x += W_O attention(q, keys so far, values so far)
//!     x += W_down (act(W_gate n) * (W_up n))  with n = norm(x)
//!     (with experts: the sum of those chosen for the row, each times its weight)
//! logits = W_U norm(x)                        only for rows that ask
//! ```
//!
//! An encoder's norms stand behind the sums, `x = norm(x + block(x))`. That is the same pass with `x = n` after each norm,
//! where the norm before a block is the one behind the block before.

mod attend;
mod experts;

use crate::RunError;
use crate::config::{ModelConfig, NormKind};
use crate::model::Model;
use crate::observer::{Observer, Operation, Site};
use crate::scratch::{Parts, Scratch};
use crate::weights::{Dense, FeedForward, Layer, Linear, Norm, WeightMatrix};
use gable_kernels::attention::{
    Arithmetic, AttentionInput, AttentionParams, CacheRow, HeadSteps, KvCache, Mask, SequenceId,
};
use gable_kernels::gemm::{Epilogue, Factor, Phase, Product};
use gable_kernels::quant::{Activations, Forms, QuantWeights, Remainder};
use gable_kernels::{KernelError, Kernels, MatMut, MatRef, Team};
use std::cell::Cell;

/// With which numbers the linear layers and attention compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Numerics {
    /// f32 everywhere: activations, attention, cache. The yardstick.
    Exact,
    /// int8 activations with one scale per 32 against quantized weights, in two terms where one value dominates a row
    /// and throughout generation, which waits for memory; bf16 against bf16 weights, f16 cache, prompts' attention by
    /// bf16 products where the CPU has them.
    Fast,
    /// As `Fast`, with int8 activations in two terms (about 16 bits) throughout and attention in f32.
    Precise,
}

impl Numerics {
    /// In which forms activations are made for these weights.
    pub fn forms(self, phase: Phase, weight: &WeightMatrix) -> Forms {
        let narrow = Forms::fast(weight.format());
        match (weight.numerics().unwrap_or(self), phase) {
            (Numerics::Exact, _) => Forms::EXACT,
            (Numerics::Fast, Phase::Prompt) => narrow.with_remainder(Remainder::Outliers),
            (Numerics::Fast, Phase::Decode) | (Numerics::Precise, _) => narrow.with_remainder(Remainder::All),
        }
    }

    /// What attention multiplies: bf16 in prompts, where the CPU does. A decoded token waits for the cache to be read,
    /// and f32 costs nothing.
    pub fn attention(self, phase: Phase, kernels: Kernels) -> Arithmetic {
        match (self, phase) {
            (Numerics::Fast, Phase::Prompt) => Arithmetic::fastest(kernels),
            _ => Arithmetic::F32,
        }
    }
}

/// One row of a batch: a token at a position of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub token: u32,
    /// Its place in the sequence, from 0.
    pub position: usize,
    /// The sequence, which the cache knows.
    pub sequence: SequenceId,
    /// Whether the next token's scores are computed.
    pub wants_logits: bool,
}

/// Rows that go through the model together.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Which order of summation the matmuls use.
    pub phase: Phase,
    /// At most as many as the scratch has room for; a sequence's rows in the order of their positions.
    pub rows: &'a [Row],
    /// What is wanted of them.
    pub ending: Ending,
}

/// How a pass ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// In scores of the next token, for the rows that want them.
    Logits,
    /// In the vectors behind the last norm, of all rows.
    Vectors,
}

/// Passes a batch through the model: appends its keys and values to the cache and leaves the logits of the rows that
/// want them in `scratch.logits()`, in the order of the rows; or all rows' vectors in `scratch.vectors()`.
///
/// Nothing is allocated unless the observer wants something. A row's bits depend on its own sequence only.
///
/// # Errors
/// [`RunError`] for a token or position out of range, a full cache, or a set cancel flag; the cache may hold part of
/// the batch then, which [`KvCache::truncate`] takes off.
pub fn forward(
    team: &Team<'_>,
    model: &Model,
    cache: &mut KvCache,
    batch: &Batch<'_>,
    scratch: &mut Scratch,
    observer: &mut dyn Observer,
) -> Result<(), RunError> {
    let config = model.config();
    scratch.begin(model, batch.rows)?;
    observer.done(0, Operation::Begin);
    let mut pass = Pass {
        team,
        model,
        kernels: scratch.kernels,
        phase: batch.phase,
        numerics: scratch.numerics,
        weight_bytes: Cell::new(0),
    };
    if scratch.strict {
        pass.phase = Phase::Prompt;
    }
    pass.embed(batch, scratch)?;
    observer.done(0, Operation::Embed);
    pass.show(observer, 0, Site::Embed, scratch.vectors());
    for (i, layer) in model.weights().layers.iter().enumerate() {
        pass.attention_block(i, layer, cache, scratch, observer)?;
        pass.show(observer, i, Site::ResidualMid, scratch.vectors());
        match &layer.ffn {
            FeedForward::Dense(ffn) => pass.feed_forward_block(i, layer, ffn, scratch, observer)?,
            FeedForward::Experts(experts) => pass.experts_block(i, layer, experts, scratch, observer)?,
        }
        pass.show(observer, i, Site::ResidualOut, scratch.vectors());
        if team.is_cancelled() {
            return Err(KernelError::Cancelled.into());
        }
    }
    match batch.ending {
        Ending::Logits => pass.unembed(batch, scratch, observer, config)?,
        Ending::Vectors => pass.last_norm(scratch, observer)?,
    }
    scratch.count_weights(pass.weight_bytes.get());
    Ok(())
}

/// What every step of a pass needs.
struct Pass<'a> {
    team: &'a Team<'a>,
    model: &'a Model,
    kernels: Kernels,
    phase: Phase,
    numerics: Numerics,
    weight_bytes: Cell<u64>,
}

impl Pass<'_> {
    /// `x = W_E[token] * scale (+ W_P[position] + W_T[0])`
    fn embed(&self, batch: &Batch<'_>, scratch: &mut Scratch) -> Result<(), RunError> {
        let (config, weights) = (self.model.config(), self.model.weights());
        let table = weights.embedding.view(self.model.files())?;
        let (mut x, mut position_row) = scratch.x_and_row();
        for (i, row) in batch.rows.iter().enumerate() {
            self.kernels.dequantize_row(&table, row.token as usize, x.row_mut(i))?;
            if let Some(positions) = &weights.position_embedding {
                let positions = positions.view(self.model.files())?;
                self.kernels.dequantize_row(&positions, row.position, position_row.row_mut(0))?;
                for (x, p) in x.row_mut(i).iter_mut().zip(position_row.row_mut(0)) {
                    *x += *p;
                }
            }
        }
        if let Some(token_type) = &weights.token_type {
            for i in 0..batch.rows.len() {
                x.row_mut(i).iter_mut().zip(token_type).for_each(|(x, t)| *x += *t);
            }
        }
        if config.embedding_scale != 1.0 {
            self.kernels.scale(self.team, config.embedding_scale, x)?;
        }
        Ok(())
    }

    /// `x += W_O attention(q, K, V)`
    fn attention_block(
        &self,
        i: usize,
        layer: &Layer,
        cache: &mut KvCache,
        scratch: &mut Scratch,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        let config = self.model.config();
        let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
        let s = scratch.parts();

        let forms = self.forms([&layer.q, &layer.k, &layer.v]);
        let mut x = s.x;
        self.norm_before(&layer.attention_norm, x.reborrow(), s.activations, forms)?;
        observer.done(i, Operation::Norm);
        self.show(observer, i, Site::AttentionInput, s.activations.f32());
        let mut qkv = s.qkv;
        let [q, k, v] = qkv.reborrow().split_columns([q_dim, kv_dim, kv_dim]);
        let (w_q, w_k, w_v) =
            (self.read(&layer.q.weight)?, self.read(&layer.k.weight)?, self.read(&layer.v.weight)?);
        let products = [product(&layer.q, &w_q, q), product(&layer.k, &w_k, k), product(&layer.v, &w_v, v)];
        self.kernels.matmul_each(self.team, self.phase, s.activations, products)?;
        observer.done(i, Operation::Qkv);
        let steps = HeadSteps {
            q_norm: layer.q_norm.as_ref().map(|norm| &norm.weight[..]),
            k_norm: layer.k_norm.as_ref().map(|norm| &norm.weight[..]),
            eps: config.norm_eps,
            angles: s.angles.for_layer(config, i),
        };
        let [q, k, v] = qkv.reborrow().split_columns([q_dim, kv_dim, kv_dim]);
        self.kernels.turn_and_append(self.team, cache, i, s.cache_rows, steps, [q, k], v.as_ref())?;
        observer.done(i, Operation::Append);
        let [q, k, v] = qkv.split_columns([q_dim, kv_dim, kv_dim]).map(MatMut::into_ref);
        self.show(observer, i, Site::Q, q);
        self.show(observer, i, Site::K, k);
        self.show(observer, i, Site::V, v);

        let params = AttentionParams {
            n_heads: config.n_heads,
            scale: config.attention_scale,
            soft_cap: config.attention_soft_cap,
            mask: match config.windows.get(i).copied().flatten() {
                _ if config.encoder => Mask::Bidirectional,
                None => Mask::Causal,
                Some(n) => Mask::Window(n),
            },
            arithmetic: self.numerics.attention(self.phase, self.kernels),
        };
        let input = AttentionInput { q, cache, layer: i, rows: s.cache_rows, bias: None };
        let heads = s.activations.begin(s.cache_rows.len(), q_dim)?;
        self.attend(i, input, &params, heads, s.attention, observer)?;
        observer.done(i, Operation::Attention);
        self.show(observer, i, Site::Heads, s.activations.f32());
        self.kernels.prepare(self.team, s.activations, self.forms([&layer.attention_output]))?;
        observer.done(i, Operation::Prepare);
        let (output, post_norm) = (&layer.attention_output, layer.attention_post_norm.as_ref());
        self.add_to_residual(
            i,
            output,
            post_norm,
            s.activations,
            x,
            s.block_out,
            (Site::AttentionOut, Operation::AttentionOutput),
            observer,
        )
    }

    /// `out = act(W_gate a) * (W_up a)`
    fn gated(
        &self,
        [gate, up]: [&Linear; 2],
        a: &Activations,
        scratch: &mut [f32],
        out: MatMut<'_>,
    ) -> Result<(), RunError> {
        let (w_gate, w_up) = (self.read(&gate.weight)?, self.read(&up.weight)?);
        let factors = [(gate, &w_gate), (up, &w_up)];
        let factors = factors.map(|(linear, weights)| Factor { weights, bias: linear.bias.as_deref() });
        let activation = self.model.config().activation;
        Ok(self.kernels.matmul_gated(self.team, self.phase, a, activation, factors, scratch, out)?)
    }

    /// `x += W_down (act(W_gate n) * (W_up n))`, or `x += W_down act(W_up n)` without a gate.
    fn feed_forward_block(
        &self,
        i: usize,
        layer: &Layer,
        ffn: &Dense,
        scratch: &mut Scratch,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        let config = self.model.config();
        let (d_ff, rows) = (config.d_ff, scratch.rows());
        let s = scratch.parts();
        let forms = self.forms(ffn.gate.iter().chain([&ffn.up]));
        let mut x = s.x;
        self.norm_before(&layer.ffn_norm, x.reborrow(), s.activations, forms)?;
        observer.done(i, Operation::Norm);
        self.show(observer, i, Site::FfnInput, s.activations.f32());
        let mut inner = s.hidden.begin(rows, d_ff)?;
        match &ffn.gate {
            Some(gate) => {
                self.gated([gate, &ffn.up], s.activations, s.gate_up, inner)?;
                observer.done(i, Operation::GateUp);
            }
            None => {
                self.linear(&ffn.up, s.activations, inner.reborrow(), false)?;
                observer.done(i, Operation::GateUp);
                self.kernels.activate(self.team, config.activation, inner)?;
                observer.done(i, Operation::Activate);
            }
        }
        self.show(observer, i, Site::FfnActivation, s.hidden.f32());
        self.kernels.prepare(self.team, s.hidden, self.forms([&ffn.down]))?;
        observer.done(i, Operation::Prepare);
        let post_norm = layer.ffn_post_norm.as_ref();
        self.add_to_residual(
            i,
            &ffn.down,
            post_norm,
            s.hidden,
            x,
            s.block_out,
            (Site::FfnOut, Operation::Down),
            observer,
        )
    }

    /// `x += W a`, or `x += norm(W a)` in families that normalise behind a block.
    #[expect(clippy::too_many_arguments, reason = "the borrowed pieces of the scratch, by name")]
    fn add_to_residual(
        &self,
        i: usize,
        output: &Linear,
        post_norm: Option<&Norm>,
        activations: &Activations,
        mut x: MatMut<'_>,
        mut block_out: MatMut<'_>,
        (site, operation): (Site, Operation),
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        if post_norm.is_none() {
            self.linear(output, activations, x.reborrow(), true)?;
            observer.done(i, operation);
            if !observer.wants(i, site) {
                return Ok(());
            }
        }
        self.linear(output, activations, block_out.reborrow(), false)?;
        observer.done(i, operation);
        if let Some(norm) = post_norm {
            let eps = self.model.config().norm_eps;
            self.kernels.rms_norm_add(self.team, block_out.as_ref(), &norm.weight, eps, x)?;
            observer.done(i, Operation::PostNorm);
            if observer.wants(i, site) {
                self.kernels.rms_norm_in_place(self.team, block_out.reborrow(), &norm.weight, eps)?;
            }
        }
        self.show(observer, i, site, block_out.as_ref());
        Ok(())
    }

    /// `logits = W_U norm(x)`, for the rows that want them; or the highest logits of one row, if these alone are wanted.
    fn unembed(
        &self,
        batch: &Batch<'_>,
        scratch: &mut Scratch,
        observer: &mut dyn Observer,
        config: &ModelConfig,
    ) -> Result<(), RunError> {
        let n_layers = config.n_layers;
        let phase = scratch.logits_phase(self.phase);
        let s = scratch.parts();
        let (x, mut last, mut logits) = (s.x.as_ref(), s.block_out, s.logits);
        let wanted = batch.rows.iter().enumerate().filter(|(_, row)| row.wants_logits);
        for (to, (from, _)) in wanted.enumerate() {
            last.row_mut(to).copy_from_slice(x.row(from));
        }
        if logits.rows() == 0 {
            return Ok(());
        }
        let last = last.as_ref().row_range(0..logits.rows());
        let unembedding = self.model.weights().unembedding();
        let forms = self.numerics.forms(phase, unembedding);
        self.norm(&self.model.weights().output_norm, last, s.activations, forms)?;
        observer.done(n_layers, Operation::Norm);
        self.show(observer, n_layers, Site::FinalNorm, s.activations.f32());
        let view = self.read(unembedding)?;
        if let Some(top) = s.top_k {
            let cap = config.logit_soft_cap;
            self.kernels.matmul_top_k(self.team, phase, s.activations, &view, cap, top)?;
            observer.done(n_layers, Operation::Unembed);
        } else {
            let out = logits.reborrow();
            self.kernels.matmul(self.team, phase, s.activations, &view, Epilogue::default(), out)?;
            if let Some(cap) = config.logit_soft_cap {
                self.kernels.softcap(self.team, cap, logits.reborrow())?;
            }
            observer.done(n_layers, Operation::Unembed);
            self.show(observer, n_layers, Site::Logits, logits.as_ref());
        }
        if self.team.is_cancelled() {
            return Err(KernelError::Cancelled.into());
        }
        Ok(())
    }

    /// `x = norm(x)`, of all rows.
    fn last_norm(&self, scratch: &mut Scratch, observer: &mut dyn Observer) -> Result<(), RunError> {
        let Parts { mut x, activations, .. } = scratch.parts();
        self.norm(&self.model.weights().output_norm, x.as_ref(), activations, Forms::EXACT)?;
        copy_rows(activations.f32(), &mut x);
        observer.done(self.model.config().n_layers, Operation::Norm);
        Ok(())
    }

    /// The norm before a block; in an encoder its result takes the place of the residual stream.
    fn norm_before(
        &self,
        norm: &Norm,
        mut x: MatMut<'_>,
        activations: &mut Activations,
        forms: Forms,
    ) -> Result<(), RunError> {
        self.norm(norm, x.as_ref(), activations, forms)?;
        if self.model.config().encoder {
            copy_rows(activations.f32(), &mut x);
        }
        Ok(())
    }

    /// Normalised rows become the activations of the coming matmuls, in the forms that these read.
    fn norm(
        &self,
        norm: &Norm,
        x: MatRef<'_>,
        activations: &mut Activations,
        forms: Forms,
    ) -> Result<(), RunError> {
        let (config, team) = (self.model.config(), self.team);
        match config.norm {
            NormKind::Rms => {
                self.kernels.rms_norm_prepared(team, x, &norm.weight, config.norm_eps, activations, forms)?;
            }
            NormKind::Layer => {
                let vectors = (&norm.weight[..], &norm.bias[..]);
                self.kernels.layer_norm_prepared(team, x, vectors, config.norm_eps, activations, forms)?;
            }
        }
        Ok(())
    }

    /// The forms of activations that these layers multiply with.
    fn forms<'l>(&self, linears: impl IntoIterator<Item = &'l Linear>) -> Forms {
        let of = |linear: &Linear| self.numerics.forms(self.phase, &linear.weight);
        linears.into_iter().fold(Forms::EXACT, |forms, linear| forms.union(of(linear)))
    }

    /// `out (+)= W a + b`
    fn linear(
        &self,
        linear: &Linear,
        a: &Activations,
        out: MatMut<'_>,
        accumulate: bool,
    ) -> Result<(), RunError> {
        let weights = self.read(&linear.weight)?;
        let epilogue = Epilogue { bias: linear.bias.as_deref(), accumulate };
        Ok(self.kernels.matmul(self.team, self.phase, a, &weights, epilogue, out)?)
    }

    /// A matrix that a matmul will read, counted.
    fn read<'w>(&'w self, weight: &'w WeightMatrix) -> Result<QuantWeights<'w>, KernelError> {
        let bytes = u64::try_from(weight.n_bytes()).unwrap_or(u64::MAX);
        self.weight_bytes.set(self.weight_bytes.get().saturating_add(bytes));
        weight.view(self.model.files())
    }

    fn show(&self, observer: &mut dyn Observer, layer: usize, site: Site, values: MatRef<'_>) {
        if observer.wants(layer, site) {
            observer.observe(layer, site, values);
        }
    }
}

fn copy_rows(from: MatRef<'_>, to: &mut MatMut<'_>) {
    for i in 0..to.rows() {
        to.row_mut(i).copy_from_slice(from.row(i));
    }
}

/// `out = W a + b` as one of several products.
fn product<'a>(linear: &'a Linear, weights: &'a QuantWeights<'a>, out: MatMut<'a>) -> Product<'a> {
    Product { weights, epilogue: Epilogue { bias: linear.bias.as_deref(), accumulate: false }, out }
}

impl From<Row> for CacheRow {
    fn from(row: Row) -> Self {
        CacheRow { sequence: row.sequence, position: row.position }
    }
}
