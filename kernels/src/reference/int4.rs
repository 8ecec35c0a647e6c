//! Group-wise int4 layouts, as the programs that write them define them: to `[N, K]`, row by row.

/// The eight nibbles of a word, the lowest first.
fn nibbles(word: i32) -> [f64; 8] {
    let mut rest = word.cast_unsigned();
    [(); 8].map(|()| {
        let nibble = f64::from(rest % 16);
        rest /= 16;
        nibble
    })
}

/// A matrix of words along its rows as integers, eight for each word in the order of `columns`.
fn unpacked(words: &[i32], rows: usize, columns: [usize; 8]) -> Vec<Vec<f64>> {
    let mut out = Vec::new();
    for row in words.chunks(words.len().div_ceil(rows.max(1)).max(1)) {
        let mut integers = vec![0.0; 8 * row.len()];
        for (i, word) in row.iter().enumerate() {
            for (column, nibble) in columns.into_iter().zip(nibbles(*word)) {
                integers[8 * i + column] = nibble;
            }
        }
        out.push(integers);
    }
    out
}

/// `scales (q - zeros)` of q `[K, N]`, the others `[K / group, N]`; as `[N, K]`.
fn dequantized(q: &[Vec<f64>], zeros: &[Vec<f64>], scales: &[f64], group: usize) -> Vec<f64> {
    let n = q.first().map_or(0, Vec::len);
    let mut out = Vec::new();
    for j in 0..n {
        for (i, q) in q.iter().enumerate() {
            out.push(scales[i / group * n + j] * (q[j] - zeros[i / group][j]));
        }
    }
    out
}

/// AWQ: `qweight` of `k` rows, `qzeros` of `k / group`.
pub fn awq(qweight: &[i32], qzeros: &[i32], scales: &[f64], k: usize, group: usize) -> Vec<f64> {
    const COLUMNS: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let q = unpacked(qweight, k, COLUMNS);
    dequantized(&q, &unpacked(qzeros, k.div_ceil(group), COLUMNS), scales, group)
}

/// GPTQ, whose zero points have `less` taken off (1, or 0 in its second version).
pub fn gptq(qweight: &[i32], qzeros: &[i32], less: f64, scales: &[f64], k: usize, group: usize) -> Vec<f64> {
    const COLUMNS: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
    let mut q = Vec::new();
    for words in qweight.chunks((qweight.len() / (k / 8).max(1)).max(1)) {
        let columns: Vec<[f64; 8]> = words.iter().map(|word| nibbles(*word)).collect();
        q.extend((0..8).map(|i| columns.iter().map(|column| column[i]).collect::<Vec<_>>()));
    }
    let mut zeros = unpacked(qzeros, k.div_ceil(group), COLUMNS);
    zeros.iter_mut().flatten().for_each(|zero| *zero += less);
    dequantized(&q, &zeros, scales, group)
}

/// MatMulNBits: `b` of `n` rows.
pub fn matmul_nbits(
    b: &[u8],
    scales: &[f64],
    zero_points: Option<&[u8]>,
    [n, k, group]: [usize; 3],
) -> Vec<f64> {
    let groups = k.div_ceil(group);
    let both = |byte: &u8| [f64::from(byte % 16), f64::from(byte / 16)];
    let mut out = Vec::new();
    for j in 0..n {
        let q: Vec<f64> = b[j * groups * group / 2..][..groups * group / 2].iter().flat_map(both).collect();
        let bytes = groups.div_ceil(2);
        let zeros: Vec<f64> = match zero_points {
            Some(zeros) => zeros[j * bytes..][..bytes].iter().flat_map(both).collect(),
            None => vec![8.0; groups],
        };
        for i in 0..k {
            out.push(scales[j * groups + i / group] * (q[i] - zeros[i / group]));
        }
    }
    out
}
