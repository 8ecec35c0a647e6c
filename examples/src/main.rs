//! A layer of somebody's engine, which has threads and memory of its own: `y = silu(x W^T + bias)`.

use gable_kernels::dense::{DenseScratch, Element, Rhs, Store};
use gable_kernels::{KernelError, Kernels, MatMut, MatRef, ParallelFor, Team, activation::Activation};

/// The engine's threads.
struct EngineThreads(usize);

impl ParallelFor for EngineThreads {
    fn threads(&self) -> usize {
        self.0
    }

    fn parallel_for(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| (0..parts).for_each(|part| drop(scope.spawn(move || f(part)))));
    }
}

fn main() -> Result<(), KernelError> {
    let (kernels, threads, [m, k, n]) = (Kernels::best(), EngineThreads(4), [3, 64, 100]);
    let team = Team::host(&threads);
    let (x, w, bias) = (vec![0.5_f32; m * k], vec![0.25_f32; n * k], vec![1.0; n]);
    // Packed once, into memory that the engine has set aside; any number of calls and threads may use it.
    let mut arena = vec![0_u8; kernels.packed_len(f32::TYPE, k, n).unwrap_or(0) + 64];
    let start = arena.as_ptr().align_offset(64);
    let packed =
        kernels.pack_weights_into(&team, Rhs::Transposed(MatRef::from_rows(&w, k)), &mut arena[start..])?;
    let (mut y, mut scratch) = (vec![0.0_f32; m * n], DenseScratch::new());
    let store = Store { bias: Some(&bias), activation: Some(Activation::Silu), ..Store::default() };
    let out = MatMut::from_rows(&mut y, n);
    kernels.gemm(&team, MatRef::from_rows(&x, k), Rhs::<f32>::Packed(&packed), &store, out, &mut scratch)?;
    println!("{m} x {n} on {}, first {}, last {}", kernels.isa(), y[0], y[m * n - 1]);
    Ok(())
}
