//! Which tensors' quantization costs how much.
//!
//! The base's logits of the scored positions are kept. Then the base is run again with one piece of it replaced by
//! ours, and the divergence that this alone causes is the piece's cost:
//!
//! - against another model, a piece is a tensor: the base with our tensor in its place, weights and the activations that
//!   go with them as we run them;
//! - against exact numbers, a piece is an input that one or several layers share (Q, K and V; gate and up), because
//!   activations are turned into integers once for all of them: the exact run with that input in fast numbers.
//!
//! Starting from the base, not from our model, each cost is measured alone and never negative, and errors of all the
//! other tensors do not drown it.

use super::estimate::{Estimate, count_of, text_bytes};
use super::{Base, Job, head, say_what_ran};
use crate::exit::say;
use crate::feed;
use crate::options::usage;
use crate::statistics::{mean_and_error, negative_log};
use anyhow::{Context, Result, bail};
use gable_model::forward::Numerics;
use gable_model::model::Model;
use gable_model::session::SessionOptions;
use gable_model::weights::{FeedForward, WeightMatrix};
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

/// A piece that can be ours or the base's: some of the model's matrices.
struct Piece {
    name: String,
    format: &'static str,
    /// Places in the list of the model's matrices.
    places: Vec<usize>,
    /// Bytes of our weights.
    bytes: usize,
    /// Bytes of the base's weights.
    bytes_base: usize,
}

/// A piece's cost.
struct Cost {
    piece: Piece,
    divergence: f64,
    error: f64,
    same_top: f64,
}

impl Piece {
    /// What the divergence is divided by: MiB that our form saves, or against exact numbers the MiB of the weights.
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    fn mib(&self) -> f64 {
        let bytes = match self.bytes_base.checked_sub(self.bytes) {
            Some(0) | None => self.bytes,
            Some(saved) => saved,
        };
        bytes as f64 / f64::from(1 << 20)
    }
}

impl Cost {
    fn per_mib(&self) -> f64 {
        self.divergence / self.piece.mib()
    }
}

/// The base's logits, chunk by chunk.
struct Yardstick {
    rows: Vec<Vec<f32>>,
    targets: Vec<u32>,
}

/// Runs `--blame`.
pub fn run(job: &Job<'_>, ours: Arc<Model>, base: Base) -> Result<()> {
    let mut options = job.options;
    let (mut subject, donor, pieces) = match base {
        Base::Other(other) => {
            let pieces = tensors(&ours, &other)?;
            (other, Some(ours), pieces)
        }
        Base::Exact => {
            if job.options.numerics == Numerics::Exact {
                return Err(usage("--vs exact compares nothing with --numerics exact"));
            }
            (options.numerics, options.cache_type) = (Numerics::Exact, None);
            let pieces = inputs(&ours);
            (ours, None, pieces)
        }
    };
    let (yardstick, estimate) = measure_base(job, &subject, options)?;
    let kept = yardstick.rows.iter().map(Vec::len).sum::<usize>().saturating_mul(size_of::<f32>());
    say(&format!("perplexity: {} MiB of logits of {} positions are kept", kept >> 20, yardstick.rows.len()));
    let n = pieces.len();
    let mut costs = Vec::with_capacity(n);
    let start = Instant::now();
    for (i, piece) in pieces.into_iter().enumerate() {
        let swapped = Arc::get_mut(&mut subject).context("the model is still in use")?;
        let kept = swap_in(swapped, donor.as_deref(), &piece)?;
        let found = measure(job, &subject, options, &yardstick);
        // Out again, so that the next piece is alone too.
        let swapped = Arc::get_mut(&mut subject).context("the model is still in use")?;
        swap_out(swapped, &piece, kept)?;
        costs.push(found?.cost(piece));
        let (done, seconds) = (i.saturating_add(1), start.elapsed().as_secs_f64());
        if done == 1 || done % 16 == 0 || done == n {
            #[expect(clippy::cast_precision_loss, reason = "for people to read")]
            let minutes = seconds / done as f64 * n.saturating_sub(done) as f64 / 60.0;
            say(&format!("perplexity: {done} of {n} pieces - ETA {minutes:.2} minutes"));
        }
    }
    costs.sort_by(|a, b| b.per_mib().total_cmp(&a.per_mib()));
    say_what_ran(job, &subject, yardstick.targets.len());
    print(job, &subject, &estimate, &costs, donor.is_none())
}

/// Every tensor of which ours is not the base's; Q, K and V of one tensor are one piece.
fn tensors(ours: &Model, base: &Model) -> Result<Vec<Piece>> {
    let (a, b) = (ours.weights().matrices(), base.weights().matrices());
    if a.count() != b.count() || ours.config().architecture != base.config().architecture {
        bail!("{} and {} are not the same network: --blame swaps their tensors", ours.name(), base.name());
    }
    let mut pieces: Vec<Piece> = Vec::new();
    for (place, (a, b)) in ours.weights().matrices().zip(base.weights().matrices()).enumerate() {
        let (view_a, view_b) = (a.view(ours.files())?, b.view(base.files())?);
        let same_rows = || (0..a.rows()).all(|row| view_a.row(row) == view_b.row(row));
        if a.format() == b.format() && a.rows() == b.rows() && a.cols() == b.cols() && same_rows() {
            continue;
        }
        match pieces.last_mut().filter(|last| last.name == a.name()) {
            Some(last) => {
                last.places.push(place);
                last.bytes = last.bytes.saturating_add(a.n_bytes());
                last.bytes_base = last.bytes_base.saturating_add(b.n_bytes());
            }
            None => pieces.push(Piece {
                name: a.name().to_owned(),
                format: a.format().name(),
                places: vec![place],
                bytes: a.n_bytes(),
                bytes_base: b.n_bytes(),
            }),
        }
    }
    Ok(pieces)
}

/// Every input of linear layers, in the order of the model's matrices.
fn inputs(model: &Model) -> Vec<Piece> {
    let weights = model.weights();
    let mut names: Vec<&str> = Vec::new(); // of the first matrix behind each input
    for layer in &weights.layers {
        names.extend([layer.q.weight.name(), layer.attention_output.weight.name()]);
        match &layer.ffn {
            FeedForward::Dense(ffn) => {
                names.extend([ffn.gate.as_ref().unwrap_or(&ffn.up).weight.name(), ffn.down.weight.name()]);
            }
            // Each expert's matrices are measured by themselves.
            FeedForward::Experts(_) => names.extend(layer.ffn.linears().map(|l| l.weight.name())),
        }
    }
    names.push(weights.unembedding().name());
    let looked_up = 1_usize.saturating_add(usize::from(weights.position_embedding.is_some()));
    let mut pieces: Vec<Piece> = Vec::new();
    for (place, matrix) in weights.matrices().enumerate() {
        // The embedding comes first and is a lookup, unless it unembeds too.
        if place < looked_up && matrix.name() != weights.unembedding().name() {
            continue;
        }
        let begins = names.contains(&matrix.name()) && pieces.last().is_none_or(|p| p.name != matrix.name());
        match pieces.last_mut().filter(|_| !begins) {
            Some(last) => {
                last.places.push(place);
                last.bytes = last.bytes.saturating_add(matrix.n_bytes());
                last.bytes_base = last.bytes;
            }
            None => pieces.push(Piece {
                name: matrix.name().to_owned(),
                format: matrix.format().name(),
                places: vec![place],
                bytes: matrix.n_bytes(),
                bytes_base: matrix.n_bytes(),
            }),
        }
    }
    pieces.retain(|piece| piece.format != "F32");
    pieces
}

/// Puts a piece of ours into the base; gives what it replaces.
fn swap_in(base: &mut Model, donor: Option<&Model>, piece: &Piece) -> Result<Vec<WeightMatrix>> {
    let mut kept = Vec::new();
    for &place in &piece.places {
        match donor {
            None => base.set_numerics(place, Some(Numerics::Fast)),
            Some(donor) => {
                let matrix = donor.weights().matrices().nth(place).context("no such matrix")?;
                kept.push(base.replace_matrix(place, matrix.detached(donor.files())?)?);
            }
        }
    }
    Ok(kept)
}

fn swap_out(base: &mut Model, piece: &Piece, kept: Vec<WeightMatrix>) -> Result<()> {
    let mut kept = kept.into_iter();
    for &place in &piece.places {
        match kept.next() {
            Some(matrix) => drop(base.replace_matrix(place, matrix)?),
            None => base.set_numerics(place, None),
        }
    }
    Ok(())
}

/// The base's logits of all scored positions, and its perplexity.
fn measure_base(job: &Job<'_>, base: &Arc<Model>, options: SessionOptions) -> Result<(Yardstick, Estimate)> {
    let mut feed = job.feed(base, options)?;
    let mut kept = Yardstick { rows: Vec::new(), targets: Vec::new() };
    let (mut nll, mut bytes, mut full) = (Vec::new(), 0, false);
    job.for_chunks(base.tokenizer(), |_, chunk| {
        feed.score(chunk, job.plan.first, |pool, logits, targets| {
            bytes = text_bytes(base.tokenizer(), targets, bytes);
            nll.extend(feed::spread(pool, targets.len(), |i| {
                negative_log(logits.row(i), targets.get(i).copied().unwrap_or(u32::MAX))
            }));
            for i in 0..targets.len() {
                let mut row = Vec::new();
                full |= row.try_reserve_exact(logits.cols()).is_err();
                if !full {
                    row.extend_from_slice(logits.row(i));
                    kept.rows.push(row);
                }
            }
            kept.targets.extend_from_slice(targets);
        })
    })?;
    if full {
        bail!("no memory for the logits of {} positions; use fewer --chunks or a smaller -c", nll.len());
    }
    Ok((kept, Estimate::new(&nll, bytes)))
}

/// What was found with one piece replaced.
struct Found {
    divergence: Vec<f64>,
    same_top: usize,
}

impl Found {
    #[expect(clippy::cast_precision_loss, reason = "counts of tokens")]
    fn cost(self, piece: Piece) -> Cost {
        let same_top = self.same_top as f64 / count_of(&self.divergence);
        let (divergence, error) = mean_and_error(self.divergence);
        Cost { piece, divergence, error, same_top }
    }
}

fn measure(
    job: &Job<'_>,
    model: &Arc<Model>,
    options: SessionOptions,
    yardstick: &Yardstick,
) -> Result<Found> {
    let mut feed = job.feed(model, options)?;
    let mut found = Found { divergence: Vec::new(), same_top: 0 };
    for i in 0..job.plan.chunks {
        let chunk = job.chunk(model.tokenizer(), i);
        feed.score(&chunk, job.plan.first, |pool, logits, targets| {
            let done = found.divergence.len();
            let base = |i: usize| yardstick.rows.get(done.saturating_add(i)).map_or(&[][..], Vec::as_slice);
            for new in feed::compare_rows(pool, targets, base, |i| logits.row(i)) {
                found.divergence.push(new.divergence);
                found.same_top = found.same_top.saturating_add(usize::from(new.same_top));
            }
        })?;
    }
    Ok(found)
}

fn print(job: &Job<'_>, base: &Model, estimate: &Estimate, costs: &[Cost], exact: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let total: f64 = costs.iter().map(|c| c.divergence).sum();
    if job.args.json {
        let list: Vec<_> = costs
            .iter()
            .map(|c| {
                json!({
                    "name": c.piece.name, "type": c.piece.format, "bytes": c.piece.bytes,
                    "bytes_base": c.piece.bytes_base, "kl": c.divergence, "kl_error": c.error,
                    "top1_agreement": c.same_top, "kl_per_mib": c.per_mib(),
                })
            })
            .collect();
        let mut json = head(job, base, estimate.scored);
        if let Some(map) = json.as_object_mut() {
            map.insert("ppl_base".to_owned(), estimate.ppl().into());
            map.insert("kl_sum".to_owned(), total.into());
            map.insert("blame".to_owned(), list.into());
        }
        writeln!(out, "{json}")?;
        return Ok(());
    }
    let width = costs.iter().map(|c| c.piece.name.len()).max().unwrap_or(0).max(6);
    let what = if exact { "input of" } else { "tensor" };
    writeln!(out, "{what:<width$}  type   MiB       KL alone              same top   KL per MiB")?;
    for c in costs {
        let (mib, kl, error, per_mib) = (c.piece.mib(), c.divergence, c.error, c.per_mib());
        let top = 100.0 * c.same_top;
        writeln!(
            out,
            "{:<width$}  {:<5} {mib:7.3}  {kl:9.6} ± {error:8.6}  {top:6.2} %  {per_mib:11.6}",
            c.piece.name, c.piece.format
        )?;
    }
    let per = if exact { "MiB of weights that read it" } else { "MiB saved against the base" };
    writeln!(out, "\nsum of KL alone {total:.6}, PPL(base) {:.4}; KL per {per}", estimate.ppl())?;
    Ok(())
}
