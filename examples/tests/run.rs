//! The example is run as it is printed.

use std::process::Command;

#[test]
fn the_engine_gets_the_layer_it_asked_for() {
    let output = Command::new(env!("CARGO_BIN_EXE_gable-examples")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // 64 products of 0.5 and 0.25, and 1: 9, of which silu makes 9 / (1 + e^-9).
    let wanted = 9.0 / (1.0 + (-9.0_f64).exp());
    for name in ["first ", "last "] {
        let found = text.trim().split(name).nth(1).unwrap().split(',').next().unwrap();
        let found: f64 = found.parse().unwrap();
        assert!((found - wanted).abs() < 1e-5, "{text}");
    }
}

/// What an engine takes on with the crate.
#[test]
fn the_example_depends_on_the_kernels_alone() {
    let manifest = include_str!("../Cargo.toml");
    let (_, dependencies) = manifest.split_once("[dependencies]").unwrap();
    let dependencies: Vec<&str> =
        dependencies.split("\n[").next().unwrap().lines().filter(|line| line.contains('=')).collect();
    assert_eq!(dependencies, ["gable-kernels = { path = \"../kernels\", default-features = false }"]);
}
