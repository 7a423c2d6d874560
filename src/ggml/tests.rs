//! The safe layer against ggml itself: results, and refusals where ggml would have aborted.

use std::sync::Arc;

use super::*;

/// The CPU's dot products in F32 differ from a plain sum by rounding only.
const F32_TOLERANCE: f32 = 1e-4;

fn scheduler() -> Scheduler {
    Scheduler::new(&[Device::cpu().expect("every build has a CPU")], 256).expect("scheduler")
}

/// Runs a graph over F32 inputs and gives its output. `build` may name index inputs of one element, which become 0.
fn compute(
    inputs: &[(&[u64], &[f32])],
    n_out: usize,
    build: impl for<'g> FnOnce(
        &Builder<'g>,
        &[Tensor<'g>],
    ) -> Result<(Tensor<'g>, Vec<Tensor<'g>>), GraphError>,
) -> Result<Vec<f32>, GgmlError> {
    let (mut graph, (slots, zeros, out)) = Graph::build::<_, GraphError>(128, |g| {
        let tensors = inputs
            .iter()
            .map(|(shape, _)| g.input("x", DType::F32, shape))
            .collect::<Result<Vec<_>, _>>()?;
        let (out, indices) = build(g, &tensors)?;
        let slots: Vec<Slot> = tensors.iter().map(|t| g.keep(*t)).collect();
        let zeros: Vec<Slot> = indices.iter().map(|t| g.keep(*t)).collect();
        Ok((slots, zeros, g.output("out", out)))
    })?;
    let mut sched = scheduler();
    sched.allocate(&mut graph)?;
    for (slot, (_, values)) in slots.iter().zip(inputs) {
        sched.set(&graph, *slot, values)?;
    }
    for slot in zeros {
        sched.set(&graph, slot, &[0i32])?;
    }
    sched.compute(&graph)?;
    let mut values = vec![0.0; n_out];
    sched.get(&graph, out, 0, &mut values)?;
    Ok(values)
}

fn ramp(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect()
}

#[test]
fn products_match_a_plain_loop() {
    let (w, x) = (ramp(8 * 3), ramp(8 * 2));
    let out = compute(&[(&[8, 3], &w), (&[8, 2], &x)], 6, |g, t| {
        Ok((g.mul_mat(t[0], t[1])?, vec![]))
    })
    .expect("computes");
    for column in 0..2 {
        for row in 0..3 {
            let expected: f32 = (0..8).map(|i| w[row * 8 + i] * x[column * 8 + i]).sum();
            assert!((out[column * 3 + row] - expected).abs() < F32_TOLERANCE);
        }
    }
}

/// The recurrence of Lightning attention, step by step, against the scan with its constant time step.
#[test]
fn the_scan_is_the_decaying_recurrence_and_keeps_its_newest_states() {
    const D: usize = 64;
    const T: usize = 5;
    const DT: f32 = 0.541_324_85;
    let decay = -0.3f32;
    let (q, k, v) = (
        ramp(D * T),
        ramp(D * T + 7)[7..].to_vec(),
        ramp(D * T + 3)[3..].to_vec(),
    );
    let (mut state, mut expected, mut states) = (vec![0f32; D * D], Vec::new(), Vec::new());
    for t in 0..T {
        for j in 0..D {
            for i in 0..D {
                state[j * D + i] = decay.exp() * state[j * D + i] + k[t * D + i] * v[t * D + j];
            }
        }
        expected
            .extend((0..D).map(|j| (0..D).map(|i| state[j * D + i] * q[t * D + i]).sum::<f32>()));
        states.push(state.clone());
    }
    // Newest first.
    expected.extend_from_slice(&states[T - 1]);
    expected.extend_from_slice(&states[T - 2]);
    let (d, n) = (D as u64, T as u64);
    let inputs: [(&[u64], &[f32]); 6] = [
        (&[d, d, 1, 1], &vec![0.0; D * D]),
        (&[d, 1, n, 1], &v),
        (&[1, n, 1], &[DT; T]),
        (&[1, 1], &[decay]),
        (&[d, 1, n, 1], &k),
        (&[d, 1, n, 1], &q),
    ];
    let out = compute(&inputs, expected.len(), |g, t| {
        let ids = g.index_input("ids", DType::I32, &[1], 1)?;
        Ok((
            g.ssm_scan(t[0], t[1], t[2], t[3], t[4], t[5], ids, 2)?,
            vec![ids],
        ))
    })
    .expect("computes");
    for (i, (a, b)) in out.iter().zip(&expected).enumerate() {
        assert!(
            (a - b).abs() < 1e-3 * b.abs().max(1.0),
            "element {i}: {a} instead of {b}"
        );
    }
}

#[test]
fn operands_that_would_abort_are_refused() {
    Graph::build::<(), GraphError>(128, |g| {
        let f32s = |shape: &[u64]| g.input("x", DType::F32, shape);
        let i32s = |shape: &[u64]| g.input("i", DType::I32, shape);
        let (a, b) = (f32s(&[8, 3])?, f32s(&[7, 3])?);
        let cube = f32s(&[8, 3, 2])?;
        let odd = Rope {
            kind: RopeKind::Norm,
            n_dims: 2,
            n_ctx_orig: 8,
            freq_base: 1e4,
            freq_scale: 1.0,
            ext_factor: 0.0,
            attn_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let quantised = g.input("q", DType::IQ4_NL, &[32, 4])?;
        let errors: Vec<(&str, Result<Tensor<'_>, GraphError>)> = vec![
            ("mul_mat", g.mul_mat(a, b)),
            ("mul_mat", g.mul_mat(cube, a)),
            ("mul_mat", g.mul_mat(g.transpose(a)?, f32s(&[3, 1])?)),
            ("mul_mat", g.mul_mat(i32s(&[8, 3])?, a)),
            ("add", g.add(a, b)),
            ("add", g.add(quantised, quantised)),
            ("get_rows", g.get_rows(a, f32s(&[2])?)),
            ("get_rows", g.get_rows(cube, i32s(&[2])?)),
            ("set_rows", g.set_rows(a, b, i32s(&[3])?)),
            ("top_k", g.top_k(a, 9)),
            ("top_k", g.top_k(a, 0)),
            ("reshape", g.reshape(a, &[5, 5])),
            ("reshape", g.reshape(g.transpose(a)?, &[24])),
            ("reshape", g.reshape(a, &[-8, -3])),
            ("permute", g.permute(a, [0, 0, 1, 2])),
            ("view", g.view(a, &[8, 4], &[32], 0)),
            ("view", g.view(a, &[8, 3], &[32], 4)),
            ("view", g.view(a, &[8, 2], &[usize::MAX], 0)),
            ("view", g.view(a, &[8, 100], &[0], 0)),
            ("view", g.view(a, &[4, 2], &[17], 0)),
            ("rope", g.rope(f32s(&[3, 2, 1])?, i32s(&[1])?, None, &odd)),
            ("columns", g.columns(quantised, 0, 16)),
            ("columns", g.columns(a, 4, 5)),
            ("concat", g.concat(a, b, 1)),
            ("concat", g.concat(a, a, 4)),
            ("soft_max", g.soft_max(a, Some(b), 1.0)),
            ("swiglu", g.swiglu(a, b)),
            ("input", f32s(&[])),
            ("input", f32s(&[1, 2, 3, 4, 5])),
            ("input", f32s(&[0])),
            ("input", f32s(&[u64::MAX, 2])),
            ("input", f32s(&[1 << 40, 1 << 40])),
            ("input", g.input("q", DType::IQ4_NL, &[33])),
        ];
        for (i, (op, result)) in errors.into_iter().enumerate() {
            let message = result
                .expect_err(&format!("case {i} ({op}) must fail"))
                .to_string();
            assert!(
                message.starts_with(op),
                "case {i}: `{message}` does not name {op}"
            );
        }
        Ok(())
    })
    .expect("builds");
}

#[test]
fn a_full_arena_is_an_error() {
    let result = Graph::build::<(), GraphError>(4, |g| {
        let mut x = g.input("x", DType::F32, &[4])?;
        for _ in 0..4 {
            x = g.add(x, x)?;
        }
        Ok(())
    });
    assert!(matches!(result, Err(GraphError::TooLarge { capacity: 4 })));
}

#[test]
fn weights_cannot_be_written() {
    let mut builder = StoreBuilder::new(1, false).expect("room");
    let place = Placement::Alloc(Device::cpu().expect("CPU").buffer_type());
    let id = builder
        .tensor("w", DType::F32, &[4, 4], place)
        .expect("fits");
    let store = builder.build().expect("memory");
    let result = Graph::build::<(), GraphError>(16, |g| {
        let w = g.stored(&store, id)?;
        let window = g.view(w, &[4, 2], &[16], 0)?;
        g.set_rows(
            window,
            g.input("r", DType::F32, &[4, 1])?,
            g.index_input("i", DType::I32, &[1], 2)?,
        )?;
        Ok(())
    });
    assert!(
        matches!(result, Err(GraphError::ReadOnly { op: "set_rows", .. })),
        "{result:?}"
    );
}

#[test]
fn indices_are_bounded_checked_and_asked_for_every_time() {
    let (mut graph, (rows, ids)) = Graph::build::<_, GraphError>(16, |g| {
        let table = g.input("table", DType::F32, &[2, 5])?;
        let ids = g.index_input("ids", DType::I32, &[3], 5)?;
        let unbounded = g.input("ids", DType::I32, &[3])?;
        assert!(g.get_rows(table, unbounded).is_err(), "no bound is known");
        let wide = g.index_input("ids", DType::I32, &[3], 6)?;
        assert!(g.get_rows(table, wide).is_err(), "the bound is too large");
        let rows = g.get_rows(table, ids)?;
        g.output("rows", rows);
        Ok((g.keep(table), g.keep(ids)))
    })
    .expect("builds");
    let mut sched = scheduler();
    sched.allocate(&mut graph).expect("memory");
    sched.set(&graph, rows, &[0f32; 10]).expect("an input");
    let outside = |e| matches!(e, Err(GgmlError::Index { bound: 5, .. }));
    assert!(outside(sched.set(&graph, ids, &[0i32, 5, 1])));
    assert!(outside(sched.set(&graph, ids, &[-1i32, 0, 1])));
    assert!(
        sched.set(&graph, ids, &[0i32, 1]).is_err(),
        "not all of them"
    );
    assert!(
        matches!(sched.compute(&graph), Err(GgmlError::WrongSlot { .. })),
        "not set"
    );
    sched
        .set(&graph, ids, &[0i32, 4, 1])
        .expect("below the bound");
    sched.compute(&graph).expect("computes");
    assert!(
        sched.compute(&graph).is_err(),
        "set for one computation only"
    );
}

#[test]
fn a_graph_gets_memory_once_and_weights_are_no_inputs() {
    let mut builder = StoreBuilder::new(1, false).expect("room");
    let place = Placement::Alloc(Device::cpu().expect("CPU").buffer_type());
    let id = builder.tensor("w", DType::F32, &[4], place).expect("fits");
    let store = builder.build().expect("memory");
    let (mut graph, slot) = Graph::build::<_, GraphError>(8, |g| {
        let w = g.stored(&store, id)?;
        g.output("y", g.add(w, w)?);
        Ok(g.keep(w))
    })
    .expect("builds");
    let mut sched = scheduler();
    sched.allocate(&mut graph).expect("memory");
    assert!(matches!(
        sched.allocate(&mut graph),
        Err(GgmlError::AlreadyAllocated)
    ));
    assert!(matches!(
        scheduler().allocate(&mut graph),
        Err(GgmlError::AlreadyAllocated)
    ));
    assert!(matches!(
        sched.set(&graph, slot, &[0f32; 4]),
        Err(GgmlError::WrongSlot { .. })
    ));
    assert!(matches!(
        sched.get(&graph, slot, 0, &mut [0f32; 4]),
        Err(GgmlError::WrongSlot { .. })
    ));
}

#[test]
fn stale_and_foreign_graphs_are_refused() {
    let build = || {
        Graph::build::<_, GraphError>(8, |g| {
            let x = g.input("x", DType::F32, &[4])?;
            let kept = g.keep(x);
            Ok((kept, g.output("y", g.add(x, x)?)))
        })
        .expect("builds")
    };
    let ((mut first, (x, _)), (mut second, (_, other))) = (build(), build());
    let mut sched = scheduler();
    assert!(matches!(
        sched.set(&first, x, &[1f32; 4]),
        Err(GgmlError::NotAllocated)
    ));
    sched.allocate(&mut first).expect("memory");
    sched.set(&first, x, &[1f32; 4]).expect("fits");
    assert!(matches!(
        sched.set(&first, x, &[1f32; 5]),
        Err(GgmlError::Range { .. })
    ));
    assert!(matches!(
        sched.set(&first, other, &[1f32; 4]),
        Err(GgmlError::ForeignHandle)
    ));
    sched.allocate(&mut second).expect("memory");
    assert!(matches!(
        sched.compute(&first),
        Err(GgmlError::NotAllocated)
    ));
    assert!(matches!(
        scheduler().compute(&second),
        Err(GgmlError::NotAllocated)
    ));
}

#[test]
fn every_quantised_type_round_trips_within_its_error() {
    /// Root mean square error over that of the values, from ggml's own bounds for 2-bit types and up.
    const WORST: f32 = 0.6;
    let values = ramp(512);
    let importance = vec![1.0; 256];
    for ty in DType::ALL
        .iter()
        .copied()
        .filter(|t| t.is_quantized() && usable_as_matrix(*t))
    {
        let mut bytes = Vec::new();
        quantize(ty, &values, 256, Some(&importance), &mut bytes)
            .unwrap_or_else(|e| panic!("{ty}: {e}"));
        assert_eq!(
            bytes.len() as u64,
            2 * ty.row_bytes(256).expect("whole blocks"),
            "{ty}"
        );
        let mut back = Vec::new();
        dequantize(ty, &bytes, 256, &mut back).unwrap_or_else(|e| panic!("{ty}: {e}"));
        let (mut error, mut power) = (0.0, 0.0);
        for (a, b) in values.iter().zip(&back) {
            error += (a - b).powi(2);
            power += a.powi(2);
        }
        assert!(
            (error / power).sqrt() < WORST,
            "{ty}: {}",
            (error / power).sqrt()
        );
    }
    assert!(quantize(DType::I32, &values, 256, None, &mut Vec::new()).is_err());
    assert!(
        quantize(DType::IQ2_XXS, &values, 256, None, &mut Vec::new()).is_err(),
        "needs importances"
    );
    assert!(dequantize(DType::Q4_K, &[0; 10], 256, &mut Vec::new()).is_err());
    assert!(quantize(DType::Q8_0, &values[..33], 33, None, &mut Vec::new()).is_err());
}

/// Rows of attention memory in a store of their own, `{width, heads, rows}`. The numbers are exact in all
/// types but those of blocks.
fn stored_rows(ty: DType, width: u64, heads: u64, rows: u64) -> (Arc<Store>, TensorId) {
    let mut builder = StoreBuilder::new(1, true).expect("room");
    let place = Placement::Alloc(Device::cpu().expect("CPU").buffer_type());
    let id = builder
        .tensor("rows", ty, &[width * heads, rows], place)
        .expect("fits");
    let store = builder.build().expect("memory");
    let mut bytes = Vec::new();
    let values = (0..width * heads * rows).map(|i| (i * 37 % 101) as f32 / 64.0 - 0.75);
    let values: Vec<f32> = values.collect();
    quantize(ty, &values, width * heads, None, &mut bytes).expect("encodes");
    store.write(id, 0, &bytes).expect("room");
    (store, id)
}

/// What the graphs of models do: own attention beside ggml's, by heads that share keys, for one chunk of rows and more.
#[test]
fn own_attention_gives_what_the_fused_one_gives() {
    let (width, shared, seqs) = (40u64, 2u64, 2u64);
    for (ty, heads, tokens, rows) in [
        (DType::F32, 4u64, 3u64, 64u64),
        (DType::F32, 4, 3, 640),
        (DType::F32, 4, 11, 320),
        (DType::F32, 64, 1, 320),
        (DType::F16, 4, 2, 512),
        (DType::F16, 6, 40, 300),
        (DType::BF16, 4, 2, 300),
    ] {
        // ggml rounds queries to F16 where keys are F16, and adds up values in F16: it gets the same numbers in F32.
        let own_rows = stored_rows(ty, width, shared, rows * seqs);
        let its_rows = stored_rows(DType::F32, width, shared, rows * seqs);
        let q = ramp((width * heads * tokens * seqs) as usize);
        let mask: Vec<half::f16> = (0..seqs * tokens * rows)
            .map(|i| match i % rows + tokens > rows + i / rows % tokens {
                true => half::f16::NEG_INFINITY,
                false => half::f16::ZERO,
            })
            .collect();
        let attend = |own: bool| {
            let (store, id) = if own { &own_rows } else { &its_rows };
            let (mut graph, (q_slot, mask_slot, out)) = Graph::build::<_, GraphError>(64, |g| {
                let all = g.stored(store, *id)?;
                let (row, head) = (all.nb()[1], all.nb()[1] / shared as usize);
                let shape = [width, rows, shared, seqs].map(|n| n as i64);
                let rows_of_seq = row * rows as usize;
                let k = g.view(all, &shape, &[row, head, rows_of_seq], 0)?;
                let q = g.input("q", DType::F32, &[width, heads, tokens, seqs])?;
                let by_head = g.permute(q, [0, 2, 1, 3])?;
                let mask = g.input("mask", DType::F16, &[rows, tokens, 1, seqs])?;
                let y = if own {
                    g.attend(by_head, k, k, mask, 0.7, crate::kernels::Rounding::Fast)?
                } else {
                    g.flash_attn(by_head, k, k, mask, 0.7)?
                };
                Ok((g.keep(q), g.keep(mask), g.output("y", y)))
            })
            .expect("builds");
            let mut sched = scheduler();
            sched.allocate(&mut graph).expect("memory");
            sched.set(&graph, q_slot, &q).expect("sets");
            sched.set(&graph, mask_slot, &mask).expect("sets");
            sched.compute(&graph).expect("computes");
            let mut y = vec![0f32; q.len()];
            sched.get(&graph, out, 0, &mut y).expect("reads");
            y
        };
        if crate::kernels::attention::best().is_none() {
            eprintln!("not run: this machine has no attention kernel");
            return;
        }
        for (i, (a, b)) in attend(true).iter().zip(attend(false)).enumerate() {
            let what = format!("{ty:?} {heads} heads, {tokens} tokens, {rows} rows");
            assert!((a - b).abs() < F32_TOLERANCE, "{what}: {i}: {a} and {b}");
        }
    }
}

#[test]
fn own_attention_refuses_what_it_cannot_read() {
    let (store, id) = stored_rows(DType::F16, 32, 1, 64);
    let (packed, packed_id) = stored_rows(DType::Q8_0, 32, 1, 64);
    let refused = |what: &str, build: &dyn Fn(&Builder<'_>) -> Result<(), GraphError>| {
        let result = Graph::build::<(), GraphError>(64, |g| build(g));
        assert!(
            matches!(result, Err(GraphError::Shape(_))),
            "{what}: {result:?}"
        );
    };
    let attend = |g: &Builder<'_>, q: [u64; 4], mask: [u64; 4]| -> Result<(), GraphError> {
        let k = g.stored(&store, id)?;
        let q = g.input("q", DType::F32, &q)?;
        let mask = g.input("mask", DType::F16, &mask)?;
        g.attend(q, k, k, mask, 1.0, crate::kernels::Rounding::Fast)?;
        Ok(())
    };
    refused("width", &|g| attend(g, [16, 2, 4, 1], [64, 2, 1, 1]));
    refused("sequences", &|g| attend(g, [32, 2, 4, 2], [64, 2, 1, 2]));
    refused("rows of the mask", &|g| {
        attend(g, [32, 2, 4, 1], [32, 2, 1, 1])
    });
    refused("tokens of the mask", &|g| {
        attend(g, [32, 2, 4, 1], [64, 3, 1, 1])
    });
    refused("blocks, and what has no memory yet", &|g| {
        let k = g.stored(&packed, packed_id)?;
        assert!(!g.can_attend(k, k));
        let later = g.input("k", DType::F16, &[32, 64])?;
        assert!(!g.can_attend(later, later));
        let q = g.input("q", DType::F32, &[32, 2, 4, 1])?;
        let mask = g.input("mask", DType::F16, &[64, 2, 1, 1])?;
        g.attend(q, k, k, mask, 1.0, crate::kernels::Rounding::Fast)?;
        Ok(())
    });
}

/// Keys and values of two heads, 16 wide, from latents of 32 in rows of 48.
#[test]
fn attention_over_latents_refuses_what_does_not_agree() {
    let (rows, rows_id) = stored_rows(DType::F16, 48, 1, 64);
    let (odd, odd_id) = stored_rows(DType::F16, 40, 1, 64);
    let mut builder = StoreBuilder::new(4, true).expect("room");
    let mut matrix = |name: &str, shape: &[u64]| {
        let place = Placement::Alloc(Device::cpu().expect("CPU").buffer_type());
        builder
            .tensor(name, DType::F16, shape, place)
            .expect("fits")
    };
    let (k, v) = (matrix("k", &[16, 32, 2]), matrix("v", &[32, 16, 2]));
    let (narrow, three) = (matrix("narrow", &[8, 32, 2]), matrix("three", &[32, 16, 3]));
    let store = builder.build().expect("memory");
    let build = |q: [u64; 4], rows: (&Arc<Store>, TensorId), k, v, mask: [u64; 4]| {
        Graph::build::<(), GraphError>(64, |g| {
            let rows = g.stored(rows.0, rows.1)?;
            let rows = g.view(rows, &[rows.ne()[0], 64, 1, 1], &[rows.nb()[1]; 3], 0)?;
            let matrices = (g.stored(&store, k)?, g.stored(&store, v)?);
            let q = g.input("q", DType::F32, &q)?;
            let mask = g.input("mask", DType::F16, &mask)?;
            g.attend_latents(q, rows, matrices, mask, 1.0)?;
            Ok(())
        })
    };
    let (q, rows, mask) = ([32, 5, 2, 1], (&rows, rows_id), [64, 5, 1, 1]);
    if attends(DType::F16) {
        assert!(build(q, rows, k, v, mask).is_ok());
    }
    for (what, refused) in [
        ("width of queries", build([48, 5, 2, 1], rows, k, v, mask)),
        ("heads", build([32, 5, 3, 1], rows, k, v, mask)),
        ("sequences", build([32, 5, 2, 2], rows, k, v, mask)),
        ("heads of values", build(q, rows, k, three, mask)),
        ("widths by 16", build([24, 5, 2, 1], rows, narrow, v, mask)),
        (
            "rows by 16",
            build([24, 5, 2, 1], (&odd, odd_id), k, v, mask),
        ),
        ("keys for values", build(q, rows, v, k, mask)),
        ("mask", build(q, rows, k, v, [64, 4, 1, 1])),
    ] {
        assert!(matches!(refused, Err(GraphError::Shape(_))), "{what}");
    }
}
