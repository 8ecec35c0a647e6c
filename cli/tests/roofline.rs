//! `gable roofline` as a user has it. How fast anything is depends on the machine and on what else runs on it: nothing here
//! asserts that. A machine that is busy with other tests may even change between a kernel and its probes, so that the
//! program says that something was too fast; everything else holds then, too.

mod program;

use program::{Scrap, fails, gable, output};
use serde_json::Value;

/// The JSON of a run, whether or not it found the probes to be right.
fn found(args: &[&str]) -> Value {
    let out = output(&[&["roofline", "--json"], args].concat());
    let err = String::from_utf8_lossy(&out.stderr);
    let found: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {err}"));
    let too_fast = kernels(&found).iter().filter(|k| k["verdict"] == "too fast").count();
    assert_eq!(out.status.code(), Some(i32::from(too_fast > 0)), "{err}");
    assert!(too_fast == 0 || err.contains("the probes miss"), "{err}");
    found
}

fn kernels(found: &Value) -> &Vec<Value> {
    found["kernels"].as_array().unwrap()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"))
}

#[test]
fn a_quick_run_measures_the_machine_and_some_of_every_kind_of_kernel() {
    let picture = Scrap::new("roofline.svg");
    let found = found(&["--quick", "-t", "2", "--svg", picture.path()]);
    let machine = &found["machine"][0];
    assert_eq!((machine["threads"].as_u64(), found["machine"].as_array().unwrap().len()), (Some(2), 1));
    for (of, names) in [("gflop_s", &["f32", "bf16", "int8"][..]), ("read_gb_s", &["L1", "L2", "L3", "DRAM"])]
    {
        for name in names {
            assert!(number(&machine[of], name) > 0.0, "{machine}");
        }
    }
    let sizes = ["L1", "L2", "L3"].map(|level| number(&found["cache_bytes"], level));
    assert!(sizes.is_sorted() && sizes[0] >= 1024.0, "{sizes:?}");
    for group in ["dense", "prompt", "decode", "attention", "row-wise"] {
        assert!(kernels(&found).iter().any(|k| k["group"] == group), "{group}: {found}");
    }
    for k in kernels(&found) {
        assert!(number(k, "ms") > 0.0 && number(k, "gb_s") > 0.0, "{k}");
        let (sound, share) = (k["verdict"] == "sound", k["share"].as_f64());
        assert_eq!(sound, share.is_some(), "{k}");
        assert!(share.is_none_or(|share| share > 0.001 && share <= 1.02), "{k}");
        // Of rows only softmax has operations that are counted; everything else has, and they agree with the bytes.
        let softmax = k["kernel"].as_str().is_some_and(|name| name.starts_with("softmax"));
        let computes = k["group"] != "row-wise" || softmax;
        assert_eq!(computes, k["gflop_s"].is_f64(), "{k}");
        if computes {
            let ratio = number(k, "gflop_s") / number(k, "gb_s") / number(k, "operations_per_byte");
            assert!((ratio - 1.0).abs() < 1e-9, "{k}");
        }
        let bounds = ["f32", "bf16", "int8", "L1", "L2", "L3", "DRAM"];
        assert!(bounds.contains(&k["bound"].as_str().unwrap()), "{k}");
        assert!(!k["kernel"].as_str().unwrap().contains("from DRAM") || k["level"] == "DRAM", "{k}");
    }
    let svg = picture.read();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"));
    for k in kernels(&found) {
        assert!(svg.contains(k["kernel"].as_str().unwrap()), "{k}");
    }
    for words in ["L1 ", "DRAM ", "int8 ", "GFLOP/s", "2 threads"] {
        assert!(svg.contains(words), "{words}");
    }
}

#[test]
fn a_table_has_the_kernels_that_were_asked_for_and_fits_the_terminal() {
    for width in ["64", "100", "140"] {
        let args = ["roofline", "--quick", "--only", "dense (f32|int8) 512|rms_norm", "-t", "1,2"];
        let output = gable(&args).env("COLUMNS", width).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let widest = text.lines().map(console::measure_text_width).max().unwrap();
        assert!(widest <= width.parse().unwrap() && !text.contains('\u{1b}'), "{width}: {text}");
        for words in ["dense, 1 thread ", "dense, 2 threads", "f32 512 x 512", "int8 512 x", "rms_norm, in"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(
            !text.contains("bf16 512") && !text.contains("softmax") && !text.contains("prompt"),
            "{text}"
        );
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    fails(&["roofline", "--only", "dense ("], 2, &["--only dense ("]);
    fails(&["roofline", "--only", "Q9_Z"], 2, &["none of the", "Q9_Z"]);
    fails(&["roofline", "-t", "0"], 2, &["-t 0", "1 to 1024"]);
    fails(&["roofline", "-t", "1-x"], 2, &["1-x"]);
    let nowhere = ["roofline", "--quick", "--only", "rms_norm", "-t", "1", "--svg", "/nowhere/roofline.svg"];
    fails(&nowhere, 1, &["could not write /nowhere/roofline.svg"]);
}
