//! Counters of the engine thread, by llama-server's names where it has them.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fmt::{Debug, Formatter};
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

/// A counter of seconds.
pub type Seconds = Counter<f64, AtomicU64>;
/// A gauge of a rate.
pub type Rate = Gauge<f64, AtomicU64>;
/// A counter for each label value.
pub type PerLabel = Family<[(&'static str, String); 1], Counter>;

/// All counters. Clones of a counter count together.
pub struct Metrics {
    registry: Registry,
    /// Prompt tokens computed.
    pub prompt_tokens: Counter,
    /// Prompt tokens that were in memory already.
    pub prompt_tokens_cached: Counter,
    /// Time spent on prompts.
    pub prompt_seconds: Seconds,
    /// Tokens generated.
    pub tokens_predicted: Counter,
    /// Time spent generating.
    pub tokens_predicted_seconds: Seconds,
    /// Steps of the engine.
    pub n_decode: Counter,
    /// Slots that were busy, summed over steps.
    pub busy_slots: Counter,
    /// Most tokens a slot ever held.
    pub n_tokens_max: Gauge,
    /// Prompt tokens per second since the last look.
    pub prompt_tokens_seconds: Rate,
    /// Generated tokens per second since the last look.
    pub predicted_tokens_seconds: Rate,
    /// Busy slots per step since the start.
    pub n_busy_slots_per_decode: Rate,
    /// Requests that have a slot.
    pub processing: Gauge,
    /// Requests that wait for one.
    pub deferred: Gauge,
    /// Requests by how they ended: `stop`, `limit`, `cancelled` or `failed`.
    pub requests: PerLabel,
    /// Guessed tokens.
    pub spec_draft_tokens: Counter,
    /// Guessed tokens that were right.
    pub spec_accepted_tokens: Counter,
    /// Steps with guesses.
    pub spec_drafts: Counter,
    /// Right guesses by position.
    pub spec_accepted_per_pos: PerLabel,
    /// Guesses by position.
    pub spec_drafted_per_pos: PerLabel,
    /// Prompts that found a start in memory.
    pub cache_hits: Counter,
    /// Prompts that did not, by reason.
    pub cache_misses: PerLabel,
    /// States dropped to keep the byte budget.
    pub cache_evictions: Counter,
    /// Bytes that the prefix cache holds.
    pub cache_bytes: Gauge,
    /// Prefixes that it holds.
    pub cache_entries: Gauge,
    /// Time from arrival to the first token.
    pub time_to_first_token: Histogram,
    /// Time between tokens of a choice.
    pub inter_token: Histogram,
    /// Time in the queue.
    pub queue_time: Histogram,
    /// Length of steps that computed prompts while others generated: how long these had to wait.
    pub prefill_stall: Histogram,
    rates: std::sync::Mutex<LastLook>,
}

/// Counters at the last look.
#[derive(Debug, Default)]
struct LastLook {
    prompt: (u64, f64),
    predicted: (u64, f64),
}

/// Buckets from a millisecond to about nine minutes.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            prompt_tokens: Counter::default(),
            prompt_tokens_cached: Counter::default(),
            prompt_seconds: Seconds::default(),
            tokens_predicted: Counter::default(),
            tokens_predicted_seconds: Seconds::default(),
            n_decode: Counter::default(),
            busy_slots: Counter::default(),
            n_tokens_max: Gauge::default(),
            prompt_tokens_seconds: Rate::default(),
            predicted_tokens_seconds: Rate::default(),
            n_busy_slots_per_decode: Rate::default(),
            processing: Gauge::default(),
            deferred: Gauge::default(),
            requests: PerLabel::default(),
            spec_draft_tokens: Counter::default(),
            spec_accepted_tokens: Counter::default(),
            spec_drafts: Counter::default(),
            spec_accepted_per_pos: PerLabel::default(),
            spec_drafted_per_pos: PerLabel::default(),
            cache_hits: Counter::default(),
            cache_misses: PerLabel::default(),
            cache_evictions: Counter::default(),
            cache_bytes: Gauge::default(),
            cache_entries: Gauge::default(),
            time_to_first_token: times(),
            inter_token: times(),
            queue_time: times(),
            prefill_stall: times(),
            rates: std::sync::Mutex::default(),
        };
        metrics.register_llama_names();
        metrics.register_own_names();
        metrics
    }
}

impl Metrics {
    fn add(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.registry.register(name, help, metric);
    }

    /// Names without `_total`: the encoder adds it to counters.
    fn register_llama_names(&mut self) {
        let prefix = |name: &str| format!("llamacpp:{name}");
        let m = self.prompt_tokens.clone();
        self.add(&prefix("prompt_tokens"), "Prompt tokens computed", m);
        let m = self.prompt_tokens_cached.clone();
        let help = "Prompt tokens that were in memory already";
        self.add(&prefix("prompt_tokens_cached"), help, m);
        let m = self.prompt_seconds.clone();
        self.add(&prefix("prompt_seconds"), "Time spent on prompts", m);
        let m = self.tokens_predicted.clone();
        self.add(&prefix("tokens_predicted"), "Tokens generated", m);
        let m = self.tokens_predicted_seconds.clone();
        let help = "Time spent generating";
        self.add(&prefix("tokens_predicted_seconds"), help, m);
        let m = self.n_decode.clone();
        self.add(&prefix("n_decode"), "Steps of the engine", m);
        let m = self.n_tokens_max.clone();
        self.add(&prefix("n_tokens_max"), "Most tokens a slot ever held", m);
        let m = self.prompt_tokens_seconds.clone();
        let help = "Prompt tokens per second since the last look";
        self.add(&prefix("prompt_tokens_seconds"), help, m);
        let m = self.predicted_tokens_seconds.clone();
        let help = "Generated tokens per second since the last look";
        self.add(&prefix("predicted_tokens_seconds"), help, m);
        let m = self.n_busy_slots_per_decode.clone();
        let help = "Busy slots per step";
        self.add(&prefix("n_busy_slots_per_decode"), help, m);
        let m = self.processing.clone();
        self.add(
            &prefix("requests_processing"),
            "Requests that have a slot",
            m,
        );
        let m = self.deferred.clone();
        self.add(
            &prefix("requests_deferred"),
            "Requests that wait for a slot",
            m,
        );
        let spec = |name: &str| format!("llamacpp:spec_decode_num_{name}");
        let m = self.spec_draft_tokens.clone();
        self.add(&spec("draft_tokens"), "Tokens guessed", m);
        let m = self.spec_accepted_tokens.clone();
        self.add(&spec("accepted_tokens"), "Guesses that were right", m);
        let m = self.spec_drafts.clone();
        self.add(&spec("drafts"), "Steps with guesses", m);
        let m = self.spec_accepted_per_pos.clone();
        let help = "Guesses that were right, by position";
        self.add(&spec("accepted_tokens_per_pos"), help, m);
    }

    fn register_own_names(&mut self) {
        let prefix = |name: &str| format!("oxling:{name}");
        let m = self.requests.clone();
        self.add(&prefix("requests"), "Requests by how they ended", m);
        let m = self.spec_drafted_per_pos.clone();
        let help = "Guesses by position";
        self.add(&prefix("spec_draft_tokens_per_pos"), help, m);
        let m = self.cache_hits.clone();
        let help = "Prompts that found a start in memory";
        self.add(&prefix("cache_hits"), help, m);
        let m = self.cache_misses.clone();
        let help = "Prompts that found none, by reason";
        self.add(&prefix("cache_misses"), help, m);
        let m = self.cache_evictions.clone();
        let help = "Prefixes dropped to keep the byte budget";
        self.add(&prefix("cache_evictions"), help, m);
        let m = self.cache_bytes.clone();
        self.add(&prefix("cache_bytes"), "Bytes of the prefix cache", m);
        let m = self.cache_entries.clone();
        self.add(&prefix("cache_entries"), "Prefixes in the cache", m);
        let m = self.time_to_first_token.clone();
        let help = "Time from arrival to the first token";
        self.add(&prefix("time_to_first_token_seconds"), help, m);
        let m = self.inter_token.clone();
        let help = "Time between tokens of a choice";
        self.add(&prefix("inter_token_seconds"), help, m);
        let m = self.queue_time.clone();
        self.add(&prefix("queue_seconds"), "Time in the queue", m);
        let m = self.prefill_stall.clone();
        let help = "Steps with prompts while others generated";
        self.add(&prefix("prefill_stall_seconds"), help, m);
    }

    /// The text of `/metrics`, in the format of [`CONTENT_TYPE`]. Rates are those since the call before.
    pub fn encode(&self) -> String {
        self.update_rates();
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// The same in Prometheus' older format, [`PLAIN_CONTENT_TYPE`], where a counter has the name of its sample.
    pub fn encode_plain(&self) -> String {
        let text = self.encode();
        let counters: HashSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
            .collect();
        let mut out = String::with_capacity(text.len());
        for line in text.lines().filter(|line| *line != "# EOF") {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                    out.push_str(&format!("# {what} {name}_total {rest}"));
                }
                _ => out.push_str(line),
            }
            out.push('\n');
        }
        out
    }

    fn update_rates(&self) {
        let mut last = self
            .rates
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let rate = |last: &mut (u64, f64), tokens: u64, seconds: f64| {
            let (n, time) = ((tokens - last.0) as f64, seconds - last.1);
            *last = (tokens, seconds);
            if time > 0.0 { n / time } else { 0.0 }
        };
        let (tokens, seconds) = (self.prompt_tokens.get(), self.prompt_seconds.get());
        let prompt = rate(&mut last.prompt, tokens, seconds);
        self.prompt_tokens_seconds.set(prompt);
        let tokens = self.tokens_predicted.get();
        let seconds = self.tokens_predicted_seconds.get();
        let predicted = rate(&mut last.predicted, tokens, seconds);
        self.predicted_tokens_seconds.set(predicted);
        let steps = self.n_decode.get();
        if steps > 0 {
            let busy = self.busy_slots.get() as f64 / steps as f64;
            self.n_busy_slots_per_decode.set(busy);
        }
    }
}

/// The format of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The format of [`Metrics::encode_plain`].
pub const PLAIN_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Debug for Metrics {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_llama_servers_and_rates_are_since_the_last_look() {
        let metrics = Metrics::default();
        metrics.prompt_tokens.inc_by(30);
        metrics.prompt_seconds.inc_by(2.0);
        metrics.time_to_first_token.observe(0.5);
        let label = [("position", "0".to_owned())];
        metrics.spec_accepted_per_pos.get_or_create(&label).inc();
        let text = metrics.encode();
        for line in [
            "llamacpp:prompt_tokens_total 30",
            "llamacpp:prompt_tokens_seconds 15.0",
            "llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position=\"0\"} 1",
            "oxling:time_to_first_token_seconds_count 1",
            "llamacpp:requests_deferred 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        let plain = metrics.encode_plain();
        for line in [
            "# HELP llamacpp:prompt_tokens_total Prompt tokens computed.",
            "# TYPE llamacpp:prompt_tokens_total counter",
            "llamacpp:prompt_tokens_total 30",
            "# TYPE oxling:time_to_first_token_seconds histogram",
            "# TYPE llamacpp:requests_deferred gauge",
        ] {
            assert!(plain.lines().any(|l| l == line), "{line} in\n{plain}");
        }
        assert!(!plain.contains("# EOF"), "{plain}");
        assert!(
            metrics
                .encode()
                .contains("llamacpp:prompt_tokens_seconds 0.0"),
            "nothing since"
        );
    }
}
