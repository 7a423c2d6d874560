//! A server whose engine is played: it says what the test wants it to say.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use oxling::engine::sampling::{LogProbs, TokenLogProb};
use oxling::model::Model;
use oxling::server::http::{Server, ServerConfig, serve};
use oxling::server::protocol::{
    Command, EngineState, Event, Finished, Generate, PrefillProgress, SlotReport, StopReason,
    Timings, TokenEvent,
};
use oxling::server::status::{ModelInfo, Status};
use oxling::server::worker::{EngineHandle, channel};
use oxling::tokenizer::EncodeOptions;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::http::Client;

/// Tokens that every slot of a played engine holds.
pub const N_CTX: u32 = 512;
/// Prompt tokens it says it knows.
pub const N_CACHED: usize = 3;

pub fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(super::demo::model)
}

/// A server on loopback. It ends when this is dropped.
pub struct Running {
    pub client: Client,
    pub status: Arc<Status>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.end.take().map(|end| end.send(()));
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        if !std::thread::panicking() {
            ended.expect("a thread").expect("the server ends in order");
        }
    }
}

/// Serves with a handle of an engine.
pub fn serve_with(mut config: ServerConfig, engine: EngineHandle, status: Arc<Status>) -> Running {
    config.limits.shutdown = Duration::from_secs(1);
    let (tell, told) = std::sync::mpsc::channel::<SocketAddr>();
    let (end, ended) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(8)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let server = Server::bind(&["127.0.0.1".to_owned()], 0)
                .await
                .expect("binds");
            tell.send(server.addresses()[0]).expect("heard");
            let end = async { drop(ended.await) };
            serve(server, config, engine, end).await.expect("serves");
        });
    });
    Running {
        client: Client::new(told.recv().expect("an address")),
        status,
        end: Some(end),
        thread: Some(thread),
    }
}

/// A server whose model is not loaded, and the commands it would get.
pub fn loading(config: ServerConfig, queue: usize) -> (Running, UnboundedReceiver<Command>) {
    let (engine, commands, status) = channel(queue);
    (serve_with(config, engine, status), commands)
}

/// Says that the model is loaded.
pub fn ready(status: &Status, n_slots: u32) {
    status.set_info(ModelInfo::of(model(), None, N_CTX, n_slots));
    status.set_state(EngineState::Ready);
}

/// What a played engine has heard.
pub type Heard = Arc<Mutex<Vec<Box<Generate>>>>;

/// A server whose every answer is this text, and what it was asked.
pub fn answering(config: ServerConfig, text: &str) -> (Running, Heard) {
    let (running, mut commands) = loading(config, 16);
    ready(&running.status, 4);
    let (status, text) = (Arc::clone(&running.status), text.to_owned());
    let heard = Heard::default();
    let list = Arc::clone(&heard);
    std::thread::spawn(move || {
        while let Some(command) = commands.blocking_recv() {
            match command {
                Command::Generate(request) => {
                    status.leave_queue();
                    // Locked while it plays: who has the answer finds the request in the list.
                    let mut list = list.lock().expect("a list");
                    play(&request, &text);
                    list.push(request);
                }
                Command::Embed(request) => {
                    status.leave_queue();
                    let n = model().sizes().n_embd as usize;
                    let vector = (0..n).map(|i| (i % 5) as f32).collect();
                    let _ = request.reply.send(Ok(vector));
                }
                Command::Slot(request) => {
                    let report = SlotReport {
                        n_tokens: 7,
                        n_bytes: 70,
                        time: Duration::from_millis(5),
                    };
                    let _ = request.reply.send(Ok(report));
                }
                Command::Shutdown => break,
            }
        }
    });
    (running, heard)
}

/// Answers one request as the engine would: token by token, all choices in turn.
fn play(request: &Generate, text: &str) {
    let tokenizer = model().tokenizer();
    let options = EncodeOptions {
        add_special: false,
        parse_special: true,
    };
    let tokens = tokenizer.encode(text, options);
    let say = |event| drop(request.events.send(event));
    let n_prompt = request.prompt.len();
    let n_cached = N_CACHED.min(n_prompt - 1);
    say(Event::Started { slot: 2, n_cached });
    if request.progress {
        for processed in [n_cached, n_prompt] {
            say(Event::Progress(PrefillProgress {
                total: n_prompt,
                cached: n_cached,
                processed,
                time: Duration::from_millis(3),
            }));
        }
    }
    let most = request.n_predict.map_or(usize::MAX, |n| n as usize);
    let cut = tokens.len() > most;
    let timings = |n| Timings {
        cache_n: n_cached,
        prompt_n: n_prompt - n_cached,
        prompt: Duration::from_millis(10),
        predicted_n: n,
        predicted: Duration::from_millis(n as u64),
        ..Timings::default()
    };
    let mut detokenizers: Vec<_> = (0..request.n)
        .map(|_| tokenizer.detokenizer(true))
        .collect();
    for (i, &token) in tokens.iter().take(most).enumerate() {
        for choice in 0..request.n {
            let top = (0..request.logprobs.unwrap_or(0)).map(|token| TokenLogProb {
                token,
                logprob: -2.0 - token as f32,
            });
            let logprobs = request.logprobs.map(|_| LogProbs {
                chosen: TokenLogProb {
                    token,
                    logprob: -0.5,
                },
                top: top.collect(),
            });
            say(Event::Token(Box::new(TokenEvent {
                choice,
                token,
                text: detokenizers[choice as usize].push(token),
                logprobs,
                timings: timings(i + 1),
            })));
        }
    }
    for choice in 0..request.n {
        say(Event::Finished(Box::new(Finished {
            choice,
            reason: if cut {
                StopReason::Limit
            } else {
                StopReason::Eos
            },
            text: detokenizers[choice as usize].finish(),
            seed: 42,
            slot: 2,
            timings: timings(tokens.len().min(most)),
        })));
    }
}
