//! Cutting text into the pieces that byte-pair merges never cross.
//!
//! Each vocabulary was trained behind one pattern, and `tokenizer.ggml.pre` names it. With another pattern the merges
//! still run and the ids still decode to the text, but they are not the ids that the model learnt from. So an unknown
//! name is an error, not a guess.
//!
//! A pre-tokenizer is a list of passes, each of which cuts the pieces of the pass before. There are two kinds: a *word*
//! pass (module `words`), which cuts all of the text after the pattern of GPT-2 or a later one, and a *run* pass (module
//! `runs`), which cuts out runs of one kind of character and leaves the rest alone.
//!
//! The patterns are those that the models' own `tokenizer.json` files publish. Where llama.cpp had to reword one for its
//! regular-expression engine (`gpt-4o` and `tekken`, whose letters outside ASCII it takes for both upper and lower case),
//! the published one is followed, because it is the one the model was trained with.

mod class;
mod runs;
mod words;

use self::class::Class;
use self::runs::{
    RunRule, is_ascii_digit, is_deepseek_cjk, is_deepseek_letter, is_deepseek_sign, is_letter, is_number,
    is_punctuation, is_punctuation_or_sign, is_punctuation_sign_or_backtick, is_space,
};
use self::words::{Contraction, Number, Word, WordRules};
use crate::error::LoadError;

/// One pass over the pieces.
enum Pass {
    Words(WordRules),
    Runs(RunRule),
}

/// One pattern, with what goes with it.
pub struct PreTokenizer {
    /// The name in GGUF metadata, and others for the same thing.
    names: &'static [&'static str],
    passes: &'static [Pass],
    /// Whether a piece that is a token is taken whole, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Whether prompts begin with BOS where the metadata do not say.
    pub(super) adds_bos: bool,
}

const LETTER_NUMBER_SPACE: Class = Class::LETTER.or(Class::NUMBER).or(Class::SPACE);

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
const GPT2_WORDS: WordRules = WordRules {
    contraction: Contraction::LowerCase,
    word: Word::AfterSpace(Class::LETTER),
    number: Number::AfterSpace,
    not_other: LETTER_NUMBER_SPACE,
    after_other: &[],
    line_breaks: false,
};

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const LLAMA3_WORDS: WordRules = WordRules {
    contraction: Contraction::AnyCase,
    word: Word::AfterAny(Class::LETTER),
    number: Number::Grouped(3),
    not_other: LETTER_NUMBER_SPACE,
    after_other: &['\r', '\n'],
    line_breaks: true,
};

/// As Llama 3, with single numerals.
const QWEN2_WORDS: WordRules = WordRules { number: Number::Grouped(1), ..LLAMA3_WORDS };

/// As Qwen 2, with marks counted among the letters.
const QWEN35_WORDS: WordRules = WordRules {
    word: Word::AfterAny(Class::LETTER.or(Class::MARK)),
    not_other: LETTER_NUMBER_SPACE.or(Class::MARK),
    ..QWEN2_WORDS
};

/// `[^\r\n\p{L}\p{N}]?U*L+(?i:'s|...)?|[^\r\n\p{L}\p{N}]?U+L*(?i:'s|...)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|...`, with
/// `U` for `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]` and `L` for `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
const GPT4O_WORDS: WordRules = WordRules {
    contraction: Contraction::Suffix,
    word: Word::Cased,
    after_other: &['\r', '\n', '/'],
    ..LLAMA3_WORDS
};

/// As GPT-4o, with single numerals and without contractions.
const TEKKEN_WORDS: WordRules =
    WordRules { contraction: Contraction::None, number: Number::Grouped(1), ..GPT4O_WORDS };

const SINGLE_NUMERALS: Pass = Pass::Runs(RunRule::exactly(1, is_number));
const LINE_BREAKS: Pass = Pass::Runs(RunRule::exactly(1, |c| c.breaks_line()));
const DEEPSEEK_CJK: Pass = Pass::Runs(RunRule::any(is_deepseek_cjk));

const PLAIN: PreTokenizer = PreTokenizer { names: &[], passes: &[], ignore_merges: false, adds_bos: false };

static KNOWN: [PreTokenizer; 12] = [
    PreTokenizer {
        names: &["default"],
        passes: &[
            Pass::Runs(RunRule::any(is_punctuation_or_sign)),
            Pass::Words(GPT2_WORDS),
            Pass::Runs(RunRule::any(is_number)),
            Pass::Runs(RunRule::exactly(3, is_ascii_digit)),
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["gpt-2", "mpt", "phi-2", "olmo", "jais", "trillion", "gigachat", "exaone4", "mellum"],
        passes: &[Pass::Words(GPT2_WORDS)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"],
        passes: &[Pass::Words(LLAMA3_WORDS)],
        ignore_merges: true,
        adds_bos: true,
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        passes: &[Pass::Words(LLAMA3_WORDS)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"],
        passes: &[Pass::Words(QWEN2_WORDS)],
        ..PLAIN
    },
    PreTokenizer { names: &["qwen35"], passes: &[Pass::Words(QWEN35_WORDS)], ..PLAIN },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        passes: &[SINGLE_NUMERALS, Pass::Words(GPT2_WORDS)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["falcon"],
        passes: &[
            Pass::Runs(RunRule::any(is_punctuation_sign_or_backtick)),
            Pass::Words(GPT2_WORDS),
            Pass::Runs(RunRule::exactly(3, is_ascii_digit)),
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-llm"],
        passes: &[
            LINE_BREAKS,
            Pass::Runs(RunRule::after_space(is_deepseek_letter)),
            Pass::Runs(RunRule::after_space(is_deepseek_sign)),
            Pass::Runs(RunRule::at_end(is_space)),
            DEEPSEEK_CJK,
            Pass::Runs(RunRule::any(is_number)),
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-coder"],
        passes: &[
            LINE_BREAKS,
            Pass::Runs(RunRule::after_space(is_letter)),
            Pass::Runs(RunRule::after_space(is_punctuation)),
            DEEPSEEK_CJK,
            SINGLE_NUMERALS,
        ],
        ..PLAIN
    },
    PreTokenizer { names: &["gpt-4o", "llama4"], passes: &[Pass::Words(GPT4O_WORDS)], ..PLAIN },
    PreTokenizer {
        names: &["tekken"],
        passes: &[Pass::Words(TEKKEN_WORDS)],
        ignore_merges: true,
        adds_bos: true,
    },
];

impl PreTokenizer {
    /// The pre-tokenizer of that name.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] for an unknown name, listing the known ones.
    pub fn named(name: &str) -> Result<&'static PreTokenizer, LoadError> {
        KNOWN.iter().find(|known| known.names.contains(&name)).ok_or_else(|| LoadError::Unsupported {
            what: "pre-tokenizer",
            found: name.to_owned(),
            supported: format!(
                "{}; `--pre NAME` forces one of them",
                PreTokenizer::names().collect::<Vec<_>>().join(", ")
            ),
        })
    }

    /// All known names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().flat_map(|known| known.names.iter().copied())
    }

    /// Cuts a text. The pieces together are the text; none is empty. Linear in the length of the text.
    ///
    /// ```
    /// use gable_model::tokenizer::PreTokenizer;
    /// let pieces = PreTokenizer::named("llama-bpe").unwrap().split("I'll pay 12345 €");
    /// assert_eq!(pieces, ["I", "'ll", " pay", " ", "123", "45", " €"]);
    /// ```
    pub fn split<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut pieces = vec![text];
        let mut cut = Vec::new();
        for pass in self.passes {
            for piece in pieces.drain(..) {
                match pass {
                    Pass::Words(rules) => rules.split(piece, &mut cut),
                    Pass::Runs(rule) => rule.split(piece, &mut cut),
                }
            }
            std::mem::swap(&mut pieces, &mut cut);
        }
        pieces
    }
}
