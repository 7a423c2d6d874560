//! Measuring: a text goes through the model, and the inputs of all weights are summed up.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Entry, ImatrixError, ImportanceMatrix};
use crate::engine::Engine;
use crate::eval::{Chunks, EvalError, Mean, nll};
use crate::ggml::{Observe, Product};
use crate::gguf::Gguf;
use crate::memory::{SeqId, Work};
use crate::planes::PlaneLayout;

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct CollectOptions<'a> {
    /// Measure the output matrix too.
    pub process_output: bool,
    /// Score the text on the way.
    pub perplexity: bool,
    /// Set to stop.
    pub cancel: &'a AtomicBool,
}

/// What was measured so far.
#[derive(Debug)]
pub struct Collected<'a> {
    /// Chunks that are done.
    pub chunks: usize,
    /// Negative log-likelihoods of the scored tokens.
    pub scores: &'a Mean,
    sums: &'a Mutex<Collector>,
    chunk_size: u32,
}

impl Collected<'_> {
    /// The measurements as a matrix, without the text's name.
    ///
    /// # Errors
    /// Inputs were not finite.
    pub fn matrix(&self) -> Result<ImportanceMatrix, ImatrixError> {
        locked(self.sums).matrix(self.chunk_size)
    }
}

/// Names of the tensors whose inputs are worth measuring. Planes are not: their inputs are rotated, and their codes
/// final.
///
/// # Errors
/// Planes that do not fit.
pub fn measurable(
    gguf: &Gguf,
    process_output: bool,
) -> Result<impl Iterator<Item = &str>, ImatrixError> {
    let planes = PlaneLayout::of(gguf)?.tensors;
    // A model without an output matrix uses its token embedding in its place.
    let is_output = |name: &str| matches!(name, "output.weight" | "token_embd.weight");
    let names = gguf.tensors().iter().map(|t| t.name.as_str());
    Ok(names.filter(move |name| {
        (name.starts_with("blk.") || (process_output && is_output(name))) && !planes.contains(*name)
    }))
}

/// Sends a text through a model. `gguf` is the model's file; `each` hears after every step of one or more chunks.
///
/// # Errors
/// The engine's, those of `each`, or inputs that are not finite.
pub fn collect(
    engine: &mut Engine,
    gguf: &Gguf,
    chunks: &Chunks,
    options: &CollectOptions<'_>,
    each: &mut dyn FnMut(Collected<'_>) -> Result<(), ImatrixError>,
) -> Result<ImportanceMatrix, ImatrixError> {
    let sums = Arc::new(Mutex::new(Collector::new(gguf, options.process_output)?));
    engine.set_observer(Some(sums.clone()));
    let run = feed(engine, chunks, options, &sums, each);
    engine.set_observer(None);
    run?;
    locked(&sums).matrix(chunks.n_ctx() as u32)
}

fn feed(
    engine: &mut Engine,
    chunks: &Chunks,
    options: &CollectOptions<'_>,
    sums: &Mutex<Collector>,
    each: &mut dyn FnMut(Collected<'_>) -> Result<(), ImatrixError>,
) -> Result<(), ImatrixError> {
    let n_seq = engine.config().n_seq.max(1) as usize;
    // Without the MTP head, the last feed-forward sees only rows whose logits are asked for; with it, its own runs only
    // if some are.
    let through_mtp = engine.config().mtp && engine.model().network().has_mtp();
    let outputs: Vec<u32> = if options.process_output || !through_mtp {
        (0..chunks.n_ctx() as u32).collect()
    } else if options.perplexity {
        chunks.scored().map(|t| t as u32).collect()
    } else {
        vec![chunks.n_ctx() as u32 - 1]
    };
    let mut scores = Mean::default();
    let indices: Vec<usize> = (0..chunks.len()).collect();
    for batch in indices.chunks(n_seq) {
        if options.cancel.load(Ordering::Relaxed) {
            return Err(ImatrixError::Cancelled);
        }
        let inputs: Vec<Vec<u32>> = batch.iter().map(|&index| chunks.input(index)).collect();
        let mut work = Vec::with_capacity(batch.len());
        for (i, tokens) in inputs.iter().enumerate() {
            let seq = SeqId(i as u32);
            engine.clear(seq)?;
            work.push(Work {
                seq,
                tokens,
                outputs: outputs.clone(),
            });
        }
        let output = engine.step(&work, through_mtp)?;
        for (item, &index) in batch.iter().enumerate().filter(|_| options.perplexity) {
            for (t, &target) in chunks.scored().zip(chunks.targets(index)) {
                let logits = output
                    .logits(item, t as u32)
                    .ok_or(EvalError::ShortContext {
                        n_ctx: chunks.n_ctx(),
                    })?;
                scores.add(nll(logits, target));
            }
        }
        let chunks_done = batch.last().map_or(0, |last| last + 1);
        each(Collected {
            chunks: chunks_done,
            scores: &scores,
            sums,
            chunk_size: chunks.n_ctx() as u32,
        })?;
    }
    Ok(())
}

fn locked(sums: &Mutex<Collector>) -> MutexGuard<'_, Collector> {
    // Sums are complete after every product; a panic elsewhere leaves them so.
    sums.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sums of squares of a tensor's inputs.
#[derive(Debug)]
struct Running {
    width: usize,
    sums: Vec<f32>,
    counts: Vec<u64>,
}

/// Sums up inputs of the weights of a file.
#[derive(Debug)]
struct Collector {
    wanted: HashSet<String>,
    running: BTreeMap<String, Running>,
    /// Sums of one product and matrix: adding these up at the end keeps rounding small.
    part: Vec<f32>,
}

impl Collector {
    fn new(gguf: &Gguf, process_output: bool) -> Result<Self, ImatrixError> {
        let wanted = measurable(gguf, process_output)?;
        Ok(Self {
            wanted: wanted.map(str::to_owned).collect(),
            running: BTreeMap::new(),
            part: Vec::new(),
        })
    }

    /// What was measured so far.
    fn matrix(&self, chunk_size: u32) -> Result<ImportanceMatrix, ImatrixError> {
        let mut matrix = ImportanceMatrix::new(chunk_size);
        for (name, running) in &self.running {
            let entry = Entry::new(running.sums.clone(), running.counts.clone());
            let entry = entry.ok_or_else(|| ImatrixError::NotFinite {
                tensor: name.clone(),
            })?;
            matrix.insert(name, entry);
        }
        Ok(matrix)
    }

    /// The sums of a tensor; `None` if it was seen with another shape.
    fn running(&mut self, product: &Product<'_>, counts: usize) -> Option<&mut Running> {
        let [width, _, n2, n3] = product.weight_ne;
        let matrices = n2.max(1) * n3.max(1);
        if !self.running.contains_key(product.weight) {
            let fresh = Running {
                width,
                sums: vec![0.0; width * matrices],
                counts: vec![0; counts],
            };
            self.running.insert(product.weight.to_owned(), fresh);
        }
        self.running
            .get_mut(product.weight)
            .filter(|r| r.sums.len() == width * matrices && r.counts.len() == counts)
    }

    /// Adds rows to the sums of one matrix; `counter` takes note of them if they have one of their own.
    fn add<'r>(
        &mut self,
        product: &Product<'_>,
        matrix: usize,
        counter: (usize, usize),
        rows: impl Iterator<Item = &'r [f32]>,
    ) {
        let width = product.weight_ne[0];
        let mut part = std::mem::take(&mut self.part);
        part.clear();
        part.resize(width, 0.0);
        let mut count = 0u64;
        for row in rows {
            part.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
            count += 1;
        }
        let (n_counters, counter) = counter;
        if let Some(running) = self.running(product, n_counters) {
            let start = matrix * running.width;
            if let Some(sums) = running.sums.get_mut(start..start + width) {
                sums.iter_mut().zip(&part).for_each(|(sum, x)| *sum += x);
            }
            if let Some(total) = running.counts.get_mut(counter) {
                *total += count;
            }
        }
        self.part = part;
    }

    /// Rows that go through matrices by position: one number of rows serves them all.
    fn see_dense(&mut self, product: &Product<'_>) {
        let [_, n1, n2, n3] = product.input.ne();
        let [_, _, w2, w3] = product.weight_ne;
        let (by2, by3) = (n2.div_ceil(w2.max(1)).max(1), n3.div_ceil(w3.max(1)).max(1));
        for matrix in 0..w2 * w3 {
            let (m2, m3) = (matrix % w2, matrix / w2);
            let outer = (m3 * by3..((m3 + 1) * by3).min(n3))
                .flat_map(|i3| (m2 * by2..((m2 + 1) * by2).min(n2)).map(move |i2| (i2, i3)));
            let rows =
                outer.flat_map(|(i2, i3)| (0..n1).map(move |i1| product.input.row(i1, i2, i3)));
            // Only the first matrix counts.
            let counter = if matrix == 0 { 0 } else { usize::MAX };
            self.add(product, matrix, (1, counter), rows);
        }
    }

    /// Rows that go through the matrices chosen for them.
    fn see_chosen(&mut self, product: &Product<'_>) {
        let Some(chosen) = product.chosen else {
            return;
        };
        let n_matrices = product.weight_ne[2];
        let [slots, tokens] = chosen.ne;
        let mut uses = Vec::with_capacity(slots * tokens);
        for token in 0..tokens {
            for slot in 0..slots {
                let matrix = chosen.matrix(slot, token).filter(|&m| m < n_matrices);
                uses.extend(matrix.map(|m| (m, slot, token)));
            }
        }
        uses.sort_unstable();
        // Inputs of one row per token are the same for every slot.
        let per_token = product.input.ne()[1].max(1);
        for same in uses.chunk_by(|a, b| a.0 == b.0) {
            let rows = same
                .iter()
                .map(|&(_, slot, token)| product.input.row(slot % per_token, token, 0));
            let matrix = same[0].0;
            self.add(product, matrix, (n_matrices, matrix), rows);
        }
        if uses.is_empty() {
            // Known, though never used.
            let _ = self.running(product, n_matrices);
        }
    }
}

impl Observe for Collector {
    fn wants(&self, weight: &str) -> bool {
        self.wanted.contains(weight)
    }

    fn see(&mut self, product: &Product<'_>) {
        if product.input.ne()[0] != product.weight_ne[0] {
            return;
        }
        if product.chosen.is_some() {
            self.see_chosen(product);
        } else {
            self.see_dense(product);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::{
        DType, Device, Graph, GraphError, Placement, Scheduler, Slot, Store, StoreBuilder, TensorId,
    };

    const WIDTH: usize = 4;
    const TOKENS: usize = 3;
    /// Two experts for each token; expert 2 is never chosen.
    const CHOSEN: [[i32; 2]; TOKENS] = [[1, 3], [0, 1], [3, 1]];

    /// Whole numbers, so that sums are exact.
    fn number(i: usize) -> f32 {
        (i * 5 % 7) as f32 - 3.0
    }

    fn numbers(n: usize, from: usize) -> Vec<f32> {
        (from..from + n).map(number).collect()
    }

    /// Weights called `blk.0.NAME.weight`.
    fn store(shapes: &[(&str, &[u64])]) -> (Arc<Store>, Vec<TensorId>) {
        let mut builder = StoreBuilder::new(shapes.len(), false).unwrap();
        let place = Placement::Alloc(Device::cpu().unwrap().buffer_type());
        let tensor = |(name, shape): &(&str, &[u64])| {
            let name = format!("blk.0.{name}.weight");
            builder.tensor(&name, DType::F32, shape, place).unwrap()
        };
        let ids: Vec<TensorId> = shapes.iter().map(tensor).collect();
        let store = builder.build().unwrap();
        for id in &ids {
            let bytes = vec![0; store.bytes_of(*id).unwrap()];
            store.write(*id, 0, &bytes).unwrap();
        }
        (store, ids)
    }

    /// Multiplies everything with everything it fits, and gives what the collector saw.
    fn measured(passes: usize) -> ImportanceMatrix {
        let shapes: [(&str, &[u64]); 4] = [
            ("dense", &[4, 2]),
            ("stack", &[4, 2, 2]),
            ("experts", &[4, 2, 4]),
            ("unwanted", &[4, 2]),
        ];
        let (store, ids) = store(&shapes);
        let (mut graph, (slots, chosen)) = Graph::build::<_, GraphError>(64, |g| {
            let weight = |i: usize| g.stored(&store, ids[i]);
            let rows = g.input("rows", DType::F32, &[4, 3])?;
            let by_matrix = g.input("by matrix", DType::F32, &[4, 3, 2])?;
            let by_slot = g.input("by slot", DType::F32, &[4, 2, 3])?;
            let chosen = g.index_input("chosen", DType::I32, &[2, 3], 4)?;
            g.output("a", g.mul_mat(weight(0)?, rows)?);
            g.output("b", g.mul_mat(weight(1)?, by_matrix)?);
            g.output("c", g.mul_mat_id(weight(2)?, by_slot, chosen)?);
            g.output("d", g.mul_mat(weight(3)?, rows)?);
            let slots: Vec<Slot> = [rows, by_matrix, by_slot].map(|t| g.keep(t)).into();
            Ok((slots, g.keep(chosen)))
        })
        .unwrap();
        let wanted = ["dense", "stack", "experts"].map(|name| format!("blk.0.{name}.weight"));
        let sums = Arc::new(Mutex::new(Collector {
            wanted: wanted.into(),
            running: BTreeMap::new(),
            part: Vec::new(),
        }));
        let mut sched = Scheduler::new(&[Device::cpu().unwrap()], 256).unwrap();
        sched.set_n_threads(1);
        sched.set_observer(Some(sums.clone()));
        sched.allocate(&mut graph).unwrap();
        for _ in 0..passes {
            for (slot, n) in slots.iter().zip([12, 24, 24]) {
                sched.set(&graph, *slot, &numbers(n, n)).unwrap();
            }
            sched.set(&graph, chosen, CHOSEN.as_flattened()).unwrap();
            sched.compute(&graph).unwrap();
        }
        sched.set_observer(None);
        locked(&sums).matrix(512).unwrap()
    }

    fn squares(rows: impl Iterator<Item = usize>, from: usize) -> Vec<f32> {
        let mut sums = vec![0.0; WIDTH];
        for row in rows {
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum += number(from + row * WIDTH + column).powi(2);
            }
        }
        sums
    }

    #[test]
    fn sums_are_those_of_a_plain_loop() {
        let (once, twice) = (measured(1), measured(2));
        assert_eq!(once.len(), 3);
        let of = |matrix: &ImportanceMatrix, name: &str| {
            let entry = matrix.entry(&format!("blk.0.{name}.weight")).unwrap();
            (entry.sums().to_vec(), entry.counts().to_vec())
        };
        assert_eq!(of(&once, "dense"), (squares(0..3, 12), vec![3]));
        let stack = [squares(0..3, 24), squares(3..6, 24)].concat();
        assert_eq!(of(&once, "stack"), (stack, vec![3]));
        let rows_of = |expert: i32| {
            let flat = CHOSEN.as_flattened().to_vec().into_iter().enumerate();
            flat.filter(move |(_, e)| *e == expert).map(|(row, _)| row)
        };
        let experts: Vec<f32> = (0..4).flat_map(|e| squares(rows_of(e), 24)).collect();
        assert_eq!(of(&once, "experts"), (experts.clone(), vec![1, 3, 0, 2]));
        let doubled = experts.iter().map(|s| 2.0 * s).collect();
        assert_eq!(of(&twice, "experts"), (doubled, vec![2, 6, 0, 4]));
    }
}
