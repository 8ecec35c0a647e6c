//! That the tests ran what they claim, and that an instruction set can be asked for by name.

mod common;

use gable_kernels::attention::Arithmetic;
use gable_kernels::{Isa, KernelError, Kernels, MatMut, Team};

#[test]
fn every_required_instruction_set_runs() {
    for isa in common::required_isas() {
        let kernels = Kernels::for_isa(isa).unwrap_or_else(|e| panic!("GABLE_REQUIRE_ISA: {e}"));
        let mut x = [0.0; 4];
        kernels.softmax(&Team::serial(), 1.0, None, MatMut::from_rows(&mut x, 4)).unwrap();
        assert_eq!(x, [0.25; 4], "{isa}");
        common::ran("softmax_rows", isa, 1);
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

/// Which kernel exists where, as the README says it: made from the sources of the tables and from what they are at run
/// time. `GABLE_BLESS=1` writes it there.
#[test]
fn the_readme_says_which_kernels_every_instruction_set_has_and_in_which_tiles() {
    const START: &str = "<!-- kernels by instruction set: made and checked by kernels/tests/isa.rs -->\n";
    const END: &str = "<!-- end of kernels by instruction set -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (before, rest) = readme.split_once(START).expect("the README has the mark where the table begins");
    let (found, after) = rest.split_once(END).expect("the README has the mark where the table ends");
    let table = table();
    if std::env::var_os("GABLE_BLESS").is_some() {
        std::fs::write(path, [before, START, &table, END, after].concat()).unwrap();
        return;
    }
    assert_eq!(found, table, "run this test with GABLE_BLESS=1, and look at the README");
}

/// What a `kernel_table!` line says.
struct Line {
    isa: Isa,
    features: Vec<String>,
    /// Rows and vectors of 16 of the plain tile and of the int8 tile.
    tiles: [(usize, usize); 2],
    /// What sets the table apart from the one before it, which `scripts/check_asm.py` finds in the machine code.
    instruction: String,
}

impl Line {
    fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    /// What multiplies u8 and i8.
    fn int8(&self) -> &'static str {
        match () {
            () if self.has("avx512vnni") || self.has("avxvnni") => "vpdpbusd",
            () if self.has("avx512bw") || self.has("avx2") => "vpmaddubsw",
            () if self.has("dotprod") => "sdot",
            () => "plain",
        }
    }

    /// What multiplies bf16.
    fn bf16(&self) -> &'static str {
        if self.has("avx512bf16") { "vdpbf16ps" } else { "widened" }
    }
}

fn source(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn tile(text: &str) -> (usize, usize) {
    let (rows, vectors) = text.trim().split_once(" x ").unwrap();
    (rows.parse().unwrap(), vectors.parse().unwrap())
}

fn lines() -> Vec<Line> {
    let tables = source("src/table.rs");
    let checks = source("../scripts/check_asm.py");
    let line = |text: &str| {
        // NAME: Token, [features], 6 x 4, int8 6 x 2
        let (name, rest) = text.split_once(": ").unwrap();
        let (token, rest) = rest.split_once(", [").unwrap();
        let (features, tiles) = rest.split_once("],").unwrap();
        let (plain, int8) = tiles.split_once(", int8").unwrap();
        let instruction = checks.lines().find_map(|l| l.trim().strip_prefix(&format!("\"{name}\": (r\"")));
        let instruction = instruction.map_or("-", |l| l.rsplit('"').nth(1).unwrap());
        Line {
            isa: token.to_lowercase().parse().unwrap(),
            features: features
                .split(", ")
                .map(|f| f.trim_matches('"').to_owned())
                .filter(|f| !f.is_empty())
                .collect(),
            tiles: [tile(plain), tile(int8)],
            instruction: instruction.to_owned(),
        }
    };
    let calls = tables.split("\nkernel_table!(").skip(1);
    let mut all: Vec<Line> =
        calls.map(|call| line(&call.split_once(");").unwrap().0.replace("\n   ", ""))).collect();
    all.sort_by_key(|line| line.isa);
    all
}

/// The leaves of a table by the module that they are of.
fn kernels_by_module() -> Vec<(String, Vec<&'static str>)> {
    let tables = source("src/table.rs");
    let mut modules: Vec<(String, Vec<&'static str>)> = Vec::new();
    for &name in Kernels::operations() {
        // Two are called with their tiles; the others are assigned in the list of operations.
        let called = tables.find(&format!("::{name}::<$Token")).map(|at| &tables[..at]);
        let listed = || tables.split(&format!("fn {name}(")).nth(1).unwrap().split(';').next().unwrap();
        let path = called
            .map_or_else(|| listed().rsplit("= ").next().unwrap(), |text| text.rsplit(' ').next().unwrap());
        let module = path.trim_start_matches("crate::").split("::").next().unwrap().to_owned();
        match modules.iter_mut().find(|m| m.0 == module) {
            Some(module) => module.1.push(name),
            None => modules.push((module, vec![name])),
        }
    }
    modules.sort();
    modules
}

fn table() -> String {
    let lines = lines();
    assert_eq!(lines.iter().map(|line| line.isa).collect::<Vec<_>>(), Isa::ALL);
    for kernels in Kernels::every_available() {
        let line = lines.iter().find(|line| line.isa == kernels.isa()).unwrap();
        assert_eq!(line.tiles, [kernels.tiles().cells, kernels.tiles().int8], "{}", kernels.isa());
        let multiplies_bf16 = Arithmetic::fastest(kernels) == Arithmetic::Bf16;
        assert_eq!(line.bf16() == "vdpbf16ps", multiplies_bf16, "{}", kernels.isa());
    }
    for line in &lines {
        let Line { isa, instruction, .. } = line;
        assert!(
            [line.int8(), line.bf16(), "-"].iter().any(|own| instruction.contains(own)),
            "{isa}: {instruction}"
        );
    }
    let row = |title: &str, cell: &dyn Fn(&Line) -> String| {
        format!("| {title} | {} |\n", lines.iter().map(cell).collect::<Vec<_>>().join(" | "))
    };
    let tile = |(rows, vectors): (usize, usize)| format!("{rows} x {}", 16 * vectors);
    let mut text = row("", &|line| format!("`{}`", line.isa));
    text += &format!("|---{}|\n", "|---".repeat(lines.len()));
    text += &row("CPU features", &|line| line.features.join(" "));
    text += &row("int8 dot product", &|line| line.int8().to_owned());
    text += &row("bf16 dot product", &|line| line.bf16().to_owned());
    text += &row("tile of f32, f16, bf16", &|line| tile(line.tiles[0]));
    text += &row("tile of int8 blocks", &|line| tile(line.tiles[1]));
    for (module, kernels) in kernels_by_module() {
        text += &row(&format!("kernels of `{module}`"), &|_| kernels.len().to_string());
    }
    text
}
