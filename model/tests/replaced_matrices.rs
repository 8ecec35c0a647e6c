//! A model whose matrices were exchanged one by one, or given numbers of their own.

mod common;

use common::{cached, pool};
use gable_kernels::Kernels;
use gable_kernels::attention::{Arithmetic, CacheType};
use gable_kernels::gemm::Phase;
use gable_model::forward::Numerics;
use gable_model::model::{Model, OpenOptions};
use gable_model::session::{Session, SessionOptions};
use std::sync::Arc;

const TOKENS: [u32; 6] = [504, 3575, 282, 4649, 314, 28];

fn open() -> Model {
    Model::open(&cached("smollm2"), &OpenOptions::default()).unwrap()
}

/// The best instruction set whose attention computes in f32, so that with an f32 cache numerics differ in the matmuls
/// alone.
fn kernels() -> Kernels {
    Kernels::every_available().find(|k| Arithmetic::fastest(*k) == Arithmetic::F32).unwrap()
}

/// Logits after the tokens.
fn logits(model: &Arc<Model>, numerics: Numerics) -> Vec<u32> {
    let mut options = SessionOptions::new(kernels(), TOKENS.len());
    (options.numerics, options.cache_type) = (numerics, Some(CacheType::F32));
    let mut session = Session::new(Arc::clone(model), pool(), options).unwrap();
    let rows = session.observe(Phase::Prompt, &TOKENS, |i| i + 1 == TOKENS.len(), &mut ()).unwrap();
    rows.row(0).iter().map(|x| x.to_bits()).collect()
}

#[test]
fn matrices_with_exact_numerics_make_a_fast_session_exact_and_can_be_set_back() {
    let mut model = Arc::new(open());
    let (fast, exact) = (logits(&model, Numerics::Fast), logits(&model, Numerics::Exact));
    assert_ne!(fast, exact);
    let count = model.weights().matrices().count();
    let set = |model: &mut Arc<Model>, numerics| {
        (0..count).for_each(|i| Arc::get_mut(model).unwrap().set_numerics(i, numerics));
    };
    set(&mut model, Some(Numerics::Exact));
    assert_eq!(logits(&model, Numerics::Fast), exact);
    set(&mut model, Some(Numerics::Fast));
    assert_eq!(logits(&model, Numerics::Exact), fast);
    set(&mut model, None);
    assert_eq!(logits(&model, Numerics::Fast), fast);
    // One alone makes a difference.
    let last = model.weights().matrices().position(|m| m.name() == "blk.29.ffn_down.weight").unwrap();
    Arc::get_mut(&mut model).unwrap().set_numerics(last, Some(Numerics::Exact));
    assert_ne!(logits(&model, Numerics::Fast), fast);
}

#[test]
fn a_copy_in_memory_takes_the_place_of_the_mapped_matrix_and_another_of_its_shape_changes_the_result() {
    let mut model = Arc::new(open());
    let before = logits(&model, Numerics::Fast);
    let place = |name: &str| model.weights().matrices().position(|m| m.name() == name).unwrap();
    let (up, gate) = (place("blk.0.ffn_up.weight"), place("blk.0.ffn_gate.weight"));
    let copy =
        |model: &Model, i: usize| model.weights().matrices().nth(i).unwrap().detached(model.files()).unwrap();
    let (own, other) = (copy(&model, up), copy(&model, gate));
    let kept = Arc::get_mut(&mut model).unwrap().replace_matrix(up, own).unwrap();
    assert_eq!(kept.name(), "blk.0.ffn_up.weight");
    assert_eq!(logits(&model, Numerics::Fast), before);
    Arc::get_mut(&mut model).unwrap().replace_matrix(up, other).unwrap();
    assert_ne!(logits(&model, Numerics::Fast), before);
    Arc::get_mut(&mut model).unwrap().replace_matrix(up, kept).unwrap();
    assert_eq!(logits(&model, Numerics::Fast), before);
}

#[test]
fn a_matrix_of_another_shape_or_for_no_place_is_refused_by_name() {
    let mut model = open();
    let place = model.weights().matrices().position(|m| m.name() == "blk.0.attn_q.weight").unwrap();
    let down = || {
        let found = model.weights().matrices().find(|m| m.name() == "blk.0.ffn_down.weight");
        found.unwrap().detached(model.files()).unwrap()
    };
    let (first, second) = (down(), down());
    let error = model.replace_matrix(place, first).unwrap_err().to_string();
    for word in ["blk.0.ffn_down.weight", "576 x 1536", "576 x 576", "blk.0.attn_q.weight"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(model.replace_matrix(1000, second).unwrap_err().to_string().contains("no matrix 1000"));
}
