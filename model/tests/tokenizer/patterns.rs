//! The hand-written scanners against the published patterns, run by a regular-expression engine.
//!
//! For most pre-tokenizers there are no vectors to be had, so the definition itself is the witness: the pattern as the
//! model's `tokenizer.json` (or, for `default` and the split passes, llama.cpp's source) gives it. In place of `(?i:'s|...)`
//! the letters are written out, because case folding would also accept U+017F (ſ) for an s, which llama.cpp does not.

use fancy_regex::Regex;
use gable_model::tokenizer::PreTokenizer;
use proptest::prelude::*;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const CONTRACTION: &str = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
const CASED: [&str; 2] = [
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
];
const OTHER: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const OTHER_SLASH: &str = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_LETTERS: &str = concat!(
    r"[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\u{370}-\u{373}",
    r"\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}",
    r"\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}",
    r"\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}",
    r"\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}",
    r"\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}",
    r"\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}",
    r"\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}",
    r"\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}",
    r"\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}",
    r"\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}",
    r"\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+",
);

/// For each name the passes, as patterns.
fn published() -> Vec<(&'static [&'static str], Vec<String>)> {
    let own = |patterns: &[&str]| patterns.iter().map(|&p| p.to_owned()).collect::<Vec<String>>();
    let llama3 = format!(r"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{OTHER}");
    let qwen2 = format!(r"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{OTHER}");
    let qwen35 = format!(r"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}|")
        + r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let [first, second] = CASED;
    let gpt4o = format!(r"{first}{CONTRACTION}?|{second}{CONTRACTION}?|\p{{N}}{{1,3}}|{OTHER_SLASH}");
    let tekken = format!(r"{first}|{second}|\p{{N}}|{OTHER_SLASH}");
    let cjk = r"[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
    let signs = r"\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
    let letters = format!(r"\s?{DEEPSEEK_LETTERS}");
    vec![
        (&["gpt-2", "mpt"], own(&[GPT2])),
        (&["smollm", "starcoder", "refact", "command-r"], own(&[r"\p{N}", GPT2])),
        (&["default"], own(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"])),
        (&["falcon"], own(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"])),
        (&["llama-bpe", "llama3", "llama-v3", "dbrx"], vec![llama3]),
        (&["qwen2"], vec![qwen2]),
        (&["qwen35"], vec![qwen35]),
        (&["gpt-4o"], vec![gpt4o]),
        (&["tekken"], vec![tekken]),
        (&["deepseek-llm"], own(&[r"[\r\n]", &letters, signs, r"\s+$", cjk, r"\p{N}+"])),
        (&["deepseek-coder"], own(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", cjk, r"\p{N}"])),
    ]
}

/// Cuts a text at every match, pass after pass.
fn split_by<'t>(passes: &[Regex], text: &'t str) -> Vec<&'t str> {
    let mut pieces = vec![text];
    for pass in passes {
        let mut cut = Vec::new();
        for piece in pieces {
            let mut begin = 0;
            for found in pass.find_iter(piece) {
                let found = found.unwrap();
                cut.extend([&piece[begin..found.start()], found.as_str()]);
                begin = found.end();
            }
            cut.push(&piece[begin..]);
        }
        cut.retain(|piece| !piece.is_empty());
        pieces = cut;
    }
    pieces
}

/// Short texts over few characters, so that every rule meets every other; all are old enough for any Unicode version.
fn dense_text() -> impl Strategy<Value = String> {
    let spaces = "   \t\n\n\r\u{b}\u{85}\u{a0}\u{3000}\u{2028}";
    let letters = "aAzZéÉßǅʰªµΩＡａ日本の가ا\u{1d7}ա\u{10d0}𐐀𐐨";
    let contractions = "''''sStTrReEvVmMlLdDſ";
    let marks = "\u{301}\u{93f}\u{20dd}\u{fe0f}\u{200d}";
    let others = "01239٣½Ⅻ²一.,-_!?/\\$+<=>^~|`#(){}€©“”‘。！：🦙\u{7f}\0\u{e000}";
    let class = |chars: &'static str| prop::sample::select(chars.chars().collect::<Vec<_>>());
    let part = prop_oneof![class(spaces), class(letters), class(contractions), class(marks), class(others)];
    prop::collection::vec(part, 0..14).prop_map(|parts| parts.into_iter().collect())
}

#[test]
fn scanners_cut_as_the_published_patterns_do() {
    for (names, patterns) in published() {
        let passes: Vec<Regex> = patterns.iter().map(|pattern| Regex::new(pattern).unwrap()).collect();
        for name in names {
            let scanner = PreTokenizer::named(name).unwrap();
            proptest!(ProptestConfig::with_cases(3000), |(text in dense_text())| {
                prop_assert_eq!(scanner.split(&text), split_by(&passes, &text), "{}", name);
            });
        }
    }
}

#[test]
fn pieces_together_are_the_text_and_none_is_empty() {
    for name in PreTokenizer::names() {
        let scanner = PreTokenizer::named(name).unwrap();
        proptest!(ProptestConfig::with_cases(200), |(text in any::<String>())| {
            let pieces = scanner.split(&text);
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
            prop_assert_eq!(pieces.concat(), text);
        });
    }
}

#[test]
fn all_required_pre_tokenizers_are_known() {
    let required = "default gpt-2 llama-bpe llama3 llama-v3 qwen2 qwen35 smollm starcoder refact command-r falcon \
                    deepseek-llm deepseek-coder mpt gpt-4o tekken";
    for name in required.split(' ') {
        assert!(PreTokenizer::named(name).is_ok(), "{name}");
    }
    let mut names: Vec<_> = PreTokenizer::names().collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a name stands for one thing only");
}
