//! Group-wise int4 layouts: what they become means what their definitions say, and nothing wrong is taken.

mod common;

use common::Random;
use gable_kernels::gemm::{Epilogue, Phase};
use gable_kernels::quant::int4::{AwqWeights, GptqWeights, GptqZeros, NBitsWeights, Scales, blocks_len};
use gable_kernels::quant::{Activations, Format, Forms, QuantWeights};
use gable_kernels::reference::int4 as reference;
use gable_kernels::{KernelError, Kernels, MatMut, Team};
use half::f16;

/// N, K, G: one row and many, one group and many, a last group that is cut short.
const SHAPES: [[usize; 3]; 9] = [
    [8, 32, 32],
    [16, 64, 32],
    [24, 96, 64],
    [136, 128, 128],
    [40, 288, 32],
    [264, 256, 64],
    [8, 512, 512],
    [16, 544, 128],
    [32, 64, 128],
];

/// Random bits in all three layouts; extents in groups and words are those of any of them.
struct Data {
    shape: [usize; 3],
    groups: usize,
    words: Vec<i32>,
    qzeros: Vec<i32>,
    bytes: Vec<u8>,
    zero_points: Vec<u8>,
    f16s: Vec<f16>,
    f32s: Vec<f32>,
    g_idx: Vec<i32>,
}

impl Data {
    fn new(shape: [usize; 3]) -> Data {
        let [n, k, group] = shape;
        let groups = k.div_ceil(group);
        let mut random = Random((n + 7 * k + group) as u64);
        let mut bytes = |len: usize| (0..len).map(|_| random.next() as u8).collect::<Vec<_>>();
        let (b, zero_points) = (bytes(n * groups * group / 2), bytes(n * groups.div_ceil(2)));
        let mut words = |len: usize| (0..len).map(|_| random.next() as u32 as i32).collect::<Vec<_>>();
        let (qweight, qzeros) = (words(k * n / 8), words(groups * n / 8));
        let f32s: Vec<f32> = (0..groups * n).map(|_| random.float() / 16.0).collect();
        Data {
            shape,
            groups,
            words: qweight,
            qzeros,
            bytes: b,
            zero_points,
            f16s: f32s.iter().map(|x| f16::from_f32(*x)).collect(),
            f32s,
            g_idx: (0..k).map(|i| (i / group) as i32).collect(),
        }
    }

    fn awq(&self) -> AwqWeights<'_> {
        let [n, k, group] = self.shape;
        let (qweight, qzeros, scales) = (&self.words[..], &self.qzeros[..], Scales::F16(&self.f16s));
        AwqWeights { n, k, group, qweight, qzeros, scales }
    }

    fn gptq(&self, zeros: GptqZeros) -> GptqWeights<'_> {
        let AwqWeights { n, k, group, qweight, qzeros, scales } = self.awq();
        GptqWeights { n, k, group, qweight, qzeros, zeros, scales, g_idx: Some(&self.g_idx) }
    }

    fn nbits(&self) -> NBitsWeights<'_> {
        let ([n, k, group], scales) = (self.shape, Scales::F16(&self.f16s));
        NBitsWeights { n, k, group, b: &self.bytes, scales, zero_points: Some(&self.zero_points) }
    }

    fn scales(&self) -> Vec<f64> {
        self.f16s.iter().map(|x| f64::from(x.to_f32())).collect()
    }
}

/// What a layout is called, how it becomes blocks, and what it means.
type Layout<'a> = (&'static str, Box<Convert<'a>>, Vec<f64>);
type Convert<'a> = dyn Fn(&mut [u8]) -> Result<QuantWeights<'_>, KernelError> + 'a;

fn layout<'a>(
    name: &'static str,
    to_blocks: impl Fn(&mut [u8]) -> Result<QuantWeights<'_>, KernelError> + 'a,
    want: Vec<f64>,
) -> Layout<'a> {
    (name, Box::new(to_blocks), want)
}

fn layouts(data: &Data) -> [Layout<'_>; 5] {
    let ([_, k, group], scales) = (data.shape, data.scales());
    let (words, qzeros) = (&data.words, &data.qzeros);
    let awq = reference::awq(words, qzeros, &scales, k, group);
    let gptq = |less| reference::gptq(words, qzeros, less, &scales, k, group);
    let nbits = |zeros| reference::matmul_nbits(&data.bytes, &scales, zeros, data.shape);
    let second = GptqWeights { g_idx: None, ..data.gptq(GptqZeros::AsTheyAre) };
    let middle = NBitsWeights { zero_points: None, ..data.nbits() };
    [
        layout("AWQ", |out| data.awq().to_blocks(out), awq),
        layout("GPTQ", |out| data.gptq(GptqZeros::LessOne).to_blocks(out), gptq(1.0)),
        layout("GPTQ 2", move |out| second.to_blocks(out), gptq(0.0)),
        layout("MatMulNBits", |out| data.nbits().to_blocks(out), nbits(Some(&data.zero_points[..]))),
        layout("MatMulNBits around 8", move |out| middle.to_blocks(out), nbits(None)),
    ]
}

/// All rows as f32.
fn values(kernels: Kernels, weights: &QuantWeights<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; weights.rows() * weights.cols()];
    for (i, row) in out.chunks_mut(weights.cols().max(1)).enumerate() {
        kernels.dequantize_row(weights, i, row).unwrap();
    }
    common::ran("dequantize_row", kernels.isa(), 1);
    out
}

#[test]
fn every_layout_becomes_blocks_of_exactly_its_values() {
    const CANARY: u8 = 0xa5;
    for shape in SHAPES {
        let data = Data::new(shape);
        for (name, to_blocks, want) in layouts(&data) {
            let len = blocks_len(shape[0], shape[1]).unwrap();
            let mut memory = vec![CANARY; len + 5];
            let weights = to_blocks(&mut memory).unwrap();
            assert_eq!(
                (weights.rows(), weights.cols(), weights.format()),
                (shape[0], shape[1], Format::INT4)
            );
            for kernels in Kernels::every_available() {
                let got = values(kernels, &weights);
                assert_eq!(got.len(), want.len());
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    assert!(f64::from(*got) == *want, "{} {name} {shape:?}: {i} is {got}", kernels.isa());
                }
            }
            assert_eq!(memory[len..], [CANARY; 5], "{name} {shape:?}: written beyond the blocks");
        }
    }
}

/// From the layout to the product: that of its own values, within the bound of a sum of k products in f32.
#[test]
fn products_are_those_of_the_layouts_values() {
    for shape in [[24, 96, 64], [136, 576, 64]] {
        let (data, [n, k, _]) = (Data::new(shape), shape);
        let x = Random(1).values(3 * k, 1.0);
        for (name, to_blocks, w) in layouts(&data) {
            let mut memory = vec![0; blocks_len(n, k).unwrap()];
            let weights = to_blocks(&mut memory).unwrap();
            for kernels in Kernels::every_available() {
                for (phase, leaf) in [(Phase::Prompt, "prompt"), (Phase::Decode, "decode")] {
                    let mut a = Activations::new(3, k, Forms::EXACT);
                    let mut rows = a.begin(3, k).unwrap();
                    (0..3).for_each(|i| rows.row_mut(i).copy_from_slice(&x[i * k..][..k]));
                    let mut out = vec![f32::NAN; 3 * n];
                    let view = MatMut::from_rows(&mut out, n);
                    kernels.matmul(&Team::serial(), phase, &a, &weights, Epilogue::default(), view).unwrap();
                    common::ran(leaf, kernels.isa(), 1);
                    for (at, got) in out.iter().enumerate() {
                        let (x, w) = (&x[at / n * k..][..k], &w[at % n * k..][..k]);
                        let terms = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * w);
                        let (want, magnitude): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                        let bound = (k + 4) as f64 * 2.0_f64.powi(-24) * magnitude + 1e-36;
                        let off = (f64::from(*got) - want).abs();
                        assert!(off <= bound, "{} {name} {shape:?} {phase:?}: {at} is {got}", kernels.isa());
                    }
                }
            }
        }
    }
}

/// 15, stored in the first version of GPTQ, means 16, which no nibble holds.
#[test]
fn zero_points_reach_sixteen() {
    let mut data = Data::new([8, 64, 32]);
    data.qzeros.fill(-1);
    data.words.fill(0);
    data.f16s.fill(f16::from_f32(0.25));
    let mut memory = vec![0; blocks_len(8, 64).unwrap()];
    for (zeros, value) in [(GptqZeros::LessOne, -4.0), (GptqZeros::AsTheyAre, -3.75)] {
        let weights = data.gptq(zeros).to_blocks(&mut memory).unwrap();
        for kernels in Kernels::every_available() {
            assert_eq!(values(kernels, &weights), [value; 8 * 64], "{}", kernels.isa());
        }
    }
}

#[test]
fn scales_of_f32_are_rounded_to_the_nearest_f16() {
    let mut data = Data::new([8, 96, 32]);
    let edges = [6e-8, 2.9e-8, -1e-5, 65519.0, 0.1, -0.0, 6.1e-5, 1.0 + 2.0_f32.powi(-11)];
    data.f32s[..8].copy_from_slice(&edges);
    let (scales, kernels) = (Scales::F32(&data.f32s), Kernels::best());
    let (mut memory, mut exact) = (vec![0; blocks_len(8, 96).unwrap()], vec![0; blocks_len(8, 96).unwrap()]);
    let got = values(kernels, &AwqWeights { scales, ..data.awq() }.to_blocks(&mut memory).unwrap());
    let wide: Vec<f64> = data.f32s.iter().map(|x| f64::from(*x)).collect();
    let want = reference::awq(&data.words, &data.qzeros, &wide, 96, 32);
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let scale = f64::from(data.f32s[i % 96 / 32 * 8 + i / 96]);
        let bound = (scale.abs() * 2.0_f64.powi(-11)).max(2.0_f64.powi(-25)) * 15.0;
        assert!((f64::from(*got) - want).abs() <= bound, "{i}: {got}, want {want} +- {bound:e}");
    }
    // Those that f16 holds lose nothing.
    data.f32s = data.f16s.iter().map(|x| x.to_f32()).collect();
    AwqWeights { scales: Scales::F32(&data.f32s), ..data.awq() }.to_blocks(&mut memory).unwrap();
    data.awq().to_blocks(&mut exact).unwrap();
    assert_eq!(memory, exact);
}

#[test]
fn nothing_is_a_matrix_too() {
    for [n, k] in [[0, 0], [0, 64], [8, 0]] {
        let data = Data::new([n, k, 32]);
        for (name, to_blocks, _) in layouts(&data) {
            let weights = to_blocks(&mut []).unwrap();
            assert_eq!((weights.rows(), weights.cols()), (n, k), "{name}");
        }
    }
    assert_eq!(blocks_len(8, 33), None);
    assert_eq!(blocks_len(usize::MAX, 64), None);
}

#[test]
fn what_is_wrong_is_refused_by_name_with_both_values_and_nothing_is_written() {
    let data = Data::new([16, 128, 64]);
    assert_eq!(data.groups, 2);
    let (awq, gptq, onnx) = (data.awq(), data.gptq(GptqZeros::LessOne), data.nbits());
    let refused = |to_blocks: &dyn Fn(&mut [u8]) -> Result<(), KernelError>, want: &str| {
        let mut memory = vec![7; blocks_len(16, 128).unwrap()];
        let error = to_blocks(&mut memory).unwrap_err().to_string();
        assert!(error.contains(want), "{error}; want {want}");
        assert!(memory.iter().all(|byte| *byte == 7), "{error}: written");
    };
    let of_awq = |awq: AwqWeights<'_>, want| refused(&|out| awq.to_blocks(out).map(drop), want);
    let of_gptq = |gptq: GptqWeights<'_>, want| refused(&|out| gptq.to_blocks(out).map(drop), want);
    let of_onnx = |onnx: NBitsWeights<'_>, want| refused(&|out| onnx.to_blocks(out).map(drop), want);
    let (words, zeros) = (&data.words, &data.qzeros);

    of_awq(AwqWeights { k: 120, ..awq }, "INT4 packs blocks of 32 values, so 120 columns");
    of_awq(AwqWeights { group: 0, ..awq }, "AwqWeights::to_blocks: group is 0; allowed: multiples of 32");
    of_gptq(GptqWeights { group: 48, ..gptq }, "group is 48; allowed: multiples of 32");
    of_onnx(NBitsWeights { group: 16, ..onnx }, "group is 16; allowed: multiples of 32");
    of_awq(AwqWeights { n: 12, ..awq }, "n is 12; allowed: multiples of 8");
    of_gptq(GptqWeights { n: 12, ..gptq }, "n is 12; allowed: multiples of 8");
    of_awq(AwqWeights { qweight: &words[1..], ..awq }, "qweight.len() is 255, but 256 is needed");
    of_awq(AwqWeights { qzeros: &zeros[1..], ..awq }, "qzeros.len() is 3, but 4 is needed");
    of_awq(AwqWeights { n: 24, ..awq }, "qweight.len() is 256, but 384 is needed");
    of_awq(AwqWeights { n: usize::MAX / 8 * 8, ..awq }, "qweight.len() is 256");
    of_gptq(GptqWeights { qweight: &words[1..], ..gptq }, "qweight.len() is 255, but 256 is needed");
    of_gptq(GptqWeights { qzeros: &zeros[1..], ..gptq }, "qzeros.len() is 3, but 4 is needed");
    of_gptq(GptqWeights { group: 32, ..gptq }, "qzeros.len() is 4, but 8 is needed");
    of_onnx(NBitsWeights { b: &data.bytes[1..], ..onnx }, "b.len() is 1023, but 1024 is needed");
    of_onnx(NBitsWeights { n: usize::MAX, ..onnx }, "b.len() is 1024");
    let zero_points = Some(&data.zero_points[1..]);
    of_onnx(NBitsWeights { zero_points, ..onnx }, "zero_points.len() is 15, but 16 is needed");

    let short = Scales::F16(&data.f16s[1..]);
    of_awq(AwqWeights { scales: short, ..awq }, "scales.len() is 31, but 32 is needed");
    of_gptq(GptqWeights { scales: short, ..gptq }, "scales.len() is 31, but 32 is needed");
    of_onnx(NBitsWeights { scales: short, ..onnx }, "scales.len() is 31, but 32 is needed");
    let mut bad = data.f32s.clone();
    bad[9] = 65520.0;
    let scales = Scales::F32(&bad);
    of_onnx(NBitsWeights { scales, ..onnx }, "scales is 65520 at index 9; allowed: finite values within f16");
    let mut bad = data.f16s.clone();
    bad[31] = f16::NAN;
    of_gptq(GptqWeights { scales: Scales::F16(&bad), ..gptq }, "scales is NaN at index 31");

    of_gptq(GptqWeights { g_idx: Some(&data.g_idx[1..]), ..gptq }, "g_idx.len() is 127, but 128 is needed");
    let mut order = data.g_idx.clone();
    order.swap(3, 70);
    let want = "g_idx is 1 for input 3, which is in group 0; allowed: groups of consecutive inputs";
    of_gptq(GptqWeights { g_idx: Some(&order), ..gptq }, want);

    let mut short = vec![7; blocks_len(16, 128).unwrap() - 1];
    let error = awq.to_blocks(&mut short).unwrap_err().to_string();
    assert_eq!(error, "AwqWeights::to_blocks: out.len() (at least) is 1215, but 1216 is needed");
    assert!(short.iter().all(|byte| *byte == 7));
}

/// The values that ONNX Runtime multiplies with (see `data/README.md`).
#[test]
fn matmul_nbits_means_what_onnx_runtime_computes() {
    let data = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/int4");
        std::fs::read(folder.join(name)).unwrap()
    };
    let floats = |name: &str| -> Vec<f32> {
        data(name).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let (b, zero_points, scales) = (data("nbits.b"), data("nbits.zero_points"), floats("nbits.scales"));
    let (n, k, group, scales) = (5, 96, 32, Scales::F32(&scales));
    for (zero_points, witness) in [(Some(&zero_points[..]), "nbits.f32"), (None, "nbits_middle.f32")] {
        let onnx = NBitsWeights { n, k, group, b: &b, scales, zero_points };
        let mut memory = vec![0; blocks_len(n, k).unwrap()];
        let weights = onnx.to_blocks(&mut memory).unwrap();
        for kernels in Kernels::every_available() {
            assert!(values(kernels, &weights) == floats(witness), "{witness} on {}", kernels.isa());
        }
    }
}
