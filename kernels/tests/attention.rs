//! Attention and its cache, on every instruction set of this machine, against the naive reference.

mod common;

use gable_kernels::attention::{
    Arithmetic, AttentionInput, AttentionParams, AttentionScratch, AttentionTap, CacheRow, CacheShape,
    CacheType, HeadSteps, KvCache, Mask, SequenceId,
};
use gable_kernels::reference::attention::{AttentionRow, attention_row, int8_groups};
use gable_kernels::rope::{Rope, RopeAngles, RopePairing, RopeScaling};
use gable_kernels::{KernelError, Kernels, MatMut, MatRef, ParallelFor, Pool, Team};
use half::{bf16, f16};
use proptest::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number in (-1, 1) that depends on nothing but its arguments.
fn noise(kind: u64, sequence: u64, position: usize, column: usize) -> f32 {
    let mut x = kind ^ (sequence << 8) ^ ((position as u64) << 20) ^ ((column as u64) << 44);
    for _ in 0..3 {
        x = (x ^ (x >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x7f4a_7c15);
    }
    (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn q_row(sequence: u64, position: usize, cols: usize) -> Vec<f32> {
    (0..cols).map(|c| 3.0 * noise(1, sequence, position, c)).collect()
}
fn k_row(sequence: u64, position: usize, cols: usize) -> Vec<f32> {
    (0..cols).map(|c| 2.0 * noise(2, sequence, position, c)).collect()
}
fn v_row(sequence: u64, position: usize, cols: usize) -> Vec<f32> {
    (0..cols).map(|c| noise(3, sequence, position, c)).collect()
}

/// A cache and what its sequences are made of.
struct World {
    kernels: Kernels,
    cache: KvCache,
    params: AttentionParams,
    scratch: AttentionScratch,
    /// Added to the scores: a row per position, or one for all, or nothing.
    bias: Vec<Vec<f32>>,
}

/// Cache types with the arithmetic that they are used with.
const KINDS: [(CacheType, Arithmetic); 7] = [
    (CacheType::F32, Arithmetic::F32),
    (CacheType::F16, Arithmetic::F32),
    (CacheType::Bf16, Arithmetic::Bf16),
    (CacheType::F16, Arithmetic::Bf16),
    (CacheType::Bf16, Arithmetic::F32),
    (CacheType::Q8_0, Arithmetic::F32),
    (CacheType::F32, Arithmetic::Bf16),
];

fn shape(n_kv_heads: usize, head_dim: usize, cache_type: CacheType) -> CacheShape {
    let shape = CacheShape {
        n_layers: 2,
        n_kv_heads,
        head_dim,
        cache_type,
        max_positions: 1200,
        max_sequences: 4,
        max_pages: 0,
    };
    CacheShape { max_pages: shape.pages_for_all(), ..shape }
}

fn params(n_heads: usize, head_dim: usize, mask: Mask) -> AttentionParams {
    AttentionParams {
        n_heads,
        scale: 1.0 / (head_dim as f32).sqrt(),
        soft_cap: None,
        mask,
        arithmetic: Arithmetic::F32,
    }
}

/// The matrix `rows`, as a strip in the middle of wider rows of NaN.
fn embedded(rows: &[Vec<f32>], cols: usize) -> Vec<f32> {
    let mut data = vec![f32::NAN; (rows.len() + 1) * (cols + 7)];
    for (i, row) in rows.iter().enumerate() {
        data[i * (cols + 7) + 3..][..cols].copy_from_slice(row);
    }
    data
}

/// The strip that [`embedded`] filled.
fn strip(data: &[f32], rows: usize, cols: usize) -> MatRef<'_> {
    MatRef::new(data, rows, cols + 7, cols + 7).unwrap().columns(3..cols + 3)
}

impl World {
    fn new(kernels: Kernels, shape: CacheShape, params: AttentionParams) -> Self {
        let (cache, scratch) = (KvCache::new(shape).unwrap(), AttentionScratch::new());
        World { kernels, cache, params, scratch, bias: vec![] }
    }

    fn kv_cols(&self) -> usize {
        self.cache.shape().n_kv_heads * self.cache.shape().head_dim
    }

    /// Appends the positions of several sequences in one call, to the last layer.
    fn append(
        &mut self,
        team: &Team<'_>,
        what: &[(SequenceId, u64, Range<usize>)],
    ) -> Result<(), KernelError> {
        let cols = self.kv_cols();
        let (mut rows, mut k, mut v) = (vec![], vec![], vec![]);
        for (sequence, seed, positions) in what {
            for position in positions.clone() {
                rows.push(CacheRow { sequence: *sequence, position });
                k.push(k_row(*seed, position, cols));
                v.push(v_row(*seed, position, cols));
            }
        }
        self.append_rows(team, &rows, &k, &v)
    }

    fn append_rows(
        &mut self,
        team: &Team<'_>,
        rows: &[CacheRow],
        k: &[Vec<f32>],
        v: &[Vec<f32>],
    ) -> Result<(), KernelError> {
        let cols = self.kv_cols();
        let (k, v) = (embedded(k, cols), embedded(v, cols));
        let (n, layer) = (rows.len(), self.cache.shape().n_layers - 1);
        self.kernels.append(team, &mut self.cache, layer, rows, strip(&k, n, cols), strip(&v, n, cols))
    }

    /// Attention of some positions; one vector per row.
    fn attend(&mut self, team: &Team<'_>, what: &[(SequenceId, u64, Range<usize>)]) -> Vec<Vec<f32>> {
        self.attend_tapped(team, what, None)
    }

    fn attend_tapped(
        &mut self,
        team: &Team<'_>,
        what: &[(SequenceId, u64, Range<usize>)],
        tap: Option<&mut AttentionTap<'_>>,
    ) -> Vec<Vec<f32>> {
        let cols = self.params.n_heads * self.cache.shape().head_dim;
        let (mut rows, mut q) = (vec![], vec![]);
        for (sequence, seed, positions) in what {
            for position in positions.clone() {
                rows.push(CacheRow { sequence: *sequence, position });
                q.push(q_row(*seed, position, cols));
            }
        }
        self.attend_rows(team, &rows, &q, tap).unwrap()
    }

    fn attend_rows(
        &mut self,
        team: &Team<'_>,
        rows: &[CacheRow],
        q: &[Vec<f32>],
        tap: Option<&mut AttentionTap<'_>>,
    ) -> Result<Vec<Vec<f32>>, KernelError> {
        let cols = self.params.n_heads * self.cache.shape().head_dim;
        let n = rows.len();
        let q = embedded(q, cols);
        const CANARY: f32 = 1234.5;
        let mut out = vec![CANARY; (n + 1) * (cols + 7)];
        let mut wide = MatMut::new(&mut out, n, cols + 7, cols + 7)?;
        let bias_cols = self.bias.first().map_or(0, Vec::len);
        let of = |row: &CacheRow| &self.bias[if self.bias.len() == 1 { 0 } else { row.position }];
        let bias: Vec<f32> = match self.bias.len() {
            0 | 1 => self.bias.concat(),
            _ => rows.iter().flat_map(of).copied().collect(),
        };
        let input = AttentionInput {
            q: strip(&q, n, cols),
            cache: &self.cache,
            layer: self.cache.shape().n_layers - 1,
            rows,
            bias: (bias_cols > 0).then(|| MatRef::from_rows(&bias, bias_cols)),
        };
        let view = wide.columns(3..cols + 3);
        self.kernels.attention(team, input, &self.params, view, &mut self.scratch, tap)?;
        let inside = |i: usize| i / (cols + 7) < n && (3..cols + 3).contains(&(i % (cols + 7)));
        assert!(out.iter().enumerate().all(|(i, x)| inside(i) || *x == CANARY), "stray write");
        Ok((0..n).map(|i| out[i * (cols + 7) + 3..][..cols].to_vec()).collect())
    }

    /// What the reference says about head `head` of a position in a sequence of `len` positions.
    fn expected(&self, seed: u64, position: usize, len: usize, head: usize) -> AttentionRow {
        let CacheShape { n_kv_heads, head_dim, cache_type, .. } = *self.cache.shape();
        let kv_head = head / (self.params.n_heads / n_kv_heads);
        let bf16 = |x: f32| bf16::from_f32(x).to_f32();
        let multiplied = |x: f32| if self.params.arithmetic == Arithmetic::Bf16 { bf16(x) } else { x };
        let held = |x: f32| match cache_type {
            CacheType::F16 => f16::from_f32(x).to_f32(),
            CacheType::Bf16 => bf16(x),
            _ => x,
        };
        let part = |row: Vec<f32>| -> Vec<f32> {
            let head = &row[kv_head * head_dim..][..head_dim];
            if cache_type == CacheType::Q8_0 {
                return int8_groups(head, |scale| f16::from_f32(scale).to_f32());
            }
            head.iter().map(|x| multiplied(held(*x))).collect()
        };
        let keys: Vec<_> = (0..len).map(|j| part(k_row(seed, j, self.kv_cols()))).collect();
        let values: Vec<_> = (0..len).map(|j| part(v_row(seed, j, self.kv_cols()))).collect();
        let q: Vec<f32> =
            q_row(seed, position, self.params.n_heads * head_dim).into_iter().map(multiplied).collect();
        let visible = match self.params.mask {
            Mask::Window(n) => (position + 1).saturating_sub(n)..position + 1,
            Mask::Bidirectional => 0..len,
            _ => 0..position + 1,
        };
        let mut q = q[head * head_dim..][..head_dim].to_vec();
        if cache_type == CacheType::Q8_0 {
            q = int8_groups(&q, |scale| scale);
        }
        let bias = match self.bias.len() {
            0 => &[][..],
            1 => &self.bias[0],
            _ => &self.bias[position],
        };
        attention_row(&q, &keys, &values, visible, self.params.scale, self.params.soft_cap, bias)
    }

    fn check_row(&self, got: &[f32], seed: u64, position: usize, len: usize) {
        let arithmetic = self.params.arithmetic;
        let [append, chunk, pack] = match self.cache.shape().cache_type {
            CacheType::F16 => ["cache_rows_f16", "attention_chunk_f16", "pack_page_f16"],
            CacheType::Bf16 => ["cache_rows_bf16", "attention_chunk_bf16", "pack_page_bf16"],
            CacheType::Q8_0 => ["cache_rows_q8", "attention_chunk_q8", "attention_chunk_q8"],
            _ => ["cache_rows_f32", "attention_chunk_f32", "pack_page_f32"],
        };
        let products = if arithmetic == Arithmetic::F32 { [chunk, chunk] } else { [pack, "attention_page"] };
        for leaf in [append, "attention_merge", "attention_finish"].into_iter().chain(products) {
            common::ran(leaf, self.kernels.isa(), 1);
        }
        let rounding = if arithmetic == Arithmetic::Bf16 { 2.0_f64.powi(-8) } else { 0.0 };
        let head_dim = self.cache.shape().head_dim;
        for head in 0..self.params.n_heads {
            let want = self.expected(seed, position, len, head);
            let n_keys = want.weights.iter().filter(|w| **w > 0.0).count();
            for d in 0..head_dim {
                let relative = 8.0 * (1 + n_keys) as f64 * f64::from(f32::EPSILON) + rounding;
                let bound = relative * want.magnitude[d] + 1e-37;
                let error = (f64::from(got[head * head_dim + d]) - want.out[d]).abs();
                assert!(
                    error <= bound,
                    "{}: position {position} head {head} d {d}: {} but {}, error {error:e} > {bound:e}",
                    self.kernels.isa(),
                    got[head * head_dim + d],
                    want.out[d]
                );
            }
        }
    }
}

fn same_bits(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    let bits = |rows: &[Vec<f32>]| rows.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
    bits(a) == bits(b)
}

#[test]
fn attention_matches_the_reference_around_page_edges() {
    for kernels in Kernels::every_available() {
        for (head_dim, n_kv_heads, group) in
            [(32, 2, 1), (64, 3, 3), (80, 1, 4), (128, 1, 6), (256, 1, 8), (40, 2, 2), (64, 1, 30)]
        {
            for (cache_type, arithmetic) in KINDS {
                let n_heads = n_kv_heads * group;
                let params = AttentionParams { arithmetic, ..params(n_heads, head_dim, Mask::Causal) };
                let mut world = World::new(kernels, shape(n_kv_heads, head_dim, cache_type), params);
                let s = world.cache.new_sequence().unwrap();
                let mut done = 0;
                for len in [1, 63, 64, 65, 129] {
                    world.append(&Team::serial(), &[(s, 5, done..len)]).unwrap();
                    let got = world.attend(&Team::serial(), &[(s, 5, done..len)]);
                    world.check_row(&got[0], 5, done, len);
                    world.check_row(&got[len - done - 1], 5, len - 1, len);
                    done = len;
                }
            }
        }
    }
}

#[test]
fn attention_matches_the_reference_over_several_chunks() {
    for kernels in Kernels::every_available() {
        for (mask, soft_cap, (cache_type, arithmetic)) in [
            (Mask::Causal, None, KINDS[0]),
            (Mask::Window(200), Some(20.0), KINDS[0]),
            (Mask::Bidirectional, None, KINDS[0]),
            (Mask::Causal, None, KINDS[2]),
            (Mask::Window(600), Some(20.0), KINDS[3]),
            (Mask::Causal, None, KINDS[5]),
        ] {
            let params = AttentionParams { soft_cap, arithmetic, ..params(6, 64, mask) };
            let mut world = World::new(kernels, shape(2, 64, cache_type), params);
            let s = world.cache.new_sequence().unwrap();
            world.append(&Team::serial(), &[(s, 9, 0..1030)]).unwrap();
            let got = world.attend(&Team::serial(), &[(s, 9, 1000..1030)]);
            for i in [0, 23, 24, 29] {
                world.check_row(&got[i], 9, 1000 + i, 1030);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn attention_is_within_its_bound(
        head_dim in (1usize..=32).prop_map(|n| 8 * n),
        (n_kv_heads, group) in prop::sample::select(vec![(1usize, 1usize), (2, 3), (1, 4), (1, 6), (1, 8), (3, 1), (1, 25)]),
        lens in prop::collection::vec(1usize..150, 1..4),
        window in prop::option::of(1usize..100),
        bidirectional in prop::bool::weighted(0.2),
        soft_cap in prop::option::of(0.5f32..50.0),
        (cache_type, arithmetic) in prop::sample::select(KINDS.to_vec()),
        biased in 0usize..3,
        newest in 1usize..40,
        seed in 0u64..200,
    ) {
        let mask = match (window, bidirectional) {
            (_, true) => Mask::Bidirectional,
            (Some(n), _) => Mask::Window(n),
            _ => Mask::Causal,
        };
        for kernels in Kernels::every_available() {
            let params = AttentionParams { soft_cap, arithmetic, ..params(n_kv_heads * group, head_dim, mask) };
            let mut world = World::new(kernels, shape(n_kv_heads, head_dim, cache_type), params);
            // Nothing, one row for all positions, one for each; a column more than any row sees.
            let bias = |row: usize| (0..151).map(|j| 4.0 * noise(4, seed, row, j)).collect();
            world.bias = (0..[0, 1, 150][biased]).map(bias).collect();
            let mut what = vec![];
            for (i, len) in lens.iter().enumerate() {
                let s = world.cache.new_sequence().unwrap();
                world.append(&Team::serial(), &[(s, seed + i as u64, 0..*len)]).unwrap();
                what.push((s, seed + i as u64, len.saturating_sub(newest)..*len));
            }
            let got = world.attend(&Team::serial(), &what);
            let mut row = 0;
            for ((_, seed, positions), len) in what.iter().zip(&lens) {
                for position in positions.clone() {
                    if position == positions.start || position == len - 1 {
                        world.check_row(&got[row], *seed, position, *len);
                    }
                    row += 1;
                }
            }
        }
    }
}

/// Runs parts backwards on one thread, and claims to be several.
struct Backwards;
impl ParallelFor for Backwards {
    fn threads(&self) -> usize {
        3
    }
    fn parallel_for(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
        (0..parts).rev().for_each(f);
    }
}

#[test]
fn bits_depend_neither_on_threads_nor_on_how_a_prompt_is_cut() {
    const LEN: usize = 1100;
    for kernels in Kernels::every_available() {
        for ((cache_type, arithmetic), mask, soft_cap) in [
            (KINDS[0], Mask::Causal, None),
            (KINDS[1], Mask::Window(70), Some(30.0)),
            (KINDS[2], Mask::Causal, None),
            (KINDS[3], Mask::Window(71), None),
            (KINDS[5], Mask::Window(1050), None),
        ] {
            let params = AttentionParams { soft_cap, arithmetic, ..params(6, 80, mask) };
            // Both with and without the wide prompts' first thousand rows the same last rows must come out.
            let check = 1000..LEN;
            let shape = CacheShape { n_layers: 1, ..shape(2, 80, cache_type) };
            let mut whole = World::new(kernels, shape, params);
            let s = whole.cache.new_sequence().unwrap();
            whole.append(&Team::serial(), &[(s, 3, 0..LEN)]).unwrap();
            let want = whole.attend(&Team::serial(), &[(s, 3, 0..LEN)])[check.clone()].to_vec();

            for threads in [1, 2, 3, 7] {
                Pool::new(threads).enter(|team| {
                    let mut world = World::new(kernels, shape, params);
                    let s = world.cache.new_sequence().unwrap();
                    world.append(team, &[(s, 3, 0..LEN)]).unwrap();
                    assert!(
                        same_bits(&want, &world.attend(team, &[(s, 3, check.clone())])),
                        "{threads} threads"
                    );
                    for i in [1000, 1023, 1024, 1087, 1088, 1099] {
                        let one = world.attend(team, &[(s, 3, i..i + 1)]);
                        assert!(
                            same_bits(&one, &want[i - 1000..=i - 1000]),
                            "row {i} alone, {threads} threads"
                        );
                    }
                });
            }
            let team = Team::host(&Backwards);
            assert!(same_bits(&want[90..], &whole.attend(&team, &[(s, 3, 1090..LEN)])), "a host's threads");

            // Token by token and in uneven pieces, keys of later positions not yet there.
            for step in [1, 37] {
                let mut world = World::new(kernels, shape, params);
                let s = world.cache.new_sequence().unwrap();
                world.append(&team, &[(s, 3, 0..1000)]).unwrap();
                let mut at = 1000;
                while at < LEN {
                    let next = (at + step).min(LEN);
                    world.append(&team, &[(s, 3, at..next)]).unwrap();
                    let got = world.attend(&team, &[(s, 3, at..next)]);
                    assert!(same_bits(&got, &want[at - 1000..next - 1000]), "pieces of {step} at {at}");
                    at = next;
                }
            }

            // In a batch with others, and over a shared prefix.
            let other = whole.cache.new_sequence().unwrap();
            whole.append(&team, &[(other, 8, 0..70)]).unwrap();
            let fork = whole.cache.fork(s, 1050).unwrap();
            whole.append(&team, &[(fork, 3, 1050..LEN), (other, 8, 70..75)]).unwrap();
            let got = whole.attend(&team, &[(other, 8, 60..75), (fork, 3, 1040..LEN), (s, 3, 1000..1010)]);
            assert!(same_bits(&got[15..75], &want[40..]) && same_bits(&got[75..], &want[..10]));
        }
    }
}

#[test]
fn what_lies_behind_the_valid_positions_never_shows() {
    for kernels in Kernels::every_available() {
        for (cache_type, arithmetic) in KINDS {
            for poison in [f32::NAN, 1e30, f32::INFINITY] {
                let params = AttentionParams { arithmetic, ..params(4, 40, Mask::Causal) };
                let mut world = World::new(kernels, shape(2, 40, cache_type), params);
                let s = world.cache.new_sequence().unwrap();
                let rows: Vec<_> = (0..256).map(|position| CacheRow { sequence: s, position }).collect();
                let bad = vec![vec![poison; world.kv_cols()]; 256];
                world.append_rows(&Team::serial(), &rows, &bad, &bad).unwrap();
                world.cache.truncate(s, 0).unwrap();
                let len = 70;
                world.append(&Team::serial(), &[(s, 4, 0..len)]).unwrap();
                let got = world.attend(&Team::serial(), &[(s, 4, 0..len)]);
                for i in [0, 1, 63, 64, 69] {
                    world.check_row(&got[i], 4, i, len);
                }
            }
        }
    }
}

/// Threads that share the chunks of one row neither see what lay in their pages before, nor wait for each other: whoever is the
/// last merges, in the same operation.
#[test]
fn one_operation_attends_over_pages_that_others_have_used() {
    struct Counting(AtomicUsize);
    impl ParallelFor for Counting {
        fn threads(&self) -> usize {
            3
        }
        fn parallel_for(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::thread::scope(|scope| {
                for thread in 0..3 {
                    scope.spawn(move || (thread..parts).step_by(3).for_each(f));
                }
            });
        }
    }
    const LEN: usize = 1200;
    for kernels in Kernels::every_available() {
        for ((cache_type, arithmetic), mask) in
            KINDS.into_iter().flat_map(|kind| [(kind, Mask::Causal), (kind, Mask::Window(1100))])
        {
            let params = AttentionParams { arithmetic, ..params(4, 40, mask) };
            let shape = CacheShape { n_layers: 1, ..shape(2, 40, cache_type) };
            let new = |poison: Option<f32>| {
                let mut world = World::new(kernels, shape, params);
                let s = world.cache.new_sequence().unwrap();
                if let Some(poison) = poison {
                    let rows: Vec<_> = (0..LEN).map(|position| CacheRow { sequence: s, position }).collect();
                    let bad = vec![vec![poison; world.kv_cols()]; LEN];
                    world.append_rows(&Team::serial(), &rows, &bad, &bad).unwrap();
                    world.cache.truncate(s, 0).unwrap();
                }
                world.append(&Team::serial(), &[(s, 4, 0..LEN - 30)]).unwrap();
                (world, s)
            };
            let (mut clean, s) = new(None);
            let want = clean.attend(&Team::serial(), &[(s, 4, LEN - 31..LEN - 30)]);
            for poison in [f32::NAN, 1e30] {
                let (mut world, s) = new(Some(poison));
                let host = Counting(AtomicUsize::new(0));
                let got = world.attend(&Team::host(&host), &[(s, 4, LEN - 31..LEN - 30)]);
                assert!(same_bits(&got, &want), "{} {cache_type:?} {mask:?}", kernels.isa());
                assert_eq!(host.0.into_inner(), 1);
            }
        }
    }
}

#[test]
fn nan_reaches_only_the_rows_that_see_it() {
    for kernels in Kernels::every_available() {
        // In a key, in a value, in a query; at a position in the middle of a tile and of a page.
        // An even and an odd one: either half of a pair.
        for (bad, what, (cache_type, arithmetic)) in [100, 101].into_iter().flat_map(|bad| {
            (0..3).flat_map(move |what| {
                [KINDS[0], KINDS[2], KINDS[5]].into_iter().map(move |kind| (bad, what, kind))
            })
        }) {
            let [bad_key, bad_value, bad_query] = [0, 1, 2].map(|i| if i == what { bad } else { usize::MAX });
            for mask in [Mask::Causal, Mask::Window(20)] {
                let params = AttentionParams { arithmetic, ..params(3, 64, mask) };
                let mut world = World::new(kernels, shape(1, 64, cache_type), params);
                let s = world.cache.new_sequence().unwrap();
                let rows: Vec<_> = (0..140).map(|position| CacheRow { sequence: s, position }).collect();
                let make =
                    |row: fn(u64, usize, usize) -> Vec<f32>, bad: usize, cols: usize| -> Vec<Vec<f32>> {
                        let poison = |i: usize, mut r: Vec<f32>| {
                            if i == bad {
                                r[5] = f32::NAN;
                            }
                            r
                        };
                        (0..140).map(|i| poison(i, row(6, i, cols))).collect()
                    };
                let (k, v) = (make(k_row, bad_key, 64), make(v_row, bad_value, 64));
                world.append_rows(&Team::serial(), &rows, &k, &v).unwrap();
                let q = make(q_row, bad_query, 192);
                let got = world.attend_rows(&Team::serial(), &rows, &q, None).unwrap();
                for (i, row) in got.iter().enumerate() {
                    let sees = match mask {
                        _ if bad_query == bad => i == bad,
                        Mask::Window(n) => (bad..bad + n).contains(&i),
                        _ => i >= bad,
                    };
                    let nan = row[..64].iter().filter(|x| x.is_nan()).count();
                    let want = if !sees {
                        0
                    } else if bad_value == bad {
                        // A scale is spoiled, and all that share it.
                        if cache_type == CacheType::Q8_0 { 32 } else { 1 }
                    } else {
                        64
                    };
                    assert_eq!(nan, want, "{kernels:?} {mask:?} row {i}");
                    if !sees {
                        world.check_row(row, 6, i, 140);
                    }
                }
            }
        }
    }
}

#[test]
fn the_tap_shows_the_reference_and_changes_nothing() {
    for kernels in Kernels::every_available() {
        for (len, first, soft_cap, mask, (cache_type, arithmetic)) in [
            (130, 90, None, Mask::Causal, KINDS[0]),
            (1100, 1090, Some(15.0), Mask::Causal, KINDS[0]),
            (130, 90, None, Mask::Window(50), KINDS[0]),
            (130, 90, None, Mask::Window(51), KINDS[3]),
            (1100, 1090, Some(15.0), Mask::Causal, KINDS[2]),
            (1100, 1090, None, Mask::Causal, KINDS[5]),
        ] {
            let params = AttentionParams { soft_cap, arithmetic, ..params(6, 64, mask) };
            let mut world = World::new(kernels, shape(2, 64, cache_type), params);
            let s = world.cache.new_sequence().unwrap();
            world.append(&Team::serial(), &[(s, 2, 0..len)]).unwrap();
            let plain = world.attend(&Team::serial(), &[(s, 2, first..len)]);
            Pool::new(2).enter(|team| {
                let (mut scores, mut weights) = (vec![7.0; 6 * (len + 3)], vec![7.0; 6 * (len + 3)]);
                let mut tap = AttentionTap {
                    rows: 5..8,
                    heads: 2..4,
                    scores: Some(MatMut::from_rows(&mut scores, len + 3)),
                    weights: Some(MatMut::from_rows(&mut weights, len + 3)),
                };
                let got = world.attend_tapped(team, &[(s, 2, first..len)], Some(&mut tap));
                assert!(same_bits(&plain, &got));
                for (i, row, head) in (0..6).map(|i| (i, 5 + i / 2, 2 + i % 2)) {
                    let want = world.expected(2, first + row, len, head);
                    common::ran("attention_weights", kernels.isa(), 1);
                    let (scores, weights) =
                        (&scores[i * (len + 3)..][..len + 3], &weights[i * (len + 3)..][..len + 3]);
                    let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
                    assert!((sum - 1.0).abs() < 1e-5, "weights sum to {sum}");
                    for j in 0..len + 3 {
                        let (score, weight) = match j < len {
                            true => (want.scores[j], want.weights[j]),
                            false => (f64::NEG_INFINITY, 0.0),
                        };
                        let (got_score, got_weight) = (f64::from(scores[j]), f64::from(weights[j]));
                        assert!(got_score == score || (got_score - score).abs() < 1e-5 * (1.0 + score.abs()));
                        assert!((got_weight - weight).abs() < 2e-5 * weight + 1e-12, "{got_weight} {weight}");
                    }
                }
            });
        }
    }
}

#[test]
fn nothing_to_see_gives_zeros_and_one_key_gives_its_value() {
    for kernels in Kernels::every_available() {
        let mut world = World::new(kernels, shape(1, 64, CacheType::F32), params(2, 64, Mask::Bidirectional));
        let s = world.cache.new_sequence().unwrap();
        assert!(world.attend(&Team::serial(), &[(s, 1, 0..3)]).iter().flatten().all(|x| *x == 0.0));
        assert!(world.attend(&Team::serial(), &[]).is_empty());
        world.append(&Team::serial(), &[(s, 1, 0..1)]).unwrap();
        let got = world.attend(&Team::serial(), &[(s, 1, 0..1)]);
        assert_eq!(got[0][..64], v_row(1, 0, 64));
        // Scores of -inf alone: zeros, not NaN.
        let rows = [CacheRow { sequence: s, position: 0 }];
        world.cache.truncate(s, 0).unwrap();
        world.append_rows(&Team::serial(), &rows, &[vec![f32::NEG_INFINITY; 64]], &[vec![1.0; 64]]).unwrap();
        let got = world.attend_rows(&Team::serial(), &rows, &[vec![1.0; 128]], None).unwrap();
        assert!(got[0].iter().all(|x| *x == 0.0));
    }
}

#[test]
fn a_bias_of_minus_infinity_hides_a_key_and_all_of_them_give_zeros() {
    for kernels in Kernels::every_available() {
        for (cache_type, arithmetic) in KINDS {
            let params = AttentionParams { arithmetic, ..params(3, 64, Mask::Causal) };
            let mut world = World::new(kernels, shape(1, 64, cache_type), params);
            let s = world.cache.new_sequence().unwrap();
            world.append(&Team::serial(), &[(s, 7, 0..140)]).unwrap();
            // Every row sees what a window of 30 would show it; row 77 nothing.
            let seen = |row: usize, j: usize| row != 77 && j + 30 > row;
            let bias = |row| (0..140).map(|j| if seen(row, j) { 0.0 } else { f32::NEG_INFINITY }).collect();
            world.bias = (0..140).map(bias).collect();
            let got = world.attend(&Team::serial(), &[(s, 7, 0..140)]);
            assert!(got[77].iter().all(|x| *x == 0.0));
            world.bias.clear();
            world.params.mask = Mask::Window(30);
            for i in [0, 29, 30, 76, 78, 139] {
                world.check_row(&got[i], 7, i, 140);
            }
        }
    }
}

#[test]
fn pages_are_shared_copied_and_given_back() {
    let kernels = Kernels::best();
    let team = Team::serial();
    let small = CacheShape { max_pages: 8, ..shape(1, 64, CacheType::F16) };
    let mut world = World::new(kernels, small, params(2, 64, Mask::Window(64)));
    let a = world.cache.new_sequence().unwrap();
    assert_eq!(world.cache.len(a, 1), Ok(0));
    // Layer 0 stays empty here: a fork needs it too.
    let zeros = vec![0.0; 64 * 130];
    let rows: Vec<_> = (0..130).map(|position| CacheRow { sequence: a, position }).collect();
    let m = MatRef::from_rows(&zeros, 64);
    kernels.append(&team, &mut world.cache, 0, &rows, m, m).unwrap();
    world.append(&team, &[(a, 1, 0..130)]).unwrap();
    assert_eq!(world.cache.free_pages(), 2);
    let b = world.cache.fork(a, 100).unwrap();
    assert_eq!(world.cache.free_pages(), 2, "sharing takes no page");
    let before = world.attend(&team, &[(a, 1, 66..130)]);
    world.append(&team, &[(b, 7, 100..101)]).unwrap();
    assert_eq!(world.cache.free_pages(), 1, "the partly filled page was copied");
    assert!(same_bits(&before, &world.attend(&team, &[(a, 1, 66..130)])), "the original is untouched");
    assert!(
        same_bits(&before[..34], &world.attend(&team, &[(b, 1, 66..100)])),
        "the fork has the same beginning"
    );

    // A window of 64 at the next position 130 begins at 67: page 0 goes, and cannot be asked for any more.
    world.cache.release_before(a, 1, 130 + 1 - 64).unwrap();
    assert_eq!(world.cache.free_pages(), 1, "the fork still has it");
    world.cache.end_sequence(b).unwrap();
    assert_eq!(world.cache.free_pages(), 3);
    assert_eq!((world.cache.first_held(a, 0), world.cache.first_held(a, 1)), (Ok(0), Ok(64)));
    assert!(same_bits(&before[61..], &world.attend(&team, &[(a, 1, 127..130)])));
    let row = [CacheRow { sequence: a, position: 70 }];
    let error = world.attend_rows(&team, &row, &[vec![0.0; 128]], None).unwrap_err();
    assert_eq!(error.to_string(), "attention: first key (at least) is 7, but 64 is needed");
    let error = world.cache.truncate(a, 20).unwrap_err();
    assert_eq!(error.to_string(), "KvCache::truncate: length (0, or at least) is 20, but 64 is needed");
    world.cache.truncate(a, 128).unwrap();
    assert_eq!(world.cache.free_pages(), 5);
    world.cache.end_sequence(a).unwrap();
    assert_eq!(world.cache.free_pages(), 8);
    let error = world.cache.end_sequence(a).unwrap_err();
    let text = "KvCache::end_sequence: sequence is number 0, which has ended; allowed: living sequences of this cache";
    assert_eq!(error.to_string(), text);
}

/// A cache of exactly the pages that the bound allows takes any number of positions, and with one page less does not.
#[test]
fn a_window_needs_as_many_pages_as_its_bound_says_however_the_text_is_cut() {
    let (kernels, team) = (Kernels::best(), Team::serial());
    for (window, rows) in [(1, 1), (1, 64), (64, 1), (64, 7), (65, 64), (100, 100), (130, 200)] {
        let mut long = CacheShape { max_positions: 2000, ..shape(1, 8, CacheType::F32) };
        let bound = long.pages_for_window(window, rows);
        let zeros = vec![0.0; 8 * rows];
        let m = MatRef::from_rows(&zeros, 8);
        let mut reached = |pages: usize, offset: usize| {
            long.max_pages = pages * long.n_layers;
            let mut cache = KvCache::new(long).unwrap();
            let s = cache.new_sequence().unwrap();
            let mut position = 0;
            while position + rows <= 2000 {
                let n = if position == 0 { offset } else { rows };
                let batch: Vec<_> =
                    (position..position + n).map(|position| CacheRow { sequence: s, position }).collect();
                for layer in 0..long.n_layers {
                    cache.release_before(s, layer, (position + 1).saturating_sub(window)).unwrap();
                    let part = m.row_range(0..n);
                    if kernels.append(&team, &mut cache, layer, &batch, part, part).is_err() {
                        return false;
                    }
                }
                position += n;
            }
            true
        };
        assert!(
            (1..=rows).all(|offset| reached(bound, offset)),
            "window {window}, {rows} rows: {bound} pages"
        );
        assert!(
            (1..=rows).any(|offset| !reached(bound - 1, offset)),
            "window {window}, {rows} rows: {bound} pages are more than needed"
        );
    }
    let short = CacheShape { max_positions: 100, ..shape(1, 8, CacheType::F32) };
    assert_eq!(short.pages_for_window(4096, 512), 2, "no more than the whole context");
}

#[test]
fn bad_arguments_are_refused_with_both_values() {
    let kernels = Kernels::best();
    let team = Team::serial();
    let two_pages = CacheShape { max_pages: 2, ..shape(2, 64, CacheType::F32) };
    let mut world = World::new(kernels, two_pages, params(6, 64, Mask::Causal));
    let s = world.cache.new_sequence().unwrap();
    world.append(&team, &[(s, 1, 0..100)]).unwrap();
    let text = |e: KernelError| e.to_string();

    let error = world.append(&team, &[(s, 1, 100..200)]).unwrap_err();
    assert_eq!(error, KernelError::CacheFull { needed: 2, available: 0 });
    assert_eq!(world.cache.len(s, 1), Ok(100), "a refused call changes nothing");
    let error = world.append(&team, &[(s, 1, 100..101), (s, 1, 103..104)]).unwrap_err();
    assert_eq!(text(error), "append: position is 103, but 101 is needed");
    assert_eq!(world.cache.len(s, 1), Ok(100));
    world.append(&team, &[(s, 1, 100..128)]).unwrap();

    let row = [CacheRow { sequence: s, position: 128 }];
    let error = world.attend_rows(&team, &row, &[vec![0.0; 384]], None).unwrap_err();
    assert_eq!(text(error), "attention: cached positions (at least) is 128, but 129 is needed");
    let good = world.params;
    let row = [CacheRow { sequence: s, position: 5 }];
    let refused = |world: &mut World, params: AttentionParams| {
        world.params = params;
        let q = vec![vec![0.0; params.n_heads * 64]];
        text(world.attend_rows(&Team::serial(), &row, &q, None).unwrap_err())
    };
    let found = refused(&mut world, AttentionParams { n_heads: 5, ..good });
    assert_eq!(found, "attention: n_heads (a multiple of n_kv_heads) is 5, but 2 is needed");
    let found = refused(&mut world, AttentionParams { mask: Mask::Window(0), ..good });
    assert_eq!(found, "attention: window is 0; allowed: 1 or more");
    let found = refused(&mut world, AttentionParams { soft_cap: Some(-1.0), ..good });
    assert_eq!(found, "attention: soft_cap is -1; allowed: positive numbers");
    world.params = good;
    world.bias = vec![vec![0.0; 5]];
    let error = world.attend_rows(&team, &row, &[vec![0.0; 384]], None).unwrap_err();
    assert_eq!(text(error), "attention: bias.cols (at least) is 5, but 6 is needed");
    world.bias.clear();
    let bias = [0.0; 12];
    let q = [0.0; 384];
    let bias = Some(MatRef::from_rows(&bias, 6));
    let mut out = [0.0; 384];
    let q = MatRef::from_rows(&q, 384);
    let input = AttentionInput { q, cache: &world.cache, layer: 1, rows: &row, bias };
    let out = MatMut::from_rows(&mut out, 384);
    let error = kernels.attention(&team, input, &good, out, &mut AttentionScratch::new(), None).unwrap_err();
    assert_eq!(text(error), "attention: bias.rows (1, or) is 2, but 1 is needed");

    let mut short = [0.0; 3];
    let mut tap = AttentionTap {
        rows: 0..1,
        heads: 0..1,
        scores: Some(MatMut::from_rows(&mut short, 3)),
        weights: None,
    };
    let error = world.attend_rows(&team, &row, &[vec![0.0; 384]], Some(&mut tap)).unwrap_err();
    assert_eq!(text(error), "attention: columns of a tapped matrix (at least) is 3, but 6 is needed");

    let error = KvCache::new(CacheShape { head_dim: 20, ..two_pages }).unwrap_err();
    assert_eq!(text(error), "KvCache::new: head_dim is 20; allowed: multiples of 8 up to 1024");
    let error = KvCache::new(CacheShape { max_pages: usize::MAX / 2, ..two_pages }).unwrap_err();
    assert!(text(error).starts_with("no memory for the key-value cache"));
    let error = KvCache::new(CacheShape { max_positions: usize::MAX, ..two_pages }).unwrap_err();
    assert!(text(error).starts_with("no memory for the page table"));
    let error = AttentionScratch::new().reserve(2, 100, usize::MAX, 64, 64).unwrap_err();
    assert!(text(error).starts_with("no memory for attention's partial results"));
    let limit = CacheShape { max_positions: 10, ..two_pages };
    let mut world = World::new(kernels, limit, good);
    let s = world.cache.new_sequence().unwrap();
    let error = world.append(&team, &[(s, 1, 0..11)]).unwrap_err();
    assert_eq!(text(error), "append: max_positions (at least) is 10, but 11 is needed");
}

/// A strip of columns as [`embedded`] places it.
fn strip_mut(data: &mut [f32], rows: usize, cols: usize) -> MatMut<'_> {
    let [_, strip, _] = MatMut::new(data, rows, cols + 7, cols + 7).unwrap().split_columns([3, cols, 4]);
    strip
}

#[test]
fn turning_and_appending_is_norm_rope_and_append() {
    const POSITIONS: usize = 300;
    let pools = [1, 2, 3].map(Pool::new);
    for kernels in Kernels::every_available() {
        for (head_dim, n_kv_heads, group) in [(64, 3, 3), (40, 1, 4), (32, 2, 1)] {
            let weight = |kind| -> Vec<f32> { (0..head_dim).map(|i| noise(kind, 0, 0, i)).collect() };
            let (q_weight, k_weight) = (weight(4), weight(5));
            let rope =
                Rope::new(RopePairing::Halves, head_dim - 8, 10000.0, RopeScaling::None, POSITIONS).unwrap();
            let mut angles = RopeAngles::new(&rope, POSITIONS);
            for (i, (cache_type, arithmetic)) in KINDS.into_iter().enumerate() {
                let eps = 1e-5;
                let angled = i % 3 != 1;
                let (q_norm, k_norm) =
                    ((i % 2 == 0).then_some(&q_weight[..]), (i % 3 != 0).then_some(&k_weight[..]));
                let (q_cols, k_cols) = (n_kv_heads * group * head_dim, n_kv_heads * head_dim);
                let params =
                    AttentionParams { arithmetic, ..params(n_kv_heads * group, head_dim, Mask::Causal) };
                let mut apart = World::new(kernels, shape(n_kv_heads, head_dim, cache_type), params);
                let mut fused = World::new(kernels, shape(n_kv_heads, head_dim, cache_type), params);
                let sequences = [(); 2].map(|()| {
                    let id = apart.cache.new_sequence().unwrap();
                    assert_eq!(fused.cache.new_sequence(), Ok(id));
                    id
                });
                // Few rows, many, of one sequence and of two.
                for (step, lengths) in [[3, 0], [0, 16], [130, 1], [64, 70], [1, 1]].into_iter().enumerate() {
                    let mut rows = vec![];
                    for (sequence, n) in sequences.into_iter().zip(lengths) {
                        let from = apart.cache.len(sequence, 1).unwrap();
                        rows.extend((from..from + n).map(|position| CacheRow { sequence, position }));
                    }
                    let n = rows.len();
                    let places: Vec<u32> = rows.iter().map(|row| row.position as u32).collect();
                    angles.set(&rope, &places).unwrap();
                    let made = |f: fn(u64, usize, usize) -> Vec<f32>, cols| {
                        let rows: Vec<_> =
                            rows.iter().map(|row| f(step as u64, row.position, cols)).collect();
                        embedded(&rows, cols)
                    };
                    let (mut q, mut k, v) = (made(q_row, q_cols), made(k_row, k_cols), made(v_row, k_cols));
                    let (mut q_fused, mut k_fused) = (q.clone(), k.clone());
                    for (norm, x, cols) in [(q_norm, &mut q, q_cols), (k_norm, &mut k, k_cols)] {
                        if let Some(norm) = norm {
                            kernels
                                .rms_norm_in_place(&Team::serial(), strip_mut(x, n, cols), norm, eps)
                                .unwrap();
                        }
                        if angled {
                            kernels.rope(&Team::serial(), &angles, head_dim, strip_mut(x, n, cols)).unwrap();
                        }
                    }
                    let v = strip(&v, n, k_cols);
                    kernels
                        .append(&Team::serial(), &mut apart.cache, 1, &rows, strip(&k, n, k_cols), v)
                        .unwrap();
                    let steps = HeadSteps { q_norm, k_norm, eps, angles: angled.then_some(&angles) };
                    let views = [strip_mut(&mut q_fused, n, q_cols), strip_mut(&mut k_fused, n, k_cols)];
                    pools[step % 3]
                        .enter(|team| {
                            kernels.turn_and_append(team, &mut fused.cache, 1, &rows, steps, views, v)
                        })
                        .unwrap();
                    let q_rows: Vec<_> = (0..n).map(|i| strip(&q, n, q_cols).row(i).to_vec()).collect();
                    let out = [&mut apart, &mut fused]
                        .map(|world| world.attend_rows(&Team::serial(), &rows, &q_rows, None).unwrap());
                    assert!(same_bits(&out[0], &out[1]), "{} {cache_type:?} step {step}", kernels.isa());
                    assert!(same_bits(&[q, k], &[q_fused, k_fused]), "{} step {step}", kernels.isa());
                }
            }
        }
    }
}

#[test]
fn heads_that_cannot_be_turned_are_refused_and_left_alone() {
    let (kernels, team) = (Kernels::best(), Team::serial());
    let mut world = World::new(kernels, shape(2, 32, CacheType::F16), params(4, 32, Mask::Causal));
    let sequence = world.cache.new_sequence().unwrap();
    let rows: Vec<_> = (0..2).map(|position| CacheRow { sequence, position }).collect();
    let rope = Rope::new(RopePairing::Halves, 32, 10000.0, RopeScaling::None, 100).unwrap();
    let mut angles = RopeAngles::new(&rope, 3);
    angles.set(&rope, &[0, 1, 2]).unwrap();
    let short = [1.0; 31];
    let plain = HeadSteps::default();
    let cases = [
        (plain, 96, 64, "append: q.cols (a multiple of) is 96, but 64 is needed"),
        (plain, 128, 32, "append: k.cols is 32, but 64 is needed"),
        (HeadSteps { q_norm: Some(&short), ..plain }, 128, 64, "append: q_norm.len is 31, but 32 is needed"),
        (HeadSteps { k_norm: Some(&short), ..plain }, 128, 64, "append: k_norm.len is 31, but 32 is needed"),
        (HeadSteps { angles: Some(&angles), ..plain }, 128, 64, "append: angles.rows is 3, but 2 is needed"),
        (HeadSteps { eps: -1.0, ..plain }, 128, 64, "append: eps is -1; allowed: finite numbers from 0 up"),
    ];
    for (steps, q_cols, k_cols, text) in cases {
        let (mut q, mut k, v) = (vec![2.0; 2 * q_cols], vec![2.0; 2 * k_cols], vec![2.0; 128]);
        let views = [MatMut::from_rows(&mut q, q_cols), MatMut::from_rows(&mut k, k_cols)];
        let v = MatRef::from_rows(&v, 64);
        let error = kernels.turn_and_append(&team, &mut world.cache, 1, &rows, steps, views, v).unwrap_err();
        assert_eq!(error.to_string(), text);
        assert!(q.iter().chain(&k).all(|x| *x == 2.0) && world.cache.len(sequence, 1) == Ok(0));
    }
}
