//! Dense products: shapes, candidates (Gable and other crates).

use crate::options::Options;
use crate::timing::{Candidate, filled};
use gable_kernels::dense::{DenseScratch, Element, Rhs, Store};
use gable_kernels::{MatMut, MatRef, ProbeKind};
use half::{bf16, f16};
use std::rc::Rc;

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

    /// Of the element type, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Kind::F32 => "f32",
            Kind::F16 => "f16",
            Kind::Bf16 => "bf16",
            Kind::I8 => "i8",
        }
    }

    /// By the name of the element type.
    pub fn named(name: &str) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::F16 | Kind::Bf16 => 2,
            Kind::I8 => 1,
        }
    }

    /// The arithmetic that such products consist of.
    pub fn arithmetic(self) -> ProbeKind {
        match self {
            Kind::F32 | Kind::F16 => ProbeKind::F32,
            Kind::Bf16 => ProbeKind::Bf16,
            Kind::I8 => ProbeKind::Int8,
        }
    }

    /// Who can multiply `m` rows of this kind; `gable-pack` only packs.
    pub fn candidates(self, m: usize) -> Vec<&'static str> {
        let mut names = vec!["gable-packed", "gable", "gable-transposed"];
        if m <= 8 && self != Kind::I8 {
            names.push("gable-streamed");
        }
        match self {
            Kind::F32 => names.extend(["gemm", "gemmkit", "matrixmultiply", "faer"]),
            Kind::F16 => names.extend(["gemm", "gemmkit"]),
            Kind::Bf16 | Kind::I8 => names.push("gemmkit"),
        }
        names
    }
}

/// Matrices to be multiplied; of B several, to be taken in turn.
struct Operands<T> {
    shape: [usize; 3],
    a: Rc<[T]>,
    b: Rc<[T]>,
    copies: usize,
    turn: usize,
}

impl<T: Copy> Operands<T> {
    fn new(shape: [usize; 3], copies: usize, from: impl Fn(f32) -> T) -> Self {
        let [m, k, n] = shape;
        let (a, one) = (filled(m * k, &from), filled(k * n, &from));
        let b = if copies == 1 { one } else { one.repeat(copies).into() };
        Operands { shape, a, b, copies, turn: 0 }
    }

    /// The next B.
    fn next(&mut self) -> std::ops::Range<usize> {
        let [_, k, n] = self.shape;
        self.turn = (self.turn + 1) % self.copies;
        self.turn * k * n..(self.turn + 1) * k * n
    }
}

/// Bytes of a cache line, and more elements than that takes.
const LINE: usize = 64;

/// Gable with B packed beforehand, as it is, transposed or streamed; or packing itself.
fn gable<T: Element, C: Element + Default>(
    options: &Options,
    name: &'static str,
    mut operands: Operands<T>,
) -> Candidate {
    let (kernels, pool) = (options.kernels, options.pool.clone());
    let [m, k, n] = operands.shape;
    if name == "gable-pack" {
        let mut memory = vec![0_u32; kernels.packed_len(T::TYPE, k, n).expect("fits").div_ceil(4)];
        return Candidate::new(name, move || {
            let range = operands.next();
            let b = Rhs::Straight(MatRef::from_rows(&operands.b[range], n));
            // SAFETY: plain numbers, as bytes.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<u8>(), 4 * memory.len()) };
            pool.enter(|team| kernels.pack_weights_into(team, b, bytes).map(drop)).expect("packs");
        });
    }
    let packed = if name == "gable-packed" {
        let pack = |i: usize| {
            let b = Rhs::Straight(MatRef::from_rows(&operands.b[i * k * n..(i + 1) * k * n], n));
            pool.enter(|team| kernels.pack_weights(team, b)).expect("packs")
        };
        (0..operands.copies).map(pack).collect()
    } else {
        Vec::new()
    };
    // C begins with a cache line, as the tensors of others do: or two threads take lines of it from each other.
    let mut c = vec![C::default(); m * n + LINE];
    let (first, mut scratch) = (c.as_ptr().align_offset(LINE), DenseScratch::new());
    Candidate::new(name, move || {
        let c = &mut c[first..][..m * n];
        let range = operands.next();
        let b = &operands.b[range];
        let rhs = match name {
            "gable-packed" => Rhs::Packed(&packed[operands.turn]),
            "gable" => Rhs::Straight(MatRef::from_rows(b, n)),
            "gable-transposed" => Rhs::Transposed(MatRef::from_rows(b, k)),
            _ => Rhs::Streamed(MatRef::from_rows(b, k)),
        };
        let (a, out) = (MatRef::from_rows(&operands.a, k), MatMut::from_rows(c, n));
        pool.enter(|team| kernels.gemm(team, a, rhs, &Store::default(), out, &mut scratch)).expect("fits");
    })
}

/// The `gemm` crate.
fn gemm_crate<T: Copy + Default + 'static>(
    threads: usize,
    mut operands: Operands<T>,
    [zero, one]: [T; 2],
) -> Candidate {
    let [m, k, n] = operands.shape;
    let mut c = vec![T::default(); m * n];
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    Candidate::new("gemm", move || {
        let b = operands.next();
        let (a, b, c) = (operands.a.as_ptr(), operands.b[b].as_ptr(), c.as_mut_ptr());
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
    mut operands: Operands<T>,
    [zero, one]: [T; 2],
) -> Candidate {
    let [m, k, n] = operands.shape;
    let mut c = vec![T::default(); m * n];
    Candidate::new("gemmkit", move || {
        let b = operands.next();
        let a = gemmkit::MatRef::from_row_major(&operands.a, m, k);
        let b = gemmkit::MatRef::from_row_major(&operands.b[b], k, n);
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

/// The `matrixmultiply` crate. It reads the number of its threads from MATMUL_NUM_THREADS, up to four.
fn matrixmultiply_crate(mut operands: Operands<f32>) -> Candidate {
    let [m, k, n] = operands.shape;
    let mut c = vec![0.0_f32; m * n];
    Candidate::new("matrixmultiply", move || {
        let b = operands.next();
        let (k_stride, n_stride) = (k as isize, n as isize);
        let (a, b, c) = (operands.a.as_ptr(), operands.b[b].as_ptr(), c.as_mut_ptr());
        // SAFETY: matrices of m x k, k x n and m x n elements, rows one after another.
        unsafe { matrixmultiply::sgemm(m, k, n, 1.0, a, k_stride, 1, b, n_stride, 1, 0.0, c, n_stride, 1) };
    })
}

/// The `faer` crate.
fn faer_crate(threads: usize, mut operands: Operands<f32>) -> Candidate {
    let [m, k, n] = operands.shape;
    let mut c = vec![0.0_f32; m * n];
    let par = if threads == 1 { faer::Par::Seq } else { faer::Par::rayon(threads) };
    Candidate::new("faer", move || {
        let b = operands.next();
        faer::linalg::matmul::matmul(
            faer::MatMut::from_row_major_slice_mut(&mut c, m, n),
            faer::Accum::Replace,
            faer::MatRef::from_row_major_slice(&operands.a, m, k),
            faer::MatRef::from_row_major_slice(&operands.b[b], k, n),
            1.0,
            par,
        );
    })
}

/// Somebody's product, of as many distinct B in turn as `distinct` bytes hold, or of one; `None` if that somebody cannot.
pub fn candidate(
    name: &str,
    kind: Kind,
    shape: [usize; 3],
    distinct: usize,
    options: &Options,
) -> Option<Candidate> {
    let ([m, k, n], threads) = (shape, options.threads);
    let names = kind.candidates(m).into_iter().chain(["gable-pack"]);
    let name = names.into_iter().find(|known| *known == name)?;
    let copies = (distinct / (k * n * kind.bytes()).max(1)).max(1);
    let is_gable = name.starts_with("gable");
    Some(match (kind, name) {
        (Kind::F32, _) if is_gable => gable::<f32, f32>(options, name, Operands::new(shape, copies, |x| x)),
        (Kind::F16, _) if is_gable => {
            gable::<f16, f16>(options, name, Operands::new(shape, copies, f16::from_f32))
        }
        (Kind::Bf16, _) if is_gable => {
            gable::<bf16, bf16>(options, name, Operands::new(shape, copies, bf16::from_f32))
        }
        (Kind::I8, _) if is_gable => gable::<i8, i32>(options, name, Operands::new(shape, copies, byte)),
        (Kind::F32, "gemm") => gemm_crate(threads, Operands::new(shape, copies, |x| x), [0.0, 1.0]),
        (Kind::F32, "gemmkit") => gemmkit_crate(threads, Operands::new(shape, copies, |x| x), [0.0, 1.0]),
        (Kind::F32, "faer") => faer_crate(threads, Operands::new(shape, copies, |x| x)),
        (Kind::F32, _) => matrixmultiply_crate(Operands::new(shape, copies, |x| x)),
        (Kind::F16, "gemm") => {
            gemm_crate(threads, Operands::new(shape, copies, f16::from_f32), [f16::ZERO, f16::ONE])
        }
        (Kind::F16, _) => {
            gemmkit_crate(threads, Operands::new(shape, copies, f16::from_f32), [f16::ZERO, f16::ONE])
        }
        (Kind::Bf16, _) => {
            gemmkit_crate(threads, Operands::new(shape, copies, bf16::from_f32), [bf16::ZERO, bf16::ONE])
        }
        (Kind::I8, _) => {
            let mut operands = Operands::new(shape, copies, byte);
            let mut c = vec![0_i32; m * n];
            Candidate::new("gemmkit", move || {
                let b = operands.next();
                let a = gemmkit::MatRef::from_row_major(&operands.a, m, k);
                let b = gemmkit::MatRef::from_row_major(&operands.b[b], k, n);
                let c = gemmkit::MatMut::from_row_major(&mut c, m, n);
                gemmkit::gemm_i8(1, a, b, 0, c, gemmkit_threads(threads));
            })
        }
    })
}

fn byte(x: f32) -> i8 {
    (x * 127.0) as i8
}
