//! Many threads against one: the bits must be the same.

use crate::bench::random_weights;
use crate::statistics::Random;
use gable_kernels::attention::{
    Arithmetic, AttentionInput, AttentionParams, AttentionScratch, CacheRow, CacheShape, CacheType, KvCache,
    Mask,
};
use gable_kernels::gemm::{Epilogue, Phase};
use gable_kernels::quant::{Activations, Format, Forms, QuantWeights};
use gable_kernels::selfcheck::Outcome;
use gable_kernels::{KernelError, Kernels, MatMut, MatRef, Pool, Team};

/// Compares all of an instruction set's kernels that are spread over threads.
pub fn compare(kernels: Kernels, threads: usize) -> Outcome {
    let mut outcome =
        Outcome { isa: kernels.isa(), kernel: "many threads", cases: 0, worst: 0.0, failure: None };
    let pool = Pool::new(threads);
    let mut both = |what: &str, run: &mut dyn FnMut(&Team<'_>) -> Result<Vec<f32>, KernelError>| {
        let (one, many) = (run(&Team::serial()), pool.enter(|team| run(team)));
        let wrong = match (one, many) {
            (Ok(one), Ok(many)) => {
                outcome.cases = outcome.cases.saturating_add(one.len());
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                (bits(&one) != bits(&many)).then(|| format!("{what}: other bits with {threads} threads"))
            }
            (Err(error), _) | (_, Err(error)) => Some(format!("{what}: {error}")),
        };
        outcome.failure = outcome.failure.take().or(wrong);
    };
    for format in Format::ALL {
        for phase in [Phase::Prompt, Phase::Decode] {
            both(&format!("matmul {format} {phase:?}"), &mut |team| matmul(kernels, team, phase, format));
        }
    }
    both("rms_norm", &mut |team| rms_norm(kernels, team));
    both("softmax", &mut |team| softmax(kernels, team));
    for cache_type in [CacheType::F32, CacheType::F16, CacheType::Bf16, CacheType::Q8_0] {
        both(&format!("attention {cache_type:?}"), &mut |team| attention(kernels, team, cache_type));
    }
    outcome
}

/// Values from -1 to 1.
fn floats(n: usize, random: &mut Random) -> Vec<f32> {
    (0..n).map(|_| f32::from(u16::try_from(random.below(65_536)).unwrap_or(0)) / 32_768.0 - 1.0).collect()
}

fn matmul(kernels: Kernels, team: &Team<'_>, phase: Phase, format: Format) -> Result<Vec<f32>, KernelError> {
    const ROWS: usize = 7;
    const OUTPUTS: usize = 401;
    const K: usize = 512;
    let random = &mut Random::new();
    let row_bytes = format.row_bytes(K).unwrap_or(0);
    let bytes = random_weights(format, false, row_bytes.saturating_mul(OUTPUTS), random);
    let weights = QuantWeights::from_bytes(format, OUTPUTS, K, row_bytes, &bytes)?;
    let mut x = Activations::new(ROWS, K, Forms::fast(format));
    let mut rows = x.begin(ROWS, K)?;
    for i in 0..ROWS {
        rows.row_mut(i).copy_from_slice(&floats(K, random));
    }
    kernels.prepare(team, &mut x, Forms::fast(format))?;
    let mut out = vec![0.0; ROWS * OUTPUTS];
    kernels.matmul(team, phase, &x, &weights, Epilogue::default(), MatMut::from_rows(&mut out, OUTPUTS))?;
    Ok(out)
}

fn rms_norm(kernels: Kernels, team: &Team<'_>) -> Result<Vec<f32>, KernelError> {
    const COLS: usize = 576;
    let random = &mut Random::new();
    let (x, weight) = (floats(33 * COLS, random), floats(COLS, random));
    let mut out = vec![0.0; x.len()];
    let view = MatMut::from_rows(&mut out, COLS);
    kernels.rms_norm(team, MatRef::from_rows(&x, COLS), &weight, 1e-5, view)?;
    Ok(out)
}

fn softmax(kernels: Kernels, team: &Team<'_>) -> Result<Vec<f32>, KernelError> {
    const COLS: usize = 1001;
    let mut x = floats(33 * COLS, &mut Random::new());
    kernels.softmax(team, 8.0, None, MatMut::from_rows(&mut x, COLS))?;
    Ok(x)
}

fn attention(kernels: Kernels, team: &Team<'_>, cache_type: CacheType) -> Result<Vec<f32>, KernelError> {
    const POSITIONS: usize = 300;
    const ROWS: usize = 21;
    const HEADS: usize = 6;
    const HEAD_DIM: usize = 64;
    const WIDTH: usize = HEADS * HEAD_DIM;
    let mut shape = CacheShape {
        n_layers: 1,
        n_kv_heads: 2,
        head_dim: HEAD_DIM,
        cache_type,
        max_positions: POSITIONS,
        max_sequences: 1,
        max_pages: 0,
    };
    shape.max_pages = shape.pages_for_all();
    let mut cache = KvCache::new(shape)?;
    let sequence = cache.new_sequence()?;
    let row = |position| CacheRow { sequence, position };
    let random = &mut Random::new();
    let [keys, values] = [0, 1].map(|_| floats(POSITIONS * 2 * HEAD_DIM, random));
    let all: Vec<CacheRow> = (0..POSITIONS).map(row).collect();
    let view = |values| MatRef::from_rows(values, 2 * HEAD_DIM);
    kernels.append(team, &mut cache, 0, &all, view(&keys), view(&values))?;
    let q = floats(ROWS * WIDTH, random);
    let rows: Vec<CacheRow> = (POSITIONS - ROWS..POSITIONS).map(row).collect();
    let params = AttentionParams {
        n_heads: HEADS,
        scale: 0.125,
        soft_cap: None,
        mask: Mask::Causal,
        arithmetic: Arithmetic::fastest(kernels),
    };
    let input =
        AttentionInput { q: MatRef::from_rows(&q, WIDTH), cache: &cache, layer: 0, rows: &rows, bias: None };
    let mut out = vec![0.0; q.len()];
    let (view, mut scratch) = (MatMut::from_rows(&mut out, WIDTH), AttentionScratch::new());
    kernels.attention(team, input, &params, view, &mut scratch, None)?;
    Ok(out)
}
