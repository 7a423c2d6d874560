//! Calls that bind once they have begun: an answer is free until a call opens; from there on the call's grammar holds.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::answer::{Answer, Opening, find, opening};
use super::vocab::Vocabulary;
use super::{Constrainer, Start};
use crate::chat::ReasoningTags;
use crate::engine::sampling::Constraint;

/// A text that opens a call, and the grammar of what follows it.
#[derive(Debug)]
pub(super) struct Opener {
    pub text: &'static str,
    pub rest: Answer,
}

/// Which part of the answer comes next, while it is free.
#[derive(Debug, Clone)]
enum Part {
    /// A thought or the answer, after this text, which may be the start of an open tag.
    Begin { tags: ReasoningTags, seen: Vec<u8> },
    /// A thought that ended in these bytes so far.
    Thought { close: Vec<u8>, end: Vec<u8> },
    /// The answer, which ended in these bytes so far.
    Answer { end: Vec<u8> },
}

/// An answer that is free but for its calls.
#[derive(Debug)]
pub(super) struct Lazy {
    vocabulary: Arc<Vocabulary>,
    openers: Arc<Vec<Opener>>,
    parallel: bool,
    part: Part,
    /// The call that has begun.
    call: Option<Answer>,
    complete: bool,
    /// The answer has ended.
    ended: bool,
}

/// An opener, and the bytes of a token that come after it.
type Opened<'t> = (usize, &'t [u8]);

impl Lazy {
    /// `openers` is not empty. Unless `parallel`, the answer ends with its first call.
    pub fn new(
        vocabulary: Arc<Vocabulary>,
        openers: Vec<Opener>,
        parallel: bool,
        start: Start,
    ) -> Self {
        let part = match start {
            Start::Now => Part::Answer { end: Vec::new() },
            Start::AfterReasoning(tags) => Part::Begin {
                tags,
                seen: Vec::new(),
            },
            Start::InReasoning(tags) => Part::Thought {
                close: tags.close.into_bytes(),
                end: Vec::new(),
            },
        };
        Self {
            vocabulary,
            openers: Arc::new(openers),
            parallel,
            part,
            call: None,
            complete: false,
            ended: false,
        }
    }

    /// The first opener that is complete with `bytes`, after a text that ended in `end`.
    fn opened<'t>(&self, end: &[u8], bytes: &'t [u8]) -> Option<Opened<'t>> {
        let text = [end, bytes].concat();
        let found = self.openers.iter().enumerate().filter_map(|(i, opener)| {
            let after = find(&text, opener.text.as_bytes())? + opener.text.len();
            // One that was complete before is the call that has just ended.
            (after > end.len()).then_some((after, i))
        });
        let (after, i) = found.min()?;
        Some((i, &bytes[after - end.len()..]))
    }

    /// Whether a token with these bytes opens a call.
    fn opens<'t>(&self, bytes: &'t [u8]) -> Option<Opened<'t>> {
        match &self.part {
            Part::Answer { end } => self.opened(end, bytes),
            Part::Thought { close, end } => {
                let after = after(end, bytes, close)?;
                self.opened(&[], &bytes[after..])
            }
            Part::Begin { tags, seen } => {
                let text = [seen, bytes].concat();
                match opening(&text, tags.open.as_bytes()) {
                    Opening::Yes(_) => None,
                    Opening::Maybe | Opening::No => self.opened(seen, bytes),
                }
            }
        }
    }

    /// Whether a call may go on with the rest of the token that opened it.
    fn fits(&self, (opener, rest): Opened<'_>) -> bool {
        rest.is_empty() || self.openers[opener].rest.fits_bytes(rest)
    }

    /// Takes bytes that are no part of a call; false if they begin one that cannot go on.
    fn take(&mut self, bytes: &[u8]) -> bool {
        if let Some((opener, rest)) = self.opens(bytes) {
            let mut call = self.openers[opener].rest.twin();
            let fed = rest.is_empty() || call.feed_bytes(rest);
            self.call = Some(call);
            self.part = Part::Answer { end: Vec::new() };
            return fed;
        }
        let longest = self.openers.iter().map(|o| o.text.len()).max();
        let keep = longest.unwrap_or(1) - 1;
        let part = std::mem::replace(&mut self.part, Part::Answer { end: Vec::new() });
        self.part = match part {
            Part::Answer { end } => Part::Answer {
                end: tail(&end, bytes, keep),
            },
            Part::Thought { close, end } => match after(&end, bytes, &close) {
                Some(after) => Part::Answer {
                    end: tail(&[], &bytes[after..], keep),
                },
                None => Part::Thought {
                    end: tail(&end, bytes, close.len() - 1),
                    close,
                },
            },
            Part::Begin { tags, seen } => {
                let text = [seen.as_slice(), bytes].concat();
                match opening(&text, tags.open.as_bytes()) {
                    Opening::Yes(at) => {
                        self.part = Part::Thought {
                            close: tags.close.into_bytes(),
                            end: Vec::new(),
                        };
                        return self.take(&text[at..]);
                    }
                    Opening::Maybe => Part::Begin { tags, seen: text },
                    Opening::No => Part::Answer {
                        end: tail(&[], &text, keep),
                    },
                }
            }
        };
        true
    }
}

/// Where in `bytes` the text goes on after `tag`, which is complete with them.
fn after(end: &[u8], bytes: &[u8], tag: &[u8]) -> Option<usize> {
    let at = find(&[end, bytes].concat(), tag)? + tag.len();
    at.checked_sub(end.len())
}

/// The last bytes of two texts.
fn tail(end: &[u8], bytes: &[u8], keep: usize) -> Vec<u8> {
    let mut text = [end, bytes].concat();
    text.drain(..text.len().saturating_sub(keep));
    text
}

impl Constraint for Lazy {
    fn allows(&mut self, token: u32) -> bool {
        if self.ended || self.complete {
            return false;
        }
        if let Some(call) = &mut self.call {
            return call.allows(token);
        }
        let bytes = self.vocabulary.tokenizer.token_bytes(token);
        self.opens(bytes).is_none_or(|opened| self.fits(opened))
    }

    fn mask(&mut self, logits: &mut [f32]) {
        if self.ended || self.complete {
            logits.fill(f32::NEG_INFINITY);
            return;
        }
        if let Some(call) = &mut self.call {
            return call.mask(logits);
        }
        for id in 0..self.vocabulary.tokenizer.n_vocab() as u32 {
            if !self.allows(id)
                && let Some(logit) = logits.get_mut(id as usize)
            {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

impl Constrainer for Lazy {
    fn advance(&mut self, token: u32) -> bool {
        if self.ended || self.complete {
            return false;
        }
        let Some(call) = &mut self.call else {
            if self.vocabulary.tokenizer.is_eog(token) {
                (self.ended, self.complete) = (true, true);
                return true;
            }
            let vocabulary = Arc::clone(&self.vocabulary);
            return self.take(vocabulary.tokenizer.token_bytes(token));
        };
        let fed = call.advance(token);
        if call.is_complete() {
            self.complete = !self.parallel;
            self.call = None;
        }
        fed
    }

    fn prepare(&mut self) {
        if let Some(call) = &mut self.call {
            call.prepare();
        }
    }

    fn is_complete(&self) -> bool {
        self.complete
    }

    fn failure(&self) -> Option<&str> {
        self.call.as_ref().and_then(Answer::failure)
    }

    fn fork(&self) -> Box<dyn Constrainer> {
        Box::new(Self {
            vocabulary: Arc::clone(&self.vocabulary),
            openers: Arc::clone(&self.openers),
            parallel: self.parallel,
            part: self.part.clone(),
            call: self.call.as_ref().map(Answer::twin),
            complete: self.complete,
            ended: self.ended,
        })
    }
}
