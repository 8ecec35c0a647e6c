//! That the tests ran what they claim, and that an instruction set can be asked for by name.

mod common;

use gable_kernels::{Isa, KernelError, Kernels, MatMut, Team};

#[test]
fn every_required_instruction_set_runs() {
    for isa in common::required_isas() {
        let kernels = Kernels::for_isa(isa).unwrap_or_else(|e| panic!("GABLE_REQUIRE_ISA: {e}"));
        let mut x = [0.0; 4];
        kernels.softmax(&Team::serial(), 1.0, None, MatMut::from_rows(&mut x, 4)).unwrap();
        assert_eq!(x, [0.25; 4], "{isa}");
        common::ran("softmax_row", isa, 1);
    }
}

#[test]
fn every_kernel_of_the_tables_is_named_in_a_property_test() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut sources = String::new();
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("isa.rs") {
            sources += &std::fs::read_to_string(path).unwrap();
        }
    }
    let untested = |name: &&&str| !sources.contains(&format!("{name:?}"));
    let untested: Vec<_> = Kernels::operations().iter().filter(untested).collect();
    assert!(untested.is_empty(), "no test in kernels/tests books cases of {untested:?}");
}

#[test]
fn names_of_instruction_sets_go_there_and_back() {
    for isa in Isa::ALL {
        assert_eq!(isa.name().parse(), Ok(isa));
    }
    assert_eq!("avx3".parse::<Isa>(), Err(KernelError::UnknownIsa("avx3".to_owned())));
}

#[test]
fn best_is_the_first_available_and_portable_the_last() {
    let all: Vec<Isa> = Kernels::every_available().map(Kernels::isa).collect();
    assert_eq!(all.first(), Some(&Kernels::best().isa()));
    assert_eq!(all.last(), Some(&Isa::Portable));
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused_with_the_list_of_those_that_are() {
    let missing = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
    let message = Kernels::for_isa(missing).unwrap_err().to_string();
    assert!(message.contains(missing.name()) && message.contains("portable"), "{message}");
}

/// The table in the README is what the tables in the code say.
#[test]
fn the_readme_names_the_tiles_of_every_instruction_set() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let row = |first: &str| -> Vec<String> {
        let line = readme.lines().find(|l| l.starts_with(&format!("| {first}"))).unwrap();
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let (names, cells, int8) = (row("kernel"), row("f32 tile"), row("int8 tile"));
    assert_eq!(names[1..], Isa::ALL.map(|isa| isa.name().to_owned()));
    for kernels in Kernels::every_available() {
        let column = names.iter().position(|n| n == kernels.isa().name()).unwrap();
        let tiles = kernels.tiles();
        for (row, (mr, nv)) in [(&cells, tiles.cells), (&int8, tiles.int8)] {
            assert_eq!(row[column], format!("{mr} x {}", 16 * nv), "{}", kernels.isa());
        }
    }
}
