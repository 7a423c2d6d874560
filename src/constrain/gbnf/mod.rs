//! llama.cpp's grammars, GBNF, as lark.
//!
//! The text is parsed, rules that only repeat themselves at their end become repetitions, and the largest parts that
//! can be read as whole words become terminals. Everything has a name of its own in the result, so nothing is nested.

#![forbid(unsafe_code)]

mod chars;
mod lark;
mod parse;
mod terminals;
#[cfg(test)]
mod tests;

use super::{ConstrainError, limits};
use parse::FindToken;
#[cfg(not(test))]
use parse::Node;

pub(super) use lark::text as lark_text;
#[cfg(test)]
pub(super) use parse::{Node, Rules, parse};

/// The lark grammar of a GBNF grammar. `find` gives the token of a text such as `<think>`.
pub(super) fn to_lark(text: &str, find: FindToken<'_>) -> Result<String, ConstrainError> {
    limits::text("grammar", text)?;
    let mut rules = parse::parse(text, find)?;
    for number in 0..rules.bodies.len() {
        repeat_at_end(number, &mut rules.bodies);
    }
    let words = terminals::choose(&rules.bodies, rules.root);
    Ok(lark::write(&words, &rules))
}

/// Turns `r ::= a r | b` into `a* b`: a rule that calls only itself, and only at its end, needs no recursion.
fn repeat_at_end(number: usize, bodies: &mut [Node]) {
    let mut alternatives = Vec::new();
    flatten(&bodies[number], &mut alternatives);
    let (mut again, mut ends) = (Vec::new(), Vec::new());
    for alternative in alternatives {
        match alternative {
            Node::Seq(mut list) if list.last() == Some(&Node::Rule(number)) => {
                list.pop();
                again.push(Node::Seq(list));
            }
            other => ends.push(other),
        }
    }
    let named = |nodes: &[Node]| nodes.iter().any(|node| names(node, number));
    if again.is_empty() || ends.is_empty() || named(&again) || named(&ends) {
        return;
    }
    let repeat = Node::Repeat {
        node: Box::new(Node::Alt(again)),
        min: 0,
        max: None,
    };
    bodies[number] = Node::Seq(vec![repeat, Node::Alt(ends)]);
}

/// The alternatives of a node; an optional part is one of it and nothing.
fn flatten(node: &Node, out: &mut Vec<Node>) {
    match node {
        Node::Alt(list) => list.iter().for_each(|node| flatten(node, out)),
        Node::Repeat {
            node,
            min: 0,
            max: Some(1),
        } => {
            flatten(node, out);
            out.push(Node::Text(String::new()));
        }
        other => out.push(other.clone()),
    }
}

/// Whether a node names a rule.
fn names(node: &Node, number: usize) -> bool {
    match node {
        Node::Chars(_) | Node::Text(_) | Node::Token { .. } => false,
        Node::Rule(named) => *named == number,
        Node::Seq(list) | Node::Alt(list) => list.iter().any(|node| names(node, number)),
        Node::Repeat { node, .. } => names(node, number),
    }
}
