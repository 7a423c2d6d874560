//! Reads GBNF.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

use super::chars::CharSet;
use crate::constrain::ConstrainError;

/// Deepest nesting of groups.
const MOST_DEPTH: usize = 64;
/// Most rules.
const MOST_RULES: usize = 4096;
/// Most repetitions that are counted.
const MOST_TIMES: u32 = 2000;

/// A part of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::constrain) enum Node {
    /// One character of a set.
    Chars(CharSet),
    /// These characters; empty for nothing.
    Text(String),
    /// A token, or (`not`) any other.
    Token { id: u32, not: bool },
    /// A rule, by its number.
    Rule(usize),
    /// One after another.
    Seq(Vec<Node>),
    /// One of them.
    Alt(Vec<Node>),
    /// From `min` to `max` times.
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
    },
}

/// The rules by number; the root's first.
#[derive(Debug)]
pub(in crate::constrain) struct Rules {
    pub(in crate::constrain) bodies: Vec<Node>,
    pub(in crate::constrain) root: usize,
}

/// Finds the token of a text.
pub(in crate::constrain) type FindToken<'a> = &'a dyn Fn(&str) -> Option<u32>;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    find: FindToken<'a>,
    numbers: HashMap<String, usize>,
    /// Bodies of rules that were read, and where each rule was first named.
    bodies: Vec<(Option<Node>, usize)>,
}

/// Reads a grammar. `find` gives the token of a text such as `<think>`.
pub(in crate::constrain) fn parse(
    text: &str,
    find: FindToken<'_>,
) -> Result<Rules, ConstrainError> {
    let mut parser = Parser {
        text,
        at: 0,
        find,
        numbers: HashMap::new(),
        bodies: Vec::new(),
    };
    parser.space(true);
    while parser.peek().is_some() {
        parser.rule()?;
    }
    let Some(&root) = parser.numbers.get("root") else {
        return Err(parser.error_at(text.len(), "there is no rule `root`"));
    };
    let missing = parser.bodies.iter().position(|(body, _)| body.is_none());
    if let Some(number) = missing {
        let name = parser.numbers.iter().find(|(_, n)| **n == number);
        let name = name.map_or("", |(name, _)| name);
        let at = parser.bodies[number].1;
        return Err(parser.error_at(at, format!("there is no rule `{name}`")));
    }
    let bodies = parser.bodies.into_iter().filter_map(|(body, _)| body);
    Ok(Rules {
        bodies: bodies.collect(),
        root,
    })
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Result<char, ConstrainError> {
        let c = self
            .peek()
            .ok_or_else(|| self.error("the grammar ends too early"))?;
        self.at += c.len_utf8();
        Ok(c)
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.text[self.at..].starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn expect(&mut self, text: &str) -> Result<(), ConstrainError> {
        if self.eat(text) {
            return Ok(());
        }
        let found = match self.peek() {
            Some(c) => format!("`{}`", c.escape_debug()),
            None => "the end".to_owned(),
        };
        Err(self.error(format!("expected `{text}`, found {found}")))
    }

    fn error(&self, message: impl Into<String>) -> ConstrainError {
        self.error_at(self.at, message)
    }

    fn error_at(&self, at: usize, message: impl Into<String>) -> ConstrainError {
        let before = &self.text[..at];
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        ConstrainError::Gbnf {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
        }
    }

    /// Skips white space and comments; line ends only where they mean nothing.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\r' | '\n' if lines => self.at += 1,
                '#' => {
                    let rest = &self.text[self.at..];
                    self.at += rest.find(['\r', '\n']).unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<String, ConstrainError> {
        let rest = &self.text[self.at..];
        let len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        if len == 0 {
            return Err(self.error("expected the name of a rule"));
        }
        self.at += len;
        Ok(rest[..len].to_owned())
    }

    /// The number of a rule that is named at `at`.
    fn number(&mut self, name: String, at: usize) -> Result<usize, ConstrainError> {
        if let Some(&number) = self.numbers.get(&name) {
            return Ok(number);
        }
        let number = self.bodies.len();
        if number >= MOST_RULES {
            return Err(self.error_at(at, format!("more than {MOST_RULES} rules")));
        }
        self.numbers.insert(name, number);
        self.bodies.push((None, at));
        Ok(number)
    }

    fn rule(&mut self) -> Result<(), ConstrainError> {
        let at = self.at;
        let name = self.name()?;
        let number = self.number(name, at)?;
        self.space(false);
        self.expect("::=")?;
        self.space(true);
        let body = self.alternatives(0)?;
        // A later rule of the same name replaces an earlier one.
        self.bodies[number].0 = Some(body);
        match self.peek() {
            None | Some('\r' | '\n') => {
                self.space(true);
                Ok(())
            }
            Some(c) => Err(self.error(format!(
                "expected the end of the line, found `{}`",
                c.escape_debug()
            ))),
        }
    }

    fn alternatives(&mut self, depth: usize) -> Result<Node, ConstrainError> {
        let mut list = vec![self.sequence(depth)?];
        while self.eat("|") {
            self.space(true);
            list.push(self.sequence(depth)?);
        }
        let mut seen = HashSet::new();
        list.retain(|node| seen.insert(node.clone()));
        Ok(match list.pop() {
            Some(only) if list.is_empty() => only,
            last => {
                list.extend(last);
                Node::Alt(list)
            }
        })
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, ConstrainError> {
        let mut list = Vec::new();
        while let Some(c) = self.peek() {
            let node = match c {
                '"' => self.text()?,
                '[' => self.class()?,
                '<' | '!' => self.token()?,
                '.' => {
                    self.at += 1;
                    Node::Chars(CharSet::any())
                }
                '(' => self.group(depth)?,
                '*' | '+' | '?' | '{' => {
                    let Some(node) = list.pop() else {
                        return Err(self.error(format!("`{c}` has nothing to repeat")));
                    };
                    self.repeat(c, node)?
                }
                c if is_name(c) => {
                    let at = self.at;
                    let name = self.name()?;
                    Node::Rule(self.number(name, at)?)
                }
                _ => break,
            };
            list.push(node);
            self.space(depth > 0);
        }
        Ok(match list.pop() {
            None => Node::Text(String::new()),
            Some(only) if list.is_empty() => only,
            last => {
                list.extend(last);
                Node::Seq(list)
            }
        })
    }

    fn group(&mut self, depth: usize) -> Result<Node, ConstrainError> {
        if depth >= MOST_DEPTH {
            return Err(self.error(format!("groups are nested deeper than {MOST_DEPTH}")));
        }
        self.at += 1;
        self.space(true);
        let node = self.alternatives(depth + 1)?;
        self.expect(")")?;
        Ok(node)
    }

    fn repeat(&mut self, op: char, node: Node) -> Result<Node, ConstrainError> {
        let at = self.at;
        self.at += 1;
        let (min, max) = match op {
            '*' => (0, None),
            '+' => (1, None),
            '?' => (0, Some(1)),
            _ => self.times()?,
        };
        if min > MOST_TIMES || max.is_some_and(|max| max < min) {
            let message = format!("repetitions must rise and be at most {MOST_TIMES}");
            return Err(self.error_at(at, message));
        }
        Ok(Node::Repeat {
            node: Box::new(node),
            min,
            // As in llama.cpp.
            max: max.filter(|max| *max <= MOST_TIMES),
        })
    }

    /// The rest of `{n}`, `{n,}` or `{n,m}`.
    fn times(&mut self) -> Result<(u32, Option<u32>), ConstrainError> {
        self.space(true);
        let min = self.integer()?;
        self.space(true);
        let mut max = Some(min);
        if self.eat(",") {
            self.space(true);
            let more = self.peek().is_some_and(|c| c.is_ascii_digit());
            max = if more { Some(self.integer()?) } else { None };
            self.space(true);
        }
        self.expect("}")?;
        Ok((min, max))
    }

    fn integer(&mut self) -> Result<u32, ConstrainError> {
        let rest = &self.text[self.at..];
        let len = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let number = rest[..len].parse();
        let number = number.map_err(|_| self.error("expected a number below 4294967296"))?;
        self.at += len;
        Ok(number)
    }

    fn text(&mut self) -> Result<Node, ConstrainError> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                Some('"') => {
                    self.at += 1;
                    return Ok(Node::Text(text));
                }
                _ => text.push(self.character()?),
            }
        }
    }

    /// A character or an escape.
    fn character(&mut self) -> Result<char, ConstrainError> {
        let at = self.at;
        let c = self.next()?;
        if c != '\\' {
            return Ok(c);
        }
        Ok(match self.next()? {
            'x' => self.hex(2)?,
            'u' => self.hex(4)?,
            'U' => self.hex(8)?,
            't' => '\t',
            'r' => '\r',
            'n' => '\n',
            c @ ('\\' | '"' | '[' | ']' | '-') => c,
            c => {
                let message = format!("`\\{}` is no escape", c.escape_debug());
                return Err(self.error_at(at, message));
            }
        })
    }

    fn hex(&mut self, len: usize) -> Result<char, ConstrainError> {
        let digits = self.text.get(self.at..self.at + len);
        let digits = digits.filter(|d| d.chars().all(|c| c.is_ascii_hexdigit()));
        let code = digits.and_then(|d| u32::from_str_radix(d, 16).ok());
        let c = code.and_then(char::from_u32).ok_or_else(|| {
            self.error(format!("expected {len} hexadecimal digits of a character"))
        })?;
        self.at += len;
        Ok(c)
    }

    fn class(&mut self) -> Result<Node, ConstrainError> {
        let at = self.at;
        self.at += 1;
        let not = self.eat("^");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            let start = self.at;
            let low = self.character()?;
            let rest = &self.text[self.at..];
            let mut high = low;
            if rest.starts_with('-') && !rest.starts_with("-]") {
                self.at += 1;
                high = self.character()?;
            }
            if high < low {
                let message = format!(
                    "the range {}-{} falls",
                    low.escape_debug(),
                    high.escape_debug()
                );
                return Err(self.error_at(start, message));
            }
            ranges.push((u32::from(low), u32::from(high)));
        }
        let set = CharSet::from_ranges(ranges);
        let set = if not { set.negated() } else { set };
        if set.class().is_none() {
            return Err(self.error_at(at, "no character is in this set"));
        }
        Ok(Node::Chars(set))
    }

    fn token(&mut self) -> Result<Node, ConstrainError> {
        let not = self.eat("!");
        let at = self.at;
        self.expect("<")?;
        let rest = &self.text[self.at..];
        let end = rest
            .find(['>', '\n'])
            .filter(|&end| rest[end..].starts_with('>'));
        let Some(end) = end else {
            return Err(self.error_at(at, "expected a token such as `<[123]>` or `<think>`"));
        };
        self.at += end + 1;
        let inside = &rest[..end];
        let number = inside.strip_prefix('[').and_then(|i| i.strip_suffix(']'));
        let id = match number {
            Some(number) => number.parse().ok(),
            None => (self.find)(&format!("<{inside}>")),
        };
        let id = id.ok_or_else(|| self.error_at(at, format!("`<{inside}>` is no single token")))?;
        Ok(Node::Token { id, not })
    }
}
