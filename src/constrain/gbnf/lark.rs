//! Writes lark.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt::Write as _;

use super::parse::{Node, Rules};
use super::terminals::{Part, Words};

/// A lark literal, in ASCII.
pub(in crate::constrain) fn text(text: &str) -> String {
    let mut out = String::from("\"");
    let mut units = [0; 2];
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
    out
}

/// Writes the rules of a grammar over words. Each part gets a name, so that nothing is nested.
pub(super) fn write(words: &Words, rules: &Rules) -> String {
    let mut writer = Writer {
        rules,
        lines: vec![format!("start: rule{}", rules.root)],
        tokens: HashMap::new(),
        n_parts: 0,
    };
    let names: Vec<String> = (0..words.words.len()).map(|n| format!("WORD{n}")).collect();
    let nullable: Vec<bool> = words
        .words
        .iter()
        .zip(&names)
        .map(|(word, name)| writer.word(name, word))
        .collect();
    for (number, body) in words.bodies.iter().enumerate() {
        let Some(body) = body else { continue };
        let body = writer.part(body, &names, &nullable);
        writer.lines.push(format!("rule{number}: {body}"));
    }
    writer.lines.push(String::new());
    writer.lines.join("\n")
}

struct Writer<'a> {
    rules: &'a Rules,
    lines: Vec<String>,
    /// Names of what was written within words.
    tokens: HashMap<Node, String>,
    n_parts: usize,
}

fn times(min: u32, max: Option<u32>) -> String {
    match (min, max) {
        (0, None) => "*".to_owned(),
        (1, None) => "+".to_owned(),
        (0, Some(1)) => "?".to_owned(),
        (min, None) => format!("{{{min},}}"),
        (min, Some(max)) => format!("{{{min},{max}}}"),
    }
}

impl Writer<'_> {
    /// Defines a word without the empty text; gives whether it may be empty.
    fn word(&mut self, name: &str, word: &Node) -> bool {
        let nullable = self.is_nullable(word);
        let token = self.token(word);
        let filled = if nullable { " & /(?s:.+)/" } else { "" };
        self.lines.push(format!("{name}: {token}{filled}"));
        nullable
    }

    fn is_nullable(&self, node: &Node) -> bool {
        match node {
            Node::Chars(_) | Node::Token { .. } => false,
            Node::Text(text) => text.is_empty(),
            Node::Rule(number) => self.is_nullable(&self.rules.bodies[*number]),
            Node::Seq(list) => list.iter().all(|node| self.is_nullable(node)),
            Node::Alt(list) => list.iter().any(|node| self.is_nullable(node)),
            Node::Repeat { node, min, max } => {
                *min == 0 || *max == Some(0) || self.is_nullable(node)
            }
        }
    }

    /// The name or literal of a node within a word.
    fn token(&mut self, node: &Node) -> String {
        if let Some(name) = self.tokens.get(node) {
            return name.clone();
        }
        let body = match node {
            Node::Chars(set) => {
                return format!(
                    "/{}/",
                    set.class().unwrap_or_else(|| "[^\\s\\S]".to_owned())
                );
            }
            Node::Text(empty) if empty.is_empty() => "/(?:)/".to_owned(),
            Node::Text(literal) => return text(literal),
            // Words hold no tokens.
            Node::Token { .. } => "/[^\\s\\S]/".to_owned(),
            Node::Rule(number) => self.token(&self.rules.bodies[*number]),
            Node::Seq(list) => {
                let parts: Vec<String> = list.iter().map(|node| self.token(node)).collect();
                if parts.is_empty() {
                    "/(?:)/".to_owned()
                } else {
                    parts.join(" ")
                }
            }
            Node::Alt(list) => {
                let parts: Vec<String> = list.iter().map(|node| self.token(node)).collect();
                parts.join(" | ")
            }
            Node::Repeat { max: Some(0), .. } => "/(?:)/".to_owned(),
            Node::Repeat { node, min, max } => {
                let inner = self.token(node);
                format!("{inner}{}", times(*min, *max))
            }
        };
        let name = format!("PART{}", self.tokens.len());
        self.lines.push(format!("{name}: {body}"));
        self.tokens.insert(node.clone(), name.clone());
        name
    }

    /// The right side of a rule.
    fn part(&mut self, part: &Part, names: &[String], nullable: &[bool]) -> String {
        match part {
            Part::Word(word) if nullable[*word] => format!("{}?", names[*word]),
            Part::Word(word) => names[*word].clone(),
            Part::Token { id, not: false } => format!("<[{id}]>"),
            Part::Token { id, not: true } => format!("<[^{id}]>"),
            Part::Rule(number) => format!("rule{number}"),
            Part::Seq(list) => {
                let parts: Vec<String> = list
                    .iter()
                    .map(|part| self.named(part, names, nullable))
                    .filter(|part| !part.is_empty())
                    .collect();
                if parts.is_empty() {
                    "\"\"".to_owned()
                } else {
                    parts.join(" ")
                }
            }
            Part::Alt(list) => {
                let parts: Vec<String> = list
                    .iter()
                    .map(|part| self.named(part, names, nullable))
                    .collect();
                parts.join(" | ")
            }
            Part::Repeat { max: Some(0), .. } => "\"\"".to_owned(),
            Part::Repeat { part, min, max } => {
                let inner = self.rule_of(part, names, nullable);
                format!("{inner}{}", times(*min, *max))
            }
        }
    }

    /// A part that can stand beside others.
    fn named(&mut self, part: &Part, names: &[String], nullable: &[bool]) -> String {
        match part {
            Part::Seq(list) if list.is_empty() => "\"\"".to_owned(),
            Part::Word(_) | Part::Token { .. } | Part::Rule(_) => self.part(part, names, nullable),
            _ => self.rule_of(part, names, nullable),
        }
    }

    /// A rule of its own for a part.
    fn rule_of(&mut self, part: &Part, names: &[String], nullable: &[bool]) -> String {
        if let Part::Rule(number) = part {
            return format!("rule{number}");
        }
        let body = self.part(part, names, nullable);
        let name = format!("part{}", self.n_parts);
        self.n_parts += 1;
        self.lines.push(format!("{name}: {body}"));
        name
    }
}
