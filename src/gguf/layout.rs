//! Constants and rules of the format that reader and writer share.

#![forbid(unsafe_code)]

/// First bytes of every file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// Version the writer writes. The reader also takes 2, which differs in nothing for little-endian files.
pub(super) const VERSION: u32 = 3;

/// Key that sets the alignment of tensor data.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// Alignment when the file does not say.
pub const DEFAULT_ALIGNMENT: u32 = 32;

/// Least alignment: the format asks for a multiple of 8, and kernels read 8 bytes at a time.
pub(super) const MIN_ALIGNMENT: u32 = 8;

/// Greatest alignment: a 2 MiB huge page. No device asks for more, and padding would outgrow the tensors.
pub(super) const MAX_ALIGNMENT: u32 = 2 << 20;

/// Longest metadata key, as the format states.
pub(super) const MAX_KEY_BYTES: u64 = 65_535;

/// Longest tensor name: ggml keeps names in 64 bytes with a closing zero.
pub const MAX_NAME_BYTES: u64 = 63;

/// Deepest nesting of arrays. Tensors have at most 4 dimensions, so tables of constants need no more; the reader
/// descends by recursion, and a bound keeps a hostile file off the end of the stack.
pub const MAX_ARRAY_DEPTH: usize = 4;

/// Fewest bytes of a metadata entry: key length, type and a one-byte value.
pub(super) const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;

/// Fewest bytes of a tensor entry: name length, dimension count, one dimension, type and offset.
pub(super) const MIN_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// What a rule wanted and what it saw.
pub(super) struct Violation {
    pub(super) expected: String,
    pub(super) found: String,
}

pub(super) fn check_alignment(alignment: u32) -> Result<(), Violation> {
    if alignment.is_power_of_two() && (MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&alignment) {
        return Ok(());
    }
    Err(Violation {
        expected: format!("a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}"),
        found: alignment.to_string(),
    })
}

pub(super) fn check_key(key: &[u8]) -> Result<&str, Violation> {
    check_text(key, MAX_KEY_BYTES)
}

pub(super) fn check_tensor_name(name: &[u8]) -> Result<&str, Violation> {
    check_text(name, MAX_NAME_BYTES)
}

fn check_text(text: &[u8], max_bytes: u64) -> Result<&str, Violation> {
    if text.is_empty() || text.len() as u64 > max_bytes {
        return Err(Violation {
            expected: format!("1 to {max_bytes} bytes"),
            found: format!("{} bytes", text.len()),
        });
    }
    if text.contains(&0) {
        return Err(Violation {
            expected: "no zero byte".to_owned(),
            found: "one".to_owned(),
        });
    }
    std::str::from_utf8(text).map_err(|error| Violation {
        expected: "UTF-8".to_owned(),
        found: format!("other bytes at position {}", error.valid_up_to()),
    })
}

/// The next multiple of `alignment`, or `None` on overflow.
pub(super) fn align_up(position: u64, alignment: u32) -> Option<u64> {
    position.checked_next_multiple_of(u64::from(alignment))
}
