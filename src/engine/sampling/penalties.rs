//! Penalties on tokens that occurred before.

use std::collections::{HashMap, VecDeque};

use super::candidates::Candidates;

/// Repetition (Keskar et al. 2019), frequency and presence penalties over a window of the past.
#[derive(Clone, Debug)]
pub(super) struct Penalties {
    last_n: usize,
    repeat: f32,
    frequency: f32,
    presence: f32,
    window: VecDeque<u32>,
    counts: HashMap<u32, u32>,
}

impl Penalties {
    /// Penalties over the last `last_n` tokens; `None` if the values change nothing.
    pub(super) fn new(last_n: usize, repeat: f32, frequency: f32, presence: f32) -> Option<Self> {
        let changes = repeat != 1.0 || frequency != 0.0 || presence != 0.0;
        (last_n > 0 && changes).then(|| Self {
            last_n,
            repeat,
            frequency,
            presence,
            window: VecDeque::new(),
            counts: HashMap::new(),
        })
    }

    /// Takes a token into the window.
    pub(super) fn accept(&mut self, token: u32) {
        if self.window.len() == self.last_n
            && let Some(old) = self.window.pop_front()
            && let Some(count) = self.counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
        self.window.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }

    /// Lowers the logits of the tokens in the window.
    pub(super) fn apply(&self, candidates: &mut Candidates) {
        candidates.update(&self.counts, |logit, &count| {
            // Dividing a negative logit would make the token likelier, hence the product.
            let logit = if logit <= 0.0 {
                logit * self.repeat
            } else {
                logit / self.repeat
            };
            logit - (count as f32 * self.frequency + self.presence)
        });
    }

    /// Forgets the past.
    pub(super) fn reset(&mut self) {
        self.window.clear();
        self.counts.clear();
    }
}
