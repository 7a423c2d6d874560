//! Fields of requests.

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A switch.
    Bool,
    /// A number.
    Number,
    /// A whole number.
    Integer,
    /// A text.
    Text,
    /// A text, or several.
    Texts,
    /// An object.
    Object,
    /// An array.
    Array,
    /// Several types.
    Any,
}

/// A field of a request.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What it means.
    pub summary: &'static str,
}

const fn field(name: &'static str, kind: Kind, summary: &'static str) -> Field {
    Field {
        name,
        kind,
        summary,
    }
}

use Kind::{Any, Array, Bool, Integer, Number, Object, Text, Texts};

/// The prompt of a completion.
pub const PROMPT: &[Field] = &[
    field(
        "prompt",
        Any,
        "A text, token ids, a mixture of both, or a list of these",
    ),
    field("special", Bool, "Show control tokens as text"),
];

/// Of all requests for text.
pub const TEXT: &[Field] = &[
    field(
        "model",
        Text,
        "Name that the answer bears; there is one model",
    ),
    field("stream", Bool, "Answer with server-sent events"),
    field(
        "max_tokens",
        Integer,
        "Most tokens per choice; negative: until the model ends it or the context is full",
    ),
    field(
        "temperature",
        Number,
        "Temperature; 0 picks the likeliest token",
    ),
    field(
        "top_p",
        Number,
        "Keep the likeliest tokens that reach this probability together",
    ),
    field("top_k", Integer, "Keep the K likeliest tokens; 0 for all"),
    field(
        "stop",
        Texts,
        "Texts that end the answer and are not part of it",
    ),
    field(
        "seed",
        Integer,
        "Seed; negative for a random one. Choice i draws with seed + i",
    ),
    field(
        "cache_prompt",
        Bool,
        "Use prefixes that are in memory [true]",
    ),
    field("id_slot", Integer, "Slot to use; -1 for any"),
    field(
        "return_progress",
        Bool,
        "Tell of the prompt's progress in a stream",
    ),
    field(
        "timings_per_token",
        Bool,
        "Times with every chunk of a stream",
    ),
    field(
        "t_max_predict_ms",
        Integer,
        "Most milliseconds of generation",
    ),
    field(
        "sse_ping_interval",
        Integer,
        "Seconds between pings on a silent stream; -1 for none",
    ),
    field("grammar", Text, "Grammar of the answer, in GBNF or lark"),
    field("json_schema", Any, "JSON schema of the answer"),
    field("regex", Text, "Regular expression for the answer"),
    field(
        "response_format",
        Object,
        "`text`, `json_object`, or `json_schema` with a schema",
    ),
    field("speculative.type", Text, "Guesses: mtp, ngram or none"),
    field("speculative.n_max", Integer, "Most guesses per step"),
    field("speculative.n_min", Integer, "Fewest guesses worth a step"),
    field("speculative.p_min", Number, "Least probability of a guess"),
];

/// Further sampling parameters, by llama-server's names.
pub const SAMPLING: &[Field] = &[
    field(
        "min_p",
        Number,
        "Keep tokens with this share of the best one's probability",
    ),
    field("typical_p", Number, "Locally typical sampling"),
    field(
        "top_n_sigma",
        Number,
        "Keep logits within N standard deviations of the largest",
    ),
    field(
        "xtc_probability",
        Number,
        "Probability that XTC drops the likeliest tokens",
    ),
    field(
        "xtc_threshold",
        Number,
        "Probability from which XTC counts a token as likely",
    ),
    field(
        "repeat_last_n",
        Integer,
        "Tokens of the past that penalties look at",
    ),
    field("repeat_penalty", Number, "Penalty for repeated tokens"),
    field(
        "presence_penalty",
        Number,
        "Penalty for tokens that occurred",
    ),
    field(
        "frequency_penalty",
        Number,
        "Penalty for each time a token occurred",
    ),
    field(
        "dry_multiplier",
        Number,
        "DRY: penalty for going on with a repeated sequence",
    ),
    field("dry_base", Number, "DRY: growth of the penalty"),
    field(
        "dry_allowed_length",
        Integer,
        "DRY: length that costs nothing",
    ),
    field(
        "dry_penalty_last_n",
        Integer,
        "DRY: tokens that are scanned",
    ),
    field(
        "dry_sequence_breakers",
        Texts,
        "DRY: texts that end a repetition",
    ),
    field("dynatemp_range", Number, "Dynamic temperature: range"),
    field("dynatemp_exponent", Number, "Dynamic temperature: exponent"),
    field("mirostat", Integer, "Mirostat: 0, 1 or 2"),
    field("mirostat_tau", Number, "Mirostat: target entropy"),
    field("mirostat_eta", Number, "Mirostat: learning rate"),
    field("adaptive_target", Number, "Adaptive-p: target probability"),
    field("adaptive_decay", Number, "Adaptive-p: decay"),
    field(
        "min_keep",
        Integer,
        "Filters keep at least this many tokens",
    ),
    field(
        "samplers",
        Any,
        "Samplers in their order, as names or letters",
    ),
    field(
        "logit_bias",
        Any,
        "Biases: {\"id\": bias}, or pairs [id or text, bias or false]",
    ),
    field("ignore_eos", Bool, "Never end the answer"),
    field("n", Integer, "Choices; the prompt is computed once"),
    field(
        "logprobs",
        Any,
        "Log probabilities: how many alternatives, or true with top_logprobs",
    ),
    field(
        "post_sampling_probs",
        Bool,
        "Probabilities after the sampling chain",
    ),
];

/// Of llama-server's completion.
pub const NATIVE: &[Field] = &[
    field("n_predict", Integer, "As max_tokens"),
    field(
        "n_probs",
        Integer,
        "Probabilities of this many tokens with each token",
    ),
    field("return_tokens", Bool, "Token ids with the text"),
    field(
        "response_fields",
        Texts,
        "Fields of the answer to keep; `a/b` brings b to the top",
    ),
];

/// Of OpenAI's completions.
pub const OPENAI: &[Field] = &[
    field("max_completion_tokens", Integer, "As max_tokens"),
    field(
        "echo",
        Bool,
        "Repeat the prompt before the answer (completions)",
    ),
    field(
        "stream_options",
        Object,
        "include_usage: end the stream with the usage",
    ),
];

/// Of chat completions.
pub const CHAT: &[Field] = &[
    field(
        "messages",
        Array,
        "The conversation: role, content, tool_calls, tool_call_id, reasoning_content",
    ),
    field("tools", Array, "Functions the model may call"),
    field("tool_choice", Any, "auto, none, required, or a function"),
    field("parallel_tool_calls", Bool, "Allow several calls [true]"),
    field(
        "chat_template_kwargs",
        Object,
        "Variables of the template, as in {\"enable_thinking\": true}",
    ),
    field(
        "reasoning_effort",
        Text,
        "Effort the template asks for; none turns thinking off",
    ),
    field(
        "reasoning_format",
        Text,
        "deepseek: thoughts in reasoning_content; none: in the content",
    ),
    field(
        "add_generation_prompt",
        Bool,
        "End the prompt with the start of an answer [true]",
    ),
    field(
        "continue_final_message",
        Bool,
        "Continue the last message, which is the assistant's",
    ),
    field(
        "top_logprobs",
        Any,
        "Alternatives with each token, with logprobs",
    ),
    field("parse_tool_calls", Bool, "Tell calls from text [true]"),
];

/// Of OpenAI's Responses.
pub const RESPONSES: &[Field] = &[
    field(
        "input",
        Any,
        "A text, or items: messages, function_call, function_call_output, reasoning",
    ),
    field("instructions", Text, "System message"),
    field("tools", Array, "Functions the model may call"),
    field("tool_choice", Any, "auto, none, required, or a function"),
    field("parallel_tool_calls", Bool, "Allow several calls [true]"),
    field("max_output_tokens", Integer, "Most tokens of the answer"),
    field("reasoning", Object, "effort: none turns thinking off"),
    field("text", Object, "format: text, json_object or json_schema"),
    field("top_logprobs", Any, "Alternatives with each token"),
];

/// Of Anthropic's Messages.
pub const MESSAGES: &[Field] = &[
    field(
        "messages",
        Array,
        "The conversation: text, thinking, tool_use and tool_result blocks",
    ),
    field("system", Any, "System message: a text or text blocks"),
    field(
        "tools",
        Array,
        "Functions the model may call: name, description, input_schema",
    ),
    field(
        "tool_choice",
        Object,
        "type: auto, any, tool (with a name) or none",
    ),
    field("thinking", Object, "type: enabled or disabled"),
    field("stop_sequences", Texts, "Texts that end the answer"),
];

/// Of embeddings.
pub const EMBEDDINGS: &[Field] = &[
    field("input", Any, "Texts or token ids"),
    field("encoding_format", Text, "float or base64"),
    field(
        "dimensions",
        Integer,
        "The model's own width, if it is said at all",
    ),
    field(
        "embd_normalize",
        Integer,
        "Negative: leave the length as it is",
    ),
];

/// Of `/tokenize`.
pub const TOKENIZE: &[Field] = &[
    field("content", Any, "Text"),
    field("add_special", Bool, "Add the start token"),
    field(
        "parse_special",
        Bool,
        "Read the text of control tokens as these tokens [true]",
    ),
    field("with_pieces", Bool, "The text of each token as well"),
];

/// Of `/detokenize`.
pub const DETOKENIZE: &[Field] = &[field("tokens", Array, "Token ids")];

/// Of `/slots/{id}`.
pub const SLOT: &[Field] = &[field(
    "filename",
    Text,
    "Name of the file in --slot-save-path",
)];
