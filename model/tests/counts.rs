//! What a pass does, counted: whatever the machine is busy with, these numbers are the same.

mod common;

use common::{model, session};
use gable_kernels::Kernels;
use gable_kernels::gemm::Phase;
use gable_model::forward::Numerics;
use gable_model::observer::Operation;
use gable_model::session::Session;
use std::collections::BTreeMap;

/// How often each operation of the last pass was done in one layer, the same in all, and outside of layers.
fn operations(session: &Session) -> (Vec<(Operation, usize)>, Vec<Operation>) {
    let n_layers = session.model().config().n_layers;
    let pass = session.timeline().unwrap().passes().last().unwrap();
    let outside = [Operation::Enter, Operation::Begin, Operation::Embed, Operation::Unembed];
    let (mut layers, mut others) = (vec![BTreeMap::new(); n_layers], Vec::new());
    for span in &pass.spans {
        match outside.contains(&span.operation) || span.layer == n_layers {
            true => others.push(span.operation),
            false => *layers[span.layer].entry(span.operation).or_insert(0) += 1,
        }
    }
    assert!(layers.iter().all(|layer| *layer == layers[0]), "{layers:?}");
    (layers.remove(0).into_iter().collect(), others)
}

#[test]
fn a_pass_does_as_many_operations_as_ever_and_reads_each_weight_once() {
    use Operation::*;
    let outside = [Enter, Begin, Embed, Norm, Unembed];
    let dense = [Norm, Qkv, Append, Attention, Prepare, AttentionOutput, Norm, GateUp, Prepare, Down];
    for name in ["smollm2", "gemma3"] {
        let model = model(name);
        let mut session = session(&model, Kernels::best(), Numerics::Fast, 64, 1);
        session.start_timeline();
        let more: &[Operation] = if name == "gemma3" { &[PostNorm, PostNorm] } else { &[] };
        let mut expected = BTreeMap::new();
        dense.iter().chain(more).for_each(|operation| *expected.entry(*operation).or_insert(0) += 1);
        let expected: Vec<_> = expected.into_iter().collect();
        let tokens: Vec<u32> = (400..416).collect();
        for (phase, rows) in [(Phase::Prompt, &tokens[..]), (Phase::Decode, &tokens[..1])] {
            let before = session.calls();
            session.observe(phase, rows, |i| i + 1 == rows.len(), &mut ()).unwrap();
            let after = session.calls();
            assert_eq!((after.passes - before.passes, after.logits - before.logits), (1, 1), "{name}");
            let read = usize::try_from(after.weight_bytes - before.weight_bytes).unwrap();
            assert_eq!(read, model.bytes_per_token(), "{name} {phase:?}");
            let (layer, others) = operations(&session);
            assert_eq!((layer, &others[..]), (expected.clone(), &outside[..]), "{name} {phase:?}");
        }
    }
}
