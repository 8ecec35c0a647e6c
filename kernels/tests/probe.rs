//! The probes of the machine's limits: they do what they say they did.

mod common;

use gable_kernels::Kernels;
use gable_kernels::probe::Product;

#[test]
fn twice_the_work_is_twice_as_many_operations_and_wider_products_do_more_at_a_time() {
    for kernels in Kernels::every_available() {
        for product in [Product::F32, Product::Bf16, Product::Int8] {
            let done = [1 << 20, 1 << 21].map(|n| kernels.multiply_registers(product, n) as f64);
            assert!((1.9..2.1).contains(&(done[1] / done[0])), "{} {product:?} {done:?}", kernels.isa());
            assert!(done[0] <= 1.1 * f64::from(1 << 20), "{} {product:?} {done:?}", kernels.isa());
            common::ran("probe_multiply", kernels.isa(), 1);
        }
    }
}

#[test]
fn reading_takes_any_length_at_any_alignment() {
    let memory = vec![3_u8; 1 << 16];
    for kernels in Kernels::every_available() {
        for (from, to) in [(0, 0), (1, 256), (3, 259), (5, 5 + 257), (0, 1 << 16), (7, 1 << 16)] {
            kernels.read_memory(&memory[from..to]);
            common::ran("probe_read", kernels.isa(), 1);
        }
    }
}
