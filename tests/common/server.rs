//! The engine thread on the demo model, and clients for it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oxling::engine::EngineConfig;
use oxling::engine::sampling::SamplingParams;
use oxling::engine::speculation::SpeculationParams;
use oxling::gguf::Gguf;
use oxling::model::{LoadOptions, Model};
use oxling::server::protocol::{
    Command, EngineState, Event, Finished, Generate, RequestError, Scope, SlotAction, SlotCommand,
    SlotReport, StopReason, TokenEvent,
};
use oxling::server::worker::{EngineHandle, WorkerConfig, spawn};
use oxling::tokenizer::EncodeOptions;
use tokio::sync::{mpsc, oneshot};

/// No answer of the tiny model takes longer, even beside other tests.
const PATIENCE: Duration = Duration::from_secs(120);

pub const ALICE: Scope = Scope([1; 32]);
pub const BOB: Scope = Scope([2; 32]);

/// Four slots of 512 tokens, one thread, and room for what a test keeps.
pub fn config() -> WorkerConfig {
    WorkerConfig {
        load: Box::new(|progress| {
            let path =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-ling-IQ4_NL.gguf");
            let gguf = Arc::new(Gguf::open(&path).map_err(|e| e.to_string())?);
            Model::load(gguf, &LoadOptions::default(), progress).map_err(|e| e.to_string())
        }),
        alias: None,
        engine: EngineConfig {
            n_ctx: 4 * 512,
            n_seq: 4,
            n_threads: 1,
            n_threads_batch: 1,
            ..EngineConfig::default()
        },
        sampling: SamplingParams::default(),
        speculation: SpeculationParams::default(),
        queue: 16,
        prefill_budget: None,
        cache_ram: 64 << 20,
        exact: true,
    }
}

/// A running server.
pub struct Server {
    pub handle: EngineHandle,
}

impl Server {
    pub fn start(config: WorkerConfig) -> Self {
        let handle = spawn(config);
        let start = Instant::now();
        while !matches!(handle.state(), EngineState::Ready) {
            if let EngineState::Failed(why) = handle.state() {
                panic!("{why}");
            }
            assert!(start.elapsed() < PATIENCE, "loading takes for ever");
            std::thread::sleep(Duration::from_millis(2));
        }
        Self { handle }
    }

    pub fn tokens(&self, text: &str) -> Vec<u32> {
        let options = EncodeOptions {
            add_special: false,
            parse_special: true,
        };
        let info = self.handle.info().expect("loaded");
        info.tokenizer.encode(text, options)
    }

    pub fn send(&self, request: Generate) -> Result<(), RequestError> {
        self.handle.submit(Command::Generate(Box::new(request)))
    }

    /// Sends a request and does not wait.
    pub fn ask(&self, mut request: Generate) -> Client {
        let (events, receiver) = mpsc::unbounded_channel();
        request.events = events;
        self.send(request).expect("accepted");
        Client { receiver }
    }

    pub fn answer(&self, request: Generate) -> Answer {
        self.ask(request).wait()
    }

    pub fn slot(
        &self,
        slot: u32,
        scope: Scope,
        action: SlotAction,
    ) -> Result<SlotReport, RequestError> {
        let (reply, answer) = oneshot::channel();
        let command = SlotCommand {
            slot,
            scope,
            action,
            reply,
        };
        self.handle.submit(Command::Slot(command))?;
        answer.blocking_recv().expect("an answer")
    }

    /// Waits until something is so.
    pub fn wait_for(&self, what: &str, mut so: impl FnMut(&EngineHandle) -> bool) {
        let start = Instant::now();
        while !so(&self.handle) {
            assert!(start.elapsed() < PATIENCE, "never: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until no slot works.
    pub fn wait_idle(&self) {
        self.wait_for("idle slots", |h| {
            h.waiting() == 0 && h.slots().iter().all(|s| s.request.is_none())
        });
    }

    pub fn stop(self) {
        self.handle.submit(Command::Shutdown).expect("always taken");
        self.wait_for("an end", |h| matches!(h.state(), EngineState::Stopped));
    }
}

/// A greedy request of Alice's for a few tokens; nobody listens yet.
pub fn request(prompt: Vec<u32>, n_predict: u32) -> Generate {
    Generate {
        id: "test".to_owned(),
        scope: ALICE,
        prompt,
        boundaries: Vec::new(),
        sampling: SamplingParams {
            temp: 0.0,
            ..SamplingParams::default()
        },
        n: 1,
        n_predict: Some(n_predict),
        stop: Vec::new(),
        special: false,
        constrainer: None,
        speculation: None,
        logprobs: None,
        post_sampling: false,
        cache_prompt: true,
        slot: None,
        progress: false,
        max_time: None,
        events: mpsc::unbounded_channel().0,
    }
}

/// Who waits for an answer.
pub struct Client {
    pub receiver: mpsc::UnboundedReceiver<Event>,
}

/// All that was heard.
#[derive(Debug, Default)]
pub struct Answer {
    pub n_cached: usize,
    pub slot: u32,
    pub events: Vec<Event>,
    pub tokens: Vec<TokenEvent>,
    pub finished: Vec<Finished>,
    pub failed: Option<RequestError>,
}

impl Client {
    /// The next event; `None` when no more come.
    pub fn next(&mut self) -> Option<Event> {
        self.receiver.blocking_recv()
    }

    pub fn wait(mut self) -> Answer {
        let mut answer = Answer::default();
        while let Some(event) = self.next() {
            match &event {
                Event::Started { slot, n_cached } => {
                    (answer.slot, answer.n_cached) = (*slot, *n_cached);
                }
                Event::Token(token) => answer.tokens.push((**token).clone()),
                Event::Finished(finished) => answer.finished.push((**finished).clone()),
                Event::Failed(why) => answer.failed = Some(why.clone()),
                Event::Progress(_) => {}
            }
            answer.events.push(event);
        }
        answer.finished.sort_by_key(|f| f.choice);
        answer
    }
}

impl Answer {
    pub fn ids(&self, choice: u32) -> Vec<u32> {
        let of = self.tokens.iter().filter(|t| t.choice == choice);
        of.map(|t| t.token).collect()
    }

    pub fn text(&self, choice: u32) -> String {
        let of = self.tokens.iter().filter(|t| t.choice == choice);
        let mut text: String = of.map(|t| t.text.as_str()).collect();
        let rest = self.finished.iter().find(|f| f.choice == choice);
        text += rest.map_or("", |f| &f.text);
        text
    }

    /// Prompt tokens that were computed.
    pub fn prompt_n(&self) -> usize {
        self.finished.first().expect("finished").timings.prompt_n
    }

    pub fn reason(&self) -> &StopReason {
        &self.finished.first().expect("finished").reason
    }
}

pub const STORY: &str = "In the beginning God created the heaven and the earth. And the earth was without form, and \
    void; and darkness was upon the face of the deep. And the Spirit of God moved upon the face of the waters. ";

pub fn human(text: &str) -> String {
    format!("<role>HUMAN</role>{text}<|role_end|>")
}

pub const SYSTEM: &str = "<role>SYSTEM</role>You are a helpful assistant who answers in short sentences. detailed thinking off<|role_end|>";
pub const TURN: &str = "<role>ASSISTANT</role>";

/// Tokens of messages, with a boundary after each.
pub fn conversation(server: &Server, messages: &[&str]) -> (Vec<u32>, Vec<usize>) {
    let (mut tokens, mut boundaries) = (Vec::new(), Vec::new());
    for message in messages {
        tokens.extend(server.tokens(message));
        boundaries.push(tokens.len());
    }
    (tokens, boundaries)
}

/// A request for the answer to some messages.
pub fn chat(server: &Server, messages: &[&str], n_predict: u32) -> Generate {
    let (mut prompt, boundaries) = conversation(server, messages);
    prompt.extend(server.tokens(TURN));
    Generate {
        boundaries,
        ..request(prompt, n_predict)
    }
}
