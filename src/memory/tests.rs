//! Bookkeeping without a model: planes, runs, masks and limits.

use half::f16;

use super::*;
use crate::ggml::Device;

fn memory(n_seq: u32, n_ctx_seq: u32, n_snapshots: u32) -> Memory {
    let device = Device::cpu().expect("every build has a CPU");
    let spec = MemorySpec {
        rows: vec![RowSpec {
            name: "rows".into(),
            n_head: 1,
            head_width: 4,
            read_by: None,
            device,
        }],
        planes: vec![PlaneSpec {
            name: "state".into(),
            width: 2,
            device,
        }],
        cells: Vec::new(),
        constants: vec![ConstantSpec {
            name: "one".into(),
            value: 1.0,
            per_token: 1,
            device,
        }],
    };
    Memory::new(
        &spec,
        MemoryConfig {
            n_seq,
            n_ctx_seq,
            n_snapshots,
            n_ubatch: 64,
            row_type: DType::F32,
            row_step: 64,
        },
    )
    .expect("memory")
}

fn plan(m: &Memory, work: &[(u32, usize)]) -> Result<Plan, MemoryError> {
    let tokens = vec![1u32; 64];
    let work: Vec<Work<'_>> = work
        .iter()
        .map(|&(seq, n)| Work {
            seq: SeqId(seq),
            tokens: &tokens[..n],
            outputs: vec![n as u32 - 1],
        })
        .collect();
    Plan::new(m, &work, StepKind::default(), 10)
}

fn advance(m: &mut Memory, seq: u32, n: usize) {
    let p = plan(m, &[(seq, n)]).expect("fits");
    m.commit(&p);
}

#[test]
fn planes_follow_snapshots_and_roll_back_without_a_copy() {
    let mut m = memory(2, 64, 3);
    assert_eq!(
        plan(&m, &[(1, 1)]).expect("fits").groups[0].plane_in,
        [0],
        "a fresh sequence reads the zero plane"
    );
    advance(&mut m, 1, 5);
    let p = plan(&m, &[(1, 2)]).expect("fits");
    assert_eq!(p.groups[0].plane_in, [4], "newest plane of slot 1");
    assert_eq!(
        p.groups[0].plane_out,
        [4, 5],
        "newest first, as many as tokens"
    );
    m.truncate(SeqId(1), 3).expect("two tokens back are kept");
    assert_eq!(plan(&m, &[(1, 1)]).expect("fits").groups[0].plane_in, [6]);
    assert!(matches!(
        m.truncate(SeqId(1), 2),
        Err(MemoryError::CannotRewind {
            oldest: 3,
            newest: 3,
            ..
        })
    ));
    // After one more token only that token's state is kept.
    advance(&mut m, 1, 1);
    assert!(m.truncate(SeqId(1), 3).is_err());
    m.truncate(SeqId(1), 0)
        .expect("the beginning is always there");
    assert_eq!(m.n_past(SeqId(1)).expect("exists"), 0);
}

#[test]
fn steps_group_by_length_and_join_neighbours() {
    let mut m = memory(6, 64, 1);
    advance(&mut m, 3, 60);
    let p = plan(&m, &[(5, 1), (0, 7), (3, 1), (1, 1), (2, 1)]).expect("fits");
    let groups = p.topology().groups;
    let run = |first, first_slot, n_seqs, n_kv| Run {
        first,
        first_slot,
        n_seqs,
        n_kv,
    };
    assert_eq!(
        groups[0],
        (4, 1, 1, vec![run(0, 1, 3, 64), run(3, 5, 1, 64)])
    );
    assert_eq!(groups[1], (1, 7, 1, vec![run(0, 0, 1, 64)]));
    // Tokens in slot order 1, 2, 3, 5, then the seven of slot 0; sequence 3 continues at its position.
    assert_eq!(p.positions[..5], [0, 0, 60, 0, 0]);
    assert_eq!(p.kv_rows[..5], [64, 128, 3 * 64 + 60, 5 * 64, 0]);
    assert_eq!(p.output_owner, [(3, 0), (4, 0), (2, 0), (0, 0), (1, 6)]);
    assert_eq!(p.predecessors(), [0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14]);
    assert_eq!(p.snapshot_tokens(), [0, 1, 2, 3, 10]);
}

#[test]
fn masks_are_causal_and_can_hide_the_first_row() {
    let mut m = memory(1, 64, 1);
    advance(&mut m, 0, 2);
    let p = plan(&m, &[(0, 2)]).expect("fits");
    let (group, run) = (&p.groups[0], &p.groups[0].runs[0]);
    let visible = |first_row| {
        let mut mask = Vec::new();
        p.mask(group, run, first_row, &mut mask);
        assert_eq!(mask.len(), 2 * 64);
        mask.chunks(64)
            .map(|row| (0..64).filter(|&i| row[i] == f16::ZERO).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    assert_eq!(visible(0), [vec![0, 1, 2], vec![0, 1, 2, 3]]);
    assert_eq!(visible(1), [vec![1, 2], vec![1, 2, 3]]);
    m.clear(SeqId(0)).expect("exists");
    let p = plan(&m, &[(0, 2)]).expect("fits");
    let mut mask = Vec::new();
    p.mask(&p.groups[0], &p.groups[0].runs[0], 1, &mut mask);
    assert_eq!(
        (mask[0], mask[64], mask[65]),
        (f16::ZERO, f16::NEG_INFINITY, f16::ZERO),
        "row 0 sees itself: no empty softmax"
    );
}

#[test]
fn limits_are_errors_with_their_numbers() {
    let mut m = memory(2, 8, 1);
    advance(&mut m, 0, 6);
    let message = |r: Result<Plan, MemoryError>| r.expect_err("must fail").to_string();
    assert_eq!(
        message(plan(&m, &[(0, 3)])),
        "the context is full: 6 tokens are in it, 3 more do not fit into 8"
    );
    assert_eq!(
        message(plan(&m, &[(0, 1), (0, 1)])),
        "sequence 0 occurs twice in one step"
    );
    assert_eq!(
        message(plan(&m, &[(2, 1)])),
        "sequence 2 does not exist: there are 2 slots"
    );
    assert_eq!(
        plan(&m, &[(0, 2)]).expect("fits").groups[0].runs[0].n_kv,
        64,
        "whole steps"
    );
    let bad = Work {
        seq: SeqId(0),
        tokens: &[10],
        outputs: vec![],
    };
    assert_eq!(
        message(Plan::new(&m, &[bad], StepKind::default(), 10)),
        "token 10 is outside the vocabulary of 10"
    );
}

#[test]
fn poison_spares_the_zero_plane() {
    let m = memory(1, 8, 2);
    m.poison(0xff).expect("writable");
    assert_eq!(m.read_planes(0).expect("reads"), vec![0; 8]);
    assert_eq!(m.read_planes(1).expect("reads"), vec![0xff; 8]);
}

#[test]
fn checkpoints_of_another_shape_are_refused() {
    let mut m = memory(1, 8, 1);
    advance(&mut m, 0, 4);
    let mut c = m.checkpoint(SeqId(0)).expect("reads");
    c.state.push(0);
    assert!(matches!(
        m.restore(SeqId(0), &c),
        Err(MemoryError::ForeignCheckpoint {
            found: 9,
            expected: 8
        })
    ));
    c.state.pop();
    c.n_past = 5;
    assert!(
        matches!(
            m.restore(SeqId(0), &c),
            Err(MemoryError::CannotRewind { .. })
        ),
        "rows beyond the end are not its own"
    );
}

/// Writes rows and a state that tell slots and positions apart.
fn fill(m: &mut Memory, seq: u32, n: usize) {
    advance(m, seq, n);
    let rows = m.rows("rows").expect("rows");
    let values: Vec<f32> = (0..n * 4).map(|i| (100 * seq) as f32 + i as f32).collect();
    let first = (seq * m.config().rows_per_slot()) as usize * 16;
    m.store()
        .write(rows, first, bytemuck::cast_slice(&values))
        .expect("writes");
    let state = [seq as f32, n as f32];
    m.write_planes(m.own_plane(SeqId(seq), 0), bytemuck::cast_slice(&state))
        .expect("writes");
}

#[test]
fn prefixes_leave_a_slot_and_come_back_in_another() {
    let mut m = memory(3, 64, 2);
    fill(&mut m, 1, 6);
    let whole = m.checkpoint(SeqId(1)).expect("reads");
    let rows = m.export_rows(SeqId(1), 6).expect("reads");
    assert_eq!(rows.bytes().len(), 6 * m.row_bytes());
    m.import(SeqId(2), &rows, &whole).expect("fits");
    assert_eq!(m.n_past(SeqId(2)).expect("exists"), 6);
    assert_eq!(m.export_rows(SeqId(2), 6).expect("reads"), rows);
    assert_eq!(m.checkpoint(SeqId(2)).expect("reads"), whole);
    // A shorter one, from more rows than it needs.
    let early = Checkpoint {
        n_past: 4,
        ..whole.clone()
    };
    m.import(SeqId(0), &rows, &early).expect("fits");
    let short = m.shorten_rows(&rows, 4);
    assert_eq!(m.export_rows(SeqId(0), 4).expect("reads"), short);
    assert_eq!(m.oldest(SeqId(0)).expect("exists"), 4, "one state only");
    // From slot to slot, also after the source went on.
    fill(&mut m, 0, 3);
    m.copy_prefix(SeqId(1), SeqId(0), &early).expect("copies");
    assert_eq!(m.export_rows(SeqId(0), 4).expect("reads"), short);
    assert_eq!(m.checkpoint(SeqId(0)).expect("reads"), early);
    assert!(m.export_rows(SeqId(0), 5).is_err(), "it has four");
    assert!(
        m.copy_prefix(SeqId(0), SeqId(2), &whole).is_err(),
        "nor can six be copied"
    );
}

#[test]
fn prefixes_from_outside_are_checked() {
    let mut m = memory(1, 8, 1);
    fill(&mut m, 0, 4);
    let (c, rows) = (
        m.checkpoint(SeqId(0)).expect("reads"),
        m.export_rows(SeqId(0), 4).expect("reads"),
    );
    let mut refused = |rows: &Rows, c: &Checkpoint| {
        let error = m.import(SeqId(0), rows, c).expect_err("does not fit");
        assert_eq!(m.n_past(SeqId(0)).expect("exists"), 0);
        error
    };
    let cut = Rows::new(4, rows.bytes()[1..].to_vec());
    assert!(matches!(
        refused(&cut, &c),
        MemoryError::ForeignCheckpoint { found: 63, .. }
    ));
    let short = Rows::new(3, rows.bytes()[..48].to_vec());
    assert!(matches!(
        refused(&short, &c),
        MemoryError::ForeignCheckpoint { .. }
    ));
    let mut nan = rows.bytes().to_vec();
    nan[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(matches!(
        refused(&Rows::new(4, nan), &c),
        MemoryError::NotFinite
    ));
    let long = Rows::new(9, vec![0; 9 * 16]);
    let late = Checkpoint {
        n_past: 9,
        ..c.clone()
    };
    assert!(matches!(
        refused(&long, &late),
        MemoryError::ContextFull { .. }
    ));
    let state = vec![0; 4];
    let foreign = Checkpoint { n_past: 4, state };
    assert!(matches!(
        refused(&rows, &foreign),
        MemoryError::ForeignCheckpoint { found: 4, .. }
    ));
    m.import(SeqId(0), &rows, &c).expect("fits");
}
