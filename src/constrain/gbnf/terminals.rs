//! Which parts of a grammar may be read as whole words.
//!
//! llguidance cuts a text into words (terminals) and always takes the longest one. GBNF has no words: it is a grammar
//! of characters. A part without recursion may be a word only if taking the longest never differs from what the
//! grammar says: after a match of it, no word that can go on does so with a character that may follow. Parts that fail
//! are taken apart; single characters never fail. Big words matter: a mask costs work per word, not per character.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet, VecDeque};

use super::chars::CharSet;
use super::parse::Node;

/// Most characters of a word, most ways between them, and most pairs that are compared; beyond, words are taken apart.
const MOST_PLACES: usize = 4000;
const MOST_WAYS: usize = 200_000;
const MOST_PAIRS: usize = 2_000_000;

/// A grammar over words.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Word(usize),
    Token {
        id: u32,
        not: bool,
    },
    Rule(usize),
    Seq(Vec<Part>),
    Alt(Vec<Part>),
    Repeat {
        part: Box<Part>,
        min: u32,
        max: Option<u32>,
    },
}

/// Bodies of the rules, and the words they use.
#[derive(Debug)]
pub(super) struct Words {
    /// `None` for rules that no part names.
    pub(super) bodies: Vec<Option<Part>>,
    pub(super) words: Vec<Node>,
}

/// Whether a node has neither a recursive rule nor a token.
fn is_regular(node: &Node, regular: &[bool]) -> bool {
    match node {
        Node::Chars(_) | Node::Text(_) => true,
        Node::Token { .. } => false,
        Node::Rule(number) => regular[*number],
        Node::Seq(list) | Node::Alt(list) => list.iter().all(|n| is_regular(n, regular)),
        Node::Repeat { node, .. } => is_regular(node, regular),
    }
}

/// Which rules are made of characters without recursion.
pub(super) fn regular_rules(bodies: &[Node]) -> Vec<bool> {
    let mut regular = vec![false; bodies.len()];
    loop {
        let mut new = false;
        // What a rule uses mostly stands below it.
        for (number, body) in bodies.iter().enumerate().rev() {
            if !regular[number] && is_regular(body, &regular) {
                regular[number] = true;
                new = true;
            }
        }
        if !new {
            return regular;
        }
    }
}

/// Words as large as they can be.
pub(super) fn choose(bodies: &[Node], root: usize) -> Words {
    let regular = regular_rules(bodies);
    let mut apart: HashSet<Node> = HashSet::new();
    let mut left = MOST_PAIRS;
    loop {
        let mut chooser = Chooser {
            regular: &regular,
            apart: &apart,
            words: Vec::new(),
            numbers: HashMap::new(),
            reached: vec![root],
        };
        // Rules that are only read within words need no parts.
        let mut parts: Vec<Option<Part>> = vec![None; bodies.len()];
        while let Some(number) = chooser.reached.pop() {
            if parts[number].is_none() {
                parts[number] = Some(chooser.part(&bodies[number]));
            }
        }
        let words = Words {
            words: chooser.words,
            bodies: parts,
        };
        let wrong = conflicts(&words, bodies, &mut left);
        let before = apart.len();
        apart.extend(wrong.into_iter().map(|word| words.words[word].clone()));
        if apart.len() == before {
            return words;
        }
    }
}

struct Chooser<'a> {
    regular: &'a [bool],
    /// Nodes that cannot be words.
    apart: &'a HashSet<Node>,
    words: Vec<Node>,
    numbers: HashMap<Node, usize>,
    /// Rules that parts name.
    reached: Vec<usize>,
}

impl Chooser<'_> {
    fn part(&mut self, node: &Node) -> Part {
        if is_regular(node, self.regular) && !self.apart.contains(node) && !is_nothing(node) {
            let next = self.words.len();
            let number = *self.numbers.entry(node.clone()).or_insert(next);
            if number == next {
                self.words.push(node.clone());
            }
            return Part::Word(number);
        }
        match node {
            Node::Chars(_) => Part::Seq(Vec::new()),
            Node::Text(text) => {
                let one = |c| Node::Chars(CharSet::one(c));
                Part::Seq(text.chars().map(|c| self.part(&one(c))).collect())
            }
            Node::Token { id, not } => Part::Token { id: *id, not: *not },
            Node::Rule(number) => {
                self.reached.push(*number);
                Part::Rule(*number)
            }
            Node::Seq(list) => Part::Seq(list.iter().map(|n| self.part(n)).collect()),
            Node::Alt(list) => Part::Alt(list.iter().map(|n| self.part(n)).collect()),
            Node::Repeat { node, min, max } => Part::Repeat {
                part: Box::new(self.part(node)),
                min: *min,
                max: *max,
            },
        }
    }
}

fn is_nothing(node: &Node) -> bool {
    matches!(node, Node::Text(text) if text.is_empty())
}

/// The places of a word's characters, and how they follow each other. Counted repetitions count as any number, which
/// finds too many conflicts, never too few.
#[derive(Debug, Default)]
struct Places {
    sets: Vec<CharSet>,
    next: Vec<Vec<usize>>,
    first: Vec<usize>,
    last: Vec<usize>,
    nullable: bool,
    n_ways: usize,
}

struct Ends {
    first: Vec<usize>,
    last: Vec<usize>,
    nullable: bool,
}

impl Places {
    /// The places of a word; `None` if there are too many.
    fn of(word: &Node, bodies: &[Node]) -> Option<Self> {
        let mut places = Self::default();
        let ends = places.add(word, bodies)?;
        if places.n_ways > MOST_WAYS {
            return None;
        }
        places.first = ends.first;
        places.last = ends.last;
        places.nullable = ends.nullable;
        Some(places)
    }

    fn one(&mut self, set: CharSet) -> Ends {
        self.sets.push(set);
        self.next.push(Vec::new());
        let place = vec![self.sets.len() - 1];
        Ends {
            first: place.clone(),
            last: place,
            nullable: false,
        }
    }

    fn join(&mut self, last: &[usize], first: &[usize]) {
        self.n_ways += last.len() * first.len();
        if self.n_ways > MOST_WAYS {
            return;
        }
        for &place in last {
            self.next[place].extend(first);
            self.next[place].sort_unstable();
            self.next[place].dedup();
        }
    }

    fn add(&mut self, node: &Node, bodies: &[Node]) -> Option<Ends> {
        if self.sets.len() > MOST_PLACES || self.n_ways > MOST_WAYS {
            return None;
        }
        let nothing = Ends {
            first: Vec::new(),
            last: Vec::new(),
            nullable: true,
        };
        Some(match node {
            Node::Chars(set) => self.one(set.clone()),
            Node::Token { .. } => nothing,
            Node::Rule(number) => self.add(&bodies[*number], bodies)?,
            Node::Text(text) => {
                let mut ends = nothing;
                for c in text.chars() {
                    let one = self.one(CharSet::one(c));
                    ends = self.then(ends, one);
                }
                ends
            }
            Node::Seq(list) => {
                let mut ends = nothing;
                for node in list {
                    let one = self.add(node, bodies)?;
                    ends = self.then(ends, one);
                }
                ends
            }
            Node::Alt(list) => {
                let mut ends = Ends {
                    nullable: false,
                    ..nothing
                };
                for node in list {
                    let one = self.add(node, bodies)?;
                    ends.first.extend(one.first);
                    ends.last.extend(one.last);
                    ends.nullable |= one.nullable;
                }
                ends
            }
            Node::Repeat { node, min, max } => {
                if *max == Some(0) {
                    return Some(nothing);
                }
                let mut ends = self.add(node, bodies)?;
                if *max != Some(1) {
                    self.join(&ends.last.clone(), &ends.first);
                }
                ends.nullable |= *min == 0;
                ends
            }
        })
    }

    fn then(&mut self, mut a: Ends, b: Ends) -> Ends {
        self.join(&a.last, &b.first);
        if a.nullable {
            a.first.extend(&b.first);
        }
        let mut last = b.last;
        if b.nullable {
            last.extend(a.last);
        }
        Ends {
            first: a.first,
            last,
            nullable: a.nullable && b.nullable,
        }
    }

    fn first_set(&self) -> CharSet {
        let mut set = CharSet::default();
        for &place in &self.first {
            set.add(&self.sets[place]);
        }
        set
    }
}

/// First characters of rules and the characters that may follow words.
struct Follow<'a> {
    places: &'a [Places],
    first: Vec<(CharSet, bool)>,
    after_rule: Vec<CharSet>,
    after_word: Vec<CharSet>,
}

impl<'a> Follow<'a> {
    fn of(words: &'a Words, places: &'a [Places]) -> Self {
        let n = words.bodies.len();
        let mut follow = Self {
            places,
            first: vec![(CharSet::default(), false); n],
            after_rule: vec![CharSet::default(); n],
            after_word: vec![CharSet::default(); places.len()],
        };
        loop {
            let mut new = false;
            for (number, body) in words.bodies.iter().enumerate().rev() {
                let Some(body) = body else { continue };
                let (set, nullable) = follow.start(body);
                let first = &mut follow.first[number];
                new |= first.0.add(&set) | (nullable && !first.1);
                first.1 |= nullable;
            }
            if !new {
                break;
            }
        }
        while (0..n).fold(false, |new, number| {
            let after = follow.after_rule[number].clone();
            let body = words.bodies[number].as_ref();
            body.is_some_and(|body| follow.walk(body, &after)) | new
        }) {}
        follow
    }

    /// First characters of a part, and whether it may be empty.
    fn start(&self, part: &Part) -> (CharSet, bool) {
        match part {
            Part::Word(word) => (self.places[*word].first_set(), self.places[*word].nullable),
            Part::Token { .. } => (CharSet::default(), false),
            Part::Rule(number) => self.first[*number].clone(),
            Part::Seq(list) => {
                let mut set = CharSet::default();
                for part in list {
                    let (first, nullable) = self.start(part);
                    set.add(&first);
                    if !nullable {
                        return (set, false);
                    }
                }
                (set, true)
            }
            Part::Alt(list) => {
                let (mut set, mut any) = (CharSet::default(), false);
                for part in list {
                    let (first, nullable) = self.start(part);
                    set.add(&first);
                    any |= nullable;
                }
                (set, any)
            }
            Part::Repeat { part, min, .. } => {
                let (set, nullable) = self.start(part);
                (set, nullable || *min == 0)
            }
        }
    }

    /// Notes what follows the words and rules of a part that is followed by `after`; gives whether anything was new.
    fn walk(&mut self, part: &Part, after: &CharSet) -> bool {
        match part {
            Part::Word(word) => self.after_word[*word].add(after),
            Part::Token { .. } => false,
            Part::Rule(number) => self.after_rule[*number].add(after),
            Part::Alt(list) => list.iter().fold(false, |new, p| self.walk(p, after) | new),
            Part::Seq(list) => {
                let (mut after, mut new) = (after.clone(), false);
                for part in list.iter().rev() {
                    new |= self.walk(part, &after);
                    let (mut first, nullable) = self.start(part);
                    if nullable {
                        first.add(&after);
                    }
                    after = first;
                }
                new
            }
            Part::Repeat { part, .. } => {
                let mut again = after.clone();
                again.add(&self.start(part).0);
                self.walk(part, &again)
            }
        }
    }
}

/// Words that are not the longest where they should end, and those that are longer.
fn conflicts(words: &Words, bodies: &[Node], left: &mut usize) -> HashSet<usize> {
    let mut wrong = HashSet::new();
    let mut places = Vec::with_capacity(words.words.len());
    for (number, word) in words.words.iter().enumerate() {
        places.push(Places::of(word, bodies).unwrap_or_else(|| {
            wrong.insert(number);
            Places::default()
        }));
    }
    if !wrong.is_empty() {
        return wrong;
    }
    let follow = Follow::of(words, &places);
    let long = |&word: &usize| !is_single(&words.words[word]);
    for b in (0..places.len()).filter(long) {
        for (a, word) in places.iter().enumerate() {
            if differs(word, &places[b], &follow.after_word[a], left) {
                wrong.extend([a, b].into_iter().filter(long));
            }
        }
    }
    wrong
}

fn is_single(word: &Node) -> bool {
    matches!(word, Node::Chars(_))
}

/// Whether, after a match of `word`, `other` may go on with a character of `after`. True if it takes too long to say.
fn differs(word: &Places, other: &Places, after: &CharSet, left: &mut usize) -> bool {
    if after.is_empty() {
        return false;
    }
    let Some(less) = left.checked_sub(1) else {
        return true;
    };
    *left = less;
    let mut seen = HashSet::new();
    let mut queue = VecDeque::new();
    let mut visit = |a: &[usize], b: &[usize], queue: &mut VecDeque<(usize, usize)>| {
        for &p in a {
            for &q in b {
                if word.sets[p].meets(&other.sets[q]) && seen.insert((p, q)) {
                    queue.push_back((p, q));
                }
            }
        }
    };
    visit(&word.first, &other.first, &mut queue);
    while let Some((p, q)) = queue.pop_front() {
        let Some(less) = left.checked_sub(1) else {
            return true;
        };
        *left = less;
        let goes_on = |q: usize| other.next[q].iter().any(|&n| other.sets[n].meets(after));
        if word.last.contains(&p) && goes_on(q) {
            return true;
        }
        visit(&word.next[p], &other.next[q], &mut queue);
    }
    false
}
