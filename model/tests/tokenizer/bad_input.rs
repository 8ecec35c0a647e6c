//! Vocabularies that contradict themselves are refused with a message that names the entry.

use gable_model::LoadError;
use gable_model::tokenizer::{EncodeOptions, TokenType, Tokenizer, VocabSource};

fn byte_level() -> VocabSource<'static> {
    VocabSource {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens: vec![b"a", b"b", b"ab", b"<|end|>", b"\xc4\xa0"],
        token_types: Some(vec![1, 1, 1, 3, 1]),
        merges: Some(vec![b"a b"]),
        eos: Some(3),
        ..VocabSource::default()
    }
}

fn sentence_piece() -> VocabSource<'static> {
    VocabSource {
        model: "llama",
        tokens: vec![b"<unk>", b"<s>", b"</s>", b"<0x41>", b"a", b"\xe2\x96\x81a"],
        scores: Some(vec![0.0, 0.0, 0.0, 0.0, -1.0, -2.0]),
        token_types: Some(vec![2, 3, 3, 6, 1, 1]),
        ..VocabSource::default()
    }
}

fn refusal(source: VocabSource<'_>) -> String {
    Tokenizer::from_vocab(source, None).expect_err("the vocabulary is refused").to_string()
}

#[test]
fn a_vocabulary_of_words_needs_its_control_tokens_in_their_places() {
    let words = || VocabSource {
        model: "bert",
        tokens: vec![b"[UNK]", b"[CLS]", b"[SEP]", b"\xe2\x96\x81play", b"ing", b"\xe2\x96\x81."],
        ..VocabSource::default()
    };
    let tokenizer = Tokenizer::from_vocab(words(), None).unwrap();
    let options = EncodeOptions { add_special: true, parse_special: false };
    assert_eq!(tokenizer.encode("Playing. plays", options).unwrap(), [1, 3, 4, 5, 0, 2]);
    assert_eq!(tokenizer.decode(&[1, 3, 4, 3, 2]), "playing play");
    let without = |name: &[u8]| {
        let tokens = words().tokens.into_iter().filter(|token| *token != name).collect();
        refusal(VocabSource { tokens, ..words() })
    };
    for name in ["[UNK]", "[CLS]", "[SEP]"] {
        assert!(without(name.as_bytes()).contains(&format!("needs {name}")), "{name}");
    }
    assert!(refusal(VocabSource { sep: Some(3), ..words() }).contains("in the place of [SEP] is \"play\""));
    assert!(refusal(VocabSource { cls: Some(6), ..words() }).contains("id 6, outside the vocabulary of 6"));
    assert!(refusal(VocabSource { tokens: vec![b"\xff"], ..words() }).contains("token 0 is not UTF-8"));
}

#[test]
fn small_vocabularies_encode() {
    let tokenizer = Tokenizer::from_vocab(byte_level(), None).unwrap();
    let encode = |text: &str| tokenizer.encode(text, EncodeOptions::default()).unwrap();
    assert_eq!(encode("abba b"), [2, 1, 0, 4, 1]);
    assert!(encode("").is_empty());
    assert_eq!(tokenizer.token_type(3), TokenType::Control);
    // A byte that the vocabulary lacks is left out, as other implementations do.
    assert_eq!(encode("aZ"), [0]);

    let tokenizer = Tokenizer::from_vocab(sentence_piece(), None).unwrap();
    let encode = |text: &str| tokenizer.encode(text, EncodeOptions::default()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(1), Some(2), true));
    assert_eq!(encode("aaA"), [5, 4, 3]);
    // What has neither a token nor a byte token is unknown, byte for byte.
    assert_eq!(encode("aé"), [5, 0, 0]);
}

#[test]
fn contradictions_are_refused_by_name() {
    let wrong = |change: fn(&mut VocabSource<'static>)| {
        let mut source = byte_level();
        change(&mut source);
        refusal(source)
    };
    assert!(wrong(|s| s.tokens[1] = b"a").contains("tokens 0 and 1 are both \"a\""));
    assert!(wrong(|s| s.token_types = Some(vec![1; 4])).contains("4 token types for 5 tokens"));
    assert!(wrong(|s| s.token_types = Some(vec![1, 1, 9, 1, 1])).contains("token 2 has type 9"));
    assert!(wrong(|s| s.merges = None).contains("needs merges"));
    assert!(wrong(|s| s.merges = Some(vec![b"a b", b"ab"])).contains("merge 1, \"ab\", has no space"));
    assert!(wrong(|s| s.merges = Some(vec![b"x b"])).contains("merge 0, \"x b\", names a left token"));
    assert!(wrong(|s| s.merges = Some(vec![b"a x"])).contains("names a right token"));
    assert!(wrong(|s| s.merges = Some(vec![b"b a"])).contains("joins to a token"));
    assert!(wrong(|s| s.eos = Some(5)).contains("the eos token has id 5, outside the vocabulary of 5"));
    assert!(wrong(|s| s.add_bos = Some(true)).contains("there is no bos token"));
    assert!(wrong(|s| s.scores = Some(vec![])).contains("0 scores for 5 tokens"));
    let mut source = byte_level();
    source.tokens = vec![b"<s>", b"<s>"];
    source.token_types = Some(vec![3, 3]);
    assert!(refusal(source).contains("tokens 0 and 1 are both \"<s>\""));
    assert!(refusal(VocabSource { scores: None, ..sentence_piece() }).contains("needs scores"));
    assert!(refusal(VocabSource { model: "llama", ..VocabSource::default() }).contains("needs scores"));
}

#[test]
fn an_unknown_pre_tokenizer_is_named_with_the_known_ones_and_the_way_round() {
    let mut source = byte_level();
    source.pre = Some("gpt-17");
    let error = Tokenizer::from_vocab(source.clone(), None).unwrap_err();
    assert!(
        matches!(&error, LoadError::Unsupported { what: "pre-tokenizer", found, .. } if found == "gpt-17")
    );
    let message = error.to_string();
    assert!(message.contains("llama-bpe") && message.contains("--pre NAME"), "{message}");
    assert!(Tokenizer::from_vocab(source, Some("gpt-2")).is_ok());

    let source = VocabSource { model: "t5", ..byte_level() };
    assert!(refusal(source).contains("tokenizer model \"t5\" is not supported; supported: gpt2, llama"));
}

#[test]
fn merges_cannot_make_a_control_token_of_a_users_text() {
    let mut source = byte_level();
    source.tokens.push(b"bb");
    source.token_types = Some(vec![1, 1, 1, 3, 1, 3]);
    source.merges = Some(vec![b"a b", b"b b"]);
    let tokenizer = Tokenizer::from_vocab(source, None).unwrap();
    assert_eq!(tokenizer.encode("bb", EncodeOptions::default()).unwrap(), [1, 1]);
    let options = EncodeOptions { parse_special: true, ..EncodeOptions::default() };
    assert_eq!(tokenizer.encode("bb", options).unwrap(), [5]);
}

#[test]
fn special_tokens_match_leftmost_and_longest() {
    let source = VocabSource {
        tokens: vec![b"a", b"b", b"ab", b"aba", b"abab", b"\n\n"],
        token_types: Some(vec![1, 1, 3, 4, 3, 4]),
        merges: Some(vec![]),
        eos: None,
        ..byte_level()
    };
    let tokenizer = Tokenizer::from_vocab(source, None).unwrap();
    let encode = |text: &str, parse_special: bool| {
        tokenizer.encode(text, EncodeOptions { parse_special, ..EncodeOptions::default() }).unwrap()
    };
    assert_eq!(encode("babababb\n\n\n", true), [1, 4, 2, 1, 5]);
    assert_eq!(encode("babababb\n\n\n", false), [1, 3, 1, 0, 1, 1, 5]);
}

#[test]
fn odd_but_real_vocabularies_load() {
    // Empty tokens never match; a token the author added may be spelt like one that stands for the same bytes.
    let source = VocabSource {
        tokens: vec![b"a", b"", b"\xc4\xa0", b" ", b""],
        token_types: Some(vec![1, 1, 1, 4, 5]),
        merges: Some(vec![]),
        eos: None,
        ..byte_level()
    };
    let tokenizer = Tokenizer::from_vocab(source, None).unwrap();
    assert_eq!(tokenizer.encode("a a", EncodeOptions::default()).unwrap(), [0, 3, 0]);
    assert_eq!(tokenizer.piece(1), b"");
}

#[test]
fn tokens_that_fill_gaps_are_those_that_the_file_names_or_that_are_called_so() {
    let special = || VocabSource {
        tokens: vec![b"a", b"b", b"<fim_prefix>", b"<fim_suffix>", b"<fim_middle>", b"<other>"],
        token_types: Some(vec![1, 1, 3, 3, 3, 3]),
        merges: Some(vec![]),
        eos: None,
        ..byte_level()
    };
    let gap =
        |source: VocabSource<'_>| Tokenizer::from_vocab(source, None).unwrap().encode_gap("a", "b").unwrap();
    assert_eq!(gap(special()), [2, 0, 3, 1, 4]);
    assert_eq!(gap(VocabSource { fim: [Some(5), None, None], ..special() }), [5, 0, 3, 1, 4]);
    assert_eq!(gap(VocabSource { bos: Some(5), add_bos: Some(true), ..special() }), [5, 2, 0, 3, 1, 4]);
    assert!(
        refusal(VocabSource { fim: [None, Some(6), None], ..special() }).contains("suffix token has id 6")
    );
    let without = Tokenizer::from_vocab(byte_level(), None).unwrap();
    assert!(without.fill_in_the_middle().is_none());
    assert!(without.encode_gap("a", "b").unwrap_err().to_string().contains("filling in the middle"));
}
