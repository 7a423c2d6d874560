//! Planning one graph: which tokens go where, and the index inputs that say so.

use std::collections::HashSet;

use half::f16;

use super::{Memory, MemoryConfig, MemoryError, SeqId};

/// Above this many rows, steps are at least this large: a rebuilt graph costs less than it then saves in masked rows.
const LARGE_STEP: u32 = 256;
const LARGE_FROM: u32 = 512;

/// Tokens of one sequence for one step.
#[derive(Debug, Clone)]
pub struct Work<'a> {
    /// The sequence they continue.
    pub seq: SeqId,
    /// Tokens, at least one.
    pub tokens: &'a [u32],
    /// Which of the tokens should give logits (indices into `tokens`, ascending).
    pub outputs: Vec<u32>,
}

/// A token whose successor the MTP head should guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftWork {
    /// The sequence, whose tokens (and `ahead` guesses) come before.
    pub seq: SeqId,
    /// The token.
    pub token: u32,
    /// Tokens between the sequence's end and this one: 0 for the first guess, 1 for the one after it, ...
    pub ahead: u32,
}

/// Where the head's hidden state before a guess comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DraftFrom {
    /// The trunk, after the sequence's last token.
    Trunk,
    /// The head itself, after the guess before.
    Head,
}

/// What a step computes beside memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StepKind {
    /// Run the MTP head over the step's tokens, so that its rows are filled.
    pub mtp: bool,
    /// Give the MTP head's logits for the output rows too.
    pub mtp_logits: bool,
    /// Compute every token as a step of its own would, to the bit.
    pub exact: bool,
    /// Give the hidden states after the final norm instead of logits.
    pub hidden: bool,
    /// Run the MTP head alone, to guess.
    pub draft: Option<DraftFrom>,
    /// It then chooses among so many tokens, the first of the vocabulary; 0: among all.
    pub draft_vocab: u32,
}

/// Sequences with equally many tokens in a step, one after the other in token order.
#[derive(Debug, Clone)]
pub struct Group {
    /// Index of the group's first token in the step.
    pub first_token: u32,
    /// Tokens per sequence.
    pub n_tokens: u32,
    /// States kept after the step, newest first: at most `n_tokens`.
    pub n_snapshots: u32,
    /// The sequences, ascending.
    pub seqs: Vec<SeqId>,
    /// Pool index each sequence's state is read from.
    pub plane_in: Vec<i32>,
    /// Pool indices the kept states go to: all newest states, then all second newest, ...
    pub plane_out: Vec<i64>,
    /// Neighbouring slots, which attention can treat as one tensor.
    pub runs: Vec<Run>,
}

/// Neighbouring slots of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// Position in the group of the first sequence.
    pub first: u32,
    /// First slot.
    pub first_slot: u32,
    /// Slots.
    pub n_seqs: u32,
    /// Rows per slot that attention looks at (masked beyond each token's position).
    pub n_kv: u32,
}

/// Everything about a step that the shape of its graph depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topology {
    /// Per group: sequences, tokens, snapshots, runs.
    pub groups: Vec<(u32, u32, u32, Vec<Run>)>,
    /// Rows that give logits.
    pub n_outputs: u32,
    /// What is computed.
    pub kind: StepKind,
}

/// One step: tokens of many sequences for one graph.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Token ids in step order.
    pub tokens: Vec<i32>,
    /// Position of each token in its sequence.
    pub positions: Vec<i32>,
    /// Row each token's attention entry is written to.
    pub kv_rows: Vec<i64>,
    /// Tokens whose logits are wanted.
    pub outputs: Vec<i32>,
    /// Where each output belongs: index of the work item and of the token in it.
    pub output_owner: Vec<(usize, u32)>,
    /// Groups of equal shape.
    pub groups: Vec<Group>,
    /// What is computed.
    pub kind: StepKind,
}

impl Plan {
    /// Plans a step over `work`. Nothing changes until [`Memory::commit`].
    pub fn new(
        memory: &Memory,
        work: &[Work<'_>],
        kind: StepKind,
        n_vocab: u32,
    ) -> Result<Self, MemoryError> {
        check(memory, work, n_vocab)?;
        let mut order: Vec<usize> = (0..work.len()).collect();
        order.sort_by_key(|&i| (work[i].tokens.len(), work[i].seq));
        let mut plan = Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            kv_rows: Vec::new(),
            outputs: Vec::new(),
            output_owner: Vec::new(),
            groups: Vec::new(),
            kind,
        };
        for same in order.chunk_by(|&a, &b| work[a].tokens.len() == work[b].tokens.len()) {
            let first_token = plan.tokens.len() as u32;
            for &index in same {
                plan.push(memory, index, &work[index])?;
            }
            let n_tokens = work[same[0]].tokens.len() as u32;
            let seqs: Vec<SeqId> = same.iter().map(|&i| work[i].seq).collect();
            let mut ends = Vec::with_capacity(seqs.len());
            for &seq in &seqs {
                ends.push(memory.n_past(seq)? + n_tokens);
            }
            plan.groups
                .push(Group::new(memory, first_token, n_tokens, seqs, &ends)?);
        }
        Ok(plan)
    }

    /// Plans guesses of the MTP head. Planes then are: where the hidden states come from (the pool, or the slots'
    /// cells), and the cells the head's own states go to.
    pub fn draft(memory: &Memory, work: &[DraftWork], n_vocab: u32) -> Result<Self, MemoryError> {
        let from_trunk = work.iter().all(|w| w.ahead == 0);
        if !from_trunk && work.iter().any(|w| w.ahead == 0) {
            return Err(MemoryError::MixedDrafts);
        }
        let config = memory.config();
        let mut order: Vec<usize> = (0..work.len()).collect();
        order.sort_by_key(|&i| work[i].seq);
        let mut plan = Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            kv_rows: Vec::new(),
            outputs: Vec::new(),
            output_owner: Vec::new(),
            groups: Vec::new(),
            kind: StepKind {
                mtp_logits: true,
                draft: Some(if from_trunk {
                    DraftFrom::Trunk
                } else {
                    DraftFrom::Head
                }),
                ..StepKind::default()
            },
        };
        let (mut seqs, mut ends) = (Vec::new(), Vec::new());
        for (row, &index) in order.iter().enumerate() {
            let DraftWork { seq, token, ahead } = work[index];
            let n_past = memory.n_past(seq)?;
            if seqs.last() == Some(&seq) {
                return Err(MemoryError::DuplicateSequence { seq: seq.0 });
            }
            if token >= n_vocab {
                return Err(MemoryError::BadToken { token, n_vocab });
            }
            let position = n_past.saturating_add(ahead);
            if position >= config.n_ctx_seq {
                return Err(MemoryError::ContextFull {
                    n_past,
                    n_new: ahead.saturating_add(1),
                    n_ctx: config.n_ctx_seq,
                });
            }
            plan.tokens.push(token as i32);
            plan.positions.push(position as i32);
            let slot = i64::from(seq.0) * i64::from(config.rows_per_slot());
            plan.kv_rows.push(slot + i64::from(position));
            plan.outputs.push(row as i32);
            plan.output_owner.push((index, 0));
            seqs.push(seq);
            ends.push(position + 1);
        }
        let mut group = Group::new(memory, 0, 1, seqs, &ends)?;
        group.plane_out = group.seqs.iter().map(|s| i64::from(s.0)).collect();
        if !from_trunk {
            group.plane_in = group.seqs.iter().map(|s| s.0 as i32).collect();
        }
        plan.groups.push(group);
        Ok(plan)
    }

    /// The part of the plan that decides the graph.
    pub fn topology(&self) -> Topology {
        let groups = self
            .groups
            .iter()
            .map(|g| {
                (
                    g.seqs.len() as u32,
                    g.n_tokens,
                    g.n_snapshots,
                    g.runs.clone(),
                )
            })
            .collect();
        Topology {
            groups,
            n_outputs: self.outputs.len() as u32,
            kind: self.kind,
        }
    }

    /// Number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Causal mask of a run, F16 `{n_kv, n_tokens, 1, n_seqs}`: 0 where a token may look, minus infinity elsewhere.
    ///
    /// `first_row` hides the rows before it from every token but row 0's own: the MTP head has no entry for the
    /// first token of a sequence.
    pub fn mask(&self, group: &Group, run: &Run, first_row: u32, out: &mut Vec<f16>) {
        out.clear();
        out.reserve(run.n_kv as usize * group.n_tokens as usize * run.n_seqs as usize);
        for s in 0..run.n_seqs {
            for t in 0..group.n_tokens {
                let token = group.first_token + (run.first + s) * group.n_tokens + t;
                let position = self.positions[token as usize] as u32;
                let from = if position < first_row {
                    position
                } else {
                    first_row
                };
                let end = out.len() + run.n_kv as usize;
                out.extend(std::iter::repeat_n(f16::NEG_INFINITY, from as usize));
                out.extend(std::iter::repeat_n(
                    f16::ZERO,
                    (position + 1 - from) as usize,
                ));
                out.resize(end, f16::NEG_INFINITY);
            }
        }
    }

    /// For each token, the row of its predecessor's hidden state among: one carried row per sequence, then one row
    /// per token of the step.
    pub fn predecessors(&self) -> Vec<i32> {
        let n_seqs: u32 = self.groups.iter().map(|g| g.seqs.len() as u32).sum();
        let mut out = vec![0i32; self.n_tokens()];
        let mut seq = 0;
        for group in &self.groups {
            for s in 0..group.seqs.len() as u32 {
                let first = group.first_token + s * group.n_tokens;
                out[first as usize] = seq;
                for t in 1..group.n_tokens {
                    out[(first + t) as usize] = (n_seqs + first + t - 1) as i32;
                }
                seq += 1;
            }
        }
        out
    }

    /// For each kept snapshot, in the order of the groups' `plane_out`, the token whose state it is.
    pub fn snapshot_tokens(&self) -> Vec<i32> {
        let mut out = Vec::new();
        for group in &self.groups {
            for k in 0..group.n_snapshots {
                for s in 0..group.seqs.len() as u32 {
                    out.push((group.first_token + (s + 1) * group.n_tokens - 1 - k) as i32);
                }
            }
        }
        out
    }

    fn push(&mut self, memory: &Memory, index: usize, work: &Work<'_>) -> Result<(), MemoryError> {
        let n_past = memory.n_past(work.seq)?;
        let row = i64::from(work.seq.0) * i64::from(memory.config().rows_per_slot());
        let first = self.tokens.len() as u32;
        for (i, &token) in work.tokens.iter().enumerate() {
            let position = n_past + i as u32;
            self.tokens.push(token as i32);
            self.positions.push(position as i32);
            self.kv_rows.push(row + i64::from(position));
        }
        for &output in work
            .outputs
            .iter()
            .filter(|&&o| (o as usize) < work.tokens.len())
        {
            self.outputs.push((first + output) as i32);
            self.output_owner.push((index, output));
        }
        Ok(())
    }
}

impl Group {
    /// `ends` are the sequences' lengths after the step.
    fn new(
        memory: &Memory,
        first_token: u32,
        n_tokens: u32,
        seqs: Vec<SeqId>,
        ends: &[u32],
    ) -> Result<Self, MemoryError> {
        let config = memory.config();
        let n_snapshots = config.n_snapshots.min(n_tokens);
        let mut plane_in = Vec::with_capacity(seqs.len());
        for &seq in &seqs {
            plane_in.push(memory.plane_index(seq, memory.sequence(seq)?) as i32);
        }
        let plane_out = (0..n_snapshots)
            .flat_map(|k| seqs.iter().map(move |&s| i64::from(memory.own_plane(s, k))))
            .collect();
        let mut runs: Vec<Run> = Vec::new();
        for (i, (&seq, &end)) in seqs.iter().zip(ends).enumerate() {
            let n_kv = rows_in_sight(end, config);
            match runs.last_mut() {
                Some(run) if run.first_slot + run.n_seqs == seq.0 => {
                    run.n_seqs += 1;
                    run.n_kv = run.n_kv.max(n_kv);
                }
                _ => runs.push(Run {
                    first: i as u32,
                    first_slot: seq.0,
                    n_seqs: 1,
                    n_kv,
                }),
            }
        }
        Ok(Self {
            first_token,
            n_tokens,
            n_snapshots,
            seqs,
            plane_in,
            plane_out,
            runs,
        })
    }
}

fn check(memory: &Memory, work: &[Work<'_>], n_vocab: u32) -> Result<(), MemoryError> {
    let config = memory.config();
    let total: usize = work.iter().map(|w| w.tokens.len()).sum();
    if total > config.n_ubatch as usize || work.iter().any(|w| w.tokens.is_empty()) {
        return Err(MemoryError::StepTooLarge {
            n_tokens: total,
            n_ubatch: config.n_ubatch,
        });
    }
    let mut seen = HashSet::new();
    for w in work {
        let n_past = memory.n_past(w.seq)?;
        if !seen.insert(w.seq) {
            return Err(MemoryError::DuplicateSequence { seq: w.seq.0 });
        }
        if w.tokens.len() as u64 + u64::from(n_past) > u64::from(config.n_ctx_seq) {
            return Err(MemoryError::ContextFull {
                n_past,
                n_new: w.tokens.len() as u32,
                n_ctx: config.n_ctx_seq,
            });
        }
        if let Some(&token) = w.tokens.iter().find(|&&t| t >= n_vocab) {
            return Err(MemoryError::BadToken { token, n_vocab });
        }
    }
    Ok(())
}

/// Rounds a row count up to whole steps.
fn rows_in_sight(n: u32, config: &MemoryConfig) -> u32 {
    let step = if n <= LARGE_FROM {
        config.row_step
    } else {
        config.row_step.max(LARGE_STEP)
    };
    n.next_multiple_of(step.max(1)).min(config.rows_per_slot())
}
