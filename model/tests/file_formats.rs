//! Whole files on disk: what is written is read back, parts are put together, real models open.

use std::path::{Path, PathBuf};

use gable_kernels::quant::Format;
use gable_model::LoadError;
use gable_model::gguf::writer::GgufWriter;
use gable_model::gguf::{Array, Gguf, OverrideValue, Value};
use gable_model::mapped_file::{Access, MappedFile};
use gable_model::safetensors::Safetensors;
use proptest::prelude::*;

/// A fresh folder for one test.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("file_formats").join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A model of the cache; tests need it, so a missing one fails.
fn cached(name: &str) -> PathBuf {
    let home = std::env::var_os("GABLE_HOME").map(PathBuf::from);
    let path =
        home.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/gable")).join(name);
    assert!(path.exists(), "{} is missing; fetch it with `gable pull`", path.display());
    path
}

/// One metadata value of any type, in the order of the type numbers.
#[derive(Debug, Clone)]
enum Any {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<Vec<u8>>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

fn any_values() -> impl Strategy<Value = Any> {
    use proptest::collection::vec;
    const N: std::ops::Range<usize> = 1..9;
    prop_oneof![
        vec(any::<u8>(), N).prop_map(Any::U8),
        vec(any::<i8>(), N).prop_map(Any::I8),
        vec(any::<u16>(), N).prop_map(Any::U16),
        vec(any::<i16>(), N).prop_map(Any::I16),
        vec(any::<u32>(), N).prop_map(Any::U32),
        vec(any::<i32>(), N).prop_map(Any::I32),
        vec(any::<f32>(), N).prop_map(Any::F32),
        vec(any::<bool>(), N).prop_map(Any::Bool),
        vec(vec(any::<u8>(), 0..12), N).prop_map(Any::String),
        vec(any::<u64>(), N).prop_map(Any::U64),
        vec(any::<i64>(), N).prop_map(Any::I64),
        vec(any::<f64>(), N).prop_map(Any::F64),
    ]
}

impl Any {
    /// Writes the first value under `key` and all of them as an array under `key.array`.
    fn write(&self, w: &mut GgufWriter, key: &str) -> Result<(), LoadError> {
        let array = format!("{key}.array");
        macro_rules! both {
            ($v:expr) => {
                w.set(key, &$v[0]).and_then(|()| w.set_array(&array, $v))
            };
        }
        match self {
            Any::U8(v) => both!(v),
            Any::I8(v) => both!(v),
            Any::U16(v) => both!(v),
            Any::I16(v) => both!(v),
            Any::U32(v) => both!(v),
            Any::I32(v) => both!(v),
            Any::F32(v) => both!(v),
            Any::Bool(v) => both!(v),
            Any::String(v) => both!(v),
            Any::U64(v) => both!(v),
            Any::I64(v) => both!(v),
            Any::F64(v) => both!(v),
        }
    }

    fn values(&self) -> Vec<Value<'_>> {
        match self {
            Any::U8(v) => v.iter().map(|v| Value::U8(*v)).collect(),
            Any::I8(v) => v.iter().map(|v| Value::I8(*v)).collect(),
            Any::U16(v) => v.iter().map(|v| Value::U16(*v)).collect(),
            Any::I16(v) => v.iter().map(|v| Value::I16(*v)).collect(),
            Any::U32(v) => v.iter().map(|v| Value::U32(*v)).collect(),
            Any::I32(v) => v.iter().map(|v| Value::I32(*v)).collect(),
            Any::F32(v) => v.iter().map(|v| Value::F32(*v)).collect(),
            Any::Bool(v) => v.iter().map(|v| Value::Bool(*v)).collect(),
            Any::String(v) => v.iter().map(|v| Value::String(v)).collect(),
            Any::U64(v) => v.iter().map(|v| Value::U64(*v)).collect(),
            Any::I64(v) => v.iter().map(|v| Value::I64(*v)).collect(),
            Any::F64(v) => v.iter().map(|v| Value::F64(*v)).collect(),
        }
    }
}

fn format() -> impl Strategy<Value = Format> {
    proptest::sample::select(Format::all_of_gguf().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(
        entries in proptest::collection::vec(any_values(), 0..12),
        tensors in proptest::collection::vec((format(), 0u64..3, proptest::collection::vec(0u64..4, 0..4)), 0..8),
        alignment in 0u32..9,
        fill in any::<u8>(),
    ) {
        let mut w = GgufWriter::with_alignment(1 << alignment).unwrap();
        for (i, entry) in entries.iter().enumerate() {
            entry.write(&mut w, &format!("key{i}")).unwrap();
        }
        let mut data = Vec::new();
        for (i, (format, blocks, rest)) in tensors.iter().enumerate() {
            let dims = [&[blocks * format.block_len() as u64], &rest[..]].concat();
            w.declare(&format!("t{i}"), &dims, *format).unwrap();
            let n = *blocks as usize * format.block_bytes() * rest.iter().product::<u64>() as usize;
            data.push((0..n).map(|b| fill.wrapping_add(b as u8)).collect::<Vec<u8>>());
        }
        let slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let bytes = w.to_vec(&slices).unwrap();

        let gguf = Gguf::from_bytes(bytes.clone()).unwrap();
        prop_assert_eq!(gguf.metadata().len(), 1 + 2 * entries.len());
        prop_assert_eq!(gguf.surplus_bytes(), 0);
        for (i, entry) in entries.iter().enumerate() {
            // Compared as text: a NaN is not equal to itself.
            let want = entry.values();
            let got = gguf.metadata().value(&format!("key{i}")).unwrap();
            prop_assert_eq!(format!("{got:?}"), format!("{:?}", want[0]));
            let key = format!("key{i}.array");
            let array = gguf.metadata().require::<Array<'_>>(&key).unwrap();
            prop_assert_eq!(array.len(), want.len());
            let got: Vec<_> = array.values().collect();
            prop_assert_eq!(format!("{got:?}"), format!("{want:?}"));
        }
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        for (tensor, (i, want)) in gguf.tensors().iter().zip(data.iter().enumerate()) {
            prop_assert_eq!(&*tensor.name, format!("t{i}"));
            prop_assert_eq!((tensor.format, tensor.dims.len()), (tensors[i].0, 1 + tensors[i].2.len()));
            prop_assert_eq!(tensor.offset % (1 << alignment), 0);
            prop_assert_eq!(gguf.tensor_bytes(tensor), want);
        }

        // Copied value by value, the file is the same.
        let mut copy = GgufWriter::with_alignment(1 << alignment).unwrap();
        for (key, value) in gguf.metadata().iter().filter(|(key, _)| *key != "general.alignment") {
            copy.set_value(key, value).unwrap();
        }
        for t in gguf.tensors() {
            let dims: Vec<u64> = t.dims.iter().map(|d| *d as u64).collect();
            copy.declare(&t.name, &dims, t.format).unwrap();
        }
        prop_assert_eq!(copy.to_vec(&slices).unwrap(), bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_valid_start_never_panic(
        counts in (0u64..4, 0u64..4),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let image = [b"GGUF\x03\0\0\0", &counts.0.to_le_bytes()[..], &counts.1.to_le_bytes(), &bytes].concat();
        let _ = Gguf::from_bytes(image);
    }
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut w = GgufWriter::new();
    let text = |r: Result<(), LoadError>| r.unwrap_err().to_string();
    w.set("k", &1u32).unwrap();
    assert!(text(w.set("k", &2u32)).contains("\"k\": is set already"));
    assert!(text(w.set("", &2u32)).contains("has 0 bytes"));
    assert!(text(w.set("general.alignment", &64u32)).contains("is set when the writer is made"));
    w.declare("t", &[32], Format::Q4_0).unwrap();
    assert!(text(w.declare("t", &[32], Format::Q4_0)).contains("\"t\": is declared already"));
    assert!(text(w.declare("u", &[31], Format::Q4_0)).contains("shape [31] is not possible for Q4_0"));
    assert!(text(w.declare("u", &[32], Format::INT4)).contains("\"u\": INT4 is not a type of GGUF"));
    assert!(text(w.declare(&"u".repeat(64), &[1], Format::F32)).contains("64 bytes"));
    let text = |data: &[&[u8]]| w.clone().to_vec(data).unwrap_err().to_string();
    assert!(text(&[]).contains("the data of tensor \"t\" are missing"));
    assert!(text(&[&[0; 17]]).contains("has 18 bytes, but 17 are given"));
    assert!(text(&[&[0; 18], &[0; 18]]).contains("more data than declared tensors"));
    assert!(GgufWriter::with_alignment(3).is_err());
}

#[test]
fn typed_getters_name_the_key_and_both_types() {
    let mut w = GgufWriter::new();
    w.set("n", &-1i32).unwrap();
    w.set("s", "text").unwrap();
    w.set("small", &7u8).unwrap();
    w.set("bytes", &b"\xff"[..]).unwrap();
    w.set_array("scores", &[1i8, 2]).unwrap();
    let gguf = Gguf::from_bytes(w.to_vec(&[]).unwrap()).unwrap();
    let m = gguf.metadata();
    assert_eq!((m.get_u32("small").unwrap(), m.get_u64("small").unwrap()), (Some(7), Some(7)));
    assert_eq!((m.get_str("s").unwrap(), m.get_str("absent").unwrap()), (Some("text"), None));
    let cases = [
        (
            m.get_u32("n").map(|_| ()),
            "metadata key \"n\": is -1 of type i32, but an integer of 0 to 4294967295 is needed",
        ),
        (m.get_u32("s").map(|_| ()), "metadata key \"s\": is \"text\" of type str, but an integer"),
        (m.get_f32("small").map(|_| ()), "metadata key \"small\": is 7 of type u8, but an f32 is needed"),
        (m.get_bool("small").map(|_| ()), "metadata key \"small\": is 7 of type u8, but a bool is needed"),
        (m.get_str("bytes").map(|_| ()), "of type str, but UTF-8 text is needed"),
        (m.get_array("s").map(|_| ()), "but an array is needed"),
        (m.require::<u32>("absent").map(|_| ()), "metadata key \"absent\": is missing"),
        (
            m.require::<Array<'_>>("scores").unwrap().f32s().map(|_| ()),
            "is an array of i8, but one of f32 is needed",
        ),
    ];
    for (got, want) in cases {
        let err = got.unwrap_err().to_string();
        assert!(err.contains(want), "{err:?} lacks {want:?}");
    }
}

#[test]
fn overrides_replace_values_of_the_same_kind_only() {
    let mut w = GgufWriter::new();
    w.set("n", &4u16).unwrap();
    w.set("eps", &1.0f32).unwrap();
    w.set_array("a", &[1u8]).unwrap();
    let mut gguf = Gguf::from_bytes(w.to_vec(&[]).unwrap()).unwrap();
    let m = gguf.metadata_mut();
    m.set_override("n", OverrideValue::Integer(9)).unwrap();
    m.set_override("eps", OverrideValue::Float(0.5)).unwrap();
    m.set_override("new", OverrideValue::String("x".into())).unwrap();
    m.set_override("new", OverrideValue::Bool(true)).unwrap();
    assert_eq!((m.get_u32("n").unwrap(), m.get_f32("eps").unwrap()), (Some(9), Some(0.5)));
    assert_eq!(m.get_bool("new").unwrap(), Some(true));
    let keys: Vec<&str> = m.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["n", "eps", "a", "new"]);
    let err = m.set_override("n", OverrideValue::Float(1.0)).unwrap_err().to_string();
    assert!(
        err.contains("\"n\": is of type u16 in the file and cannot be overridden by a value of type f64"),
        "{err}"
    );
    assert!(m.set_override("a", OverrideValue::Integer(1)).is_err());
    assert!(m.set_override("general.alignment", OverrideValue::Integer(64)).is_err());
}

/// Writes a part of a split model with one tensor, and metadata as given.
fn part(path: &Path, tensor: &str, split: [Option<u16>; 2], total: Option<i32>) {
    let mut w = GgufWriter::new();
    for (key, value) in [("split.no", split[0]), ("split.count", split[1])] {
        value.map(|v| w.set(key, &v)).transpose().unwrap();
    }
    total.map(|v| w.set("split.tensors.count", &v)).transpose().unwrap();
    w.declare(tensor, &[2], Format::F32).unwrap();
    let number = path.to_str().unwrap().as_bytes().iter().rev().nth(14).copied().unwrap();
    std::fs::write(path, w.to_vec(&[&[number; 8]]).unwrap()).unwrap();
}

#[test]
fn a_split_model_opens_as_one() {
    let dir = folder("split");
    let name = |i| dir.join(format!("m-{i:05}-of-00003.gguf"));
    for i in 1..4u16 {
        part(&name(i), &format!("t{i}"), [Some(i - 1), Some(3)], (i == 1).then_some(3));
    }
    let gguf = Gguf::open(name(1)).unwrap();
    assert_eq!(
        gguf.tensors().iter().map(|t| (&*t.name, t.shard)).collect::<Vec<_>>(),
        [("t1", 0), ("t2", 1), ("t3", 2)]
    );
    for i in 1..4 {
        let tensor = gguf.tensor(&format!("t{i}")).unwrap();
        assert_eq!(gguf.tensor_bytes(tensor), [b'0' + i; 8]);
    }
    let fails = |path: &Path, want: &str| {
        let err = Gguf::open(path).map(|_| ()).unwrap_err().to_string();
        assert!(err.contains(want), "{err:?} lacks {want:?}");
    };
    fails(&name(2), "open the first part, m-00001-of-00003.gguf");
    part(&name(2), "t3", [Some(1), Some(3)], None);
    fails(&name(1), "tensor \"t3\": stands twice");
    part(&name(2), "t2", [Some(2), Some(3)], None);
    fails(&name(1), "m-00002-of-00003.gguf: metadata key \"split.no\": is 2, but the file's name says 1");
    part(&name(2), "t2", [Some(1), Some(4)], None);
    fails(&name(1), "\"split.count\": is 4, but the first part says 3");
    part(&name(2), "t2", [None, None], None);
    fails(&name(1), "m-00002-of-00003.gguf: metadata key \"split.count\": is missing");
    std::fs::remove_file(name(2)).unwrap();
    fails(&name(1), "m-00002-of-00003.gguf");
    part(&name(2), "t2", [Some(1), Some(3)], None);
    part(&name(1), "t1", [Some(0), Some(3)], Some(4));
    fails(&name(1), "\"split.tensors.count\": is 4, but the 3 parts hold 3 tensors");
    part(&name(1), "t1", [Some(0), Some(3)], None);
    fails(&name(1), "\"split.tensors.count\": is missing");
    part(&name(1), "t1", [Some(0), Some(2)], Some(3));
    fails(&name(1), "\"split.count\": is 2, but the name says part 1 of 3");
    part(&name(1), "t1", [None, None], None);
    fails(&name(1), "\"split.count\": is missing, but the name says part 1 of 3");
    let renamed = dir.join("renamed-to-0000-name.gguf");
    part(&renamed, "t1", [Some(0), Some(3)], Some(3));
    fails(&renamed, "parts are found by their names");
}

#[test]
fn errors_of_a_file_on_disk_name_it() {
    let dir = folder("errors");
    let check = |path: &Path, want: &str| {
        let err = Gguf::open(path).map(|_| ()).unwrap_err().to_string();
        assert!(err.contains(want) && err.contains(path.to_str().unwrap()), "{err:?} lacks {want:?}");
        assert_eq!(err.matches(path.to_str().unwrap()).count(), 1, "{err}");
    };
    check(&dir, "is a directory");
    check(&dir.join("none.gguf"), "No such file");
    let path = dir.join("m.gguf");
    std::fs::write(&path, b"").unwrap();
    check(&path, "is empty");
    std::fs::write(&path, b"<html>").unwrap();
    check(&path, "HTML page");
    std::fs::write(&path, b"GGUF\x03\0\0\0\xff").unwrap();
    check(&path, "the download is incomplete");
}

#[test]
fn a_file_deleted_or_renamed_over_while_mapped_goes_on_working() {
    let dir = folder("renamed");
    let path = dir.join("m.gguf");
    let write = |path: &Path, byte: u8| {
        let mut w = GgufWriter::new();
        w.declare("t", &[2], Format::F32).unwrap();
        std::fs::write(path, w.to_vec(&[&[byte; 8]]).unwrap()).unwrap();
    };
    write(&path, 1);
    let gguf = Gguf::open(&path).unwrap();
    write(&dir.join("new"), 2);
    std::fs::rename(dir.join("new"), &path).unwrap();
    assert_eq!(gguf.tensor_bytes(&gguf.tensors()[0]), [1; 8]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(gguf.tensor_bytes(&gguf.tensors()[0]), [1; 8]);
}

#[test]
fn a_copied_model_needs_none_of_its_files_any_more() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let copied = Access { copied: true, ..Access::default() };
    for source in ["split", "qwen3/hf"] {
        let dir = folder("copied");
        let files: Vec<PathBuf> =
            std::fs::read_dir(fixtures.join(source)).unwrap().map(|f| f.unwrap().path()).collect();
        for file in &files {
            std::fs::copy(file, dir.join(file.file_name().unwrap())).unwrap();
        }
        let table = |dir: &Path, access| match source {
            "split" => Gguf::open_with(dir.join("tiny-00001-of-00002.gguf"), access).unwrap().table().clone(),
            _ => Safetensors::open_with(dir, access).unwrap().table().clone(),
        };
        let model = table(&dir, copied);
        assert!(model.files().len() > 1, "{source} has several parts");
        for file in &files {
            std::fs::File::create(dir.join(file.file_name().unwrap())).unwrap();
        }
        let mapped = table(&fixtures.join(source), Access::default());
        for tensor in mapped.tensors() {
            assert!(
                model.bytes(model.require(&tensor.name).unwrap()) == mapped.bytes(tensor),
                "{}",
                tensor.name
            );
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn opening_touches_only_the_pages_of_the_header() {
    // One GiB of tensor data, of which the disk holds nothing.
    let path = folder("sparse").join("large.gguf");
    let mut w = GgufWriter::new();
    let tokens: Vec<String> = (0..20_000).map(|i| format!("token{i}")).collect();
    w.set_array("tokenizer.ggml.tokens", &tokens).unwrap();
    w.declare("t", &[1 << 28], Format::F32).unwrap();
    let out = std::fs::File::create(&path).unwrap();
    drop(w.start(&out).unwrap());
    let header = out.metadata().unwrap().len();
    out.set_len(header + (1 << 30)).unwrap();

    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.tensors()[0].n_bytes, 1 << 30);
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let entry = maps.split(path.to_str().unwrap()).nth(1).unwrap();
    let resident = entry.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    // The system maps some pages around each that is touched, the more so at the end of the header.
    assert!(
        resident <= header + (1 << 20),
        "{resident} bytes are resident after reading a header of {header}"
    );
    assert!(resident >= header / 2, "{resident} bytes resident: this does not measure the map");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_folder_of_safetensors_follows_its_index() {
    let dir = folder("safetensors");
    let save = |file: &str, name: &str, byte: u8| {
        let header = format!(r#"{{"{name}":{{"dtype":"BF16","shape":[1,3],"data_offsets":[0,6]}}}}"#);
        let len = (header.len() as u64).to_le_bytes();
        std::fs::write(dir.join(file), [&len[..], header.as_bytes(), &[byte; 6]].concat()).unwrap();
    };
    let index = |map: &str| {
        std::fs::write(
            dir.join("model.safetensors.index.json"),
            format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#),
        )
        .unwrap()
    };
    let fails = |want: &str| {
        let err = Safetensors::open(&dir).map(|_| ()).unwrap_err().to_string();
        assert!(err.contains(want), "{err:?} lacks {want:?}");
    };
    fails("is a folder with neither model.safetensors nor model.safetensors.index.json");
    save("x-1.safetensors", "a", 1);
    save("x-2.safetensors", "b", 2);
    index(r#"{"b":"x-2.safetensors","a":"x-1.safetensors"}"#);
    let model = Safetensors::open(&dir).unwrap();
    let a = model.table().require("a").unwrap();
    assert_eq!((&a.dims[..], a.format, model.table().bytes(a)), (&[3, 1][..], Format::BF16, &[1; 6][..]));
    assert_eq!(model.table().bytes(model.table().require("b").unwrap()), [2; 6]);

    index(r#"{"a":"x-1.safetensors","a":"x-2.safetensors"}"#);
    fails("\"a\" stands twice");
    index(r#"{"a":"../x-1.safetensors"}"#);
    fails("names the file \"../x-1.safetensors\"; only .safetensors files in the same folder");
    index(r#"{"a":"x-3.safetensors"}"#);
    fails("x-3.safetensors");
    index(r#"{"b":"x-1.safetensors"}"#);
    fails("tensor \"b\": the index says it is in \"x-1.safetensors\", but it is not");
    save("x-2.safetensors", "a", 2);
    index(r#"{"b":"x-2.safetensors","a":"x-1.safetensors"}"#);
    fails("tensor \"a\": stands twice");
    std::fs::remove_file(dir.join("model.safetensors.index.json")).unwrap();
    save("model.safetensors", "c", 3);
    assert_eq!(&*Safetensors::open(&dir).unwrap().table().tensors()[0].name, "c");
}

#[test]
fn the_smollm2_file_reads_back_right() {
    let path = cached("smollm2.gguf");
    let gguf = Gguf::open(&path).unwrap();
    let m = gguf.metadata();
    assert_eq!((gguf.version(), gguf.tensors().len(), m.len(), gguf.surplus_bytes()), (3, 272, 33, 0));
    assert_eq!(m.get_str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(m.get_u32("llama.block_count").unwrap(), Some(30));
    assert_eq!(m.get_f32("llama.rope.freq_base").unwrap(), Some(100_000.0));
    assert_eq!(m.get_f32("llama.attention.layer_norm_rms_epsilon").unwrap(), Some(1e-5));
    assert_eq!(m.get_bool("tokenizer.ggml.add_space_prefix").unwrap(), Some(false));
    let tokens = m.string_table("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!((tokens.len(), tokens.get(0)), (49_152, Some(&b"<|endoftext|>"[..])));
    assert_eq!((tokens.get(1000), tokens.get(49_151)), (Some(&b"()"[..]), Some(&b"ectable"[..])));
    let merges = m.require::<Array<'_>>("tokenizer.ggml.merges").unwrap().strings().unwrap();
    assert_eq!((merges.len(), merges.iter().next()), (48_900, Some("\u{120} t".as_bytes())));
    assert_eq!(merges.iter().last(), Some(&b"ect able"[..]));
    let types = m.require::<Array<'_>>("tokenizer.ggml.token_type").unwrap();
    assert_eq!(types.integers::<u32>().unwrap().next(), Some(3));

    let first = &gguf.tensors()[0];
    assert_eq!((&*first.name, first.format, first.offset), ("token_embd.weight", Format::Q8_0, 1_785_664));
    assert_eq!((&first.dims[..], first.n_bytes), (&[576, 49_152][..], 30_081_024));
    let q = gguf.tensor("blk.0.attn_q.weight").unwrap();
    assert_eq!((q.format, q.offset, q.n_bytes), (Format::Q4_1, 33_806_656, 207_360));
    assert_eq!(gguf.tensor_bytes(q)[..4], [15, 48, 216, 185]);
    let norm = gguf.tensor("output_norm.weight").unwrap();
    assert_eq!(gguf.tensor_bytes(norm)[..4], 1.757_812_5f32.to_le_bytes());
    assert_eq!(u64::try_from(norm.offset + norm.n_bytes).unwrap(), std::fs::metadata(&path).unwrap().len());
}

#[test]
fn the_gemma3_file_reads_back_right() {
    let gguf = Gguf::open(cached("gemma3.gguf")).unwrap();
    let m = gguf.metadata();
    assert_eq!((gguf.tensors().len(), m.len(), gguf.surplus_bytes()), (236, 33, 0));
    assert_eq!(m.get_str("general.architecture").unwrap(), Some("gemma3"));
    assert_eq!(m.get_u64("gemma3.attention.sliding_window").unwrap(), Some(512));
    let tokens = m.require::<Array<'_>>("tokenizer.ggml.tokens").unwrap().strings().unwrap();
    assert_eq!((tokens.len(), tokens.iter().last()), (262_144, Some(&b"<unused6241>"[..])));
    let scores = m.require::<Array<'_>>("tokenizer.ggml.scores").unwrap();
    let scores: Vec<f32> = scores.f32s().unwrap().collect();
    assert_eq!((scores.len(), scores[0], scores[1000]), (262_144, -1000.0, -506.0));
    let norm = &gguf.tensors()[0];
    assert_eq!((&*norm.name, norm.offset), ("output_norm.weight", 6_525_120));
    assert_eq!(gguf.tensor_bytes(norm)[..4], 7.125f32.to_le_bytes());
    for key in ["tokenizer.ggml.tokens", "general.name"] {
        let line = m.value(key).unwrap().to_string();
        assert!(line.len() < 400 && !line.chars().any(char::is_control), "{line}");
    }
}

#[test]
fn mapping_a_model_gives_its_whole_length() {
    let path = cached("gemma3.gguf");
    let file = MappedFile::open(&path).unwrap();
    assert_eq!(u64::try_from(file.len()).unwrap(), std::fs::metadata(&path).unwrap().len());
}
