//! Commands about one slot: saving it to a file, bringing it back, and forgetting it.
//!
//! Files are read and written on threads of their own; nobody's tokens wait for a disk.

#![forbid(unsafe_code)]

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Instant;

use super::queue::no_slot;
use super::run::Worker;
use super::slot_file::{Fingerprint, Loaded, SlotFile, SlotFileError};
use crate::engine::Engine;
use crate::server::protocol::{RequestError, Scope, SlotAction, SlotCommand, SlotReport};

/// Slot commands on their way.
pub(super) struct Files {
    fingerprint: Fingerprint,
    waiting: Vec<SlotCommand>,
    reading: Vec<Reading>,
    writing: Vec<JoinHandle<()>>,
}

/// A file that is being read.
struct Reading {
    command: SlotCommand,
    start: Instant,
    thread: JoinHandle<Result<Loaded, SlotFileError>>,
}

impl Files {
    pub fn new(engine: &Engine) -> Self {
        Self {
            fingerprint: Fingerprint::of(engine),
            waiting: Vec::new(),
            reading: Vec::new(),
            writing: Vec::new(),
        }
    }

    pub fn add(&mut self, command: SlotCommand) {
        self.waiting.push(command);
    }

    /// Whether anything is to be done.
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.reading.is_empty()
    }

    /// Waits for files that are being written.
    pub fn wait(&mut self) {
        for thread in self.writing.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a slot file was not written");
            }
        }
    }
}

fn answer(command: SlotCommand, result: Result<SlotReport, RequestError>) {
    // Whoever does not listen any more needs no answer.
    let _ = command.reply.send(result);
}

impl Worker {
    /// Does what can be done about slots now. Commands wait until their slot is free.
    pub(super) fn slot_commands(&mut self) {
        self.files.writing.retain(|thread| !thread.is_finished());
        for command in std::mem::take(&mut self.files.waiting) {
            let slot = command.slot as usize;
            if slot >= self.slots.len() {
                let error = no_slot(command.slot, self.slots.len());
                answer(command, Err(error));
            } else if !self.slots[slot].is_idle() {
                if !command.reply.is_closed() {
                    self.files.waiting.push(command);
                }
            } else {
                self.slot_command(command);
            }
        }
        for reading in std::mem::take(&mut self.files.reading) {
            let free = self.slots[reading.command.slot as usize].is_idle();
            if !reading.thread.is_finished() || !free {
                self.files.reading.push(reading);
                continue;
            }
            let Reading {
                command,
                start,
                thread,
            } = reading;
            let result = match thread.join() {
                Ok(loaded) => self.restore(&command, loaded, start),
                Err(_) => Err(RequestError::Internal("reading the file failed".to_owned())),
            };
            answer(command, result);
        }
    }

    fn slot_command(&mut self, command: SlotCommand) {
        match &command.action {
            SlotAction::Erase => {
                let report = self.erase(command.slot as usize, command.scope);
                answer(command, Ok(report));
            }
            SlotAction::Save(path) => {
                let path = path.clone();
                match self.slot_file(command.slot as usize, command.scope) {
                    Ok(file) => self.write(command, file, &path),
                    Err(e) => answer(command, Err(e)),
                }
            }
            SlotAction::Restore(path) => {
                let (path, wanted) = (path.clone(), self.files.fingerprint.clone());
                let (scope, n_ctx) = (command.scope, self.engine.n_ctx());
                let thread =
                    std::thread::spawn(move || SlotFile::read(&path, &wanted, scope, n_ctx));
                self.files.reading.push(Reading {
                    command,
                    start: Instant::now(),
                    thread,
                });
            }
        }
    }

    /// Forgets what a slot holds. What belongs to another scope is not the asker's to forget.
    fn erase(&mut self, index: usize, scope: Scope) -> SlotReport {
        let slot = &self.slots[index];
        let start = Instant::now();
        let mut report = SlotReport::default();
        if slot.owner == Some(scope) {
            report.n_tokens = slot.n_past();
            self.forget_slot(index);
            self.keep_budget();
        }
        report.time = start.elapsed();
        report
    }

    /// The contents of a file for a slot: its tokens, rows and states, the present one among them.
    fn slot_file(&mut self, index: usize, scope: Scope) -> Result<SlotFile, RequestError> {
        let slot = &self.slots[index];
        if slot.owner != Some(scope) || slot.n_past() == 0 {
            return Err(RequestError::Invalid(format!(
                "slot {index} holds nothing that can be saved"
            )));
        }
        let internal = |e: crate::engine::EngineError| RequestError::Internal(e.to_string());
        let n = slot.n_past() as u32;
        let rows = self.engine.export_rows(slot.timeline.seq(), n);
        let rows = rows.map_err(internal)?;
        let present = self.present_state(index).map_err(internal)?;
        let slot = &self.slots[index];
        let mut states = slot.states.clone();
        states.retain(|s| s.n() < present.n());
        states.push(present);
        Ok(SlotFile {
            fingerprint: self.files.fingerprint.clone(),
            scope,
            tokens: slot.timeline.tokens().to_vec(),
            rows,
            states,
        })
    }

    fn write(&mut self, command: SlotCommand, file: SlotFile, path: &Path) {
        let path = path.to_owned();
        self.files.writing.push(std::thread::spawn(move || {
            let start = Instant::now();
            let written = file.write(&path);
            let report = written.map(|n_bytes| SlotReport {
                n_tokens: file.tokens.len(),
                n_bytes,
                time: start.elapsed(),
            });
            answer(command, report.map_err(|e| e.request_error()));
        }));
    }

    /// Whether what a file holds could have come from this model: its checksum says only that it is as it was written.
    fn check_file(&self, file: &SlotFile) -> Result<(), RequestError> {
        let invalid =
            |why: String| Err(RequestError::Invalid(format!("the file is damaged: {why}")));
        let n_vocab = self.engine.model().n_vocab();
        if let Some(token) = file.tokens.iter().find(|&&t| t >= n_vocab) {
            return invalid(format!(
                "token {token} is outside the vocabulary of {n_vocab}"
            ));
        }
        for state in &file.states {
            if let Err(e) = self.engine.memory().check_state(&state.checkpoint) {
                return invalid(e.to_string());
            }
            if let Some(n) = state.logits.as_ref().map(Vec::len)
                && n != n_vocab as usize
            {
                return invalid(format!("{n} logits for a vocabulary of {n_vocab}"));
            }
        }
        Ok(())
    }

    /// Puts what was read into a slot, whose conversation is kept where there is room.
    fn restore(
        &mut self,
        command: &SlotCommand,
        loaded: Result<Loaded, SlotFileError>,
        start: Instant,
    ) -> Result<SlotReport, RequestError> {
        let Loaded { file, n_bytes } = loaded.map_err(|e| e.request_error())?;
        self.check_file(&file)?;
        let index = command.slot as usize;
        let internal = |e: crate::engine::EngineError| RequestError::Internal(e.to_string());
        self.save_conversation(index).map_err(internal)?;
        let slot = &mut self.slots[index];
        slot.states.clear();
        slot.owner = None;
        let Some(last) = file.states.last() else {
            return Err(RequestError::Invalid("the file holds no state".to_owned()));
        };
        slot.timeline
            .import(
                &mut self.engine,
                &file.tokens,
                &file.rows,
                &last.checkpoint,
                last.logits.as_deref(),
            )
            .map_err(|e| RequestError::Invalid(e.to_string()))?;
        slot.owner = Some(file.scope);
        slot.used = self.cache.tick();
        for state in &file.states {
            self.cache.touch(state);
        }
        let n_tokens = file.tokens.len();
        if self.engine.memory().is_recurrent() && self.cache.budget() > 0 {
            self.slots[index].states = file.states;
        }
        self.keep_budget();
        Ok(SlotReport {
            n_tokens,
            n_bytes,
            time: start.elapsed(),
        })
    }
}
