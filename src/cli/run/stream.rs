//! Tokens of an answer on their way to the screen: to text, to thought or answer, up to a stop text.

#![forbid(unsafe_code)]

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use oxling::chat::{ReasoningSplitter, ReasoningTags, SegmentKind};
use oxling::engine::{Finish, StopFilter};
use oxling::tokenizer::{StreamDecoder, Tokenizer};

use super::screen::Screen;
use super::session::AnswerOptions;

/// An answer.
#[derive(Debug, Default)]
pub struct Answer {
    /// Its text.
    pub content: String,
    /// What the model thought before.
    pub reasoning: String,
    /// Why it ended; `None` if the prompt was stopped before the first token.
    pub finish: Option<Finish>,
}

/// Tokens of an answer on their way to the screen.
pub struct Stream<'a> {
    decoder: StreamDecoder,
    /// Tokens that are a tag around thoughts and that the decoder would hide, with their texts.
    tags: Vec<(u32, String)>,
    stop: StopFilter,
    splitter: Option<ReasoningSplitter>,
    answer: Answer,
    screen: &'a mut Screen,
}

impl<'a> Stream<'a> {
    /// A stream for the answer to `prompt`; with `tags`, thoughts are told from it.
    pub fn new(
        tokenizer: &Arc<Tokenizer>,
        options: &AnswerOptions,
        tags: Option<ReasoningTags>,
        prompt: &str,
        screen: &'a mut Screen,
    ) -> Self {
        let texts = tags.iter().flat_map(|tags| [&tags.open, &tags.close]);
        let tokens = texts.filter_map(|text| Some((tokenizer.token_id(text)?, text.clone())));
        let hidden = |id: u32| !options.special && tokenizer.is_control(id);
        Self {
            decoder: tokenizer.detokenizer(options.special),
            tags: tokens.filter(|(id, _)| hidden(*id)).collect(),
            stop: StopFilter::new(&options.stops),
            splitter: tags.map(|tags| ReasoningSplitter::for_prompt(tags, prompt)),
            answer: Answer::default(),
            screen,
        }
    }

    /// Shows what became certain with this token; breaks at a stop text.
    pub fn push(&mut self, token: u32) -> io::Result<ControlFlow<()>> {
        let tag = self
            .tags
            .iter()
            .find(|(id, _)| *id == token)
            .map(|(_, text)| text.clone());
        let text = tag.unwrap_or_else(|| self.decoder.push(token));
        self.show(&text)?;
        Ok(if self.stop.is_hit() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }

    fn show(&mut self, text: &str) -> io::Result<()> {
        let text = self.stop.push(text);
        self.split(&text)
    }

    fn split(&mut self, text: &str) -> io::Result<()> {
        let Some(splitter) = &mut self.splitter else {
            return self.content(text);
        };
        for segment in splitter.push(text) {
            self.segment(segment.kind, &segment.text)?;
        }
        Ok(())
    }

    fn segment(&mut self, kind: SegmentKind, text: &str) -> io::Result<()> {
        match kind {
            SegmentKind::Content => self.content(text),
            SegmentKind::Reasoning => {
                self.answer.reasoning += text;
                self.screen.thought(text)
            }
        }
    }

    fn content(&mut self, text: &str) -> io::Result<()> {
        // The empty lines between a thought and its answer belong to neither.
        let after_thought = self.answer.content.is_empty() && !self.answer.reasoning.is_empty();
        let text = if after_thought {
            text.trim_start()
        } else {
            text
        };
        self.answer.content += text;
        self.screen.content(text)
    }

    /// Shows the rest of the answer, which ended in this way, and its last line end.
    pub fn finish(mut self, finish: Finish) -> io::Result<Answer> {
        let rest = self.decoder.finish();
        self.show(&rest)?;
        let held = self.stop.finish();
        self.split(&held)?;
        let rest = self
            .splitter
            .as_mut()
            .map(ReasoningSplitter::finish)
            .unwrap_or_default();
        for segment in rest {
            self.segment(segment.kind, &segment.text)?;
        }
        self.screen.end()?;
        let reasoning = self.answer.reasoning.trim().to_owned();
        Ok(Answer {
            reasoning,
            finish: Some(finish),
            ..self.answer
        })
    }
}
