//! Prints which kernel tables this CPU can run, after one product on each.
//!
//! Its binary holds every table of the crate, so `scripts/check_asm.py` inspects the code that was compiled into it.

use gable_kernels::gemm::{Epilogue, Phase};
use gable_kernels::quant::{Activations, Format, Forms, QuantWeights};
use gable_kernels::{Kernels, MatMut, Team};

fn main() -> Result<(), gable_kernels::KernelError> {
    const K: usize = 64;
    let ones: Vec<u8> = std::iter::repeat_n(1.0_f32.to_le_bytes(), K).flatten().collect();
    let weights = QuantWeights::from_bytes(Format::F32, 1, K, ones.len(), &ones)?;
    for kernels in Kernels::every_available() {
        let mut x = Activations::new(1, K, Forms::EXACT);
        x.begin(1, K)?.row_mut(0).fill(1.0);
        for phase in [Phase::Prompt, Phase::Decode] {
            let mut out = [0.0];
            let y = MatMut::from_rows(&mut out, 1);
            kernels.matmul(&Team::serial(), phase, &x, &weights, Epilogue::default(), y)?;
            println!("{:10} {phase:?}: 1 . 1 over {K} = {}", kernels.isa().name(), out[0]);
        }
    }
    Ok(())
}
