//! Times and counts of answers by llama-server's and OpenAI's names.

use std::time::Duration;

use serde_json::{Value, json};

use crate::server::protocol::{PrefillProgress, StopReason, Timings};

fn ms(time: Duration) -> f64 {
    // Microseconds are as exact as anybody reads them.
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// `part / whole`, 0 where that has no meaning.
fn ratio(part: f64, whole: f64) -> f64 {
    let ratio = part / whole;
    if ratio.is_finite() { ratio } else { 0.0 }
}

/// `timings`. The first token comes with the prompt, so rates of generation are those of the others.
pub fn timings(t: &Timings) -> Value {
    let (prompt, predicted) = (ms(t.prompt), ms(t.predicted));
    let later = t.predicted_n.saturating_sub(1) as f64;
    let mut value = json!({
        "cache_n": t.cache_n,
        "prompt_n": t.prompt_n,
        "prompt_ms": prompt,
        "prompt_per_token_ms": ratio(prompt, t.prompt_n as f64),
        "prompt_per_second": ratio(t.prompt_n as f64 * 1e3, prompt),
        "predicted_n": t.predicted_n,
        "predicted_ms": predicted,
        "predicted_per_token_ms": ratio(predicted, later),
        "predicted_per_second": ratio(later * 1e3, predicted),
        "queue_ms": ms(t.queued),
    });
    if t.drafts.n_drafted() > 0 {
        value["draft_n"] = t.drafts.n_drafted().into();
        value["draft_n_accepted"] = t.drafts.n_accepted().into();
    }
    value
}

/// `prompt_progress`.
pub fn progress(p: &PrefillProgress) -> Value {
    json!({
        "total": p.total,
        "cache": p.cached,
        "processed": p.processed,
        "time_ms": ms(p.time),
    })
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompts.
    pub prompt: usize,
    /// Of these, in memory before.
    pub cached: usize,
    /// Generated.
    pub completion: usize,
    /// Of these, thoughts.
    pub reasoning: usize,
}

impl Usage {
    /// OpenAI's `usage` of completions.
    pub fn to_json(self) -> Value {
        json!({
            "completion_tokens": self.completion,
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": { "cached_tokens": self.cached },
            "completion_tokens_details": { "reasoning_tokens": self.reasoning },
        })
    }

    /// OpenAI's `usage` of Responses.
    pub fn to_responses(self) -> Value {
        json!({
            "input_tokens": self.prompt,
            "input_tokens_details": { "cached_tokens": self.cached },
            "output_tokens": self.completion,
            "output_tokens_details": { "reasoning_tokens": self.reasoning },
            "total_tokens": self.prompt + self.completion,
        })
    }

    /// Anthropic's `usage`, whose input tokens are those that were computed.
    pub fn to_anthropic(self) -> Value {
        json!({
            "input_tokens": self.prompt - self.cached.min(self.prompt),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.cached,
            "output_tokens": self.completion,
        })
    }
}

/// llama-server's `stop_type` and `stopping_word`.
pub fn stop_type(reason: Option<&StopReason>) -> (&'static str, &str) {
    match reason {
        None => ("none", ""),
        Some(StopReason::Eos) => ("eos", ""),
        Some(StopReason::Limit) => ("limit", ""),
        Some(StopReason::Word(word)) => ("word", word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_leave_out_the_first_token_and_are_always_numbers() {
        let t = Timings {
            prompt_n: 10,
            prompt: Duration::from_millis(100),
            predicted_n: 5,
            predicted: Duration::from_millis(200),
            ..Timings::default()
        };
        let json = timings(&t);
        assert_eq!(json["prompt_per_second"], 100.0);
        assert_eq!(
            (
                &json["predicted_per_second"],
                &json["predicted_per_token_ms"]
            ),
            (&json!(20.0), &json!(50.0))
        );
        assert!(json.get("draft_n").is_none());
        assert_eq!(timings(&Timings::default())["prompt_per_second"], 0.0);
    }
}
