//! How text is cut into words before byte-pair merging: one table from `tokenizer.ggml.pre` to split rules.
//!
//! A rule is a list of splits, each applied to the pieces the one before it left. Matches and the gaps between
//! them are pieces. The expressions are those of the models' own tokenizers.

#![forbid(unsafe_code)]

use tokenizers::utils::SysRegex;

use super::error::{TokenizerError, shown};
use super::newer::Newer;

/// One step of a rule.
#[derive(Debug, Clone, Copy)]
pub(super) enum Split {
    /// Cut around every match.
    Match(&'static str),
    /// Cut every match (a run of digits) into threes, counted from its right end.
    Triples(&'static str),
}

/// How the pieces of a rule are turned into symbols for merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbols {
    /// Every byte is one printable character (GPT-2).
    Bytes,
    /// Characters as they are, spaces as U+2581, unknown ones as byte tokens.
    /// `whole_newlines`: a run of newlines that is a token is not merged but taken.
    Chars { whole_newlines: bool },
}

/// A pre-tokenizer: the names files use for it, its splits, and what else depends on the name.
#[derive(Debug)]
pub(super) struct PreRule {
    pub names: &'static [&'static str],
    pub splits: &'static [Split],
    pub symbols: Symbols,
    /// A word that is a token is not merged but taken.
    pub ignore_merges: bool,
    /// Whether a start token is added where the file does not say.
    pub add_bos: bool,
}

use Split::{Match, Triples};

const CONTRACTION_OR_WORD: &str =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const GPT2: &[Split] = &[Match(CONTRACTION_OR_WORD)];
const STARCODER: &[Split] = &[Match(r"\p{N}"), Match(CONTRACTION_OR_WORD)];
const LLAMA3: &[Split] = &[Match(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)];
const QWEN2_WORD: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &[Split] = &[Match(QWEN2_WORD)];
/// gpt-4o: words split where lower case is followed by upper case, contractions stay with their word.
const CASED_WORD: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const CJK: &str = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+";
const DEEPSEEK_HAN: &str = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
const PUNCTUATED_WORD: Split = Match(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
);
const DEEPSEEK3: &[Split] = &[Match(r"\p{N}{1,3}"), Match(CJK), PUNCTUATED_WORD];
/// Letters with case, as the DeepSeek LLM tokenizer lists them.
const DEEPSEEK_LLM_LETTERS: &str = r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+";
const BLOOM: &str = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+";
const LINES: &str = r"[^\n]+|[\n]+";

const fn rule(names: &'static [&'static str], splits: &'static [Split]) -> PreRule {
    PreRule {
        names,
        splits,
        symbols: Symbols::Bytes,
        ignore_merges: false,
        add_bos: false,
    }
}

impl PreRule {
    const fn ignoring_merges(mut self) -> Self {
        self.ignore_merges = true;
        self
    }

    const fn with_bos(mut self) -> Self {
        self.add_bos = true;
        self
    }

    const fn chars(mut self, whole_newlines: bool) -> Self {
        self.symbols = Symbols::Chars { whole_newlines };
        self
    }
}

/// A name of every rule, as files state it.
pub fn names() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.names[0])
}

/// Every pre-tokenizer this program knows.
pub(super) const RULES: &[PreRule] = &[
    // Ling. The tokenizer's own form has possessive `?+` and `++`; what follows them can never match what they
    // hold, so greedy ones are equal and need no backtracking.
    rule(&["bailingmoe2", "bailingmoe", "llada-moe"], &[Match(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    )]),
    rule(&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"], LLAMA3)
        .ignoring_merges()
        .with_bos(),
    rule(&["dbrx", "smaug-bpe", "chatglm-bpe"], LLAMA3),
    rule(&["glm4", "glm5"], LLAMA3).ignoring_merges(),
    rule(&["jais-2"], &[Match(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
    )]),
    rule(&["minicpm5"], &[
        Match(r"\p{N}{1,3}"),
        Match(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
    ])
    .ignoring_merges(),
    rule(
        &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "hunyuan", "solar-open", "megrez", "grok-2"],
        QWEN2,
    ),
    rule(&["qwen35"], &[Match(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )]),
    // Turkish suffixes keep their apostrophe: no contractions.
    rule(&["ufakzeka"], &[Match(
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )]),
    rule(&["laguna"], &[Match(LINES), Match(QWEN2_WORD)]),
    rule(&["seed-coder"], &[Match(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
    )]),
    rule(&["exaone-moe"], &[Match(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    )]),
    rule(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[Match(CASED_WORD)]),
    rule(&["granite-embed-multi-97m"], &[Match(CASED_WORD)]).ignoring_merges(),
    rule(&["tiny_aya", "cohere2moe"], &[Triples(r"\d+\b"), Match(CASED_WORD)]),
    rule(&["tekken"], &[Match(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )])
    .ignoring_merges()
    .with_bos(),
    // The same as gpt-4o with Han characters taken out of the words.
    rule(&["kimi-k2"], &[Match(
        r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )]),
    rule(&["youtu"], &[
        Match(
            r"[\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+|[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019}\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+|[\x{3105}-\x{312F}]+|[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+",
        ),
        Match(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ])
    .ignoring_merges(),
    rule(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], DEEPSEEK3),
    rule(&["spark2_5"], &[
        Match(r"\p{N}{1,3}"),
        Match(CJK),
        Match(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##,
        ),
        Match(r"\p{N}"),
    ]),
    rule(&["afmoe"], &[
        Triples(r"\p{N}+"),
        Match(
            r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{8C48}-\x{FAFF}\x{3040}-\x{309F}\x{30A0}-\x{30FF}\x{FF65}-\x{FF9F}\x{2F00}-\x{2FDF}\x{E40}-\x{E7F}\x{E80}-\x{EFF}\x{1780}-\x{17FF}\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}\x{1100}-\x{11FF}]+",
        ),
        PUNCTUATED_WORD,
    ]),
    rule(&["deepseek-llm"], &[
        Match(r"[\r\n]"),
        Match(DEEPSEEK_LLM_LETTERS),
        Match(r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+"),
        Match(r"\s+$"),
        Match(DEEPSEEK_HAN),
        Match(r"\p{N}+"),
    ]),
    rule(&["deepseek-coder"], &[
        Match(r"[\r\n]"),
        Match(r"\s?\p{L}+"),
        Match(r"\s?\p{P}+"),
        Match(DEEPSEEK_HAN),
        Match(r"\p{N}"),
    ]),
    rule(
        &[
            "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum",
            "modern-bert", "jina-v1-en", "jina-v2-code", "roberta-bpe", "mpt", "olmo", "jais", "trillion",
            "granite-docling", "exaone4",
        ],
        GPT2,
    ),
    rule(
        &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        STARCODER,
    ),
    rule(&["falcon"], &[
        Match(r"[\p{P}\$\+<=>\^~\|`]+"),
        Match(CONTRACTION_OR_WORD),
        Match(r"[0-9][0-9][0-9]"),
    ]),
    rule(&["bloom", "poro-chat", "gpt3-finnish"], &[Match(BLOOM)]),
    rule(&["viking"], &[Match(BLOOM), Match(r"\p{N}")]),
    rule(&["chameleon"], &[
        Match(r"<sentinel:[0-9]+>"),
        Match(r"IMGIMG[A-I]{1,4}Z"),
        Match(r"[\t\n]|    |  "),
        Match(r"\p{N}"),
        Match(r"[\p{P}!-/:-@\[-`{-~]"),
        Match(CONTRACTION_OR_WORD),
    ])
    .with_bos(),
    rule(&["superbpe"], &[Match(r"\p{N}+"), Triples(r"\d+")]),
    rule(&["gemma4", "granite-embed-multi-311m"], &[Match(LINES)]).chars(true).with_bos(),
    rule(&["sarvam-moe"], &[Match(LINES)]).chars(false),
    // What llama.cpp does with a file that names no rule.
    rule(&["default"], &[
        Match(r"[\p{P}\$\+<=>\^~\|]+"),
        Match(CONTRACTION_OR_WORD),
        Match(r"\p{N}+"),
        Match(r"[0-9][0-9][0-9]"),
    ]),
];

/// Every name in the table, in its order.
pub(super) fn known_names() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|rule| rule.names.iter().copied())
}

/// The rule a file asks for by name.
pub(super) fn find(name: &str) -> Result<&'static PreRule, TokenizerError> {
    RULES
        .iter()
        .find(|rule| rule.names.contains(&name))
        .ok_or_else(|| TokenizerError::UnknownPre { found: shown(name) })
}

/// A rule ready to run.
#[derive(Debug)]
pub(super) struct Splitter {
    steps: Vec<Step>,
    newer: Newer,
}

#[derive(Debug)]
struct Step {
    regex: SysRegex,
    triples: bool,
    give_back: GiveBack,
}

/// What to do with a match that is white space only and is followed by something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GiveBack {
    /// Keep it.
    Never,
    /// Its last character belongs to what follows.
    Last,
    /// The same, unless it holds a line break (an earlier alternative took it then).
    LastUnlessLineBreak,
}

/// The usual end of a rule. A look-ahead forces the regex engine to backtrack, several times slower, so it is
/// cut off and done by [`GiveBack`]: a run of white space leaves its last character to the word that follows.
const TAIL: &str = r"|\s+(?!\S)|\s+";

impl Splitter {
    pub fn new(rule: &PreRule) -> Result<Self, TokenizerError> {
        let steps = rule
            .splits
            .iter()
            .map(Step::new)
            .collect::<Result<_, _>>()?;
        let newer = Newer::new()?;
        Ok(Self { steps, newer })
    }

    /// Cuts `text` into words, in order; their concatenation is `text`.
    pub fn split<'t>(&self, text: &'t str, word: &mut impl FnMut(&'t str)) {
        let Some(hidden) = self.newer.hidden(text) else {
            return split_by(&self.steps, text, word);
        };
        let mut rest = text;
        split_by(&self.steps, &hidden, &mut |piece: &str| {
            let (cut, after) = rest.split_at(piece.len());
            word(cut);
            rest = after;
        });
    }
}

/// Applies the first step to `text` and the others to each piece.
fn split_by<'t, F: FnMut(&'t str)>(steps: &[Step], text: &'t str, word: &mut F) {
    if text.is_empty() {
        return;
    }
    match steps {
        [] => word(text),
        [step, rest @ ..] => step.cut(text, &mut |piece| split_by(rest, piece, word)),
    }
}

impl Step {
    fn new(split: &Split) -> Result<Self, TokenizerError> {
        let (source, triples) = match split {
            Match(source) => (*source, false),
            Triples(source) => (*source, true),
        };
        let (pattern, give_back) = match source.strip_suffix(TAIL) {
            None => (source.to_owned(), GiveBack::Never),
            Some(head) => (
                format!(r"{head}|\s+"),
                if head.contains(r"\s*[\r\n]") {
                    GiveBack::LastUnlessLineBreak
                } else {
                    GiveBack::Last
                },
            ),
        };
        let regex = SysRegex::new(&pattern).map_err(|error| TokenizerError::Build {
            reason: error.to_string(),
        })?;
        Ok(Self {
            regex,
            triples,
            give_back,
        })
    }

    fn cut<'t>(&self, text: &'t str, piece: &mut impl FnMut(&'t str)) {
        let mut done = 0;
        let mut start = 0;
        'search: loop {
            for (from, to) in self.regex.find_iter(&text[start..]) {
                let (from, to) = (start + from, start + to);
                if from == to {
                    continue;
                }
                let kept = to - self.given_back(&text[from..to], to == text.len());
                if done < from {
                    piece(&text[done..from]);
                }
                if self.triples {
                    cut_triples(&text[from..to], piece);
                } else {
                    piece(&text[from..kept]);
                }
                done = kept;
                if kept < to {
                    start = kept;
                    continue 'search;
                }
            }
            break;
        }
        if done < text.len() {
            piece(&text[done..]);
        }
    }

    /// Bytes at the end of a match that belong to what follows it.
    fn given_back(&self, found: &str, at_end: bool) -> usize {
        if at_end || self.give_back == GiveBack::Never {
            return 0;
        }
        let mut chars = found.chars();
        let last = match chars.next_back() {
            Some(last) if last.is_whitespace() && !chars.as_str().is_empty() => last,
            _ => return 0,
        };
        let line_break = |c: char| c == '\r' || c == '\n';
        let kept = self.give_back == GiveBack::LastUnlessLineBreak && found.contains(line_break);
        if kept || !found.chars().all(char::is_whitespace) {
            0
        } else {
            last.len_utf8()
        }
    }
}

/// Cuts a run of digits into threes from the right: `1234567` gives `1`, `234`, `567`.
fn cut_triples<'t>(digits: &'t str, piece: &mut impl FnMut(&'t str)) {
    let count = digits.chars().count();
    let mut start = 0;
    for (position, (offset, _)) in digits.char_indices().enumerate() {
        if offset > start && (count - position).is_multiple_of(3) {
            piece(&digits[start..offset]);
            start = offset;
        }
    }
    piece(&digits[start..]);
}
