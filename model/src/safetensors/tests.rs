//! Headers as the crate writes them, and as nobody should.

use super::*;
use gable_kernels::quant::Format;
use safetensors::Dtype;

fn file(header: &str, data: &[u8]) -> Arc<MappedFile> {
    let len = u64::try_from(header.len()).unwrap().to_le_bytes();
    MappedFile::from_memory([&len[..], header.as_bytes(), data].concat())
}

fn open(header: &str, data: &[u8]) -> Result<Safetensors, LoadError> {
    Safetensors::from_files(vec![file(header, data)])
}

const A: &str = r#""a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}"#;

#[test]
fn a_header_at_odd_bytes_is_read_and_shapes_are_turned_round() {
    let header = format!(
        r#" {{"__metadata__":{{"format":"pt"}},{A},"i":{{"dtype":"I64","shape":[],"data_offsets":[12,20]}}}}"#
    );
    let data: Vec<u8> = (0..20).collect();
    let model = open(&header, &data).unwrap();
    let a = model.table().require("a").unwrap();
    assert_eq!((&a.dims[..], a.format), (&[3, 2][..], Format::F16));
    assert_eq!(model.table().bytes(a), &data[..12]);
    let err = model.table().require("i").unwrap_err().to_string();
    assert!(err.contains("\"i\": type I64 is not supported"), "{err}");
}

#[test]
fn what_the_crate_writes_is_read_alike() {
    let bytes: Vec<u8> = (0..36).collect();
    let view = |dtype, shape: &[usize], range| {
        safetensors::tensor::TensorView::new(dtype, shape.to_vec(), &bytes[range]).unwrap()
    };
    let list = [
        ("b", view(Dtype::BF16, &[2, 2], 0..8)),
        ("a", view(Dtype::F32, &[1, 2, 3], 8..32)),
        ("empty", view(Dtype::F32, &[0, 3], 0..0)),
        ("s", view(Dtype::F32, &[], 32..36)),
    ];
    let image = safetensors::serialize(list, None).unwrap();
    let want = safetensors::SafeTensors::deserialize(&image).unwrap();
    let model = Safetensors::from_files(vec![MappedFile::from_memory(image.clone())]).unwrap();
    assert_eq!(model.table().tensors().len(), want.len());
    for (name, view) in want.iter() {
        let got = model.table().tensor(name).unwrap();
        assert_eq!(got.dims.iter().rev().copied().collect::<Vec<_>>(), view.shape());
        assert_eq!(model.table().bytes(got), view.data());
    }
    for end in 0..image.len() {
        let cut = MappedFile::from_memory(&image[..end]);
        assert!(Safetensors::from_files(vec![cut]).is_err(), "cut at {end}");
    }
}

#[test]
fn broken_headers_are_refused_with_the_name_of_the_tensor() {
    let wrap = u64::MAX - 11;
    let cases = [
        (format!("{{{A},{A}}}"), 12, "\"a\" stands twice"),
        (r#"{"__metadata__":{"x":"1","x":"2"}}"#.to_string(), 0, "\"x\" stands twice"),
        (format!("{{{A}}}"), 11, "\"a\": its data are bytes 0 to 12, but must begin at 0 and end by 11"),
        (format!("{{{A}}}"), 13, "the tensors end here"),
        (
            format!(r#"{{{A},"b":{{"dtype":"F16","shape":[6],"data_offsets":[0,12]}}}}"#),
            12,
            "must begin at 12",
        ),
        (
            format!(r#"{{{A},"b":{{"dtype":"F16","shape":[1],"data_offsets":[14,16]}}}}"#),
            16,
            "must begin at 12",
        ),
        (format!(r#"{{"a":{{"dtype":"U8","shape":[{wrap}],"data_offsets":[0,{wrap}]}}}}"#), 0, "end by 0"),
        (
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#.to_string(),
            0,
            "does not fill",
        ),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#.to_string(), 4, "\"a\": has 4 bytes"),
        (
            r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,4]}}"#.to_string(),
            4,
            "\"a\": unknown variant `F33`",
        ),
        (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#.to_string(), 4, "\"a\": invalid value"),
        (r#"{"a":"#.to_string(), 0, "the header is damaged"),
        (format!("{{\"a\":{{\"dtype\":\"{}\"", "\\u001b[".repeat(9999)), 0, "unknown variant `[[["),
        (format!("{{\"a\":{}", "[".repeat(100_000)), 0, "the header is damaged"),
    ];
    for (header, n, want) in cases {
        let err = open(&header, &vec![0; n]).unwrap_err().to_string();
        assert!(err.contains(want), "{err:.200} lacks {want}");
    }
}

#[test]
fn other_files_are_told_apart() {
    for (bytes, want) in [
        (&b"<!DOCTYPE html>"[..], "HTML page"),
        (b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "is a GGUF file"),
        (b"abc", "ends after 3 bytes"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "at most 100000000"),
        (b"\x09\0\0\0\0\0\0\0{}", "but only 2 follow"),
        (b"\x02\0\0\0\0\0\0\0ab", "no JSON header"),
    ] {
        let err = Safetensors::from_files(vec![MappedFile::from_memory(bytes)]).unwrap_err().to_string();
        assert!(err.contains(want), "{err}");
    }
}

#[test]
fn only_plain_file_names_are_followed() {
    assert!(is_plain_name("model-00001-of-00002.safetensors"));
    for bad in [
        "../a.safetensors",
        "/a.safetensors",
        "d/a.safetensors",
        "d\\a.safetensors",
        "C:a.safetensors",
        "..safetensors",
        "a..safetensors",
        ".safetensors",
        "",
        "model.bin",
        "a.safetensors/",
        "a\0.safetensors",
    ] {
        assert!(!is_plain_name(bad), "{bad:?}");
    }
}
