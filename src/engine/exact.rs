//! Which products give a column other bits among others than alone.

#![forbid(unsafe_code)]

use crate::ggml::{DType, Graph, Scheduler, Slot};
use crate::model::Model;

use super::EngineError;

/// Numbers of columns to try: kernels work in tiles of several sizes, with remainders.
const COLUMNS: [usize; 5] = [2, 3, 4, 5, 8];
const MOST_COLUMNS: usize = 8;
/// Most rows to try. Kernels want multiples of their tile, as matrices have: a number that is none would hide them.
const ROWS: i64 = 256;
/// Room for a matrix's products.
const TENSORS: usize = 64;

/// One matrix times some columns: together, and one after the other.
struct Trial {
    dtype: DType,
    width: usize,
    rows: usize,
    x: Slot,
    alone: Vec<Slot>,
    together: Vec<(usize, Slot)>,
}

/// Types of the model's weights whose products must be computed column by column to give the bits of single columns.
/// Found by trying: it depends on the devices' kernels.
pub(super) fn by_column(model: &Model, sched: &mut Scheduler) -> Result<Vec<DType>, EngineError> {
    let mut found: Vec<DType> = Vec::new();
    let mut tried: Vec<(DType, i64)> = Vec::new();
    for &id in model.weights().ids() {
        let store = model.weights().store();
        let (mut graph, trial) = Graph::build::<_, EngineError>(TENSORS, |g| {
            let w = g.stored(store, id)?;
            let (dtype, [width, rows, ..]) = (w.dtype(), w.ne());
            // Vectors, and what only serves look-ups.
            if rows == 1 || width == 1 || tried.contains(&(dtype, width)) || found.contains(&dtype)
            {
                return Ok(None);
            }
            tried.push((dtype, width));
            let rows = rows.min(ROWS);
            let w = g.view(w, &[width, rows], &[w.nb()[1]], 0)?;
            let x = g.input("x", DType::F32, &[width as u64, MOST_COLUMNS as u64])?;
            let part = |first: usize, n: usize| {
                let row = x.nb()[1];
                g.view(x, &[width, n as i64], &[row], first * row)
            };
            let mut alone = Vec::new();
            for column in 0..MOST_COLUMNS {
                alone.push(g.output("alone", g.mul_mat(w, part(column, 1)?)?));
            }
            let mut together = Vec::new();
            for n in COLUMNS {
                together.push((n, g.output("together", g.mul_mat(w, part(0, n)?)?)));
            }
            Ok(Some(Trial {
                dtype,
                width: width as usize,
                rows: rows as usize,
                x: g.keep(x),
                alone,
                together,
            }))
        })?;
        let Some(trial) = trial else {
            continue;
        };
        sched.allocate(&mut graph)?;
        if !agrees(&trial, &graph, sched)? {
            found.push(trial.dtype);
        }
    }
    tracing::debug!(
        ?found,
        "types of weights that need products column by column"
    );
    Ok(found)
}

/// Whether all products of a trial have the bits of single columns.
fn agrees(trial: &Trial, graph: &Graph, sched: &mut Scheduler) -> Result<bool, EngineError> {
    let mut state = 1u32;
    let values: Vec<f32> = (0..trial.width * MOST_COLUMNS)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    sched.set(graph, trial.x, &values)?;
    sched.compute(graph)?;
    let mut alone = vec![0f32; trial.rows * MOST_COLUMNS];
    for (slot, row) in trial.alone.iter().zip(alone.chunks_mut(trial.rows)) {
        sched.get(graph, *slot, 0, row)?;
    }
    for &(n, slot) in &trial.together {
        let mut out = vec![0f32; trial.rows * n];
        sched.get(graph, slot, 0, &mut out)?;
        if out
            .iter()
            .zip(&alone)
            .any(|(a, b)| a.to_bits() != b.to_bits())
        {
            return Ok(false);
        }
    }
    Ok(true)
}
