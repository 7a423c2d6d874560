//! Files in both forms, merging, and what is refused.

use super::*;

fn entry(sums: &[f32], counts: &[u64]) -> Entry {
    Entry::new(sums.to_vec(), counts.to_vec()).unwrap()
}

fn sample() -> ImportanceMatrix {
    let mut matrix = ImportanceMatrix::new(512);
    matrix.insert("blk.0.attn_q.weight", entry(&[2.0, 4.0], &[2]));
    matrix.insert(
        "blk.0.ffn_up_exps.weight",
        entry(&[3.0, 6.0, 0.0, 0.0], &[3, 0]),
    );
    matrix.note("text.txt", 7);
    matrix
}

#[test]
fn importances_are_means_and_ones_for_experts_nobody_chose() {
    let matrix = sample();
    let of = |name: &str| matrix.entry(name).unwrap().importance();
    assert_eq!(of("blk.0.attn_q.weight"), [1.0, 2.0]);
    assert_eq!(of("blk.0.ffn_up_exps.weight"), [1.0, 2.0, 1.0, 1.0]);
}

#[test]
fn files_lead_back_to_the_same_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.gguf");
    sample().save(&path).unwrap();
    let read = ImportanceMatrix::open(&path).unwrap();
    assert_eq!(read.entries, sample().entries);
    assert_eq!((read.chunk_count(), read.chunk_size()), (7, 512));
    assert_eq!(read.datasets(), ["text.txt"]);
    let empty = ImportanceMatrix::new(512).save(&path).unwrap_err();
    assert!(matches!(empty, ImatrixError::Empty));
}

/// The older form, byte by byte.
fn legacy() -> Vec<u8> {
    let int = |n: i32| n.to_le_bytes();
    let name = b"blk.0.attn_q.weight";
    let mut bytes = [int(1), int(name.len() as i32)].concat();
    bytes.extend(name);
    bytes.extend([int(4), int(2)].concat());
    bytes.extend([8.0f32.to_le_bytes(), 12.0f32.to_le_bytes()].concat());
    bytes.extend([int(4), int(3)].concat());
    bytes.extend(b"old");
    bytes
}

#[test]
fn the_older_form_is_read_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.dat");
    std::fs::write(&path, legacy()).unwrap();
    let old = ImportanceMatrix::open(&path).unwrap();
    assert_eq!(
        old.entry("blk.0.attn_q.weight").unwrap().importance(),
        [2.0, 3.0]
    );
    assert_eq!(
        (old.chunk_count(), old.datasets()),
        (4, &["old".to_owned()][..])
    );

    let mut merged = sample();
    merged.merge(&old).unwrap();
    // Four chunks of 512 rows beside two rows.
    let rows = 4.0 * 512.0;
    let expected = [
        (2.0 + 2.0 * rows) / (2.0 + rows),
        (4.0 + 3.0 * rows) / (2.0 + rows),
    ];
    assert_eq!(
        merged.entry("blk.0.attn_q.weight").unwrap().importance(),
        expected
    );
    assert_eq!(merged.chunk_count(), 11);
}

#[test]
fn matrices_of_other_models_do_not_merge() {
    let mut matrix = sample();
    let mut other = ImportanceMatrix::new(512);
    other.insert("blk.0.attn_q.weight", entry(&[1.0; 4], &[1]));
    assert!(matches!(
        matrix.merge(&other),
        Err(ImatrixError::Shape {
            expected: 2,
            found: 4,
            ..
        })
    ));
}

#[test]
fn what_is_no_importance_matrix_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i");
    let refuse = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        ImportanceMatrix::open(&path).unwrap_err().to_string()
    };
    let whole = legacy();
    assert!(refuse(b"just some text, and long enough").contains("found something else"));
    for length in 4..whole.len() - 11 {
        refuse(&whole[..length]);
    }
    assert!(refuse(b"").contains("an empty file"));
    let model =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-ling-IQ4_NL.gguf");
    let error = ImportanceMatrix::open(&model).unwrap_err();
    assert!(
        error.to_string().contains("general.type: expected imatrix"),
        "{error}"
    );
    assert!(ImportanceMatrix::open(folder.path()).is_err());
    for sums in [[f32::NAN, 1.0], [-1.0, 1.0], [f32::INFINITY, 1.0]] {
        assert_eq!(Entry::new(sums.to_vec(), vec![1]), None);
    }
    assert_eq!(Entry::new(vec![1.0; 3], vec![1, 1]), None);
}
