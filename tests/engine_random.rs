//! Random sequences of everything an engine can do to its sequences, each result compared with a computation from
//! scratch, token by token, to the bit.

#[path = "common/demo.rs"]
mod demo;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use demo::{config, model};
use oxling::engine::{Engine, EngineConfig, EngineError};
use oxling::memory::{Checkpoint, DraftWork, MemoryError, SeqId, Work};
use oxling::model::Model;

const N_SEQ: u32 = 3;
const N_SNAPSHOTS: u32 = 3;
/// Sequences stay short, so that many operations fit into the time.
const MOST_TOKENS: usize = 24;
const TIME: Duration = Duration::from_secs(8);
/// Even a slow machine checks this many rows, or the test says nothing.
const FEWEST_CHECKS: usize = 200;

/// A generator that repeats (Steele and Vigna's SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// Logits after every start of a text, computed one token at a time in an engine of its own.
struct Reference {
    engine: Engine,
    known: HashMap<Vec<u32>, Vec<f32>>,
}

impl Reference {
    fn new(model: &Model) -> Self {
        let single = EngineConfig {
            mtp: false,
            n_snapshots: 1,
            ..config()
        };
        Self {
            engine: Engine::new(model, single).expect("engine"),
            known: HashMap::new(),
        }
    }

    fn after(&mut self, text: &[u32]) -> &[f32] {
        if !self.known.contains_key(text) {
            self.engine.clear(SeqId(0)).expect("clear");
            for n in 1..=text.len() {
                let work = Work {
                    seq: SeqId(0),
                    tokens: &text[n - 1..n],
                    outputs: vec![0],
                };
                let out = self.engine.step(&[work], false).expect("step");
                let row = out.logits(0, 0).expect("row").to_vec();
                self.known.insert(text[..n].to_vec(), row);
            }
        }
        &self.known[text]
    }
}

struct State {
    engine: Engine,
    texts: Vec<Vec<u32>>,
    checkpoints: Vec<Option<(Vec<u32>, Checkpoint)>>,
    /// Older states that each sequence should still have.
    older: Vec<usize>,
    /// Most tokens of a sequence in one step.
    longest: usize,
    dice: Dice,
    checks: usize,
    log: Vec<String>,
}

impl State {
    /// Few different tokens, so that texts share their starts with one another.
    fn token(&mut self) -> u32 {
        [17, 300, 2048, 905][self.dice.below(4)]
    }

    fn step(&mut self, reference: &mut Reference) {
        let mut work: Vec<(usize, Vec<u32>)> = Vec::new();
        for seq in 0..N_SEQ as usize {
            let room = MOST_TOKENS - self.texts[seq].len();
            let n = (1 + self.dice.below(self.longest)).min(room);
            if n > 0 && (self.dice.below(2) == 0 || (seq == 2 && work.is_empty())) {
                let tokens = (0..n).map(|_| self.token()).collect();
                work.push((seq, tokens));
            }
        }
        // In any order.
        if self.dice.below(2) == 0 {
            work.reverse();
        }
        let items: Vec<Work<'_>> = work
            .iter()
            .map(|(seq, tokens)| Work {
                seq: SeqId(*seq as u32),
                tokens,
                outputs: (0..tokens.len() as u32).collect(),
            })
            .collect();
        self.log.push(format!("step {work:?}"));
        let out = self.engine.step_exact(&items).expect("step");
        for (item, (seq, tokens)) in work.iter().enumerate() {
            self.older[*seq] = tokens.len().min(N_SNAPSHOTS as usize) - 1;
            for (t, &token) in tokens.iter().enumerate() {
                self.texts[*seq].push(token);
                let row = out.logits(item, t as u32).expect("row");
                assert!(
                    row == reference.after(&self.texts[*seq]),
                    "sequence {seq} after {:?}\n{}",
                    self.texts[*seq],
                    self.log.join("\n")
                );
                self.checks += 1;
            }
        }
    }

    fn truncate(&mut self, seq: usize) {
        let len = self.texts[seq].len();
        let to = len - self.dice.below(len.min(5) + 1);
        self.log.push(format!("truncate {seq} {to}"));
        let allowed = to == 0 || len - to <= self.older[seq];
        match self.engine.truncate(SeqId(seq as u32), to as u32) {
            Ok(()) => {
                assert!(allowed, "{}", self.log.join("\n"));
                self.texts[seq].truncate(to);
                self.older[seq] = if to == 0 {
                    0
                } else {
                    self.older[seq] - (len - to)
                };
            }
            Err(EngineError::Memory(MemoryError::CannotRewind { .. })) => {
                assert!(!allowed, "{}", self.log.join("\n"));
            }
            Err(e) => panic!("{e}"),
        }
    }

    fn copy(&mut self, from: usize) {
        let to = self.dice.below(N_SEQ as usize);
        self.log.push(format!("copy {from} {to}"));
        self.engine
            .copy(SeqId(from as u32), SeqId(to as u32))
            .expect("copy");
        if from != to {
            self.texts[to] = self.texts[from].clone();
            self.older[to] = 0;
            self.checkpoints[to] = None;
        }
    }

    fn checkpoint(&mut self, seq: usize) {
        self.log.push(format!("checkpoint {seq}"));
        let checkpoint = self.engine.checkpoint(SeqId(seq as u32)).expect("copy");
        self.checkpoints[seq] = Some((self.texts[seq].clone(), checkpoint));
    }

    fn restore(&mut self, seq: usize) {
        let Some((text, checkpoint)) = self.checkpoints[seq].clone() else {
            return;
        };
        // Only the past of the same text can come back: its rows must still be there.
        if !self.texts[seq].starts_with(&text) {
            return;
        }
        self.log.push(format!("restore {seq} {}", text.len()));
        self.engine
            .restore(SeqId(seq as u32), &checkpoint)
            .expect("restore");
        self.texts[seq] = text;
        self.older[seq] = 0;
    }

    fn clear(&mut self, seq: usize) {
        self.log.push(format!("clear {seq}"));
        self.engine.clear(SeqId(seq as u32)).expect("clear");
        self.texts[seq].clear();
        self.older[seq] = 0;
        self.checkpoints[seq] = None;
    }

    /// Guesses change nothing, whatever they are.
    fn draft(&mut self) {
        let n = 1 + self.dice.below(N_SEQ as usize);
        for ahead in 0..1 + self.dice.below(3) as u32 {
            let work: Vec<DraftWork> = (0..n)
                .map(|seq| DraftWork {
                    seq: SeqId(seq as u32),
                    token: self.token(),
                    ahead,
                })
                .collect();
            self.log.push(format!("draft {work:?}"));
            self.engine.draft(&work).expect("draft");
        }
    }

    fn act(&mut self, reference: &mut Reference) {
        let seq = self.dice.below(N_SEQ as usize);
        match self.dice.below(12) {
            0..=4 => self.step(reference),
            5 | 6 => self.truncate(seq),
            7 => self.copy(seq),
            8 => self.checkpoint(seq),
            9 => self.restore(seq),
            10 => self.draft(),
            _ if self.texts[seq].len() > MOST_TOKENS / 2 => self.clear(seq),
            _ => self.draft(),
        }
    }
}

#[test]
fn any_order_of_operations_gives_the_numbers_of_a_fresh_start() {
    let model = model();
    let mut reference = Reference::new(&model);
    let (start, mut checks) = (Instant::now(), 0);
    for seed in 0.. {
        if start.elapsed() > TIME && checks > FEWEST_CHECKS {
            break;
        }
        // Some steps need several graphs; then only items with states to go back to stay in one.
        let (n_ubatch, longest) = [(16, 5), (8, N_SNAPSHOTS as usize)][seed / 2 % 2];
        let wide = EngineConfig {
            n_seq: N_SEQ,
            n_snapshots: N_SNAPSHOTS,
            n_ctx: 64,
            n_ubatch,
            ..config()
        };
        let engine = Engine::new(&model, wide).expect("engine");
        engine
            .memory()
            .poison([0x3e, 0xff][seed % 2])
            .expect("poison");
        let mut state = State {
            engine,
            texts: vec![Vec::new(); N_SEQ as usize],
            checkpoints: vec![None; N_SEQ as usize],
            older: vec![0; N_SEQ as usize],
            longest,
            dice: Dice(seed as u64),
            checks: 0,
            log: Vec::new(),
        };
        for _ in 0..60 {
            state.act(&mut reference);
        }
        checks += state.checks;
    }
    println!("{checks} rows compared");
}
