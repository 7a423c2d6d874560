//! Templates for files that have none, or a broken one.

#![forbid(unsafe_code)]

/// A built-in template: its name and its source.
const TEMPLATES: &[(&str, &str)] = &[
    ("bailing2", include_str!("templates/bailing2.jinja")),
    ("chatml", include_str!("templates/chatml.jinja")),
    ("deepseek", include_str!("templates/deepseek.jinja")),
    ("gemma", include_str!("templates/gemma.jinja")),
    ("llama2", include_str!("templates/llama2.jinja")),
    ("llama3", include_str!("templates/llama3.jinja")),
];

/// The names, in alphabetical order.
pub fn names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|(name, _)| *name)
}

/// The source of a built-in template.
pub fn source(name: &str) -> Option<&'static str> {
    TEMPLATES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, source)| *source)
}
