//! The tokenizers against ids that other implementations made, and against what must hold for any text.

#[path = "tokenizer/vocabularies.rs"]
mod vocabularies;

#[path = "tokenizer/patterns.rs"]
mod patterns;

#[path = "tokenizer/hugging_face.rs"]
mod hugging_face;

#[path = "tokenizer/bad_input.rs"]
mod bad_input;

use std::fs;

use gable_model::tokenizer::{EncodeOptions, Tokenizer, Utf8Stream};
use proptest::prelude::*;
use vocabularies::{GOLDEN, cached_model, encode, load, vocabulary};

const BYTE_LEVEL: [&str; 4] = ["gpt-2", "llama-bpe", "qwen2", "starcoder"];
const SENTENCE_PIECE: [&str; 2] = ["llama-spm", "phi-3"];

#[test]
fn published_vectors_give_the_published_ids() {
    for name in BYTE_LEVEL.iter().chain(&SENTENCE_PIECE) {
        let tokenizer = vocabulary(name);
        let file = |kind: &str| {
            fs::read_to_string(format!("{GOLDEN}/tokenizer/ggml-vocab-{name}.gguf.{kind}")).unwrap()
        };
        let texts = file("inp");
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let ids = file("out");
        let mut checked = 0;
        for (text, line) in texts.iter().zip(ids.lines()) {
            let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(encode(&tokenizer, text), expected, "{name}: {text:?}");
            checked += 1;
        }
        assert!(checked >= 40, "{name}: only {checked} vectors");
    }
}

#[test]
fn golden_texts_of_real_models_give_the_golden_ids() {
    let models = [
        (cached_model("smollm2.gguf"), "smollm2-135m-instruct-q4_1"),
        (cached_model("gemma3.gguf"), "gemma-3-270m-q4_k_m"),
        // The same vocabulary, but for names that this one reserves.
        (format!("{GOLDEN}/tokenizer/ggml-vocab-qwen2.gguf"), "qwen2.5-coder-1.5b-q4_k_m"),
    ];
    let passage = fs::read_to_string(format!("{GOLDEN}/passage.txt")).unwrap();
    for (file, golden) in models {
        let tokenizer = load(&file, None);
        let golden = fs::read_to_string(format!("{GOLDEN}/{golden}.json")).unwrap();
        let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
        let ids_of = |value: &serde_json::Value| -> Vec<u32> {
            value["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let options = EncodeOptions { add_special: true, parse_special: true };
        for section in ["tokenize", "prompts"] {
            for entry in golden[section].as_array().unwrap() {
                let text = entry["text"].as_str().unwrap();
                assert_eq!(tokenizer.encode(text, options).unwrap(), ids_of(entry), "{file}: {text:?}");
            }
        }
        for section in ["passage", "passage_long"] {
            let Some(entry) = golden.get(section) else { continue };
            let expected = ids_of(entry);
            let ids = tokenizer.encode(&passage, options).unwrap();
            assert_eq!(ids[..expected.len()], expected, "{file}: {section}");
        }
    }
}

#[test]
fn a_users_text_never_becomes_a_control_token() {
    let names = "<|im_end|><|im_start|>system\n<|endoftext|><|begin_of_text|><|eot_id|></s><s><unk><0x0A><bos>\
                 <eos><end_of_turn><fim_prefix>[PAD32011]";
    let mut tokenizers: Vec<(String, Tokenizer)> =
        BYTE_LEVEL.iter().chain(&SENTENCE_PIECE).map(|name| ((*name).to_owned(), vocabulary(name))).collect();
    for file in ["smollm2.gguf", "gemma3.gguf"] {
        tokenizers.push((file.to_owned(), load(&cached_model(file), None)));
    }
    for (name, tokenizer) in tokenizers {
        let ids = encode(&tokenizer, names);
        let control: Vec<&u32> = ids.iter().filter(|&&id| tokenizer.is_control(id)).collect();
        assert!(control.is_empty(), "{name}: {control:?}");
        // After a token that its author added, a SentencePiece vocabulary may begin with a space again.
        assert_eq!(tokenizer.decode(&ids).replace(' ', ""), names, "{name}");

        let options = EncodeOptions { parse_special: true, ..EncodeOptions::default() };
        let parsed = tokenizer.encode(names, options).unwrap();
        assert!(parsed.iter().any(|&id| tokenizer.is_control(id)), "{name}");
    }
}

#[test]
fn control_tokens_are_read_when_asked_for_and_not_shown() {
    let tokenizer = load(&cached_model("smollm2.gguf"), None);
    let options = EncodeOptions { parse_special: true, ..EncodeOptions::default() };
    let ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n", options).unwrap();
    assert_eq!(ids, [1, 4093, 198, 6004, 2, 198]);
    assert_eq!(tokenizer.decode(&ids), "user\nhi\n");
    assert_eq!(tokenizer.piece(2), b"<|im_end|>");
    assert_eq!(tokenizer.visible_piece(2), b"");
}

#[test]
fn tokens_that_end_a_reply_are_known() {
    let expect = |tokenizer: &Tokenizer, names: &[&str]| {
        for name in names {
            let id = tokenizer.find(name).unwrap_or_else(|| panic!("{name} is a token"));
            assert!(tokenizer.is_eog(id) && tokenizer.is_control(id), "{name}");
        }
    };
    let smollm2 = load(&cached_model("smollm2.gguf"), None);
    expect(&smollm2, &["<|im_end|>", "<|endoftext|>"]);
    assert_eq!((smollm2.bos(), smollm2.eos(), smollm2.eot()), (Some(1), Some(2), Some(2)));
    assert!(!smollm2.is_eog(1) && !smollm2.adds_bos());
    let gemma3 = load(&cached_model("gemma3.gguf"), None);
    expect(&gemma3, &["<end_of_turn>", "<eos>"]);
    assert!(gemma3.adds_bos() && !gemma3.adds_eos());
    assert_eq!(gemma3.vocab_size(), 262_144);
    expect(&vocabulary("llama-bpe"), &["<|eot_id|>", "<|end_of_text|>"]);
    expect(&vocabulary("phi-3"), &["<|end|>", "<|endoftext|>"]);
}

#[test]
fn tokens_are_found_by_what_they_stand_for() {
    let tokenizer = vocabulary("qwen2");
    for text in ["hello", " world", "<|im_end|>", "\n"] {
        let id = tokenizer.find(text).unwrap();
        assert_eq!(tokenizer.piece(id), text.as_bytes());
    }
    assert_eq!(tokenizer.find("no such token, and a long one"), None);
    let beyond = tokenizer.vocab_size() as u32;
    assert_eq!(tokenizer.piece(beyond), b"");
    assert!(!tokenizer.is_eog(beyond));
}

/// Text of every script, and much of what is awkward. Two of the vocabularies have no tokens for the first bytes of the
/// planes from U+40000 on (in which there are no characters), nor for some of the control characters.
fn any_text() -> impl Strategy<Value = String> {
    let lacking = |c: &char| matches!(c, '\0'..='\u{1f}' | '\u{40000}'..='\u{bffff}');
    let awkward = "  \t\n\r\u{a0}\u{3000}'sSlLtT0129٣½.,!<|>_🦙é\u{301}日本が한";
    let part = prop_oneof![
        any::<char>().prop_filter("no token", move |c| !lacking(c)),
        prop::char::range(' ', '~'),
        prop::sample::select(awkward.chars().collect::<Vec<_>>()),
    ];
    prop::collection::vec(part, 0..48).prop_map(|parts| parts.into_iter().collect())
}

/// Decodes a token at a time, and requires whole characters on the way.
fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let (mut stream, mut text) = (Utf8Stream::new(), String::new());
    ids.iter().for_each(|&id| stream.push(tokenizer.visible_piece(id), &mut text));
    stream.flush(&mut text);
    text
}

#[test]
fn text_comes_back_from_its_ids() {
    let mut tokenizers: Vec<Tokenizer> = BYTE_LEVEL.map(vocabulary).into();
    tokenizers.push(load(&cached_model("smollm2.gguf"), None));
    tokenizers.extend(SENTENCE_PIECE.map(vocabulary));
    tokenizers.push(load(&cached_model("gemma3.gguf"), None));
    for tokenizer in &tokenizers {
        proptest!(ProptestConfig::with_cases(400), |(text in any_text())| {
            // SentencePiece's mark for a space is a space, and after `</s>` it may put one.
            let text = text.replace('\u{2581}', " ").replace("</s>", "");
            let ids = encode(tokenizer, &text);
            prop_assert_eq!(&tokenizer.decode(&ids), &text);
            let streamed = stream(tokenizer, &ids);
            prop_assert!(streamed == text || streamed.strip_prefix(' ') == Some(&text));
        });
    }
}

proptest! {
    #[test]
    fn a_stream_of_bytes_reads_as_all_of_them_together(
        text in any_text(),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cuts in prop::collection::vec(0usize..5, 1..64),
    ) {
        let mut bytes = text.into_bytes();
        for (at, byte) in noise {
            bytes.insert(at.index(bytes.len() + 1), byte);
        }
        let (mut stream, mut text, mut rest) = (Utf8Stream::new(), String::new(), bytes.as_slice());
        for cut in cuts.iter().cycle().take(4 * bytes.len()) {
            let (piece, tail) = rest.split_at((*cut).min(rest.len()));
            stream.push(piece, &mut text);
            rest = tail;
        }
        stream.push(rest, &mut text);
        stream.flush(&mut text);
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn streams_give_out_a_character_as_soon_as_it_is_whole() {
    let (mut stream, mut text) = (Utf8Stream::new(), String::new());
    for (byte, expected) in "a🦙b".bytes().zip(["a", "a", "a", "a", "a🦙", "a🦙b"]) {
        stream.push(&[byte], &mut text);
        assert_eq!(text, expected);
    }
}

/// The time that this thread has run for: on a busy machine, time passes faster for long runs than for short ones.
fn processor_seconds() -> f64 {
    let path = "/proc/thread-self/schedstat";
    let times = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    times.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// A megabyte of one letter must not cost more than n log n would: 16 times the text, at most 24 times the time.
#[test]
#[ignore = "measures time"]
fn time_grows_in_step_with_the_text() {
    let mut tokenizers: Vec<Tokenizer> = BYTE_LEVEL.map(vocabulary).into();
    tokenizers.extend(SENTENCE_PIECE.map(vocabulary));
    for tokenizer in &tokenizers {
        for letter in ["a", "_", " ", "\n", "7", "日", "'s", "A日", "<|"] {
            let seconds = |len: usize, runs: u32| {
                let text = letter.repeat(len / letter.len());
                let start = processor_seconds();
                (0..runs).for_each(|_| assert!(!encode(tokenizer, &text).is_empty()));
                (processor_seconds() - start) / f64::from(runs)
            };
            // The clock counts in milliseconds, so short runs are counted together.
            let (short, long) = (seconds(1 << 16, 32), seconds(1 << 20, 2));
            println!("{letter:?}: {:.1} ms, {:.1} ms: {:.1} times", short * 1e3, long * 1e3, long / short);
            assert!(long <= 24.0 * short, "{letter:?}: {short} s, then {long} s");
        }
    }
}

#[test]
#[ignore = "prints how long loading and encoding take"]
fn loading_and_encoding_times() {
    let passage = fs::read_to_string(format!("{GOLDEN}/passage.txt")).unwrap().repeat(80);
    for file in [
        cached_model("smollm2.gguf"),
        cached_model("gemma3.gguf"),
        format!("{GOLDEN}/tokenizer/ggml-vocab-llama-bpe.gguf"),
    ] {
        let gguf = gable_model::gguf::Gguf::open(&file).unwrap();
        for _ in 0..3 {
            let start = processor_seconds();
            let tokenizer = Tokenizer::from_gguf(gguf.metadata(), None).unwrap();
            let loaded = processor_seconds();
            let ids = encode(&tokenizer, &passage);
            let rate = passage.len() as f64 / (processor_seconds() - loaded) / 1e6;
            let loaded = (loaded - start) * 1e3;
            println!("{file}: loaded in {loaded:.1} ms; {} ids, {rate:.1} MB/s", ids.len());
        }
    }
}
