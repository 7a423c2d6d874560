//! Streams of server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Response};
use futures_core::Stream;
use serde_json::Value;
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use super::flow::Flow;
use super::panics;
use crate::server::api::ApiError;
use crate::server::api::response::{Answer, Form, Frame};
use crate::server::protocol::Event;

/// A comment: clients ignore it, and everything between sees that the stream lives.
const PING: &[u8] = b":\n\n";
/// The first ping comes after this much silence, whatever the interval is.
const FIRST_PING: Duration = Duration::from_secs(1);

/// Turns events into an answer.
pub struct Reader {
    /// The events.
    pub flow: Flow,
    answers: Vec<Answer>,
    form: Box<dyn Form>,
    n: u32,
    started: bool,
    id: Arc<str>,
    began: Instant,
}

impl Reader {
    /// Reads the answers of a request with `n` choices per prompt.
    pub fn new(
        flow: Flow,
        answers: Vec<Answer>,
        form: Box<dyn Form>,
        n: u32,
        id: Arc<str>,
        began: Instant,
    ) -> Self {
        Self {
            flow,
            answers,
            form,
            n,
            started: false,
            id,
            began,
        }
    }

    /// Takes an event; gives what a stream shows of it.
    ///
    /// # Errors
    /// The request failed; nothing comes after it.
    pub fn take(&mut self, prompt: usize, event: Event) -> Result<Vec<Frame>, ApiError> {
        let n = self.n as usize;
        let first = prompt * n;
        match event {
            Event::Started { slot, n_cached } => {
                for answer in self.answers.iter_mut().skip(first).take(n) {
                    (answer.slot, answer.n_cached) = (Some(slot), n_cached);
                }
                Ok(self.start())
            }
            Event::Progress(progress) => {
                let mut frames = self.start();
                if let Some(answer) = self.answers.get(first) {
                    frames.extend(self.form.progress(answer, &progress));
                }
                Ok(frames)
            }
            Event::Token(token) => {
                let mut frames = self.start();
                if let Some(answer) = self.answers.get_mut(first + token.choice as usize) {
                    let change = answer.token(*token);
                    frames.extend(self.form.changed(answer, change));
                }
                Ok(frames)
            }
            Event::Finished(finished) => {
                let mut frames = self.start();
                if let Some(answer) = self.answers.get_mut(first + finished.choice as usize) {
                    let change = answer.finish(finished);
                    frames.extend(self.form.changed(answer, change));
                }
                Ok(frames)
            }
            Event::Failed(error) => Err(error.into()),
        }
    }

    fn start(&mut self) -> Vec<Frame> {
        match std::mem::replace(&mut self.started, true) {
            true => Vec::new(),
            false => self.form.started(&self.answers),
        }
    }

    /// The whole answer.
    pub fn whole(&mut self) -> Value {
        self.form.whole(&mut self.answers)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let sum = |count: fn(&Answer) -> usize| self.answers.iter().map(count).sum::<usize>();
        let complete = self.answers.iter().all(|a| a.finished.is_some());
        tracing::info!(
            request = &*self.id,
            prompt = sum(|a| if a.first { a.n_prompt } else { 0 }),
            cached = sum(|a| if a.first { a.n_cached } else { 0 }),
            predicted = sum(|a| a.n_predicted()),
            ms = self.began.elapsed().as_millis() as u64,
            "{}",
            if complete { "answered" } else { "cut off" },
        );
    }
}

/// What is left to be done of a stream.
enum Left {
    Events,
    /// Only what is ready.
    Rest,
}

struct Events {
    reader: Reader,
    ready: VecDeque<Bytes>,
    ping: Option<Interval>,
    left: Left,
}

/// Answers with a stream that begins with the frames that are ready.
pub fn stream(reader: Reader, ready: VecDeque<Frame>, ping: Duration) -> Response<Body> {
    let ping = (!ping.is_zero()).then(|| {
        let first = tokio::time::Instant::now() + FIRST_PING.min(ping);
        let mut ticks = interval_at(first, ping);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    let ready = ready.into_iter().map(|frame| frame.encode().into());
    let mut events = Events {
        reader,
        ready: ready.collect(),
        ping,
        left: Left::Events,
    };
    if events.ready.is_empty() {
        events.ready.push_back(Bytes::from_static(PING));
    }
    let mut response = Response::new(Body::from_stream(events));
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    // Proxies of nginx's kind hold small pieces back otherwise.
    let no = HeaderValue::from_static("no");
    response.headers_mut().insert("x-accel-buffering", no);
    response
}

impl Events {
    fn push(&mut self, frames: Vec<Frame>) {
        let bytes = frames.iter().map(|frame| frame.encode().into());
        self.ready.extend(bytes);
    }

    /// Takes the next event, if there is one.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let frames = match std::task::ready!(self.reader.flow.poll(cx)) {
            Some((prompt, event)) => self.reader.take(prompt, event),
            None => {
                self.left = Left::Rest;
                Ok(self.reader.form.ended(&self.reader.answers))
            }
        };
        match frames {
            Ok(frames) => self.push(frames),
            Err(error) => self.fail(&error),
        }
        Poll::Ready(())
    }

    fn fail(&mut self, error: &ApiError) {
        tracing::warn!(request = &*self.reader.id, "{error}");
        self.left = Left::Rest;
        let frames = self.reader.form.failed(error);
        self.push(frames);
    }
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(bytes) = this.ready.pop_front() {
                this.ping.iter_mut().for_each(Interval::reset);
                return Poll::Ready(Some(Ok(bytes)));
            }
            if matches!(this.left, Left::Rest) {
                return Poll::Ready(None);
            }
            match panics::caught(|| this.step(cx)) {
                Ok(Poll::Ready(())) => continue,
                Ok(Poll::Pending) => {}
                Err(words) => {
                    tracing::error!(request = &*this.reader.id, "panic: {words}");
                    this.fail(&ApiError::internal());
                    continue;
                }
            }
            let Some(ping) = &mut this.ping else {
                return Poll::Pending;
            };
            std::task::ready!(ping.poll_tick(cx));
            return Poll::Ready(Some(Ok(Bytes::from_static(PING))));
        }
    }
}
