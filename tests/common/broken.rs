//! Broken GGUF files, built byte by byte from one small valid file, with what the error must say about each.
//!
//! The builder shares nothing with the library, so that a mistake in the library's writer cannot hide one in its
//! reader.

use std::path::{Path, PathBuf};

/// One broken file.
pub struct BrokenFile {
    /// What is wrong with it, in words; also its file name.
    pub name: &'static str,
    /// The whole file.
    pub bytes: Vec<u8>,
    /// The field that the error must name.
    pub field: &'static str,
    /// What the error must say about it.
    pub phrase: &'static str,
}

impl BrokenFile {
    /// Writes the file into `folder`.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join(self.name.replace(' ', "-") + ".gguf");
        std::fs::write(&path, &self.bytes).unwrap();
        path
    }
}

const U8: u32 = 0;
const U32: u32 = 4;
const I32: u32 = 5;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;

const F32_TENSOR: u32 = 0;
const Q4_0_TENSOR: u32 = 2;
const IQ4_NL_TENSOR: u32 = 20;

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

fn entry(key: &str, value_type: u32, value: &[u8]) -> Vec<u8> {
    [&text(key.as_bytes())[..], &value_type.to_le_bytes(), value].concat()
}

fn list(element_type: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [
        &element_type.to_le_bytes()[..],
        &count.to_le_bytes(),
        elements,
    ]
    .concat()
}

fn tensor(name: &str, dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    tensor_with_dim_count(name, dims.len() as u32, dims, ty, offset)
}

fn tensor_with_dim_count(name: &str, n_dims: u32, dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    [
        &text(name.as_bytes())[..],
        &n_dims.to_le_bytes(),
        &dims,
        &ty.to_le_bytes(),
        &offset.to_le_bytes(),
    ]
    .concat()
}

/// A file in pieces, each of which a case may replace.
struct Pieces {
    magic: Vec<u8>,
    version: u32,
    tensor_count: Option<u64>,
    entry_count: Option<u64>,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    alignment: usize,
    data: Vec<u8>,
}

/// Index of the entry with the alignment in [`Pieces::valid`].
const ALIGNMENT: usize = 1;

impl Pieces {
    /// A valid file: five entries, and two tensors of 64 and 36 bytes.
    fn valid() -> Self {
        let words = [text(b"alpha"), text(b""), text(b"a longer word at the end")].concat();
        let numbers: Vec<u8> = (1..=3_i32).flat_map(i32::to_le_bytes).collect();
        Self {
            magic: b"GGUF".to_vec(),
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: vec![
                entry("general.architecture", STRING, &text(b"bailing_hybrid")),
                entry("general.alignment", U32, &32_u32.to_le_bytes()),
                entry("numbers", ARRAY, &list(I32, 3, &numbers)),
                entry("words", ARRAY, &list(STRING, 3, &words)),
                entry("last", U64, &7_u64.to_le_bytes()),
            ],
            tensors: vec![
                tensor("first.weight", &[8, 2], F32_TENSOR, 0),
                tensor("second.weight", &[32, 2], Q4_0_TENSOR, 64),
            ],
            alignment: 32,
            data: vec![1; 128],
        }
    }

    fn header(&self) -> Vec<u8> {
        let tensor_count = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        let entry_count = self.entry_count.unwrap_or(self.entries.len() as u64);
        let start = [
            &self.magic[..],
            &self.version.to_le_bytes(),
            &tensor_count.to_le_bytes(),
            &entry_count.to_le_bytes(),
        ];
        [start.concat(), self.entries.concat(), self.tensors.concat()].concat()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend(&self.data);
        bytes
    }

    /// Where entry `index` starts; the end of the entries for one past the last.
    fn entry_start(&self, index: usize) -> usize {
        24 + self.entries[..index].iter().map(Vec::len).sum::<usize>()
    }

    /// Where tensor `index` starts.
    fn tensor_start(&self, index: usize) -> usize {
        self.entry_start(self.entries.len())
            + self.tensors[..index].iter().map(Vec::len).sum::<usize>()
    }
}

/// The file all others are made from.
pub fn valid() -> Vec<u8> {
    Pieces::valid().bytes()
}

/// Every broken file.
pub fn cases() -> Vec<BrokenFile> {
    [
        starts(),
        truncations(),
        entries(),
        arrays(),
        alignments(),
        tensor_names_and_types(),
        shapes(),
        placements(),
        parts(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn whole(
    name: &'static str,
    field: &'static str,
    phrase: &'static str,
    bytes: impl Into<Vec<u8>>,
) -> BrokenFile {
    BrokenFile {
        name,
        bytes: bytes.into(),
        field,
        phrase,
    }
}

fn changed(
    name: &'static str,
    field: &'static str,
    phrase: &'static str,
    change: impl FnOnce(&mut Pieces),
) -> BrokenFile {
    let mut pieces = Pieces::valid();
    change(&mut pieces);
    whole(name, field, phrase, pieces.bytes())
}

fn starts() -> Vec<BrokenFile> {
    let magic =
        |name, phrase, bytes: &[u8]| whole(name, "magic", phrase, [bytes, &valid()].concat());
    vec![
        whole("empty", "magic", "an empty file", ""),
        magic("a zip archive", "zip archive", b"PK\x03\x04"),
        magic("a pickle", "pickle", b"\x80\x02}q"),
        magic(
            "a git lfs pointer",
            "Git LFS pointer",
            b"version https://git-lfs.github.com/spec/v1\n",
        ),
        magic("an html page", "HTML", b"<!DOCTYPE html>"),
        magic("a json file", "JSON", b"{\"error\": \"not found\"}"),
        magic("a safetensors file", "safetensors", b"\x02\0\0\0\0\0\0\0{}"),
        magic("a ggjt file", "old GGJT format", b"tjgg\x03\0\0\0"),
        magic("zeros", "zeros", &[0; 64]),
        magic("some other magic", "the bytes `abc\\n", b"abc\n"),
        changed("version 1", "version", "found 1", |file| file.version = 1),
        changed("version 4", "version", "found 4", |file| file.version = 4),
        changed(
            "big endian",
            "version",
            "found 3 in big-endian order",
            |file| file.version = 3 << 24,
        ),
        changed(
            "too many tensors",
            "tensor count",
            "expected at most",
            |file| file.tensor_count = Some(u64::MAX),
        ),
        changed(
            "too many entries",
            "metadata count",
            "expected at most",
            |file| file.entry_count = Some(1 << 60),
        ),
        changed(
            "one entry more than there are",
            "tensor entry 0 name",
            "at most 63 bytes",
            |file| file.entry_count = Some(6),
        ),
        changed(
            "one tensor more than there are",
            "tensor entry 2 name",
            "63 bytes",
            |file| {
                file.tensor_count = Some(3);
            },
        ),
    ]
}

fn truncations() -> Vec<BrokenFile> {
    let file = Pieces::valid();
    let bytes = file.bytes();
    let last = file.entry_start(4);
    let words = file.entry_start(3);
    let tensor = file.tensor_start(1);
    let data = bytes.len() - file.data.len();
    let cut =
        |name, length: usize, field| whole(name, field, "but the file ends at", &bytes[..length]);
    vec![
        cut("cut in the magic", 3, "magic"),
        cut("cut in the version", 6, "version"),
        cut("cut in the tensor count", 12, "tensor count"),
        cut("cut in the metadata count", 20, "metadata count"),
        cut("cut in a key length", last + 4, "metadata entry 4 key"),
        cut("cut in a key", last + 10, "metadata entry 4 key"),
        cut("cut in a value type", last + 14, "metadata `last` type"),
        cut("cut in a number", last + 20, "metadata `last` value"),
        cut(
            "cut in an element type",
            words + 19,
            "metadata `words` element type",
        ),
        cut(
            "cut in an array length",
            words + 25,
            "metadata `words` length",
        ),
        cut(
            "cut in a string of an array",
            words + 68,
            "metadata `words` element 2 value",
        ),
        cut("cut in a tensor name", tensor + 12, "tensor entry 1 name"),
        cut(
            "cut in a dimension count",
            tensor + 22,
            "tensor `second.weight` dimension count",
        ),
        cut(
            "cut in a dimension",
            tensor + 35,
            "tensor `second.weight` dimension 1",
        ),
        cut(
            "cut in a tensor type",
            tensor + 42,
            "tensor `second.weight` type",
        ),
        cut(
            "cut in an offset",
            tensor + 50,
            "tensor `second.weight` offset",
        ),
        cut("cut before the data", data, "tensor `first.weight` data"),
        cut(
            "cut in the last tensor",
            data + 99,
            "tensor `second.weight` data",
        ),
    ]
}

fn with_entry(
    name: &'static str,
    field: &'static str,
    phrase: &'static str,
    entry: Vec<u8>,
) -> BrokenFile {
    changed(name, field, phrase, |file| file.entries.push(entry))
}

fn entries() -> Vec<BrokenFile> {
    let with = with_entry;
    vec![
        with(
            "a key twice",
            "metadata `last` key",
            "each key once",
            entry("last", BOOL, &[1]),
        ),
        with(
            "an empty key",
            "metadata entry 5 key",
            "1 to 65535 bytes",
            entry("", BOOL, &[1]),
        ),
        with(
            "a key that is not text",
            "metadata entry 5 key",
            "expected UTF-8",
            [&text(b"\xff\xfe")[..], &BOOL.to_le_bytes(), &[1]].concat(),
        ),
        with(
            "a key with a zero byte",
            "metadata entry 5 key",
            "no zero byte",
            entry("a\0b", BOOL, &[1]),
        ),
        with(
            "a huge key",
            "metadata entry 5 key",
            "at most 65535 bytes",
            u64::MAX.to_le_bytes().to_vec(),
        ),
        with(
            "a key past the end",
            "metadata entry 5 key",
            "but the file ends at",
            60_000_u64.to_le_bytes().to_vec(),
        ),
        with(
            "an unknown value type",
            "metadata `k` type",
            "found 13",
            entry("k", 13, &[0; 8]),
        ),
        with(
            "a bool of 2",
            "metadata `k` value",
            "a bool, 0 or 1, found 2",
            entry("k", BOOL, &[2]),
        ),
        with(
            "a huge string",
            "metadata `k` value",
            "but the file ends at",
            entry("k", STRING, &[0xff; 8]),
        ),
    ]
}

fn arrays() -> Vec<BrokenFile> {
    let with = |name, field, phrase, value: Vec<u8>| {
        with_entry(name, field, phrase, entry("k", ARRAY, &value))
    };
    let nested = |depth: usize| {
        let levels = list(ARRAY, 1, &[]).repeat(depth - 1);
        [levels, list(U8, 1, &[1])].concat()
    };
    vec![
        with(
            "an unknown element type",
            "metadata `k` element type",
            "found 99",
            list(99, 1, &[0; 8]),
        ),
        with(
            "a huge array of bytes",
            "metadata `k` length",
            "expected at most",
            list(U8, 1 << 62, &[]),
        ),
        with(
            "a huge array of strings",
            "metadata `k` length",
            "expected at most",
            list(STRING, 1 << 40, &[]),
        ),
        with(
            "a huge array of arrays",
            "metadata `k` length",
            "expected at most",
            list(ARRAY, 1 << 40, &[]),
        ),
        with(
            "an array whose size overflows",
            "metadata `k` length",
            "expected at most",
            list(U64, (1 << 61) + 1, &[0; 8]),
        ),
        with(
            "a huge string in an array",
            "metadata `k` element 1 value",
            "but the file ends at",
            list(
                STRING,
                2,
                &[text(b"a"), (1_u64 << 50).to_le_bytes().to_vec()].concat(),
            ),
        ),
        with(
            "a bool of 3 in an array",
            "metadata `k` value",
            "a bool, 0 or 1, found 3",
            list(BOOL, 2, &[1, 3]),
        ),
        with(
            "arrays 5 deep",
            "metadata `k` nesting",
            "at most 4 deep",
            nested(5),
        ),
        with(
            "arrays 100000 deep",
            "metadata `k` nesting",
            "at most 4 deep",
            nested(100_000),
        ),
    ]
}

fn alignments() -> Vec<BrokenFile> {
    let with = |name, phrase, value_type: u32, value: &[u8]| {
        changed(name, "metadata `general.alignment` value", phrase, |file| {
            file.entries[ALIGNMENT] = entry("general.alignment", value_type, value);
        })
    };
    let power = "expected a power of two from 8";
    vec![
        with("alignment 0", power, U32, &0_u32.to_le_bytes()),
        with("alignment 1", power, U32, &1_u32.to_le_bytes()),
        with("alignment 48", power, U32, &48_u32.to_le_bytes()),
        with(
            "alignment 2 to the 31",
            power,
            U32,
            &(1_u32 << 31).to_le_bytes(),
        ),
        with(
            "alignment as u64",
            "expected u32, found u64",
            U64,
            &32_u64.to_le_bytes(),
        ),
        with(
            "alignment as a string",
            "expected u32, found string",
            STRING,
            &text(b"32"),
        ),
    ]
}

fn with_tensor(
    name: &'static str,
    field: &'static str,
    phrase: &'static str,
    tensor: Vec<u8>,
) -> BrokenFile {
    changed(name, field, phrase, |file| file.tensors[1] = tensor)
}

fn tensor_names_and_types() -> Vec<BrokenFile> {
    let with = with_tensor;
    let of_type = |ty| tensor("t", &[32], ty, 64);
    let long_name = "n".repeat(64);
    vec![
        with(
            "a tensor twice",
            "tensor `first.weight` name",
            "each tensor once",
            tensor("first.weight", &[8], F32_TENSOR, 64),
        ),
        with(
            "a tensor without a name",
            "tensor entry 1 name",
            "1 to 63 bytes",
            tensor("", &[8], F32_TENSOR, 64),
        ),
        with(
            "a tensor name of 64 bytes",
            "tensor entry 1 name",
            "at most 63 bytes, found 64",
            tensor(&long_name, &[8], F32_TENSOR, 64),
        ),
        with(
            "a huge tensor name",
            "tensor entry 1 name",
            "at most 63 bytes",
            [0xff; 8].to_vec(),
        ),
        with(
            "a type id of the future",
            "tensor `t` type",
            "0 to 42), found 43",
            of_type(43),
        ),
        with(
            "a removed type",
            "tensor `t` type",
            "type id 31 (Q4_0_4_4) was removed from GGML",
            of_type(31),
        ),
        with(
            "a type removed long ago",
            "tensor `t` type",
            "type id 4 (Q4_2) was removed",
            of_type(4),
        ),
    ]
}

fn shapes() -> Vec<BrokenFile> {
    let with = with_tensor;
    let dims = |dims: &[u64]| tensor("t", dims, IQ4_NL_TENSOR, 64);
    vec![
        with(
            "no dimensions",
            "tensor `t` dimension count",
            "expected 1 to 4, found 0",
            dims(&[]),
        ),
        with(
            "five dimensions",
            "tensor `t` dimension count",
            "expected 1 to 4, found 5",
            dims(&[32, 1, 1, 1, 1]),
        ),
        with(
            "four billion dimensions",
            "tensor `t` dimension count",
            "found 4294967295",
            tensor_with_dim_count("t", u32::MAX, &[32], IQ4_NL_TENSOR, 64),
        ),
        with(
            "a dimension of 0",
            "tensor `t` dimension 1",
            "expected at least 1, found 0",
            dims(&[32, 0]),
        ),
        with(
            "dimensions that overflow",
            "tensor `t` shape",
            "less than 2^63 elements",
            dims(&[1 << 32, 1 << 32, 2]),
        ),
        with(
            "a negative dimension",
            "tensor `t` shape",
            "less than 2^63 elements",
            dims(&[u64::MAX]),
        ),
        with(
            "bytes that overflow",
            "tensor `t` shape",
            "less than 2^64 bytes",
            tensor("t", &[1 << 62], 28, 64),
        ),
        with(
            "a row of half a block",
            "tensor `t` dimension 0",
            "a multiple of 32",
            dims(&[48]),
        ),
    ]
}

fn placements() -> Vec<BrokenFile> {
    let with = |name, field, phrase, offset: u64| {
        changed(name, field, phrase, |file| {
            file.tensors[1] = tensor("t", &[32, 2], Q4_0_TENSOR, offset)
        })
    };
    vec![
        with(
            "an offset off the grid",
            "tensor `t` offset",
            "a multiple of 32, found 65",
            65,
        ),
        with(
            "an offset inside another tensor",
            "tensor `t` offset",
            "`first.weight` ends at byte",
            32,
        ),
        changed(
            "an overlap with a name of two lines",
            "tensor `second.weight` offset",
            "`first\\nweight` ends at byte",
            |file| {
                file.tensors[0] = tensor("first\nweight", &[8, 4], F32_TENSOR, 0);
            },
        ),
        with(
            "the offset of another tensor",
            " offset",
            "tensors apart from each other",
            0,
        ),
        with(
            "an offset past the end",
            "tensor `t` data",
            "but the file ends at",
            4096,
        ),
        with(
            "an offset that overflows",
            "tensor `t` data",
            "but the file ends at",
            u64::MAX - 31,
        ),
        changed(
            "a tensor larger than the file",
            "tensor `t` data",
            "but the file ends at",
            |file| {
                file.tensors[1] = tensor("t", &[1 << 40], F32_TENSOR, 64);
            },
        ),
    ]
}

fn parts() -> Vec<BrokenFile> {
    vec![
        changed(
            "a split count of two lines",
            "metadata `split.count` value",
            "found array of strings [a\\nb]",
            |file| {
                let lines = list(STRING, 1, &text(b"a\nb"));
                file.entries.push(entry("split.count", ARRAY, &lines));
            },
        ),
        changed(
            "half of a split model",
            "metadata `split.no` value",
            "no such key",
            |file| {
                file.entries
                    .push(entry("split.count", U32, &2_u32.to_le_bytes()));
            },
        ),
        changed(
            "a split count of the wrong type",
            "metadata `split.count` value",
            "found string",
            |file| {
                file.entries.push(entry("split.count", STRING, &text(b"2")));
            },
        ),
        changed(
            "a split of millions",
            "metadata `split.count` value",
            "at most 65535",
            |file| {
                file.entries
                    .push(entry("split.count", U64, &(1_u64 << 40).to_le_bytes()));
            },
        ),
        changed(
            "a part with another name",
            "file name",
            "-00001-of-00002.gguf",
            |file| {
                file.entries
                    .push(entry("split.count", U32, &2_u32.to_le_bytes()));
                file.entries
                    .push(entry("split.no", U32, &0_u32.to_le_bytes()));
            },
        ),
    ]
}
