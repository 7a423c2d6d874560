//! The engine: steps over many sequences, one graph each, and timelines on top of them.
//!
//! An [`Engine`] owns the memory of all sequences of one model and computes [`Work`] for any of them together. A
//! [`Timeline`] is one sequence as its user sees it: a list of tokens that is extended, cut and continued. Neither the
//! command line nor a server ever sees a tensor.

#![forbid(unsafe_code)]

mod cut;
mod exact;
mod graphs;
mod prefix;
pub mod sampling;
pub mod speculation;
mod stop;
mod timeline;
mod vocab;

use std::time::{Duration, Instant};

pub use stop::StopFilter;
pub use timeline::{Finish, GenerateOptions, Generation, Prefill, Timeline};
pub use vocab::vocab_of;

use crate::ggml::{
    DType, Device, GgmlError, Graph, GraphError, Observer, Profile, Scheduler, attends,
};
use crate::memory::{
    Checkpoint, DraftWork, Memory, MemoryConfig, MemoryError, Plan, RowSpec, SeqId, StepKind,
    Topology, Work,
};
use crate::model::step::{Kernels, Step, supports_flash};
use crate::model::{AttentionKernel, Model};
use cut::{Part, cut};
use graphs::{Compiled, Graphs};
use speculation::Costs;

/// Room for a block's tensors in a graph: results, views and weights, and more for every attention window.
const TENSORS_PER_BLOCK: usize = 160;
const TENSORS_PER_WINDOW: usize = 40;
const TENSORS_BESIDE_BLOCKS: usize = 1024;

/// Steps in which attention sees more rows. A large one lets a graph serve longer and sequences share one; fused kernels of
/// GPUs ask for it, and our own skips what is hidden. ggml's on the CPU computes that too.
const LARGE_ROW_STEP: u32 = 256;
const SMALL_ROW_STEP: u32 = 64;

/// How attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlashAttention {
    /// A fused kernel: our own where it can, otherwise ggml's.
    On,
    /// Matrix products.
    Off,
    /// Our own kernel where it can, otherwise whatever suits the devices.
    #[default]
    Auto,
}

/// Sizes and threads of an [`Engine`].
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Tokens per sequence; 0 means the context length of training.
    pub n_ctx: u32,
    /// Sequences.
    pub n_seq: u32,
    /// Largest number of tokens of one call to [`Engine::step`] between two looks at cancellation.
    pub n_batch: u32,
    /// Largest number of tokens in one graph.
    pub n_ubatch: u32,
    /// Threads for steps of one token per sequence.
    pub n_threads: usize,
    /// Threads for larger steps.
    pub n_threads_batch: usize,
    /// Element type of attention rows.
    pub row_type: DType,
    /// Attention kernel.
    pub flash_attention: FlashAttention,
    /// Recurrent states kept per sequence: 1, plus one per token that may be rolled back without recomputing.
    pub n_snapshots: u32,
    /// Run the MTP head with every step, so that its rows are filled.
    pub mtp: bool,
    /// Tokens the MTP head chooses among when it guesses, the first of the vocabulary; 0: all. Vocabularies begin with
    /// the frequent ones, and a guess then reads less of the output matrix.
    pub draft_vocab: u32,
    /// Let our own kernels compute the products they can, instead of ggml's.
    pub own_kernels: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            n_ctx: 0,
            n_seq: 1,
            n_batch: 2048,
            n_ubatch: 512,
            n_threads,
            n_threads_batch: n_threads,
            row_type: DType::F16,
            flash_attention: FlashAttention::Auto,
            n_snapshots: 1,
            mtp: false,
            draft_vocab: 0,
            own_kernels: true,
        }
    }
}

/// What can go wrong while computing.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Sequence memory: full, unknown sequence, and so on.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Devices and computations.
    #[error(transparent)]
    Ggml(#[from] GgmlError),
    /// The MTP head was asked for.
    #[error("the model has no MTP head")]
    NoMtp,
    /// Sampling failed.
    #[error(transparent)]
    Sampling(#[from] sampling::SamplingError),
    /// A configuration that cannot work.
    #[error("{what}: expected {expected}, found {found}")]
    Config {
        /// The setting.
        what: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What was given.
        found: u64,
    },
    /// Quantised attention rows without the kernel that reads them.
    #[error(
        "attention rows of type {row_type} can only be read by the fused kernel, which is switched off"
    )]
    NeedsFlash {
        /// The type asked for.
        row_type: DType,
    },
    /// Nothing to continue from.
    #[error("the sequence is empty: there is nothing to continue")]
    Empty,
}

impl EngineError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Memory(e) => e.hint(),
            Self::Ggml(e) => e.hint(),
            Self::Sampling(e) => e.hint(),
            Self::NeedsFlash { .. } => Some("leave out -fa off, or use -ctk f16".into()),
            _ => None,
        }
    }
}

impl From<GraphError> for EngineError {
    fn from(e: GraphError) -> Self {
        Self::Ggml(e.into())
    }
}

/// Logits of a step, one row of `n_vocab` per output token.
#[derive(Debug, Default)]
pub struct StepOutput {
    n_vocab: usize,
    rows: Vec<(usize, u32)>,
    logits: Vec<f32>,
    mtp_logits: Vec<f32>,
    hidden: Vec<f32>,
}

impl StepOutput {
    /// Logits after token `token` of work item `item`.
    pub fn logits(&self, item: usize, token: u32) -> Option<&[f32]> {
        self.row(&self.logits, item, token)
    }

    /// The MTP head's logits at that token.
    pub fn mtp_logits(&self, item: usize, token: u32) -> Option<&[f32]> {
        self.row(&self.mtp_logits, item, token)
    }

    fn row<'a>(&self, all: &'a [f32], item: usize, token: u32) -> Option<&'a [f32]> {
        let index = self.rows.iter().position(|&r| r == (item, token))?;
        all.get(index * self.n_vocab..(index + 1) * self.n_vocab)
    }
}

/// Where time went, since the engine was made or [`Engine::take_stats`] was called.
#[derive(Debug, Clone, Copy, Default)]
pub struct EngineStats {
    /// Graphs computed.
    pub graphs: u64,
    /// Graphs built (the others were reused).
    pub graphs_built: u64,
    /// Time to build and allocate graphs.
    pub build: Duration,
    /// Time to compute them, uploads included.
    pub compute: Duration,
}

/// Computes steps of one model over many sequences.
pub struct Engine {
    model: Model,
    config: EngineConfig,
    kernel: KernelRule,
    /// Types of weights that [`Engine::step_exact`] multiplies column by column, once it is known.
    by_column: Option<Vec<DType>>,
    graphs: Graphs,
    memory: Memory,
    stats: EngineStats,
    costs: Costs,
}

impl Engine {
    /// Allocates memory for the configured sequences.
    pub fn new(model: &Model, config: EngineConfig) -> Result<Self, EngineError> {
        let config = checked(model, config)?;
        let kernel = attention_kernel(model, &config)?;
        let memory = Memory::new(model.memory_spec(), memory_config(model, &config))?;
        let capacity = capacity(model, config.n_seq as usize);
        let sched = Scheduler::new(model.devices(), capacity)?;
        Ok(Self {
            model: model.clone(),
            config,
            kernel,
            by_column: None,
            graphs: Graphs::new(sched),
            memory,
            stats: EngineStats::default(),
            costs: Costs::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The configuration, with defaults filled in.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Tokens that fit into one sequence.
    pub fn n_ctx(&self) -> u32 {
        self.config.n_ctx
    }

    /// Tokens in a sequence.
    pub fn n_past(&self, seq: SeqId) -> Result<u32, EngineError> {
        Ok(self.memory.n_past(seq)?)
    }

    /// Forgets a sequence.
    pub fn clear(&mut self, seq: SeqId) -> Result<(), EngineError> {
        Ok(self.memory.clear(seq)?)
    }

    /// Shortens a sequence without computing; see [`Memory::truncate`].
    pub fn truncate(&mut self, seq: SeqId, to: u32) -> Result<(), EngineError> {
        Ok(self.memory.truncate(seq, to)?)
    }

    /// Makes `to` a copy of `from`.
    pub fn copy(&mut self, from: SeqId, to: SeqId) -> Result<(), EngineError> {
        Ok(self.memory.copy(from, to)?)
    }

    /// Copies a sequence's recurrent state out.
    pub fn checkpoint(&self, seq: SeqId) -> Result<Checkpoint, EngineError> {
        Ok(self.memory.checkpoint(seq)?)
    }

    /// Puts a sequence back to a checkpoint of its own past.
    pub fn restore(&mut self, seq: SeqId, checkpoint: &Checkpoint) -> Result<(), EngineError> {
        Ok(self.memory.restore(seq, checkpoint)?)
    }

    /// Sequence memory, for tests of roll-back.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Times of small steps so far: what guesses cost.
    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// Counters since the last call.
    pub fn take_stats(&mut self) -> EngineStats {
        std::mem::take(&mut self.stats)
    }

    /// Bytes of sequence memory, and of intermediate results so far.
    pub fn memory_bytes(&self) -> (u64, u64) {
        (
            self.memory.store().buffer_bytes(),
            self.graphs.compute_bytes(),
        )
    }

    /// Lets worker threads sleep until the next step. They spin for a while after each, which steals time from other
    /// engines that compute then.
    pub fn rest(&mut self) {
        self.graphs.rest();
    }

    /// Times every operation of later steps until switched off.
    pub fn set_profiling(&mut self, on: bool) {
        self.graphs.set_profiling(on);
    }

    /// Shows the matrix products of later steps to an observer, until it is taken away or profiling is switched on.
    pub fn set_observer(&mut self, observer: Option<Observer>) {
        self.graphs.set_observer(observer);
    }

    /// Operations timed since the last call.
    pub fn take_profile(&mut self) -> Profile {
        self.graphs.take_profile()
    }

    /// Appends tokens to sequences and gives the logits that were asked for. Work beyond `n_ubatch` tokens is cut into
    /// several graphs; sequences share each graph's weight reads.
    ///
    /// # Errors
    /// Work that cannot fit is refused before anything changes. If computing itself fails, the sequences of that graph
    /// are empty afterwards, since their states may be torn.
    pub fn step(&mut self, work: &[Work<'_>], mtp_logits: bool) -> Result<StepOutput, EngineError> {
        let has_mtp = self.model.network().has_mtp();
        if mtp_logits && !(has_mtp && self.config.mtp) {
            return Err(EngineError::NoMtp);
        }
        self.run(work, mtp_logits, false)
    }

    /// As [`Engine::step`], but each token gets the numbers it would get in a step of its own, where the devices allow
    /// it: kernels for several columns round otherwise than kernels for one. Meant for few tokens; weights are read
    /// once, but prompts would take long.
    ///
    /// This holds on CPUs without ggml's fused attention kernel; elsewhere it is a plain step.
    pub fn step_exact(&mut self, work: &[Work<'_>]) -> Result<StepOutput, EngineError> {
        let exact = !self.model.devices().iter().any(Device::is_gpu);
        if exact && self.by_column.is_none() {
            self.by_column = Some(exact::by_column(&self.model, &mut self.graphs.aside()?)?);
        }
        let (start, before) = (Instant::now(), self.stats);
        let output = self.run(work, false, exact)?;
        // A new graph runs slower the first time and says nothing about the next.
        if self.stats.graphs_built == before.graphs_built {
            let columns = work.iter().map(|w| w.tokens.len()).sum();
            self.costs.add_step(columns, start.elapsed().as_secs_f64());
        }
        Ok(output)
    }

    /// Lets the MTP head guess the token after `token` for some sequences, which stay as they are: the head's rows
    /// beyond a sequence's end are its scratch. The guesses' logits are [`StepOutput::mtp_logits`] of token 0.
    ///
    /// The first guess (`ahead` 0) starts from the trunk's state after the sequence's last token, the next ones from
    /// the head's own after the guess before. One call does only one of the two.
    ///
    /// # Errors
    /// Work that does not fit, or no head.
    pub fn draft(&mut self, work: &[DraftWork]) -> Result<StepOutput, EngineError> {
        if !(self.model.network().has_mtp() && self.config.mtp) {
            return Err(EngineError::NoMtp);
        }
        let (start, before) = (Instant::now(), self.stats);
        let mut output = self.new_output();
        for part in work.chunks(self.config.n_ubatch as usize) {
            let mut plan = Plan::draft(&self.memory, part, self.model.n_vocab())?;
            plan.kind.draft_vocab = self.config.draft_vocab;
            let first = output.rows.len();
            let owners: Vec<Part> = (0..part.len())
                .map(|item| Part {
                    item: first + item,
                    start: 0,
                    len: 1,
                })
                .collect();
            self.compute(&plan, &mut output, &owners)?;
        }
        if self.stats.graphs_built == before.graphs_built {
            let seconds = start.elapsed().as_secs_f64();
            self.costs.add_draft(work.len(), seconds);
        }
        Ok(output)
    }

    fn new_output(&self) -> StepOutput {
        StepOutput {
            n_vocab: self.model.n_vocab() as usize,
            ..StepOutput::default()
        }
    }

    fn run(
        &mut self,
        work: &[Work<'_>],
        mtp_logits: bool,
        exact: bool,
    ) -> Result<StepOutput, EngineError> {
        self.check_work(work)?;
        let kind = StepKind {
            mtp: self.model.network().has_mtp() && self.config.mtp,
            mtp_logits,
            exact,
            ..StepKind::default()
        };
        self.run_kind(work, kind)
    }

    /// Appends tokens to a sequence and gives the hidden states after the final norm, `n_embd` for each token, in
    /// order. The MTP head does not run, so the sequence must not be continued with guesses: it is meant to be cleared.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn hidden(&mut self, seq: SeqId, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        let work = [Work {
            seq,
            tokens,
            outputs: (0..tokens.len() as u32).collect(),
        }];
        self.check_work(&work)?;
        let kind = StepKind {
            hidden: true,
            ..StepKind::default()
        };
        Ok(self.run_kind(&work, kind)?.hidden)
    }

    fn run_kind(&mut self, work: &[Work<'_>], kind: StepKind) -> Result<StepOutput, EngineError> {
        let mut output = self.new_output();
        for part in cut(work, self.config.n_ubatch, self.config.n_snapshots) {
            let items: Vec<Work<'_>> = part.iter().map(|p| p.work(work)).collect();
            let plan = Plan::new(&self.memory, &items, kind, self.model.n_vocab())?;
            if let Err(e) = self.compute(&plan, &mut output, &part) {
                // Some layers may have moved on and others not: such a state must not be continued.
                for seq in plan.groups.iter().flat_map(|g| &g.seqs) {
                    self.memory.clear(*seq)?;
                }
                return Err(e);
            }
            self.memory.commit(&plan);
        }
        Ok(output)
    }

    /// What no graph should ever see, found before the first one is computed.
    fn check_work(&self, work: &[Work<'_>]) -> Result<(), EngineError> {
        for (i, item) in work.iter().enumerate() {
            if work[..i].iter().any(|w| w.seq == item.seq) {
                return Err(MemoryError::DuplicateSequence { seq: item.seq.0 }.into());
            }
            let n_past = self.memory.n_past(item.seq)?;
            if u64::from(n_past) + item.tokens.len() as u64 > u64::from(self.config.n_ctx) {
                let n_new = u32::try_from(item.tokens.len()).unwrap_or(u32::MAX);
                return Err(MemoryError::ContextFull {
                    n_past,
                    n_new,
                    n_ctx: self.config.n_ctx,
                }
                .into());
            }
            let n_vocab = self.model.n_vocab();
            if let Some(&token) = item.tokens.iter().find(|&&t| t >= n_vocab) {
                return Err(MemoryError::BadToken { token, n_vocab }.into());
            }
            if let Some(&output) = item
                .outputs
                .iter()
                .find(|&&o| o as usize >= item.tokens.len())
            {
                let found = u64::from(output);
                return Err(EngineError::Config {
                    what: "output row",
                    expected: "an index into the step's tokens",
                    found,
                });
            }
        }
        Ok(())
    }

    fn compute(
        &mut self,
        plan: &Plan,
        output: &mut StepOutput,
        parts: &[Part],
    ) -> Result<(), EngineError> {
        let topology = plan.topology();
        let n_seqs = plan.groups.iter().map(|g| g.seqs.len()).sum::<usize>();
        // Few columns are bound by the reading of weights, as one is.
        let decoding = plan.kind.exact || plan.n_tokens() == n_seqs;
        let start = Instant::now();
        // Observers are told of ggml's products only.
        let own = self.config.own_kernels && !self.graphs.is_observed();
        let kernels = Kernels {
            attention: self.kernel.of_step(plan),
            own_attention: own && self.config.flash_attention != FlashAttention::Off,
            own,
            by_column: self.by_column.as_deref().unwrap_or_default(),
        };
        let compile = || compile(&self.model, &self.memory, kernels, plan, &topology);
        let (sched, compiled, built) = self.graphs.get(&topology, decoding, compile)?;
        if built {
            self.stats.graphs_built += 1;
            self.stats.build += start.elapsed();
        }
        let start = Instant::now();
        sched.set_n_threads(if decoding {
            self.config.n_threads
        } else {
            self.config.n_threads_batch
        });
        compiled.inputs.upload(sched, &compiled.graph, plan)?;
        sched.compute(&compiled.graph)?;
        let n_embd = self.model.sizes().n_embd as usize;
        // A draft may leave out the end of the vocabulary.
        let guessed = match plan.kind.draft_vocab {
            0 => output.n_vocab,
            n => n as usize,
        };
        for (slot, rows, width, there) in [
            (
                compiled.logits,
                &mut output.logits,
                output.n_vocab,
                output.n_vocab,
            ),
            (
                compiled.mtp_logits,
                &mut output.mtp_logits,
                output.n_vocab,
                guessed,
            ),
            (compiled.hidden, &mut output.hidden, n_embd, n_embd),
        ] {
            let Some(slot) = slot else {
                continue;
            };
            let start = rows.len();
            rows.resize(start + plan.outputs.len() * width, f32::NEG_INFINITY);
            for (i, row) in rows[start..].chunks_exact_mut(width).enumerate() {
                let at = i * there * size_of::<f32>();
                sched.get(&compiled.graph, slot, at, &mut row[..there])?;
            }
        }
        for &(item, token) in &plan.output_owner {
            output
                .rows
                .push((parts[item].item, parts[item].start as u32 + token));
        }
        self.stats.graphs += 1;
        self.stats.compute += start.elapsed();
        Ok(())
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?}, {:?})", self.model, self.config)
    }
}

/// Bytes a configuration would need for sequence memory.
pub fn memory_needed(model: &Model, config: &EngineConfig) -> Option<u64> {
    let config = checked(model, config.clone()).ok()?;
    Memory::bytes_needed(model.memory_spec(), &memory_config(model, &config))
}

fn memory_config(model: &Model, config: &EngineConfig) -> MemoryConfig {
    MemoryConfig {
        n_seq: config.n_seq,
        n_ctx_seq: config.n_ctx,
        n_snapshots: config.n_snapshots,
        n_ubatch: config.n_ubatch,
        row_type: config.row_type,
        row_step: row_step(model, config),
    }
}

fn row_step(model: &Model, config: &EngineConfig) -> u32 {
    let own = config.own_kernels
        && config.flash_attention != FlashAttention::Off
        && attends(config.row_type);
    if own || model.devices().iter().any(Device::is_gpu) {
        LARGE_ROW_STEP
    } else {
        SMALL_ROW_STEP
    }
}

/// Which attention kernel steps use where our own does not compute it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KernelRule {
    /// The same in all.
    Always(AttentionKernel),
    /// The fused one in steps with prompts. Single tokens keep the matrix products, which give a token the same bits
    /// alone and among others.
    PromptsFused,
}

impl KernelRule {
    fn of_step(self, plan: &Plan) -> AttentionKernel {
        let n_seqs: usize = plan.groups.iter().map(|g| g.seqs.len()).sum();
        match self {
            Self::Always(kernel) => kernel,
            Self::PromptsFused if plan.n_tokens() > n_seqs && !plan.kind.exact => {
                AttentionKernel::Flash
            }
            Self::PromptsFused => AttentionKernel::Unfused,
        }
    }
}

/// The kernel asked for; by default the fused one where the GPUs that hold rows have it. On the CPU it is faster for
/// prompts if each head has keys and values of its own, and slower for a latent that all heads share.
fn attention_kernel(model: &Model, config: &EngineConfig) -> Result<KernelRule, EngineError> {
    let always = |kernel| Ok(KernelRule::Always(kernel));
    let quantised = config.row_type.is_quantized();
    match config.flash_attention {
        FlashAttention::On => always(AttentionKernel::Flash),
        FlashAttention::Off if quantised => Err(EngineError::NeedsFlash {
            row_type: config.row_type,
        }),
        FlashAttention::Off => always(AttentionKernel::Unfused),
        FlashAttention::Auto if quantised => always(AttentionKernel::Flash),
        FlashAttention::Auto => {
            let rows = &model.memory_spec().rows;
            let mut on_gpu = rows.iter().filter(|r| r.device.is_gpu()).peekable();
            let any_on_gpu = on_gpu.peek().is_some();
            let fused = any_on_gpu
                && on_gpu
                    .all(|r| supports_flash(r.device, r, config.row_type, row_step(model, config)));
            let latent = |r: &RowSpec| r.read_by.is_some_and(|reader| reader.value_in_row);
            match any_on_gpu {
                _ if fused => always(AttentionKernel::Flash),
                false if !rows.iter().any(latent) => Ok(KernelRule::PromptsFused),
                _ => always(AttentionKernel::Unfused),
            }
        }
    }
}

/// Builds the graph of a plan.
fn compile(
    model: &Model,
    memory: &Memory,
    kernels: Kernels<'_>,
    plan: &Plan,
    topology: &Topology,
) -> Result<Compiled, EngineError> {
    let windows = plan.groups.iter().map(|g| g.runs.len()).sum();
    let (graph, (inputs, logits, mtp_logits, hidden)) =
        Graph::build::<_, EngineError>(capacity(model, windows), |g| {
            let (step, inputs) =
                Step::new(g, model.weights(), memory, plan, kernels, model.n_vocab())?;
            let outputs = match plan.kind.draft {
                None => model.network().build(&step)?,
                Some(_) => model.network().draft(&step)?,
            };
            let logits = outputs.logits.map(|t| g.output("logits", t));
            let mtp_logits = outputs.mtp_logits.map(|t| g.output("mtp_logits", t));
            let hidden = outputs.hidden.map(|t| g.output("hidden", t));
            Ok((inputs, logits, mtp_logits, hidden))
        })?;
    Ok(Compiled {
        topology: topology.clone(),
        graph,
        inputs,
        logits,
        mtp_logits,
        hidden,
    })
}

fn capacity(model: &Model, windows: usize) -> usize {
    let sizes = model.sizes();
    (sizes.n_layer + sizes.n_mtp) as usize
        * (TENSORS_PER_BLOCK + TENSORS_PER_WINDOW * windows.max(1))
        + TENSORS_BESIDE_BLOCKS
}

fn checked(model: &Model, mut config: EngineConfig) -> Result<EngineConfig, EngineError> {
    if config.n_ctx == 0 {
        config.n_ctx = model.sizes().n_ctx_train;
    }
    let positive = [
        ("number of sequences", config.n_seq),
        ("batch", config.n_batch),
        ("micro-batch", config.n_ubatch),
        ("number of kept states", config.n_snapshots),
    ];
    for (what, value) in positive {
        if value == 0 || value > 1 << 20 {
            return Err(EngineError::Config {
                what,
                expected: "1 to 1048576",
                found: u64::from(value),
            });
        }
    }
    if config.n_ctx > 1 << 24 {
        return Err(EngineError::Config {
            what: "context",
            expected: "at most 16777216 tokens",
            found: u64::from(config.n_ctx),
        });
    }
    config.n_ubatch = config.n_ubatch.min(config.n_batch);
    // Workers spin at barriers: more of them than cores only wait for each other.
    let max_threads = 4 * std::thread::available_parallelism().map_or(1, usize::from);
    for n in [&mut config.n_threads, &mut config.n_threads_batch] {
        if *n > max_threads {
            tracing::warn!(
                asked = *n,
                used = max_threads,
                "more threads than this machine has use for"
            );
        }
        *n = (*n).clamp(1, max_threads);
    }
    config.mtp &= model.network().has_mtp();
    if config.draft_vocab >= model.n_vocab() {
        config.draft_vocab = 0;
    }
    Ok(config)
}
