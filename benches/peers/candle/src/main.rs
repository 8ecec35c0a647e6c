//! The quantized products of `candle-core` for benches/peers/layers.py, asked as benches/src/bin/layers.rs is: answers
//! `FORMAT M K COPIES FOLDER N...` with the seconds of one run over COPIES layers, and writes the results of one layer to
//! FOLDER/candle. CANDLE_NUM_THREADS says on how many threads. candle repacks some formats when they are first multiplied.

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use std::borrow::Cow;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

/// The matrices of all layers, and what they are multiplied with.
struct Layers {
    matrices: Vec<QMatMul>,
    x: Tensor,
}

fn dtype(format: &str) -> Option<GgmlDType> {
    Some(match format {
        "Q4_0" => GgmlDType::Q4_0,
        "Q4_1" => GgmlDType::Q4_1,
        "Q5_0" => GgmlDType::Q5_0,
        "Q5_1" => GgmlDType::Q5_1,
        "Q8_0" => GgmlDType::Q8_0,
        "Q4_K" => GgmlDType::Q4K,
        "Q5_K" => GgmlDType::Q5K,
        "Q6_K" => GgmlDType::Q6K,
        _ => return None,
    })
}

impl Layers {
    fn read(request: &str) -> Result<Layers, Box<dyn Error>> {
        let words: Vec<&str> = request.split_whitespace().collect();
        let [format, m, k, copies, folder, n @ ..] = &words[..] else {
            return Err("wanted: FORMAT M K COPIES FOLDER N...".into());
        };
        let dtype = dtype(format).ok_or(format!("candle has no {format}"))?;
        let (m, k, copies): (usize, usize, usize) = (m.parse()?, k.parse()?, copies.parse()?);
        let row_bytes = k / dtype.block_size() * dtype.type_size();
        let weights = std::fs::read(Path::new(folder).join("weights"))?;
        let x = std::fs::read(Path::new(folder).join("x"))?;
        let x: Vec<f32> = x.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
        let mut layers = Layers { matrices: Vec::new(), x: Tensor::from_vec(x, (m, k), &Device::Cpu)? };
        for _ in 0..copies {
            let mut rest = &weights[..];
            for n in n {
                let n: usize = n.parse()?;
                let matrix = rest.split_off(..n * row_bytes).ok_or("too few weights")?;
                let storage = QStorage::from_data(Cow::Borrowed(matrix), &Device::Cpu, dtype)?;
                layers.matrices.push(QMatMul::from_qtensor(QTensor::new(storage, (n, k))?)?);
            }
        }
        let mut results: Vec<f32> = Vec::new();
        for matrix in &layers.matrices[..n.len()] {
            results.extend(matrix.forward(&layers.x)?.flatten_all()?.to_vec1::<f32>()?);
        }
        let results: Vec<u8> = results.iter().flat_map(|y| y.to_le_bytes()).collect();
        std::fs::write(Path::new(folder).join("candle"), results)?;
        Ok(layers)
    }

    /// Seconds of all layers, `times` times.
    fn seconds(&self, times: usize) -> f64 {
        let start = Instant::now();
        for _ in 0..times {
            for matrix in &self.matrices {
                std::hint::black_box(matrix.forward(&self.x).expect("shapes fit"));
            }
        }
        start.elapsed().as_secs_f64()
    }
}

fn main() {
    let mut made: Option<(String, Layers, usize)> = None;
    for line in std::io::stdin().lines().map_while(Result::ok) {
        if made.as_ref().is_none_or(|(request, ..)| *request != line) {
            made = None; // Its memory first.
            match Layers::read(&line) {
                Ok(layers) => {
                    let shortest = (0..5).map(|_| layers.seconds(1)).fold(f64::MAX, f64::min);
                    made = Some((line, layers, (0.02 / shortest).ceil() as usize));
                }
                Err(error) => println!("error: {error}"),
            }
        }
        if let Some((_, layers, repeats)) = &made {
            layers.seconds(1); // Wakes the threads.
            println!("{:e}", layers.seconds(*repeats) / *repeats as f64);
        }
    }
}
