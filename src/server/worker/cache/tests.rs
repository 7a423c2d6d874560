//! What is found, what is kept, and what goes.

use super::*;
use crate::ggml::{DType, Device};
use crate::memory::{MemoryConfig, MemorySpec, RowSpec};

const A: Scope = Scope([1; 32]);
const B: Scope = Scope([2; 32]);

/// Rows of 4 bytes per token.
fn memory() -> Memory {
    let device = Device::cpu().expect("every build has a CPU");
    let spec = MemorySpec {
        rows: vec![RowSpec {
            name: "rows".into(),
            n_head: 1,
            head_width: 1,
            read_by: None,
            device,
        }],
        ..MemorySpec::default()
    };
    let config = MemoryConfig {
        n_seq: 1,
        n_ctx_seq: 64,
        n_snapshots: 1,
        n_ubatch: 64,
        row_type: DType::F32,
        row_step: 64,
    };
    Memory::new(&spec, config).expect("memory")
}

fn state(n: u32, bytes: usize, logits: bool) -> Arc<State> {
    let checkpoint = Checkpoint {
        n_past: n,
        state: vec![0; bytes],
    };
    State::new(checkpoint, logits.then(Vec::new))
}

fn rows(n: u32) -> Rows {
    Rows::new(n, vec![0; 4 * n as usize])
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).collect()
}

#[test]
fn a_prompt_goes_on_from_the_nearest_state() {
    let (held, states) = (tokens(20), [state(5, 1, false), state(12, 1, true)]);
    let holder = Holder {
        tokens: &held,
        states: &states,
        oldest: Some(18),
        has_logits: true,
        recurrent: true,
    };
    let n = |holder: &Holder<'_>, prompt: &[u32]| {
        let found = holder.find(prompt);
        (found.n, found.common)
    };
    assert_eq!(n(&holder, &tokens(30)), (20, 20), "it grows");
    assert_eq!(n(&holder, &tokens(20)), (20, 20), "its logits are known");
    assert_eq!(n(&holder, &tokens(19)), (18, 19), "memory goes back");
    assert_eq!(n(&holder, &tokens(18)), (12, 18), "too far back");
    assert_eq!(n(&holder, &tokens(12)), (12, 12), "a state with logits");
    assert_eq!(n(&holder, &tokens(11)), (5, 11));
    assert_eq!(n(&holder, &tokens(5)), (0, 5), "a state without logits");
    let mut other = tokens(30);
    other[15] = 99;
    assert_eq!(n(&holder, &other), (12, 15), "another end");
    other[0] = 99;
    assert_eq!(n(&holder, &other), (0, 0));
    let busy = Holder {
        oldest: None,
        ..holder
    };
    assert_eq!(n(&busy, &tokens(30)), (12, 20), "its state moves on");
    let attention = Holder {
        states: &[],
        recurrent: false,
        ..busy
    };
    assert_eq!(n(&attention, &tokens(7)), (6, 7), "rows can be cut");
}

#[test]
fn the_budget_is_kept_and_the_oldest_goes_first() {
    let memory = memory();
    let mut cache = Cache::new(100);
    let (first, second, third) = (
        state(2, 30, false),
        state(4, 30, false),
        state(6, 30, false),
    );
    for s in [&first, &second, &third] {
        cache.touch(s);
    }
    let mut slot = vec![first.clone(), second.clone()];
    cache.save(A, tokens(6), rows(6), vec![second.clone(), third.clone()]);
    // 3 states, the shared one counted once, and 24 bytes of rows.
    assert_eq!(cache.bytes([slot.as_slice()].into_iter()), 90 + 24);
    assert_eq!(cache.enforce(&mut [&mut slot], &memory), 1);
    assert_eq!(slot.len(), 1, "the first was oldest");
    cache.touch(&second);
    cache.budget = 80;
    assert_eq!(cache.enforce(&mut [&mut slot], &memory), 1);
    let saved = &cache.saved()[0];
    assert_eq!(
        (saved.tokens.len(), saved.rows.n(), saved.states.len()),
        (4, 4, 1),
        "without its last state the end is of no use"
    );
    cache.budget = 40;
    assert_eq!(cache.enforce(&mut [&mut slot], &memory), 1);
    assert!(cache.saved().is_empty() && slot.is_empty());
    assert_eq!(cache.bytes(std::iter::empty()), 0);
}

#[test]
fn conversations_of_models_without_states_go_too() {
    let memory = memory();
    let mut cache = Cache::new(50);
    cache.save(A, tokens(10), rows(10), Vec::new());
    let mut other = tokens(8);
    other[0] = 7;
    cache.save(A, other, rows(8), Vec::new());
    assert_eq!(cache.enforce(&mut [], &memory), 1);
    assert_eq!(cache.saved()[0].tokens.len(), 8);
}

#[test]
fn a_longer_copy_takes_the_shorter_ones_place_within_its_scope() {
    let mut cache = Cache::new(1000);
    cache.save(A, tokens(4), rows(4), vec![state(4, 1, false)]);
    cache.save(B, tokens(4), rows(4), vec![state(4, 1, false)]);
    cache.save(A, tokens(9), rows(9), vec![state(9, 1, false)]);
    let found: Vec<_> = cache
        .saved()
        .iter()
        .map(|s| (s.scope, s.states.len()))
        .collect();
    assert_eq!(found, [(B, 1), (A, 2)]);
}

#[test]
fn short_conversations_keep_every_boundary_and_long_ones_some() {
    assert_eq!(boundaries_to_keep(&[3, 9, 9, 20], 3, 20), [9]);
    let many: Vec<usize> = (1..=40).map(|i| i * 100).collect();
    assert_eq!(
        boundaries_to_keep(&many, 0, 4001),
        [100, 1200, 2300, 3400, 3700, 3800, 3900, 4000]
    );
}
