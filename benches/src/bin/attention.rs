//! Attention for benches/peers/attention.py: answers `CACHE PRODUCTS HEADS KV_HEADS HEAD_DIM DEPTH ROWS WINDOW DISTINCT` with the
//! seconds of one run. CACHE is f32, f16, bf16 or q8_0, PRODUCTS f32 or bf16; WINDOW is 0 for none; DISTINCT bytes of
//! layers are taken in turn, or one layer for 0. The same behind `error` is answered with the error of the last row.

use gable_benches::attention::Problem;
use gable_benches::options::Options;
use gable_benches::serve::{numbers, serve_with};
use gable_kernels::attention::{Arithmetic, CacheType};

fn main() {
    let options = Options::of_program();
    serve_with(
        &options,
        |words| {
            let (problem, distinct) = problem(words)?;
            problem.candidate(distinct, &options).map_err(|e| e.to_string())
        },
        |words| {
            let ["error", words @ ..] = words else { return None };
            let error = problem(words).and_then(|(p, _)| p.error(&options).map_err(|e| e.to_string()));
            Some(error.map_or_else(|e| format!("error: {e}"), |e| format!("{e:e}")))
        },
    );
}

fn problem(words: &[&str]) -> Result<(Problem, usize), String> {
    let [cache, products, rest @ ..] = words else {
        return Err("wanted: CACHE PRODUCTS and 7 numbers".to_owned());
    };
    let [n_heads, n_kv_heads, head_dim, depth, rows, window, distinct] = numbers(rest)?;
    if rows > depth {
        return Err(format!("{rows} rows at a depth of {depth}"));
    }
    let types = [CacheType::F32, CacheType::F16, CacheType::Bf16, CacheType::Q8_0];
    let cache_type =
        types.into_iter().find(|t| t.name() == *cache).ok_or(format!("{cache}: no such cache"))?;
    let arithmetic = match *products {
        "f32" => Arithmetic::F32,
        "bf16" => Arithmetic::Bf16,
        other => return Err(format!("{other}: neither f32 nor bf16")),
    };
    let window = Some(window).filter(|window| *window > 0);
    let problem = Problem { n_heads, n_kv_heads, head_dim, depth, rows, window, cache_type, arithmetic };
    Ok((problem, distinct))
}
