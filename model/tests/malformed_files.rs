//! Damaged and hostile files: an error that names the key or tensor, never a panic, never a large allocation.
//!
//! A global allocator counts, per thread, the bytes that are live and their peak. It also refuses single requests
//! beyond a limit, so that an allocation by a declared count would end the test and not the machine.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use gable_kernels::quant::Format;
use gable_model::LoadError;
use gable_model::gguf::writer::GgufWriter;
use gable_model::gguf::{Array, Gguf};
use gable_model::mapped_file::MappedFile;
use gable_model::safetensors::Safetensors;

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

/// Largest request that is granted.
const LIMIT: usize = 1 << 30;

// SAFETY: every request goes to the system's allocator unchanged or is refused with a null pointer, as the trait
// allows; the counters are plain cells without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LIMIT {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: `ptr` came from `alloc` above with this layout, that is from `System`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result and the most bytes that `f` had allocated at one time.
fn peak_of<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let out = f();
    (out, usize::try_from(PEAK.get() - before).unwrap())
}

/// Parses `bytes` and, if they are taken, reads everything that can be read.
fn parse(bytes: &[u8]) -> Result<Gguf, LoadError> {
    let file = MappedFile::from_memory(bytes);
    let (gguf, peak) = peak_of(|| {
        let gguf = Gguf::from_file(file)?;
        for (key, value) in gguf.metadata().iter() {
            assert!(gguf.metadata().contains(key));
            std::hint::black_box(value.value_type());
        }
        for tensor in gguf.tensors() {
            assert_eq!(gguf.tensor_bytes(tensor).len(), tensor.n_bytes);
            assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
        }
        Ok(gguf)
    });
    let allowed = 4 * bytes.len() + 64 * 1024;
    assert!(peak <= allowed, "{peak} bytes allocated for a file of {}", bytes.len());
    gguf
}

fn error_of(bytes: &[u8]) -> String {
    parse(bytes).map(|_| ()).expect_err("the file should be refused").to_string()
}

/// A small model with values and arrays of many types and three tensors; and where its tensor data begin and end.
fn tiny() -> (Vec<u8>, usize, usize) {
    let mut header = GgufWriter::with_alignment(32).unwrap();
    header.set("general.architecture", "llama").unwrap();
    header.set("llama.block_count", &2u32).unwrap();
    header.set("eps", &1e-5f32).unwrap();
    header.set("flag", &true).unwrap();
    header.set("big", &-5i64).unwrap();
    header.set_array("tokenizer.ggml.tokens", &["a", "", "bc"]).unwrap();
    header.set_array("tokenizer.ggml.scores", &[0.0f32, -1.0, 2.0]).unwrap();
    header.set_array("tokenizer.ggml.token_type", &[1i32, 3, 1]).unwrap();
    header.set_array("bools", &[true, false]).unwrap();
    header.set_array::<u16>("empty", &[]).unwrap();
    header.declare("a.weight", &[3, 2], Format::F32).unwrap();
    header.declare("b.weight", &[32, 2], Format::Q8_0).unwrap();
    header.declare("c", &[5], Format::F16).unwrap();
    let bytes = header.to_vec(&[&[1; 24], &[2; 68], &[3; 10]]).unwrap();
    let gguf = Gguf::from_bytes(bytes.clone()).unwrap();
    let first = gguf.tensor("a.weight").unwrap().offset;
    let last = gguf.tensor("c").unwrap();
    (bytes, first, last.offset + last.n_bytes)
}

/// A file put together by hand, so that it may hold what the writer refuses.
#[derive(Default)]
struct Raw {
    n_metadata: u64,
    n_tensors: u64,
    metadata: Vec<u8>,
    records: Vec<u8>,
    data: Vec<u8>,
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

impl Raw {
    fn new() -> Raw {
        Raw::default()
    }

    fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Raw {
        self.n_metadata += 1;
        self.metadata.extend([&string(key.as_bytes()), &kind.to_le_bytes()[..], value].concat());
        self
    }

    fn array(self, key: &str, element: u32, len: u64, bytes: &[u8]) -> Raw {
        self.entry(key, 9, &[&element.to_le_bytes()[..], &len.to_le_bytes(), bytes].concat())
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Raw {
        self.n_tensors += 1;
        self.records.extend(string(name.as_bytes()));
        self.records.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| self.records.extend(d.to_le_bytes()));
        self.records.extend(kind.to_le_bytes());
        self.records.extend(offset.to_le_bytes());
        self
    }

    fn data(mut self, n: usize) -> Raw {
        self.data = vec![7; n];
        self
    }

    fn bytes(&self, alignment: usize) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(self.n_tensors.to_le_bytes());
        out.extend(self.n_metadata.to_le_bytes());
        out.extend(&self.metadata);
        out.extend(&self.records);
        out.resize(out.len().next_multiple_of(alignment), 0);
        out.extend(&self.data);
        out
    }
}

#[test]
fn every_truncation_is_an_error_or_loses_only_padding() {
    let (bytes, _, end) = tiny();
    assert!(end < bytes.len(), "the last tensor is padded");
    for len in 0..bytes.len() {
        match parse(&bytes[..len]) {
            Ok(_) => assert!(len >= end, "a file of {len} bytes was taken; its tensors need {end}"),
            Err(err) => assert!(len < end, "{len}: {err}"),
        }
    }
}

#[test]
fn every_flipped_bit_of_the_header_gives_a_model_or_an_error() {
    let (bytes, data, _) = tiny();
    let (mut taken, mut refused) = (0, 0);
    for bit in 0..8 * data {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match parse(&flipped) {
            Ok(gguf) => {
                taken += 1;
                let array = gguf.metadata().get::<Array<'_>>("tokenizer.ggml.tokens");
                if let Ok(Some(array)) = array {
                    assert!(array.values().count() <= array.len());
                    assert!(array.integers::<u32>().is_err() || array.element_type().is_integer());
                }
                let _ = gguf.metadata().string_table("tokenizer.ggml.tokens");
            }
            Err(err) => {
                refused += 1;
                assert!(!err.to_string().is_empty());
            }
        }
    }
    assert!(taken > 100 && refused > 1000, "{taken} taken, {refused} refused");
}

#[test]
fn absurd_counts_allocate_nothing() {
    let with = |at: usize, n: u64| {
        let (mut bytes, ..) = tiny();
        bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
        bytes
    };
    for n in [1 << 20, 1 << 32, i64::MAX as u64, u64::MAX] {
        let err = error_of(&with(8, n));
        assert!(err.contains(&format!("byte 8: {n} tensors are declared")), "{err}");
        let err = error_of(&with(16, n));
        assert!(err.contains(&format!("byte 16: {n} metadata entries are declared")), "{err}");
    }
    // One more record than the file has, but not more than it has room for.
    assert!(parse(&with(16, 12)).is_err());
    for (element, len) in
        [(0, u64::MAX), (4, 1 << 62), (6, 1 << 63), (8, u64::MAX), (8, 1 << 40), (12, 1 << 61)]
    {
        let err = error_of(&Raw::new().array("k", element, len, &[0; 64]).bytes(1));
        assert!(err.contains("metadata key \"k\""), "{err}");
    }
    for kind in [8, 9] {
        let err = error_of(&Raw::new().entry("k", kind, &[0xff; 12]).bytes(1));
        assert!(err.contains("metadata key \"k\""), "{err}");
    }
}

/// A file, and what its error must say.
type Case = (Raw, &'static str);

fn refused(cases: impl IntoIterator<Item = Case>) {
    for (raw, want) in cases {
        let err = error_of(&raw.data(4096).bytes(32));
        assert!(err.contains(want), "{err:?} lacks {want:?}");
    }
}

#[test]
fn bad_metadata_is_refused_by_key() {
    let one = 1u32.to_le_bytes();
    let long = "k".repeat(65_536);
    refused([
        (Raw::new().entry("k", 4, &one).entry("j", 4, &one).entry("k", 4, &one), "key \"k\": stands twice"),
        (Raw::new().entry("", 4, &one), "a metadata key has 0 bytes; allowed: 1 to 65535"),
        (Raw::new().entry(&long, 4, &one), "a metadata key has 65536 bytes"),
        (Raw::new().entry("k", 13, &one), "key \"k\": has value type 13; known: 0 to 12"),
        (Raw::new().entry("k", u32::MAX, &one), "key \"k\": has value type 4294967295"),
        (Raw::new().entry("k", 7, &[2]), "key \"k\": holds a bool of 2; allowed: 0 and 1"),
        (Raw::new().array("k", 7, 3, &[0, 1, 9]), "key \"k\": holds a bool of 9"),
        (Raw::new().array("k", 9, 1, &[0; 16]), "key \"k\": is an array of arrays"),
        (Raw::new().array("k", 13, 1, &[0; 16]), "key \"k\": has value type 13"),
    ]);
    let mut not_text = Raw::new().entry("k", 4, &one);
    not_text.metadata[8] = 0xff;
    refused([(not_text, "the metadata key \"\\xff\" is not UTF-8")]);
}

#[test]
fn bad_alignments_are_refused() {
    for bad in [0u32, 3, 48, 131_072, 1 << 31, u32::MAX] {
        let err = error_of(&Raw::new().entry("general.alignment", 4, &bad.to_le_bytes()).data(64).bytes(32));
        assert!(err.contains(&format!("\"general.alignment\": is {bad}; allowed: a power of two")), "{err}");
    }
    let eight = 8u64.to_le_bytes();
    refused([
        (
            Raw::new().entry("general.alignment", 10, &eight),
            "\"general.alignment\": is of type u64, but u32 is needed",
        ),
        (Raw::new().entry("general.alignment", 8, &string(b"8")), "is of type str, but u32 is needed"),
    ]);
    for good in [1u32, 64, 65_536] {
        let raw =
            Raw::new().entry("general.alignment", 4, &good.to_le_bytes()).tensor("t", &[3], 0, 0).data(12);
        let gguf = parse(&raw.bytes(good as usize)).unwrap();
        assert_eq!(gguf.tensor("t").unwrap().offset % good as usize, 0);
    }
}

#[test]
fn bad_tensors_are_refused_by_name() {
    let long = "t".repeat(64);
    let max = i64::MAX as u64;
    refused([
        (Raw::new().tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32), "tensor \"t\": stands twice"),
        (Raw::new().tensor("", &[8], 0, 0), "a tensor name has 0 bytes; allowed: 1 to 63"),
        (Raw::new().tensor(&long, &[8], 0, 0), "a tensor name has 64 bytes"),
        (Raw::new().tensor("t", &[1, 1, 1, 1, 1], 0, 0), "tensor \"t\": has 5 dimensions; at most 4"),
        (Raw::new().tensor("t", &[1 << 32, 1 << 32], 0, 0), "tensor \"t\": shape [4294967296, 4294967296]"),
        (
            Raw::new().tensor("t", &[4, (1 << 30) - 1, (1 << 30) + 1], 0, 0),
            "tensor \"t\": its 18446744073709551600 bytes overflow",
        ),
        (Raw::new().tensor("t", &[max, 2], 0, 0), "has more elements than can be counted"),
        (Raw::new().tensor("t", &[2, max, 2], 0, 0), "has more elements than can be counted"),
        (Raw::new().tensor("t", &[max], 0, 0), "tensor \"t\": "),
        (Raw::new().tensor("t", &[u64::MAX], 0, 0), "has more elements than can be counted"),
        (Raw::new().tensor("t", &[1 << 63], 0, 0), "has more elements than can be counted"),
        (Raw::new().tensor("t", &[1 << 60], 0, 0), "tensor \"t\": "),
        (Raw::new().tensor("t", &[33], 8, 0), "rows of 33 values are no whole number of Q8_0 blocks of 32"),
        (Raw::new().tensor("t", &[], 12, 0), "rows of 1 values are no whole number of Q4_K blocks of 256"),
        (
            Raw::new().tensor("t", &[256], 16, 0),
            "\"t\": type 16 (IQ2_XXS) is not supported; supported: F32, F16, BF16, Q4_0",
        ),
        (Raw::new().tensor("t", &[256], 1000, 0), "\"t\": type 1000 is not supported"),
        (
            Raw::new().tensor("t", &[8], 0, 1),
            "its data begin at offset 1, but the tensors before it end at 0",
        ),
        (Raw::new().tensor("t", &[8], 0, u64::MAX), "its data begin at offset 18446744073709551615"),
        // Overlap, hole and misalignment.
        (
            Raw::new().tensor("s", &[8], 0, 0).tensor("t", &[8], 0, 0),
            "\"t\": its data begin at offset 0, but the tensors before it end at 32",
        ),
        (Raw::new().tensor("s", &[8], 0, 0).tensor("t", &[8], 0, 64), "\"t\": its data begin at offset 64"),
        (Raw::new().tensor("s", &[7], 0, 0).tensor("t", &[8], 0, 28), "\"t\": its data begin at offset 28"),
        (Raw::new().tensor("s", &[8], 0, 0).tensor("t", &[1025], 0, 32), "\"t\": needs 4100 bytes from byte"),
    ]);
}

#[test]
fn tensors_without_elements_are_valid() {
    let raw =
        Raw::new().tensor("e", &[0], 0, 0).tensor("f", &[32, 0, 4], 8, 0).tensor("t", &[], 0, 0).data(4);
    let gguf = parse(&raw.bytes(32)).unwrap();
    assert_eq!(gguf.tensors().iter().map(|t| t.n_bytes).collect::<Vec<_>>(), [0, 0, 4]);
}

#[test]
fn a_vocabulary_without_tensors_opens() {
    let raw = Raw::new().array("tokenizer.ggml.tokens", 8, 2, &[string(b"a"), string(b"\xff")].concat());
    let gguf = parse(&raw.bytes(1)).unwrap();
    let tokens = gguf.metadata().string_table("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!((tokens.len(), tokens.get(1), tokens.get(2)), (2, Some(&b"\xff"[..]), None));
}

#[test]
fn bytes_after_the_last_tensor_are_counted_but_allowed() {
    let (mut bytes, ..) = tiny();
    assert_eq!(parse(&bytes).unwrap().surplus_bytes(), 0);
    bytes.extend([1; 100]);
    assert_eq!(parse(&bytes).unwrap().surplus_bytes(), 100);
}

#[test]
fn many_keys_and_tensors_are_read_in_memory_proportional_to_the_file() {
    let mut raw = Raw::new();
    for i in 0..20_000 {
        raw = raw.entry(&format!("key.{i}"), 0, &[1]).tensor(&format!("blk.{i}.weight"), &[8], 0, 32 * i);
    }
    let bytes = raw.data(32 * 20_000).bytes(32);
    let (gguf, peak) = peak_of(|| Gguf::from_file(MappedFile::from_memory(bytes.as_slice())));
    assert_eq!(gguf.unwrap().tensors().len(), 20_000);
    assert!(peak <= 8 * bytes.len(), "{peak} bytes for a file of {}", bytes.len());
}

#[test]
fn a_large_vocabulary_costs_no_memory_when_opened() {
    let tokens: Vec<String> = (0..100_000).map(|i| format!("token{i}")).collect();
    let mut header = GgufWriter::new();
    header.set_array("tokenizer.ggml.tokens", &tokens).unwrap();
    let file = MappedFile::from_memory(header.to_vec(&[]).unwrap());
    let (gguf, peak) = peak_of(|| Gguf::from_file(file.clone()).unwrap());
    assert!(peak < 4096, "{peak} bytes");
    let (table, peak) = peak_of(|| gguf.metadata().string_table("tokenizer.ggml.tokens").unwrap().unwrap());
    assert!(peak <= 4 * tokens.len() + 4096, "{peak} bytes");
    assert!(table.iter().eq(tokens.iter().map(|t| t.as_bytes())));
}

#[test]
fn other_files_and_versions_are_told_apart() {
    let (gguf, ..) = tiny();
    let version = |v: u32| [b"GGUF", &v.to_le_bytes()[..], &gguf[8..]].concat();
    let cases: [(&[u8], &str); 12] = [
        (
            b"<!DOCTYPE html><html><body>404</body></html>",
            "looks like an HTML page: the download was probably an error page",
        ),
        (b"\n<html>", "looks like an HTML page"),
        (b"{\"error\":\"x\"}", "looks like JSON"),
        (b"\x02\0\0\0\0\0\0\0{}", "looks like a safetensors file"),
        (b"PK\x03\x04\0\0", "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"tjgg\x03\0\0\0", "from before GGUF"),
        (b"GG", "ends after 2 bytes"),
        (b"hello", "it starts with the bytes 68656c6c"),
        (&version(1), "GGUF version 1, which is no longer read"),
        (&version(3u32.swap_bytes()), "big-endian"),
        (&version(4), "is GGUF version 4; versions 2 and 3 are read"),
    ];
    for (bytes, want) in cases {
        let err = error_of(bytes);
        assert!(err.contains(want), "{err:?} lacks {want:?}");
        assert!(err.contains("<memory>"), "{err}");
    }
    assert_eq!(parse(&version(2)).unwrap().version(), 2);
    assert!(error_of(&version(0)).contains("is GGUF version 0"));
}

#[test]
fn flipped_bits_of_a_safetensors_header_give_a_model_or_an_error() {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[5; 16]].concat();
    for bit in 0..8 * (8 + header.len()) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let file = MappedFile::from_memory(flipped);
        let (model, peak) = peak_of(|| Safetensors::from_files(vec![file]));
        assert!(peak <= 4 * bytes.len() + 64 * 1024, "{peak} bytes allocated");
        if let Ok(model) = model {
            let table = model.table();
            assert!(table.tensors().iter().all(|t| table.bytes(t).len() == t.n_bytes));
        }
    }
}
