//! Dense products as defined.

use super::matmul::Sum;

/// `sum_k a[i, k] b[k, j]` of an `m x k` and a `k x n` matrix, rows of C one after another.
pub fn product(a: &[f64], b: &[f64], [m, k, n]: [usize; 3]) -> Vec<Sum> {
    let mut c = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let mut sum = Sum { value: 0.0, magnitude: 0.0 };
            for l in 0..k {
                let term = a[i * k + l] * b[l * n + j];
                sum.value += term;
                sum.magnitude += term.abs();
            }
            c.push(sum);
        }
    }
    c
}
