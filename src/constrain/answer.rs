//! A grammar over the tokens of one answer, thoughts left free.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use llguidance::Matcher;

use super::vocab::{MOST_SPACE, Vocabulary};
use super::worker::{Shared, Worker, message};
use super::{Constrainer, Start};
use crate::chat::ReasoningTags;
use crate::engine::sampling::Constraint;

/// After a mask was needed, this many tokens get theirs computed ahead.
const AHEAD: u8 = 8;

/// Which part of the answer comes next.
#[derive(Debug, Clone)]
enum Phase {
    /// A thought or the answer, after this text, which may be the start of an open tag.
    Begin { tags: ReasoningTags, seen: Vec<u8> },
    /// A thought that ended in these bytes so far.
    Thought { close: Vec<u8>, end: Vec<u8> },
    /// Between a thought and the answer, after this much white space.
    Gap { n_space: usize },
    /// The answer.
    Answer,
}

/// What follows a text that began like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    No,
    Maybe,
    /// The tag ends after this many bytes.
    Yes(usize),
}

/// Whether a text is white space and then the start of `open`.
pub(super) fn opening(text: &[u8], open: &[u8]) -> Opening {
    let space = text.iter().take_while(|b| b.is_ascii_whitespace()).count();
    let rest = &text[space..];
    if space > MOST_SPACE {
        Opening::No
    } else if rest.starts_with(open) {
        Opening::Yes(space + open.len())
    } else if open.starts_with(rest) {
        Opening::Maybe
    } else {
        Opening::No
    }
}

pub(super) fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).position(|w| w == pattern)
}

/// Tokens whose bytes are these; the grammar goes by bytes, so any will do.
pub(super) fn split(matcher: &Matcher, bytes: &[u8]) -> Option<Vec<u32>> {
    let env = matcher.tok_env().ok()?;
    let tokens = env.tok_trie().greedy_tokenize(bytes);
    (env.tok_trie().decode(&tokens) == bytes).then_some(tokens)
}

/// Length of white space that fits between a thought and the answer, `None` if it is something else.
fn gap(bytes: &[u8], before: usize) -> Option<usize> {
    let n_space = before + bytes.len();
    (n_space <= MOST_SPACE && bytes.iter().all(u8::is_ascii_whitespace)).then_some(n_space)
}

/// A grammar in progress.
pub(super) struct Answer {
    vocabulary: Arc<Vocabulary>,
    worker: Option<Worker>,
    shared: Arc<Shared>,
    phase: Phase,
    /// Whether the matcher can still go on: a thought that was begun has left it behind.
    alive: bool,
    complete: bool,
    /// The answer has ended.
    ended: bool,
    failure: Option<String>,
    /// Tokens for which the mask is still computed ahead.
    ahead: u8,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("phase", &self.phase)
            .field("complete", &self.complete)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl Answer {
    pub(super) fn new(
        vocabulary: Arc<Vocabulary>,
        worker: Option<Worker>,
        matcher: Matcher,
        start: Start,
    ) -> Self {
        let complete = matcher.is_stopped() && !matcher.is_error();
        let phase = match start {
            Start::Now => Phase::Answer,
            Start::AfterReasoning(tags) => Phase::Begin {
                tags,
                seen: Vec::new(),
            },
            Start::InReasoning(tags) => Phase::Thought {
                close: tags.close.into_bytes(),
                end: Vec::new(),
            },
        };
        Self {
            vocabulary,
            worker,
            shared: Shared::new(matcher),
            complete: complete && matches!(phase, Phase::Answer),
            phase,
            alive: true,
            ended: false,
            failure: None,
            ahead: 0,
        }
    }

    /// The same grammar in the same state.
    pub(super) fn twin(&self) -> Self {
        let matcher = self.shared.turn().look(|matcher| matcher.clone());
        let lost = || Some("the matcher is lost".to_owned());
        let (shared, failure) = match matcher {
            Some(matcher) => (Shared::new(matcher), self.failure.clone()),
            None => (Arc::clone(&self.shared), lost()),
        };
        Self {
            vocabulary: Arc::clone(&self.vocabulary),
            worker: self.worker.clone(),
            shared,
            phase: self.phase.clone(),
            alive: self.alive,
            complete: self.complete,
            ended: self.ended,
            failure,
            ahead: self.ahead,
        }
    }

    /// Whether a part of a token may come next.
    pub(super) fn fits_bytes(&self, bytes: &[u8]) -> bool {
        let fits = |matcher: &mut Matcher| {
            let tokens = split(matcher, bytes)?;
            Some(matcher.validate_tokens(&tokens).ok()? == tokens.len())
        };
        self.shared.turn().look(fits).flatten().unwrap_or(false)
    }

    /// Takes a part of a token.
    pub(super) fn feed_bytes(&mut self, bytes: &[u8]) -> bool {
        let feed = |matcher: &mut Matcher| {
            let tokens = split(matcher, bytes)?;
            matcher.consume_tokens(&tokens).ok()?;
            Some(matcher.is_stopped() && matcher.stop_reason().is_ok())
        };
        let fed = self.shared.turn().change(feed).flatten();
        self.complete = fed.unwrap_or(false);
        fed.is_some()
    }

    fn bytes(&self, token: u32) -> &[u8] {
        self.vocabulary.tokenizer.token_bytes(token)
    }

    fn is_eog(&self, token: u32) -> bool {
        self.vocabulary.tokenizer.is_eog(token)
    }

    /// Whether the grammar itself lets `token` come next.
    fn matches(&mut self, token: u32) -> bool {
        if !self.alive || token as usize >= self.vocabulary.tokenizer.n_vocab() {
            return false;
        }
        let eog = self.is_eog(token);
        let mut turn = self.shared.turn();
        let answer = turn.look(|matcher| {
            if matcher.is_error() {
                Err(matcher.get_error().unwrap_or_default())
            } else if eog {
                matcher.is_accepting().map_err(|e| e.to_string())
            } else {
                let valid = matcher.validate_tokens(&[token]);
                valid.map(|n| n == 1).map_err(|e| e.to_string())
            }
        });
        drop(turn);
        match answer {
            Some(Ok(allowed)) => allowed,
            Some(Err(error)) => self.fail(&error),
            None => self.fail("the matcher is lost"),
        }
    }

    /// Notes why nothing can come next. Always false.
    fn fail(&mut self, error: &str) -> bool {
        if self.failure.is_none() {
            let error = message(error);
            tracing::warn!("a grammar failed: {error}");
            self.failure = Some(error);
        }
        false
    }

    /// The thought's end after a token: `None` if it goes on, else what of the token comes after the tag.
    fn after_thought<'a>(&self, end: &[u8], bytes: &'a [u8]) -> Option<&'a [u8]> {
        let Phase::Thought { close, .. } = &self.phase else {
            return None;
        };
        let text = [end, bytes].concat();
        let at = find(&text, close)? + close.len();
        Some(&bytes[at - end.len()..])
    }

    /// Whether `token` may come next within a thought.
    fn fits_thought(&self, end: &[u8], token: u32) -> bool {
        !self.is_eog(token)
            && self
                .after_thought(end, self.bytes(token))
                .is_none_or(|rest| gap(rest, 0).is_some())
    }

    fn fits_gap(&self, n_space: usize, token: u32) -> bool {
        let bytes = self.bytes(token);
        !bytes.is_empty() && gap(bytes, n_space).is_some()
    }

    fn may_open(&self, tags: &ReasoningTags, seen: &[u8], token: u32) -> bool {
        let bytes = self.bytes(token);
        !bytes.is_empty()
            && !self.is_eog(token)
            && opening(&[seen, bytes].concat(), tags.open.as_bytes()) != Opening::No
    }

    /// Feeds a token to the matcher.
    fn feed(&mut self, token: u32) -> bool {
        if !self.matches(token) {
            return false;
        }
        if self.is_eog(token) {
            self.ended = true;
            self.complete = true;
            return true;
        }
        let mut turn = self.shared.turn();
        let fed = turn.change(|matcher| {
            let fed = matcher.consume_token(token).map_err(|e| e.to_string());
            fed.map(|()| matcher.is_stopped() && matcher.stop_reason().is_ok())
        });
        drop(turn);
        match fed {
            Some(Ok(complete)) => {
                self.complete = complete;
                true
            }
            Some(Err(error)) => self.fail(&error),
            None => self.fail("the matcher is lost"),
        }
    }

    fn think(&mut self, tags: &ReasoningTags, begun: &[u8]) {
        self.phase = Phase::Thought {
            close: tags.close.clone().into_bytes(),
            end: Vec::new(),
        };
        self.thought_token(begun);
    }

    /// Takes bytes of a thought, or its end and white space.
    fn thought_token(&mut self, bytes: &[u8]) -> bool {
        let Phase::Thought { close, end } = &self.phase else {
            return false;
        };
        let (keep, end) = (close.len() - 1, end.clone());
        match self.after_thought(&end, bytes).map(|rest| gap(rest, 0)) {
            Some(None) => false,
            Some(Some(n_space)) => {
                self.phase = Phase::Gap { n_space };
                // What a thought began with may have been taken for an answer.
                self.alive = true;
                true
            }
            None => {
                let mut text = [end.as_slice(), bytes].concat();
                text.drain(..text.len().saturating_sub(keep));
                if let Phase::Thought { end, .. } = &mut self.phase {
                    *end = text;
                }
                true
            }
        }
    }
}

impl Constraint for Answer {
    fn allows(&mut self, token: u32) -> bool {
        if self.ended || self.failure.is_some() {
            return false;
        }
        match self.phase.clone() {
            Phase::Begin { tags, seen } => {
                self.may_open(&tags, &seen, token) || self.matches(token)
            }
            Phase::Thought { end, .. } => self.fits_thought(&end, token),
            Phase::Gap { n_space } => self.fits_gap(n_space, token) || self.matches(token),
            Phase::Answer => self.matches(token),
        }
    }

    fn mask(&mut self, logits: &mut [f32]) {
        self.ahead = AHEAD;
        if self.ended || self.failure.is_some() {
            logits.fill(f32::NEG_INFINITY);
            return;
        }
        let in_thought = matches!(self.phase, Phase::Thought { .. });
        let mask = (self.alive && !in_thought).then(|| self.shared.turn().mask());
        let mask = match mask {
            Some(Ok(mask)) => Some(mask),
            Some(Err(error)) => {
                self.fail(&error);
                logits.fill(f32::NEG_INFINITY);
                return;
            }
            None => None,
        };
        let kept: Vec<(u32, f32)> = self
            .further()
            .into_iter()
            .filter_map(|id| Some((id, *logits.get(id as usize)?)))
            .collect();
        apply(mask.as_deref(), &self.vocabulary.twins, logits);
        for (id, logit) in kept {
            logits[id as usize] = logit;
        }
    }
}

impl Answer {
    /// Tokens that may come next beside those of the grammar.
    fn further(&self) -> Vec<u32> {
        let all = 0..self.vocabulary.tokenizer.n_vocab() as u32;
        match &self.phase {
            Phase::Begin { tags, seen } => {
                all.filter(|&id| self.may_open(tags, seen, id)).collect()
            }
            Phase::Thought { end, .. } => all.filter(|&id| self.fits_thought(end, id)).collect(),
            Phase::Gap { n_space } => {
                let spaces = self.vocabulary.spaces.iter().copied();
                spaces.filter(|&id| self.fits_gap(*n_space, id)).collect()
            }
            Phase::Answer => Vec::new(),
        }
    }
}

/// Sets what the mask does not allow to minus infinity; without a mask, everything.
fn apply(mask: Option<&llguidance::toktrie::SimpleVob>, twins: &[(u32, u32)], logits: &mut [f32]) {
    let Some(mask) = mask else {
        logits.fill(f32::NEG_INFINITY);
        return;
    };
    let kept: Vec<(usize, f32)> = twins
        .iter()
        .filter(|(id, that)| (*id as usize) < logits.len() && mask.get(*that as usize))
        .map(|&(id, _)| (id as usize, logits[id as usize]))
        .collect();
    let words = mask.as_slice();
    for (chunk, logits) in logits.chunks_mut(32).enumerate() {
        let word = words.get(chunk).copied().unwrap_or(0);
        if word == 0 {
            logits.fill(f32::NEG_INFINITY);
        } else if word != u32::MAX {
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
    for (id, logit) in kept {
        logits[id] = logit;
    }
}

impl Constrainer for Answer {
    fn advance(&mut self, token: u32) -> bool {
        self.ahead = self.ahead.saturating_sub(1);
        if self.ended || self.failure.is_some() {
            return false;
        }
        match self.phase.clone() {
            Phase::Begin { tags, seen } => {
                let text = [seen.as_slice(), self.bytes(token)].concat();
                let open = opening(&text, tags.open.as_bytes());
                let eog = self.is_eog(token);
                if let (Opening::Yes(at), false) = (open, eog) {
                    // The grammar starts anew after the thought.
                    if !seen.is_empty() && self.alive {
                        self.rewind();
                    }
                    self.think(&tags, &text[at..]);
                    return true;
                }
                let fed = self.feed(token);
                if open == Opening::Maybe && !eog && !text.is_empty() {
                    self.alive &= fed;
                    self.phase = Phase::Begin { tags, seen: text };
                    return true;
                }
                self.phase = Phase::Answer;
                fed
            }
            Phase::Thought { .. } => {
                let bytes = self.bytes(token).to_vec();
                !self.is_eog(token) && self.thought_token(&bytes)
            }
            Phase::Gap { n_space } => {
                if self.matches(token) {
                    self.phase = Phase::Answer;
                    return self.feed(token);
                }
                match gap(self.bytes(token), n_space) {
                    Some(n_space) if !self.is_eog(token) => {
                        self.phase = Phase::Gap { n_space };
                        true
                    }
                    _ => false,
                }
            }
            Phase::Answer => self.feed(token),
        }
    }

    fn prepare(&mut self) {
        let in_answer = matches!(self.phase, Phase::Answer | Phase::Gap { .. });
        if self.ahead == 0 || !in_answer || self.complete || self.failure.is_some() {
            return;
        }
        if let Some(worker) = &self.worker {
            worker.ask(&self.shared);
        }
    }

    fn is_complete(&self) -> bool {
        self.complete
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn fork(&self) -> Box<dyn Constrainer> {
        Box::new(self.twin())
    }
}

impl Answer {
    /// Back to the start of the grammar.
    fn rewind(&mut self) {
        let reset = self
            .shared
            .turn()
            .change(|matcher| matcher.reset().map_err(|e| e.to_string()));
        self.complete = false;
        if let Some(Err(error)) = reset {
            self.fail(&error);
        }
    }
}
