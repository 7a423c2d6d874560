//! Telling what a model thinks from what it answers, while the text still comes in.

#![forbid(unsafe_code)]

/// The texts around a thought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasoningTags {
    /// Starts a thought.
    pub open: String,
    /// Ends it.
    pub close: String,
}

impl Default for ReasoningTags {
    fn default() -> Self {
        Self::new("<think>", "</think>")
    }
}

/// Tags of other families, by what their templates mention.
const OTHERS: &[(&str, &str)] = &[
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
];

impl ReasoningTags {
    /// Tags with these texts, neither empty.
    pub fn new(open: &str, close: &str) -> Self {
        Self {
            open: open.to_owned(),
            close: close.to_owned(),
        }
    }

    /// The tags a template mentions, `<think>` where it mentions none.
    pub fn detect(template: &str) -> Self {
        let other = OTHERS
            .iter()
            .find(|(open, close)| template.contains(open) && template.contains(close));
        other.map_or_else(Self::default, |(open, close)| Self::new(open, close))
    }
}

/// Which part of an answer a text belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// A thought.
    Reasoning,
    /// The answer.
    Content,
}

/// A piece of an answer. Tags are in neither kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Thought or answer.
    pub kind: SegmentKind,
    /// The text, never empty.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Only white space so far: a thought may start.
    Start,
    Reasoning,
    Content,
}

/// Splits an answer that arrives in pieces. A thought can only come first: a tag within the answer is text, so a
/// model that writes about `<think>` is shown as it writes.
#[derive(Debug, Clone)]
pub struct ReasoningSplitter {
    tags: ReasoningTags,
    state: State,
    /// Text that may be the start of a tag.
    held: String,
    /// Whether a thought was begun, even an empty one.
    begun: bool,
}

impl ReasoningSplitter {
    /// A splitter for one answer. `inside`: the prompt ended with the open tag, so the answer starts in a thought.
    pub fn new(tags: ReasoningTags, inside: bool) -> Self {
        Self {
            tags,
            state: if inside {
                State::Reasoning
            } else {
                State::Start
            },
            held: String::new(),
            begun: inside,
        }
    }

    /// A splitter for the answer to this prompt.
    pub fn for_prompt(tags: ReasoningTags, prompt: &str) -> Self {
        let inside = prompt.trim_end().ends_with(&tags.open);
        Self::new(tags, inside)
    }

    /// Whether the text that comes next belongs to a thought.
    pub fn is_reasoning(&self) -> bool {
        self.state == State::Reasoning
    }

    /// Whether the answer has a thought, even an empty one.
    pub fn has_thought(&self) -> bool {
        self.begun
    }

    /// The pieces that became certain with this text.
    pub fn push(&mut self, delta: &str) -> Vec<Segment> {
        let mut segments = Vec::new();
        self.held += delta;
        loop {
            let before = (self.state, self.held.len());
            match self.state {
                State::Start => self.at_start(),
                State::Reasoning => self.in_thought(&mut segments),
                State::Content => self.flush(SegmentKind::Content, self.held.len(), &mut segments),
            }
            if before == (self.state, self.held.len()) {
                return segments;
            }
        }
    }

    /// The rest, when the answer is complete: a tag that was only begun is text.
    pub fn finish(&mut self) -> Vec<Segment> {
        let mut segments = Vec::new();
        let kind = if self.is_reasoning() {
            SegmentKind::Reasoning
        } else {
            SegmentKind::Content
        };
        self.flush(kind, self.held.len(), &mut segments);
        segments
    }

    fn at_start(&mut self) {
        let text = self.held.trim_start();
        if let Some(rest) = text.strip_prefix(&self.tags.open) {
            self.held = rest.to_owned();
            self.state = State::Reasoning;
            self.begun = true;
        } else if !self.tags.open.starts_with(text) {
            self.state = State::Content;
        }
    }

    fn in_thought(&mut self, segments: &mut Vec<Segment>) {
        if let Some(end) = self.held.find(&self.tags.close) {
            self.flush(SegmentKind::Reasoning, end, segments);
            self.held.drain(..self.tags.close.len());
            self.state = State::Content;
        } else {
            let kept = longest_start(&self.held, &self.tags.close);
            self.flush(SegmentKind::Reasoning, self.held.len() - kept, segments);
        }
    }

    /// Gives out the first `len` bytes of what is held.
    fn flush(&mut self, kind: SegmentKind, len: usize, segments: &mut Vec<Segment>) {
        let text: String = self.held.drain(..len).collect();
        if !text.is_empty() {
            segments.push(Segment { kind, text });
        }
    }
}

/// Length of the longest end of `text` that `tag` starts with.
fn longest_start(text: &str, tag: &str) -> usize {
    let most = text.len().min(tag.len());
    (1..=most)
        .rev()
        .find(|&len| {
            text.is_char_boundary(text.len() - len) && tag.starts_with(&text[text.len() - len..])
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer in every cut into two and in single characters, joined to (thought, answer).
    fn check(inside: bool, answer: &str, thought: &str, content: &str) {
        let cuts = answer
            .char_indices()
            .map(|(at, _)| vec![&answer[..at], &answer[at..]]);
        let singles = answer
            .char_indices()
            .map(|(at, char)| &answer[at..at + char.len_utf8()])
            .collect();
        for pieces in cuts.chain([singles]) {
            let mut splitter = ReasoningSplitter::new(ReasoningTags::default(), inside);
            let mut segments: Vec<Segment> = pieces
                .iter()
                .flat_map(|piece| splitter.push(piece))
                .collect();
            segments.extend(splitter.finish());
            let join = |kind| {
                segments
                    .iter()
                    .filter(|s| s.kind == kind)
                    .map(|s| s.text.as_str())
                    .collect::<String>()
            };
            assert_eq!(join(SegmentKind::Reasoning), thought, "{pieces:?}");
            assert_eq!(join(SegmentKind::Content), content, "{pieces:?}");
            assert!(segments.iter().all(|segment| !segment.text.is_empty()));
        }
    }

    #[test]
    fn thoughts_and_answers_are_told_apart_however_the_text_is_cut() {
        check(
            false,
            "<think>\na < b </thin\n</think>\n\nYes.",
            "\na < b </thin\n",
            "\n\nYes.",
        );
        check(false, "\n<think>x</think>y", "x", "y");
        check(false, "Use <think>x</think>.", "", "Use <think>x</think>.");
        check(
            false,
            "<think>a</think><think>b</think>",
            "a",
            "<think>b</think>",
        );
        check(true, "a</think>b</think>", "a", "b</think>");
        check(false, "<think>never ends </thi", "never ends </thi", "");
        check(false, "  <thin", "", "  <thin");
        check(false, " <thing>", "", " <thing>");
        check(
            false,
            "<think>\u{1F642}</\u{1F642}</think>\u{1F642}",
            "\u{1F642}</\u{1F642}",
            "\u{1F642}",
        );
    }

    #[test]
    fn text_is_given_out_as_soon_as_it_is_certain() {
        let mut splitter = ReasoningSplitter::new(ReasoningTags::default(), false);
        assert!(splitter.push("<thi").is_empty());
        let segment = |kind, text: &str| Segment {
            kind,
            text: text.to_owned(),
        };
        assert_eq!(
            splitter.push("nk>so </"),
            [segment(SegmentKind::Reasoning, "so ")]
        );
        assert!(splitter.is_reasoning());
        assert_eq!(
            splitter.push("b>"),
            [segment(SegmentKind::Reasoning, "</b>")]
        );
        assert_eq!(
            splitter.push("</think>Yes"),
            [segment(SegmentKind::Content, "Yes")]
        );
    }

    #[test]
    fn the_prompt_and_the_template_say_how_it_starts() {
        assert!(
            ReasoningSplitter::for_prompt(
                ReasoningTags::default(),
                "<role>ASSISTANT</role><think>\n"
            )
            .is_reasoning()
        );
        assert!(
            !ReasoningSplitter::for_prompt(ReasoningTags::default(), "<role>ASSISTANT</role>")
                .is_reasoning()
        );
        assert_eq!(
            ReasoningTags::detect("x [THINK] y [/THINK]").close,
            "[/THINK]"
        );
        assert_eq!(ReasoningTags::detect("no tags"), ReasoningTags::default());
    }
}
