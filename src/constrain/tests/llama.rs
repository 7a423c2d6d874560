//! GBNF against a plain recogniser of it: texts of the grammar are let through, walks are texts of the grammar.

#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};

use super::super::gbnf::{Node, Rules, parse};
use super::*;
use crate::tokenizer::EncodeOptions;

/// Deeper texts are not made: they would be long.
const MOST_DEPTH: usize = 12;

const GRAMMARS: &[(&str, &str)] = &[
    (
        "json",
        r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

ws ::= | " " | "\n" [ \t]{0,20}
"#,
    ),
    (
        "arithmetic",
        "root ::= (expr \"=\" ws term \"\\n\")+\nexpr ::= term ([-+*/] term)*\n\
         term ::= ident | num | \"(\" ws expr \")\" ws\nident ::= [a-z] [a-z0-9_]* ws\nnum ::= [0-9]+ ws\nws ::= [ \\t\\n]*",
    ),
    (
        "longest",
        "root ::= x root \"z\" | \"z\"\nx ::= \"a\" | \"ab\" | \"b\" | \"bab\"",
    ),
    (
        "empty",
        "root ::= e | \"(\" root e \")\"\ne ::= \"\" | \"a\"*",
    ),
    (
        "letters",
        "root ::= [\u{e4}-\u{fc}\u{1F600}-\u{1F64F}]{2,4} | \"\u{fc}\" root \".\"",
    ),
    (
        "middle",
        "root ::= \"a\" root \"a\" | \"aa\" | \"ab\"? \"b\"",
    ),
    (
        "regular",
        "root ::= item+\nitem ::= \"- \" [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ \"\\n\"",
    ),
    ("right", "root ::= digit root | digit\ndigit ::= [0-9]"),
    ("left", "root ::= root \"+\" [0-9]+ | [0-9]+"),
    ("none", "root ::= \"a\"{0} \"b\"{2} (\"c\" | root){0,2}"),
];

/// Ends of all matches of a node from a place of the text.
struct Recogniser {
    text: Vec<char>,
    /// Ends of rules by place, grown until nothing is new, so that left recursion is no trap.
    ends: HashMap<(usize, usize), BTreeSet<usize>>,
}

impl Recogniser {
    fn accepts(rules: &Rules, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let n = text.len();
        let mut this = Recogniser {
            text,
            ends: HashMap::new(),
        };
        loop {
            let before: usize = this.ends.values().map(BTreeSet::len).sum();
            for from in (0..=n).rev() {
                for number in 0..rules.bodies.len() {
                    let ends = this.of(&rules.bodies[number], from);
                    this.ends.entry((number, from)).or_default().extend(ends);
                }
            }
            if this.ends.values().map(BTreeSet::len).sum::<usize>() == before {
                return this.ends[&(rules.root, 0)].contains(&n);
            }
        }
    }

    fn of(&self, node: &Node, from: usize) -> BTreeSet<usize> {
        match node {
            Node::Chars(set) => {
                let found = self.text.get(from).is_some_and(|&c| set.has(c));
                found.then_some(from + 1).into_iter().collect()
            }
            Node::Text(text) => {
                let wanted: Vec<char> = text.chars().collect();
                let found = self.text[from..].starts_with(&wanted);
                found.then_some(from + wanted.len()).into_iter().collect()
            }
            Node::Token { .. } => BTreeSet::new(),
            Node::Rule(number) => self.ends.get(&(*number, from)).cloned().unwrap_or_default(),
            Node::Alt(list) => list.iter().flat_map(|node| self.of(node, from)).collect(),
            Node::Seq(list) => {
                let step = |ends: BTreeSet<usize>, node| self.each_of(node, &ends);
                list.iter().fold(BTreeSet::from([from]), step)
            }
            Node::Repeat { node, min, max } => {
                let mut ends = BTreeSet::from([from]);
                let mut all = BTreeSet::new();
                for n in 0..=max.unwrap_or(u32::MAX) {
                    if n >= *min {
                        let before = all.len();
                        all.extend(&ends);
                        if all.len() == before {
                            break;
                        }
                    }
                    ends = self.each_of(node, &ends);
                }
                all
            }
        }
    }

    fn each_of(&self, node: &Node, starts: &BTreeSet<usize>) -> BTreeSet<usize> {
        starts
            .iter()
            .flat_map(|&from| self.of(node, from))
            .collect()
    }
}

/// A random text of a grammar, `None` if it got too deep.
fn make(rules: &Rules, node: &Node, depth: usize, rng: &mut ChaCha8Rng) -> Option<String> {
    Some(match node {
        Node::Chars(set) => set.pick(rng.random::<u32>() as usize).to_string(),
        Node::Text(text) => text.clone(),
        Node::Token { .. } => return None,
        Node::Rule(_) if depth >= MOST_DEPTH => return None,
        Node::Rule(number) => make(rules, &rules.bodies[*number], depth + 1, rng)?,
        Node::Alt(list) => make(rules, &list[rng.random_range(0..list.len())], depth, rng)?,
        Node::Seq(list) => {
            let mut text = String::new();
            for node in list {
                text += &make(rules, node, depth, rng)?;
            }
            text
        }
        Node::Repeat { node, min, max } => {
            let most = max.unwrap_or(min + 3).min(min + 3);
            let mut text = String::new();
            for _ in 0..rng.random_range(*min..=most) {
                text += &make(rules, node, depth, rng)?;
            }
            text
        }
    })
}

#[test]
fn grammars_mean_what_llama_cpp_means() {
    const TEXTS: usize = 40;
    let (grammars, tokenizer) = (grammars(), tokenizer());
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (name, source) in GRAMMARS {
        let rules = parse(source, &|_| None).unwrap();
        let spec = GrammarSpec::Gbnf((*source).to_owned());
        let compiled = grammars.compile(&spec, Start::Now);
        let compiled = compiled.unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut n_made = 0;
        for _ in 0..10 * TEXTS {
            let Some(text) = make(&rules, &Node::Rule(rules.root), 0, &mut rng) else {
                continue;
            };
            if text.len() > 200 {
                continue;
            }
            assert!(Recogniser::accepts(&rules, &text), "{name}: {text:?}");
            let mut grammar = compiled.fork();
            for id in tokenizer.encode(&text, EncodeOptions::default()) {
                assert!(grammar.allows(id), "{name}: {text:?}, {grammar:?}");
                assert!(grammar.advance(id), "{name}: {text:?}");
            }
            assert!(grammar.allows(tokenizer.eog()[0]), "{name}: {text:?}");
            n_made += 1;
            if n_made == TEXTS {
                break;
            }
        }
        assert!(n_made > 0, "{name}");
        let mut n_walked = 0;
        for seed in 0..12 {
            let (text, ended) = walk(&mut *compiled.fork(), &tokenizer, seed);
            // The recogniser is slow on long texts.
            if ended && text.len() < 200 {
                assert!(Recogniser::accepts(&rules, &text), "{name}: {text:?}");
            }
            n_walked += usize::from(ended);
        }
        assert!(n_walked > 0, "{name}: no walk came to its end");
    }
}
