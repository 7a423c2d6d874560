//! Calls of functions in the text of a model: which form a family writes them in, and a parser for each.

#![forbid(unsafe_code)]

mod arguments;
mod head;
mod json;
mod parser;
#[cfg(test)]
mod tests;

pub use arguments::ArgumentTypes;
pub(super) use parser::ToolParser;

/// The form in which a model writes its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ToolFormat {
    /// `<tool_call>` around `{"name": .., "arguments": {..}}`: Ling, Qwen 2.5 and 3, Hermes.
    #[default]
    Hermes,
    /// `<tool_call>`, `<function=NAME>`, `<parameter=KEY>`: Qwen 3.5 and Qwen Coder.
    QwenXml,
    /// `<tool_call>NAME`, `<arg_key>`, `<arg_value>`: GLM 4.5 and Ling 3.
    ArgTags,
    /// DeepSeek V3 and R1: marker tokens, the type, and the arguments in a fenced block.
    DeepSeekV3,
    /// DeepSeek V3.1: marker tokens, and the arguments bare.
    DeepSeekV31,
    /// The whole answer is `{"name": .., "parameters": {..}}`: Llama 3.
    BareJson,
}

/// What DeepSeek puts around all calls, around one, and before its arguments.
pub(crate) const CALLS_BEGIN: &str = "<\u{FF5C}tool\u{2581}calls\u{2581}begin\u{FF5C}>";
pub(crate) const CALLS_END: &str = "<\u{FF5C}tool\u{2581}calls\u{2581}end\u{FF5C}>";
pub(crate) const CALL_BEGIN: &str = "<\u{FF5C}tool\u{2581}call\u{2581}begin\u{FF5C}>";
pub(crate) const CALL_END: &str = "<\u{FF5C}tool\u{2581}call\u{2581}end\u{FF5C}>";
pub(crate) const SEPARATOR: &str = "<\u{FF5C}tool\u{2581}sep\u{FF5C}>";
/// The tags of the other forms.
pub(crate) const OPEN: &str = "<tool_call>";
pub(crate) const CLOSE: &str = "</tool_call>";
/// Comes before Llama's calls, sometimes.
pub(crate) const PYTHON_TAG: &str = "<|python_tag|>";

impl ToolFormat {
    /// The form that a template writes calls in; that of Hermes for templates that know no calls.
    pub fn detect(template_source: &str) -> Self {
        let has = |text: &str| template_source.contains(text);
        if has("<function=") && has("<parameter=") {
            Self::QwenXml
        } else if has("<arg_key>") && has("<arg_value>") {
            Self::ArgTags
        } else if has(CALL_BEGIN) && has("```json") {
            Self::DeepSeekV3
        } else if has(CALL_BEGIN) {
            Self::DeepSeekV31
        } else if has(OPEN) {
            Self::Hermes
        } else if has("\"parameters\": ") && (has(PYTHON_TAG) || has("ipython")) {
            Self::BareJson
        } else {
            Self::Hermes
        }
    }

    /// Texts of the form that may be single tokens of a vocabulary. Where such a token is a control token, it must be
    /// shown in the text that the parser gets.
    pub fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes | Self::QwenXml => &[OPEN, CLOSE],
            Self::ArgTags => &[
                OPEN,
                CLOSE,
                "<arg_key>",
                "</arg_key>",
                "<arg_value>",
                "</arg_value>",
            ],
            Self::DeepSeekV3 | Self::DeepSeekV31 => {
                &[CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR]
            }
            Self::BareJson => &[PYTHON_TAG],
        }
    }

    /// Texts that begin a call, the longest first.
    pub(crate) fn openers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes | Self::QwenXml | Self::ArgTags => &[OPEN],
            Self::DeepSeekV3 | Self::DeepSeekV31 => &[CALLS_BEGIN, CALL_BEGIN],
            Self::BareJson => &[],
        }
    }

    /// Texts that may end a call, in their order.
    fn closers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes | Self::QwenXml => &[CLOSE],
            // The closing tag already ended the arguments.
            Self::ArgTags => &[],
            Self::DeepSeekV3 => &["```", CALL_END, CALLS_END],
            Self::DeepSeekV31 => &[CALL_END, CALLS_END],
            Self::BareJson => &[";"],
        }
    }
}
