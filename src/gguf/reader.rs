//! Opening a file: header, metadata, tensor table, and views of the tensor bytes.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, FileType};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::cursor::{Cursor, reserved};
use super::error::{A_DIRECTORY, Field, GgufError, Quoted};
use super::layout::{self, ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_KEY_BYTES, MAX_NAME_BYTES};
use super::map::map_file;
use super::metadata::Metadata;
use super::sniff;
use super::split;
use super::types::{GgmlType, MAX_DIMS, Shape, ShapeError, TensorInfo};
use super::value::Value;

/// A model in GGUF form: one file, or the parts of a split one as if they were one file.
#[derive(Debug)]
pub struct Gguf {
    shards: Vec<Shard>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    alignment: u32,
}

/// One file of a model.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Shard {
    /// The file's path, or the name given to [`Gguf::from_static`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file, header included. Its start is aligned to a page (or as [`Gguf::from_static`] found it).
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

/// What the header of one file says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) alignment: u32,
}

impl Gguf {
    /// Opens a file. If it is a part of a split model, the other parts are opened too; any part may be named.
    ///
    /// The tensor bytes are mapped, not read: opening takes time and memory for the header only.
    ///
    /// # Errors
    /// The file cannot be read, is not GGUF, breaks the format, or a part of a split model is missing.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let shard = open_shard(path)?;
        let header = parse(shard.bytes(), path)?;
        match split::Part::of(&header.metadata, path)? {
            Some(part) => Self::assemble(split::open_parts(path, part, shard, header)?),
            None => Self::assemble(vec![(shard, header)]),
        }
    }

    /// Reads a file that is part of the program. `name` stands for the path in error messages.
    ///
    /// # Errors
    /// As [`Gguf::open`]; also when the bytes do not start at a multiple of the file's alignment, and when they are
    /// one part of a split model.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self, GgufError> {
        let path = Path::new(name);
        let header = parse(bytes, path)?;
        if let Some(part) = split::Part::of(&header.metadata, path)? {
            return Err(GgufError::Invalid {
                path: path.to_owned(),
                field: split::COUNT_KEY.to_owned(),
                expected: "a model in one part".to_owned(),
                found: format!("{} parts", part.count),
            });
        }
        let alignment = header.alignment;
        let excess = bytes.as_ptr().addr() % alignment as usize;
        if excess != 0 {
            return Err(GgufError::Misaligned {
                path: path.to_owned(),
                alignment,
                excess,
            });
        }
        let shard = Shard {
            path: path.to_owned(),
            bytes: Bytes::Static(bytes),
        };
        Self::assemble(vec![(shard, header)])
    }

    /// Joins the parts of a model; metadata comes from the first.
    fn assemble(parts: Vec<(Shard, Header)>) -> Result<Self, GgufError> {
        let mut whole = Self {
            shards: Vec::with_capacity(parts.len()),
            metadata: Metadata::new(),
            tensors: Vec::new(),
            by_name: HashMap::new(),
            alignment: DEFAULT_ALIGNMENT,
        };
        for (index, (shard, header)) in parts.into_iter().enumerate() {
            if index == 0 {
                whole.metadata = header.metadata;
                whole.alignment = header.alignment;
            }
            for mut tensor in header.tensors {
                tensor.shard = index;
                match whole.by_name.entry(tensor.name.clone()) {
                    Entry::Vacant(slot) => slot.insert(whole.tensors.len()),
                    Entry::Occupied(slot) => {
                        let first = &whole.tensors[*slot.get()];
                        return Err(duplicate_tensor(
                            &shard.path,
                            &tensor.name,
                            &whole.shards,
                            first.shard,
                        ));
                    }
                };
                whole.tensors.push(tensor);
            }
            whole.shards.push(shard);
        }
        Ok(whole)
    }

    /// The metadata; of a split model, that of its first part.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Every tensor, in the order of the file (or files).
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// The bytes of a tensor, `info.bytes` of them, aligned to the alignment of its file.
    ///
    /// # Panics
    /// `info` is not from this model.
    pub fn data(&self, info: &TensorInfo) -> &[u8] {
        let start = info.offset as usize;
        &self.shards[info.shard].bytes()[start..start + info.bytes as usize]
    }

    /// The files the model consists of, in the order of their parts.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Alignment of the tensor data, a power of two; of a split model, that of its first part.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }
}

fn duplicate_tensor(path: &Path, name: &str, shards: &[Shard], first: usize) -> GgufError {
    let found = match shards.get(first) {
        Some(other) => format!("another one in {}", other.path.display()),
        None => "it twice".to_owned(),
    };
    GgufError::Invalid {
        path: path.to_owned(),
        field: Field::Tensor(name, "name").to_string(),
        expected: "each tensor once".to_owned(),
        found,
    }
}

/// Maps a regular file. Anything else is refused before it is opened: opening a pipe would wait for a writer.
pub(super) fn open_shard(path: &Path) -> Result<Shard, GgufError> {
    let io = |action| {
        move |source| GgufError::Io {
            path: path.to_owned(),
            action,
            source,
        }
    };
    let attributes = fs::metadata(path).map_err(io("open the file"))?;
    if !attributes.is_file() {
        return Err(GgufError::NotAFile {
            path: path.to_owned(),
            found: describe(attributes.file_type()),
        });
    }
    let file = File::open(path).map_err(io("open the file"))?;
    let bytes = match attributes.len() {
        0 => Bytes::Static(&[]),
        _ => Bytes::Mapped(map_file(&file).map_err(io("map the file"))?),
    };
    Ok(Shard {
        path: path.to_owned(),
        bytes,
    })
}

/// What a path leads to, if not to a regular file.
pub(super) fn describe(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if kind.is_dir() {
        A_DIRECTORY
    } else {
        "something that is not a regular file"
    }
}

/// Reads the header of one file and checks that its tensors lie inside the file, aligned and apart.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Header, GgufError> {
    let mut cursor = Cursor::new(bytes, path);
    check_start(bytes, path, &mut cursor)?;
    let (tensors, entries) = (
        Field::Header("tensor count"),
        Field::Header("metadata count"),
    );
    let tensor_count = cursor.u64(tensors)?;
    let entry_count = cursor.u64(entries)?;
    cursor.check_count(tensor_count, layout::MIN_TENSOR_BYTES, tensors)?;
    cursor.check_count(entry_count, layout::MIN_ENTRY_BYTES, entries)?;
    let metadata = read_metadata(&mut cursor, entry_count)?;
    let alignment = read_alignment(&cursor, &metadata)?;
    let mut tensors = read_tensors(&mut cursor, tensor_count)?;
    place_tensors(&cursor, bytes.len() as u64, alignment, &mut tensors)?;
    Ok(Header {
        metadata,
        tensors,
        alignment,
    })
}

fn check_start(bytes: &[u8], path: &Path, cursor: &mut Cursor<'_>) -> Result<(), GgufError> {
    if bytes.is_empty() {
        return Err(GgufError::NotGguf {
            path: path.to_owned(),
            found: "an empty file".to_owned(),
            hint: Some("fetch the file again"),
        });
    }
    if !layout::MAGIC.starts_with(&bytes[..bytes.len().min(layout::MAGIC.len())]) {
        let (found, hint) = sniff::looks_like(bytes);
        return Err(GgufError::NotGguf {
            path: path.to_owned(),
            found,
            hint,
        });
    }
    cursor.u32(Field::Header("magic"))?;
    let version = cursor.u32(Field::Header("version"))?;
    let hint = match version {
        2 | 3 => return Ok(()),
        0 | 1 => "convert the model again with a current converter",
        // Small numbers in the wrong byte order keep their low half empty.
        swapped if swapped & 0xffff == 0 => {
            return Err(GgufError::Version {
                path: path.to_owned(),
                found: format!("{} in big-endian order", version.swap_bytes()),
                hint: "convert the model again for a little-endian machine",
            });
        }
        _ => "the file is damaged, or was made for a newer version of the format",
    };
    Err(GgufError::Version {
        path: path.to_owned(),
        found: version.to_string(),
        hint,
    })
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::new();
    for index in 0..count {
        let field = Field::Entry(index, "key");
        let bytes = cursor.string(MAX_KEY_BYTES, field)?;
        let key =
            layout::check_key(bytes).map_err(|violation| cursor.violation(field, violation))?;
        if metadata.contains_key(key) {
            return Err(cursor.invalid(Field::Key(key, "key"), "each key once", "it twice"));
        }
        let value = cursor.value(key)?;
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn read_alignment(cursor: &Cursor<'_>, metadata: &Metadata) -> Result<u32, GgufError> {
    let field = Field::Key(ALIGNMENT_KEY, "value");
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => return Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(alignment)) => *alignment,
        Some(other) => return Err(cursor.invalid(field, "u32", other.type_name())),
    };
    layout::check_alignment(alignment).map_err(|violation| cursor.violation(field, violation))?;
    Ok(alignment)
}

/// Reads the tensor table. Offsets are still relative to the data section.
fn read_tensors(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<TensorInfo>, GgufError> {
    let mut tensors = Vec::with_capacity(reserved(count));
    for index in 0..count {
        tensors.push(read_tensor(cursor, index)?);
    }
    Ok(tensors)
}

fn read_tensor(cursor: &mut Cursor<'_>, index: u64) -> Result<TensorInfo, GgufError> {
    let field = Field::TensorEntry(index, "name");
    let bytes = cursor.string(MAX_NAME_BYTES, field)?;
    let name =
        layout::check_tensor_name(bytes).map_err(|violation| cursor.violation(field, violation))?;

    let field = Field::Tensor(name, "dimension count");
    let n_dims = cursor.u32(field)?;
    if n_dims == 0 || n_dims as usize > MAX_DIMS {
        return Err(cursor.invalid(field, format!("1 to {MAX_DIMS}"), n_dims.to_string()));
    }
    let mut dims = [0; MAX_DIMS];
    let dims = &mut dims[..n_dims as usize];
    for (dim, extent) in dims.iter_mut().enumerate() {
        *extent = cursor.u64(Field::Dimension(name, dim))?;
    }
    let shape = Shape::new(dims).map_err(|error| match error {
        ShapeError::Zero { dim } => cursor.invalid(Field::Dimension(name, dim), "at least 1", "0"),
        _ => cursor.invalid(
            Field::Tensor(name, "shape"),
            "less than 2^63 elements",
            format!("{dims:?}"),
        ),
    })?;

    let ty = read_type(cursor, name)?;
    if !shape.ne()[0].is_multiple_of(ty.block_size()) {
        let expected = format!("a multiple of {}, the block size of {ty}", ty.block_size());
        return Err(cursor.invalid(
            Field::Dimension(name, 0),
            expected,
            shape.ne()[0].to_string(),
        ));
    }
    let bytes = shape.bytes(ty).ok_or_else(|| {
        cursor.invalid(
            Field::Tensor(name, "shape"),
            "less than 2^64 bytes",
            format!("{shape} of {ty}"),
        )
    })?;
    let offset = cursor.u64(Field::Tensor(name, "offset"))?;
    Ok(TensorInfo {
        name: name.to_owned(),
        ty,
        shape,
        shard: 0,
        offset,
        bytes,
    })
}

fn read_type(cursor: &mut Cursor<'_>, name: &str) -> Result<GgmlType, GgufError> {
    let field = Field::Tensor(name, "type");
    let id = cursor.u32(field)?;
    if let Some(ty) = GgmlType::from_id(id) {
        return Ok(ty);
    }
    let (path, field) = (cursor.path().to_owned(), field.to_string());
    Err(match GgmlType::removed_name(id) {
        Some(name) => GgufError::RemovedType {
            path,
            field,
            id,
            name,
        },
        None => GgufError::UnknownType { path, field, id },
    })
}

/// Turns offsets into positions in the file, and checks that every tensor is aligned, inside the file and apart from
/// the others.
fn place_tensors(
    cursor: &Cursor<'_>,
    size: u64,
    alignment: u32,
    tensors: &mut [TensorInfo],
) -> Result<(), GgufError> {
    let data_start = layout::align_up(cursor.position(), alignment).unwrap_or(u64::MAX);
    let mut needed = 0;
    let mut outside = None;
    for (index, tensor) in tensors.iter_mut().enumerate() {
        if !tensor.offset.is_multiple_of(u64::from(alignment)) {
            let field = Field::Tensor(&tensor.name, "offset");
            return Err(cursor.invalid(
                field,
                format!("a multiple of {alignment}"),
                tensor.offset.to_string(),
            ));
        }
        tensor.offset = tensor.offset.saturating_add(data_start);
        let end = tensor.offset.saturating_add(tensor.bytes);
        if end > size {
            outside.get_or_insert(index);
            needed = needed.max(end);
        }
    }
    if let Some(index) = outside {
        return Err(cursor.truncated(Field::Tensor(&tensors[index].name, "data"), needed));
    }
    check_apart(cursor, tensors)
}

fn check_apart(cursor: &Cursor<'_>, tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        let end = pair[0].offset + pair[0].bytes;
        if end > pair[1].offset {
            let field = Field::Tensor(&pair[1].name, "offset");
            let expected = format!(
                "tensors apart from each other, {} ends at byte {end}",
                Quoted(&pair[0].name)
            );
            return Err(cursor.invalid(
                field,
                expected,
                format!("one that starts at byte {}", pair[1].offset),
            ));
        }
    }
    Ok(())
}
