//! Texts that end an answer, found while it streams.

#![forbid(unsafe_code)]

/// Passes text on until one of its stop texts comes; what may be the start of one is held back.
#[derive(Debug, Clone, Default)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
    hit: Option<usize>,
}

impl StopFilter {
    /// A filter for these texts; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        Self {
            stops: stops
                .iter()
                .filter(|stop| !stop.is_empty())
                .cloned()
                .collect(),
            ..Self::default()
        }
    }

    /// Text that is certain not to belong to a stop text. After a hit there is none.
    pub fn push(&mut self, text: &str) -> String {
        if self.hit.is_some() {
            return String::new();
        }
        self.held += text;
        let found = self.stops.iter().enumerate();
        let found = found.filter_map(|(i, stop)| Some((self.held.find(stop)?, i)));
        if let Some((at, i)) = found.min() {
            self.hit = Some(i);
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let kept = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, when the answer is complete.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether a stop text came.
    pub fn is_hit(&self) -> bool {
        self.hit.is_some()
    }

    /// The stop text that came.
    pub fn hit(&self) -> Option<&str> {
        self.hit.map(|i| self.stops[i].as_str())
    }
}

/// Length of the longest end of `text` that starts `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let mut starts = stop
        .char_indices()
        .skip(1)
        .map(|(at, _)| at)
        .collect::<Vec<_>>();
    starts.retain(|&len| text.ends_with(&stop[..len]));
    starts.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that passes, in every cut into two and in single characters.
    fn check(stops: &[&str], text: &str, passes: &str, hit: bool) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let cuts = text
            .char_indices()
            .map(|(at, _)| vec![&text[..at], &text[at..]]);
        let singles = text
            .char_indices()
            .map(|(at, c)| &text[at..at + c.len_utf8()])
            .collect();
        for pieces in cuts.chain([singles]) {
            let mut filter = StopFilter::new(&stops);
            let mut out: String = pieces.iter().map(|piece| filter.push(piece)).collect();
            out += &filter.finish();
            assert_eq!((out.as_str(), filter.is_hit()), (passes, hit), "{pieces:?}");
        }
    }

    #[test]
    fn nothing_of_a_stop_text_passes_however_the_text_is_cut() {
        check(&["User:"], "Yes.\nUser: no", "Yes.\n", true);
        check(&["User:"], "Us and Use", "Us and Use", false);
        check(&["abab"], "ababab", "", true);
        check(&["aab"], "aaab!", "a", true);
        check(
            &["x\u{e9}\u{4e2d}"],
            "\u{4e2d}x\u{e9}\u{4e2d}",
            "\u{4e2d}",
            true,
        );
        check(&["\n\n", "end"], "the e\n\nend", "the e", true);
        check(&[""], "abc", "abc", false);
        check(&[], "abc", "abc", false);
    }

    #[test]
    fn text_passes_as_soon_as_it_is_certain() {
        let mut filter = StopFilter::new(&["stop".to_owned()]);
        assert_eq!(filter.push("a st"), "a ");
        assert_eq!(filter.push("ar"), "star");
        assert_eq!(filter.hit(), None);
        assert_eq!(filter.push("t stopped"), "t ");
        assert_eq!(filter.hit(), Some("stop"));
    }
}
