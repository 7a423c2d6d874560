//! Events of the prompts of one request, as one sequence.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use tokio::sync::mpsc::UnboundedReceiver;

use crate::server::protocol::{Command, Event, Generate, RequestError};
use crate::server::worker::EngineHandle;

/// A prompt under way: its number, its events, and its choices that are not complete.
#[derive(Debug)]
struct Running {
    prompt: usize,
    events: UnboundedReceiver<Event>,
    open: u32,
}

/// Prompts of one request. At most as many run as there are slots, so that one request cannot fill the queue. Dropping
/// it cancels them all.
#[derive(Debug)]
pub struct Flow {
    engine: EngineHandle,
    waiting: VecDeque<(usize, Box<Generate>, UnboundedReceiver<Event>)>,
    running: Vec<Running>,
    most: usize,
    /// Where the next look begins, so that no prompt waits for another.
    turn: usize,
}

impl Flow {
    /// Sends the first prompts.
    ///
    /// # Errors
    /// The engine takes nothing now.
    pub fn start(
        engine: EngineHandle,
        prompts: Vec<(Box<Generate>, UnboundedReceiver<Event>)>,
        most: usize,
    ) -> Result<Self, RequestError> {
        let number = |(i, (generate, events))| (i, generate, events);
        let mut flow = Self {
            engine,
            waiting: prompts.into_iter().enumerate().map(number).collect(),
            running: Vec::new(),
            most: most.max(1),
            turn: 0,
        };
        flow.fill()?;
        Ok(flow)
    }

    fn fill(&mut self) -> Result<(), RequestError> {
        while self.running.len() < self.most {
            let Some((prompt, generate, events)) = self.waiting.pop_front() else {
                break;
            };
            let open = generate.n;
            self.engine.submit(Command::Generate(generate))?;
            self.running.push(Running {
                prompt,
                events,
                open,
            });
        }
        Ok(())
    }

    /// The next event and its prompt; `None` after the last one, and after a failure.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        let n = self.running.len();
        for step in 0..n {
            let i = (self.turn + step) % n;
            let running = &mut self.running[i];
            let Poll::Ready(event) = running.events.poll_recv(cx) else {
                continue;
            };
            let prompt = running.prompt;
            self.turn = i + 1;
            let event = event.unwrap_or_else(|| {
                Event::Failed(RequestError::Internal("the engine has ended".to_owned()))
            });
            return Poll::Ready(Some((prompt, self.account(i, event))));
        }
        match n {
            0 => Poll::Ready(None),
            _ => Poll::Pending,
        }
    }

    /// Takes note of what ends with an event.
    fn account(&mut self, i: usize, event: Event) -> Event {
        match &event {
            Event::Finished(_) => {
                self.running[i].open = self.running[i].open.saturating_sub(1);
                if self.running[i].open == 0 {
                    self.running.swap_remove(i);
                    if let Err(e) = self.fill() {
                        self.stop();
                        return Event::Failed(e);
                    }
                }
            }
            Event::Failed(_) => self.stop(),
            _ => {}
        }
        event
    }

    fn stop(&mut self) {
        self.running.clear();
        self.waiting.clear();
    }

    /// As [`Self::poll`].
    pub async fn next(&mut self) -> Option<(usize, Event)> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}
