//! Where a prompt goes: the slot it gets, and the start of it that needs no computing.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::cache::{Found, Holder, Saved, State, Way, add_state};
use super::run::Worker;
use crate::engine::EngineError;
use crate::memory::Checkpoint;
use crate::server::protocol::{Generate, Scope};

/// Losing more tokens than this, or than this share of a conversation, is worth a copy of it.
const FEW_TOKENS: usize = 256;
const FEW_SHARE: usize = 4;

/// Who has a prompt's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Nobody,
    Slot(usize),
    Saved(usize),
}

/// A slot for a prompt, and what it starts with.
#[derive(Debug)]
pub(super) struct Place {
    pub target: usize,
    pub source: Source,
    pub found: Found,
}

impl Worker {
    /// The slot a request gets now, if one is free.
    pub(super) fn place(&self, request: &Generate) -> Option<Place> {
        let idle = |i: &usize| self.slots[*i].is_idle();
        let asked = request.slot.map(|slot| slot as usize);
        if asked.is_some_and(|slot| !idle(&slot)) || !(0..self.slots.len()).any(|i| idle(&i)) {
            return None;
        }
        let (mut source, mut found) = (Source::Nobody, self.nothing());
        if request.cache_prompt {
            (source, found) = self.longest_start(request, asked);
        }
        let target = match (asked, source) {
            (Some(slot), _) => slot,
            (None, Source::Slot(i)) if idle(&i) && !self.loses_much(i, found.n) => i,
            (None, Source::Slot(i)) if idle(&i) => self.empty_slot().unwrap_or(i),
            _ => self.empty_slot().or_else(|| self.oldest_idle_slot())?,
        };
        Some(Place {
            target,
            source,
            found,
        })
    }

    fn nothing(&self) -> Found {
        Found {
            n: 0,
            common: 0,
            way: Way::Nothing,
        }
    }

    /// The longest start that a slot or a saved conversation of the same scope has.
    fn longest_start(&self, request: &Generate, asked: Option<usize>) -> (Source, Found) {
        let mut best = (Source::Nobody, self.nothing());
        let mut consider = |source, holder: Holder<'_>, preferred: bool| {
            let found = holder.find(&request.prompt);
            let common = found.common.max(best.1.common);
            if found.n > best.1.n || (preferred && found.n == best.1.n && found.n > 0) {
                best = (source, found);
            }
            best.1.common = common;
        };
        for (i, slot) in self.slots.iter().enumerate() {
            if slot.owner == Some(request.scope) {
                let preferred = asked == Some(i) || (asked.is_none() && slot.is_idle());
                consider(Source::Slot(i), slot.holder(&self.engine), preferred);
            }
        }
        for (i, saved) in self.cache.saved().iter().enumerate() {
            if saved.scope == request.scope {
                let holder = Holder {
                    tokens: &saved.tokens,
                    states: &saved.states,
                    oldest: None,
                    has_logits: false,
                    recurrent: self.engine.memory().is_recurrent(),
                };
                consider(Source::Saved(i), holder, false);
            }
        }
        best
    }

    /// Whether a slot would lose more than a little by going back to `n` tokens.
    fn loses_much(&self, slot: usize, n: usize) -> bool {
        let all = self.slots[slot].n_past();
        let lost = all.saturating_sub(n);
        lost > FEW_TOKENS || lost * FEW_SHARE > all
    }

    pub(super) fn empty_slot(&self) -> Option<usize> {
        (0..self.slots.len()).find(|&i| self.slots[i].is_idle() && self.slots[i].n_past() == 0)
    }

    pub(super) fn oldest_idle_slot(&self) -> Option<usize> {
        (0..self.slots.len())
            .filter(|&i| self.slots[i].is_idle())
            .min_by_key(|&i| self.slots[i].used)
    }

    /// Gives a slot to a scope with the start that was found; gives the tokens it holds then.
    ///
    /// # Errors
    /// The slot is empty then.
    pub(super) fn occupy(&mut self, place: &Place, scope: Scope) -> Result<usize, EngineError> {
        let Place {
            target,
            source,
            ref found,
        } = *place;
        let in_place = source == Source::Slot(target);
        let kept = if in_place { found.n } else { 0 };
        // Saving the slot's own conversation may move or drop others.
        let saved = match source {
            Source::Saved(i) => self.cache.take_note(i),
            _ => None,
        };
        if self.loses_much(target, kept) {
            self.save_conversation(target)?;
        }
        let n = self.bring(place, saved)?;
        let slot = &mut self.slots[target];
        slot.owner = Some(scope);
        slot.used = self.cache.tick();
        if let Way::State(state) = &found.way {
            self.cache.touch(state);
        }
        Ok(n)
    }

    fn bring(&mut self, place: &Place, saved: Option<Saved>) -> Result<usize, EngineError> {
        let (target, found) = (place.target, &place.found);
        let n = found.n;
        let done = match (place.source, &found.way) {
            (Source::Nobody, _) | (_, Way::Nothing) => self.slots[target].clear(&mut self.engine),
            (Source::Slot(i), Way::Rewind) if i == target => {
                let slot = &mut self.slots[target];
                slot.timeline.truncate(&mut self.engine, n)
            }
            (Source::Slot(i), Way::State(state)) if i == target => {
                let (logits, slot) = (state.logits.as_deref(), &mut self.slots[target]);
                slot.timeline
                    .restore(&mut self.engine, None, &state.checkpoint, logits)
            }
            (Source::Slot(i), way) => self.copy_start(i, target, n, way),
            (Source::Saved(_), way) => {
                let slot = &mut self.slots[target];
                match (saved, way) {
                    (Some(saved), Way::State(state)) => {
                        let (checkpoint, logits) = (&state.checkpoint, state.logits.as_deref());
                        slot.states = saved.states;
                        let (tokens, rows) = (&saved.tokens, &saved.rows);
                        slot.timeline
                            .import(&mut self.engine, tokens, rows, checkpoint, logits)
                    }
                    _ => slot.clear(&mut self.engine),
                }
            }
        };
        let slot = &mut self.slots[target];
        if let Err(e) = done {
            slot.clear(&mut self.engine)?;
            return Err(e);
        }
        let n = slot.n_past();
        slot.states.retain(|s| s.n() <= n);
        Ok(n)
    }

    /// Copies the first `n` tokens of a slot into another one.
    fn copy_start(
        &mut self,
        from: usize,
        to: usize,
        n: usize,
        way: &Way,
    ) -> Result<(), EngineError> {
        let state = match way {
            Way::State(state) => Arc::clone(state),
            _ => {
                let slot = &mut self.slots[from];
                // A few tokens at most: those that memory can take back.
                slot.timeline.truncate(&mut self.engine, n)?;
                let checkpoint = self.engine.checkpoint(slot.timeline.seq())?;
                State::new(checkpoint, slot.timeline.logits().map(<[f32]>::to_vec))
            }
        };
        let Some((source, target)) = two(&mut self.slots, from, to) else {
            return Ok(());
        };
        target.states = source.states.clone();
        target.timeline.restore(
            &mut self.engine,
            Some(&source.timeline),
            &state.checkpoint,
            state.logits.as_deref(),
        )
    }

    /// Keeps a slot's conversation for later, if there is room for it: rows, states, and the state it is in.
    pub(super) fn save_conversation(&mut self, index: usize) -> Result<(), EngineError> {
        let slot = &self.slots[index];
        let (Some(scope), memory) = (slot.owner, self.engine.memory()) else {
            return Ok(());
        };
        let n = slot.n_past();
        let bytes = n * memory.row_bytes() + memory.state_bytes();
        if n == 0 || bytes as u64 > self.cache.budget() {
            return Ok(());
        }
        let seq = slot.timeline.seq();
        let rows = self.engine.export_rows(seq, n as u32)?;
        let mut states = slot.states.clone();
        if memory.is_recurrent() {
            let checkpoint = self.engine.checkpoint(seq)?;
            let logits = slot.timeline.logits().map(<[f32]>::to_vec);
            let state = State::new(checkpoint, logits);
            self.cache.touch(&state);
            add_state(&mut states, state);
        }
        let tokens = slot.timeline.tokens().to_vec();
        self.cache.save(scope, tokens, rows, states);
        self.keep_budget();
        Ok(())
    }

    /// Keeps the state a slot is in, at the end of a message say.
    pub(super) fn keep_state(&mut self, index: usize) -> Result<(), EngineError> {
        let memory = self.engine.memory();
        let bytes = memory.state_bytes() as u64;
        if bytes == 0 || bytes > self.cache.budget() {
            return Ok(());
        }
        let state = self.present_state(index)?;
        self.cache.touch(&state);
        add_state(&mut self.slots[index].states, state);
        self.keep_budget();
        Ok(())
    }

    /// The state a slot is in, with its logits.
    pub(super) fn present_state(&self, index: usize) -> Result<Arc<State>, EngineError> {
        let timeline = &self.slots[index].timeline;
        let checkpoint = if self.engine.memory().is_recurrent() {
            self.engine.checkpoint(timeline.seq())?
        } else {
            Checkpoint {
                n_past: timeline.tokens().len() as u32,
                state: Vec::new(),
            }
        };
        Ok(State::new(
            checkpoint,
            timeline.logits().map(<[f32]>::to_vec),
        ))
    }

    /// Drops what is over the budget.
    pub(super) fn keep_budget(&mut self) {
        let mut states: Vec<_> = self.slots.iter_mut().map(|s| &mut s.states).collect();
        let dropped = self.cache.enforce(&mut states, self.engine.memory());
        let metrics = self.status.metrics();
        metrics.cache_evictions.inc_by(dropped);
        let slots = self.slots.iter().map(|s| s.states.as_slice());
        metrics.cache_bytes.set(self.cache.bytes(slots) as i64);
        metrics.cache_entries.set(self.cache.saved().len() as i64);
    }
}

/// Two different elements.
pub(super) fn two<T>(all: &mut [T], a: usize, b: usize) -> Option<(&mut T, &mut T)> {
    let [x, y] = all.get_disjoint_mut([a, b]).ok()?;
    Some((x, y))
}
