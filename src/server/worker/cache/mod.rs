//! The prefix cache: states of sequences at some of their positions, and conversations that had to leave their slot.
//!
//! A recurrent state cannot be cut, so a prompt can only go on from a position whose state was kept. States are kept
//! with the slot whose rows they belong to; when a slot gets another conversation, rows and states move here together.
//! All bytes count towards one budget, and what was used longest ago goes first. Nothing passes between scopes.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::{Checkpoint, Memory, Rows};
use crate::server::protocol::Scope;

/// The state of a sequence at one position, with the logits there if they were computed.
#[derive(Debug)]
pub(super) struct State {
    pub checkpoint: Checkpoint,
    pub logits: Option<Vec<f32>>,
    used: AtomicU64,
}

impl State {
    pub fn new(checkpoint: Checkpoint, logits: Option<Vec<f32>>) -> Arc<Self> {
        Arc::new(Self {
            checkpoint,
            logits,
            used: AtomicU64::new(0),
        })
    }

    /// Tokens it has seen.
    pub fn n(&self) -> usize {
        self.checkpoint.n_past as usize
    }

    fn bytes(&self) -> u64 {
        let logits = self.logits.as_ref().map_or(0, |l| 4 * l.len());
        (self.checkpoint.state.len() + logits) as u64
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A conversation without a slot. Clones share rows and states.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub scope: Scope,
    pub tokens: Vec<u32>,
    pub rows: Arc<Rows>,
    /// Ascending by position.
    pub states: Vec<Arc<State>>,
    used: u64,
}

/// How a sequence gets to where a prompt can go on.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// From nothing.
    Nothing,
    /// It is there, or memory can go back.
    Rewind,
    /// By a kept state.
    State(Arc<State>),
}

/// The longest start of a prompt that a holder of tokens can give.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Tokens of the prompt that need no computing.
    pub n: usize,
    /// Tokens that prompt and holder have in common: above `n` where no state was kept.
    pub common: usize,
    pub way: Way,
}

/// A sequence whose tokens may be a prompt's start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder<'a> {
    pub tokens: &'a [u32],
    pub states: &'a [Arc<State>],
    /// Shortest length that memory can go back to without a kept state; `None` if its present state is not to be had.
    pub oldest: Option<usize>,
    /// Whether logits after its last token are known.
    pub has_logits: bool,
    /// Whether the model keeps recurrent state at all.
    pub recurrent: bool,
}

impl Holder<'_> {
    /// What it can give of a prompt. The last token is computed again unless its logits are known.
    pub fn find(&self, prompt: &[u32]) -> Found {
        let both = self.tokens.iter().zip(prompt);
        let common = both.take_while(|(a, b)| a == b).count();
        let whole = prompt.len();
        let most = common.min(whole.saturating_sub(1));
        let mut found = Found {
            n: 0,
            common,
            way: Way::Nothing,
        };
        if let Some(oldest) = self.oldest {
            let there = common == whole && self.tokens.len() == whole && self.has_logits;
            let n = if there { whole } else { most };
            if n > 0 && n >= oldest {
                found.n = n;
                found.way = Way::Rewind;
            }
        } else if !self.recurrent && most > 0 {
            let state = Vec::new();
            let n_past = most as u32;
            found.n = most;
            found.way = Way::State(State::new(Checkpoint { n_past, state }, None));
        }
        for state in self.states {
            let n = state.n();
            let fits = n <= most || (n == whole && n <= common && state.logits.is_some());
            if fits && n > found.n {
                found.n = n;
                found.way = Way::State(Arc::clone(state));
            }
        }
        found
    }
}

/// Conversations without a slot, and the budget for them and for the states of slots.
#[derive(Debug)]
pub(super) struct Cache {
    budget: u64,
    saved: Vec<Saved>,
    clock: u64,
}

impl Cache {
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            saved: Vec::new(),
            clock: 0,
        }
    }

    /// Most bytes.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Conversations without a slot.
    pub fn saved(&self) -> &[Saved] {
        &self.saved
    }

    /// A rising number: what has a higher one was used later.
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Takes note that a state was made or used.
    pub fn touch(&mut self, state: &State) {
        let now = self.tick();
        state.used.store(now, Ordering::Relaxed);
    }

    /// A saved conversation, which is used now.
    pub fn take_note(&mut self, index: usize) -> Option<Saved> {
        let now = self.tick();
        let saved = self.saved.get_mut(index)?;
        saved.used = now;
        Some(saved.clone())
    }

    /// Keeps a conversation. Those that are its start are now part of it.
    pub fn save(
        &mut self,
        scope: Scope,
        tokens: Vec<u32>,
        rows: Rows,
        mut states: Vec<Arc<State>>,
    ) {
        let is_start = |s: &Saved| s.scope == scope && tokens.starts_with(&s.tokens);
        for old in self.saved.iter().filter(|s| is_start(s)) {
            for state in &old.states {
                add_state(&mut states, Arc::clone(state));
            }
        }
        self.saved.retain(|s| !is_start(s));
        let used = self.tick();
        self.saved.push(Saved {
            scope,
            tokens,
            rows: Arc::new(rows),
            states,
            used,
        });
    }

    /// Bytes of all that is kept; `slots` are the states of all slots.
    pub fn bytes<'a>(&'a self, slots: impl Iterator<Item = &'a [Arc<State>]>) -> u64 {
        let saved = self.saved.iter().map(|s| s.states.as_slice());
        let mut seen = HashSet::new();
        let states: u64 = slots
            .chain(saved)
            .flatten()
            .filter(|s| seen.insert(Arc::as_ptr(s)))
            .map(|s| s.bytes())
            .sum();
        let rows = self.saved.iter().map(|s| s.rows.bytes().len() as u64);
        states + rows.sum::<u64>()
    }

    /// Drops what was used longest ago until the budget is kept; gives how often. A conversation without a slot is
    /// as long as its last state, and goes with it.
    pub fn enforce(&mut self, slots: &mut [&mut Vec<Arc<State>>], memory: &Memory) -> u64 {
        let mut dropped = 0;
        while self.bytes(slots.iter().map(|s| s.as_slice())) > self.budget {
            let states = slots.iter().flat_map(|s| s.iter());
            let saved = self.saved.iter().flat_map(|s| s.states.iter());
            let oldest = states.chain(saved).min_by_key(|s| s.used()).cloned();
            let stateless = (0..self.saved.len())
                .filter(|&i| self.saved[i].states.is_empty())
                .min_by_key(|&i| self.saved[i].used);
            match (oldest, stateless) {
                (Some(state), index) if index.is_none_or(|i| self.saved[i].used > state.used()) => {
                    self.forget(&state, slots, memory);
                }
                (_, Some(index)) => drop(self.saved.swap_remove(index)),
                (_, None) => break,
            }
            dropped += 1;
        }
        dropped
    }

    fn forget(&mut self, state: &Arc<State>, slots: &mut [&mut Vec<Arc<State>>], memory: &Memory) {
        for states in slots.iter_mut() {
            states.retain(|s| !Arc::ptr_eq(s, state));
        }
        self.saved.retain_mut(|saved| {
            let before = saved.states.len();
            saved.states.retain(|s| !Arc::ptr_eq(s, state));
            let n = saved.states.last().map_or(0, |s| s.n());
            if saved.states.len() < before && n < saved.tokens.len() {
                saved.tokens.truncate(n);
                saved.rows = Arc::new(memory.shorten_rows(&saved.rows, n as u32));
            }
            !saved.tokens.is_empty()
        });
    }
}

/// Adds a state to an ascending list. Of two for the same position the one with logits stays.
pub(super) fn add_state(states: &mut Vec<Arc<State>>, state: Arc<State>) {
    match states.binary_search_by_key(&state.n(), |s| s.n()) {
        Ok(i) if states[i].logits.is_none() => states[i] = state,
        Ok(_) => {}
        Err(i) => states.insert(i, state),
    }
}

/// At most this many boundaries of one prompt get a state each.
const MOST_BOUNDARIES: usize = 8;
/// In longer conversations the latest ones do, and others this far apart.
const LATEST: usize = 4;
const APART: usize = 1024;

/// Positions of a prompt where its state is kept, ascending: after those that are in memory and before the end.
pub(super) fn boundaries_to_keep(boundaries: &[usize], cached: usize, len: usize) -> Vec<usize> {
    let mut all: Vec<usize> = boundaries
        .iter()
        .copied()
        .filter(|&b| b > cached && b < len)
        .collect();
    all.sort_unstable();
    all.dedup();
    if all.len() <= MOST_BOUNDARIES {
        return all;
    }
    let latest = all.split_off(all.len() - LATEST);
    let mut kept: Vec<usize> = Vec::new();
    for boundary in all {
        if kept.last().is_none_or(|&last| boundary >= last + APART) {
            kept.push(boundary);
        }
    }
    kept.extend(latest);
    kept
}
