//! Dense products: shapes, candidates (Gable and other crates), and how they are timed.

use gable_kernels::dense::{DenseScratch, Element, ElementType, PackedWeights, Rhs, Store};
use gable_kernels::pool::default_threads;
use gable_kernels::{Isa, Kernels, MatMut, MatRef, Pool};
use half::{bf16, f16};
use std::rc::Rc;
use std::time::Instant;

/// M, K and N of the rows: squares, layers of models, few rows.
pub const SHAPES: &[[usize; 3]] = &[
    [512, 512, 512],
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [128, 576, 1536],
    [512, 576, 1536],
    [128, 2048, 2048],
    [512, 4096, 4096],
    [4, 2048, 2048],
    [1, 4096, 4096],
];

/// What is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// f32 x f32 -> f32
    F32,
    /// f16 x f16 -> f16
    F16,
    /// bf16 x bf16 -> bf16
    Bf16,
    /// i8 x i8 -> i32
    I8,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::F32, Kind::F16, Kind::Bf16, Kind::I8];

    /// By the name of the element type.
    pub fn named(name: &str) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| format!("{kind:?}").eq_ignore_ascii_case(name))
    }

    /// Operations per second of the arithmetic that products of this kind consist of, on all threads.
    pub fn peak(self, options: &Options) -> f64 {
        const ROUNDS: usize = 20_000;
        let kernels = options.kernels;
        let probe = move || match self {
            Kind::F32 | Kind::F16 => kernels.probe_f32(ROUNDS),
            Kind::Bf16 => kernels.probe_bf16(ROUNDS),
            Kind::I8 => kernels.probe_int8(ROUNDS),
        };
        let operations = probe() * options.threads;
        options.pool.enter(|team| {
            let run = &|_| {
                std::hint::black_box(probe());
            };
            let rate = |_| operations as f64 / seconds(1, &mut || team.run(options.threads, run));
            (0..5).map(rate).fold(0.0, f64::max)
        })
    }
}

/// What the command line asks for.
pub struct Options {
    /// Kinds of products.
    pub kinds: Vec<Kind>,
    /// Gable's instruction set.
    pub kernels: Kernels,
    /// Threads of everybody.
    pub threads: usize,
    /// Gable's threads.
    pub pool: Rc<Pool>,
    /// Times that every candidate is measured.
    pub rounds: usize,
    /// Answer requests instead of printing a table.
    pub serve: bool,
}

impl Options {
    /// From the command line.
    ///
    /// # Errors
    /// What was not understood.
    pub fn parse(args: &[String]) -> Result<Options, String> {
        let mut kinds = Vec::new();
        let (mut threads, mut rounds, mut isa, mut serve) = (default_threads(), 15, None, false);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            let number = |x: &String| x.parse::<usize>().map_err(|e| format!("{arg} {x}: {e}"));
            match arg.as_str() {
                "--threads" => threads = number(value()?)?,
                "--rounds" => rounds = number(value()?)?.max(1),
                "--isa" => isa = Some(value()?.parse::<Isa>().map_err(|e| e.to_string())?),
                "--serve" => serve = true,
                name => kinds.push(Kind::named(name).ok_or(format!("{name}: not f32, f16, bf16 or i8"))?),
            }
        }
        if kinds.is_empty() {
            kinds.extend(Kind::ALL);
        }
        let kernels = match isa {
            Some(isa) => Kernels::for_isa(isa),
            None => Kernels::new(),
        };
        let kernels = kernels.map_err(|e| e.to_string())?;
        Ok(Options { kinds, kernels, threads, pool: Rc::new(Pool::new(threads)), rounds, serve })
    }
}

/// Somebody's product of given matrices.
pub struct Candidate {
    /// Whose.
    pub name: &'static str,
    /// Computes it once.
    pub run: Box<dyn FnMut()>,
}

impl Candidate {
    fn new(name: &'static str, run: impl FnMut() + 'static) -> Self {
        Candidate { name, run: Box::new(run) }
    }

    /// How often it must run for 20 ms, after it has run for the first time.
    pub fn repeats(&mut self) -> usize {
        (self.run)();
        (0.02 / seconds(1, &mut self.run).max(1e-9)).ceil().min(1e6) as usize
    }
}

/// Seconds of one of `repeats` runs.
pub fn seconds(repeats: usize, run: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..repeats).for_each(|_| run());
    start.elapsed().as_secs_f64() / repeats as f64
}

/// The middle one.
pub fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Reproducible numbers of any element type.
fn filled<T>(len: usize, from: impl Fn(f32) -> T) -> Rc<[T]> {
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        from((state >> 16) as f32 / 32768.0 - 1.0)
    })
    .take(len)
    .collect()
}

/// Gable with B packed beforehand, as it is, and transposed.
fn gable<T: Element, C: Element + Default>(
    options: &Options,
    [m, k, n]: [usize; 3],
    a: &Rc<[T]>,
    b: &Rc<[T]>,
) -> Vec<Candidate> {
    let (kernels, names) = (options.kernels, ["gable-packed", "gable", "gable-transposed", "gable-streamed"]);
    let packed: Rc<PackedWeights<'static>> = Rc::new(
        options
            .pool
            .enter(|team| kernels.pack_weights(team, Rhs::Straight(MatRef::from_rows(b, n))))
            .expect("packs"),
    );
    let make = |name: &'static str| {
        let (a, b, packed, pool) = (a.clone(), b.clone(), packed.clone(), options.pool.clone());
        let (mut c, mut scratch) = (vec![C::default(); m * n], DenseScratch::new());
        Candidate::new(name, move || {
            let rhs = match name {
                "gable-packed" => Rhs::Packed(&packed),
                "gable" => Rhs::Straight(MatRef::from_rows(&b, n)),
                "gable-transposed" => Rhs::Transposed(MatRef::from_rows(&b, k)),
                _ => Rhs::Streamed(MatRef::from_rows(&b, k)),
            };
            let (a, out) = (MatRef::from_rows(&a, k), MatMut::from_rows(&mut c, n));
            pool.enter(|team| kernels.gemm(team, a, rhs, &Store::default(), out, &mut scratch))
                .expect("fits");
        })
    };
    let few = m <= 8 && T::TYPE != ElementType::I8;
    names.into_iter().filter(|name| few || *name != "gable-streamed").map(make).collect()
}

/// The `gemm` crate.
fn gemm_crate<T: Copy + Default + 'static>(
    threads: usize,
    [m, k, n]: [usize; 3],
    (a, b): (&Rc<[T]>, &Rc<[T]>),
    [zero, one]: [T; 2],
) -> Candidate {
    let (a, b, mut c) = (a.clone(), b.clone(), vec![T::default(); m * n]);
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    Candidate::new("gemm", move || {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        let (k_stride, n_stride) = (k as isize, n as isize);
        // SAFETY: matrices of m x k, k x n and m x n elements, rows one after another.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c,
                1,
                n_stride,
                false,
                a,
                1,
                k_stride,
                b,
                1,
                n_stride,
                zero,
                one,
                false,
                false,
                false,
                parallelism,
            );
        }
    })
}

/// The `gemmkit` crate, for types whose products are of the same type.
fn gemmkit_crate<T: gemmkit::GemmScalar + Default>(
    threads: usize,
    [m, k, n]: [usize; 3],
    (a, b): (&Rc<[T]>, &Rc<[T]>),
    [zero, one]: [T; 2],
) -> Candidate {
    let (a, b, mut c) = (a.clone(), b.clone(), vec![T::default(); m * n]);
    Candidate::new("gemmkit", move || {
        let a = gemmkit::MatRef::from_row_major(&a, m, k);
        let b = gemmkit::MatRef::from_row_major(&b, k, n);
        gemmkit::gemm(
            one,
            a,
            b,
            zero,
            gemmkit::MatMut::from_row_major(&mut c, m, n),
            gemmkit_threads(threads),
        );
    })
}

fn gemmkit_threads(threads: usize) -> gemmkit::Parallelism {
    if threads == 1 { gemmkit::Parallelism::Serial } else { gemmkit::Parallelism::Rayon(threads) }
}

/// Everybody who can multiply this kind.
pub fn candidates(kind: Kind, shape: [usize; 3], options: &Options) -> Vec<Candidate> {
    let ([m, k, n], threads) = (shape, options.threads);
    match kind {
        Kind::F32 => {
            let (a, b) = (filled(m * k, |x| x), filled(k * n, |x| x));
            let mut all = gable::<f32, f32>(options, shape, &a, &b);
            all.push(gemm_crate(threads, shape, (&a, &b), [0.0, 1.0]));
            all.push(gemmkit_crate(threads, shape, (&a, &b), [0.0, 1.0]));
            let mut c = vec![0.0_f32; m * n];
            all.push(Candidate::new("matrixmultiply", move || {
                let (k_stride, n_stride) = (k as isize, n as isize);
                let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
                // SAFETY: matrices of m x k, k x n and m x n elements, rows one after another.
                unsafe {
                    matrixmultiply::sgemm(m, k, n, 1.0, a, k_stride, 1, b, n_stride, 1, 0.0, c, n_stride, 1)
                };
            }));
            all
        }
        Kind::F16 => {
            let (a, b) = (filled(m * k, f16::from_f32), filled(k * n, f16::from_f32));
            let mut all = gable::<f16, f16>(options, shape, &a, &b);
            all.push(gemm_crate(threads, shape, (&a, &b), [f16::ZERO, f16::ONE]));
            all.push(gemmkit_crate(threads, shape, (&a, &b), [f16::ZERO, f16::ONE]));
            all
        }
        Kind::Bf16 => {
            let (a, b) = (filled(m * k, bf16::from_f32), filled(k * n, bf16::from_f32));
            let mut all = gable::<bf16, bf16>(options, shape, &a, &b);
            all.push(gemmkit_crate(threads, shape, (&a, &b), [bf16::ZERO, bf16::ONE]));
            all
        }
        Kind::I8 => {
            let byte = |x: f32| (x * 127.0) as i8;
            let (a, b) = (filled(m * k, byte), filled(k * n, byte));
            let mut all = gable::<i8, i32>(options, shape, &a, &b);
            let mut c = vec![0_i32; m * n];
            all.push(Candidate::new("gemmkit", move || {
                let a = gemmkit::MatRef::from_row_major(&a, m, k);
                let b = gemmkit::MatRef::from_row_major(&b, k, n);
                let c = gemmkit::MatMut::from_row_major(&mut c, m, n);
                gemmkit::gemm_i8(1, a, b, 0, c, gemmkit_threads(threads));
            }));
            all
        }
    }
}
