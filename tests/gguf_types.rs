//! Our tables and our files agree with ggml's own.

use std::ffi::{CStr, CString};
use std::path::Path;

use oxling::gguf::{GgmlType, Gguf, Metadata, Shape, TensorPlan, Writer, WriterOptions};

#[test]
fn the_type_table_is_that_of_ggml() {
    for id in 0..ggml_sys::GGML_TYPE_COUNT {
        // SAFETY: these look the id up in a static table of GGML_TYPE_COUNT entries.
        let (block_size, type_size, quantized, name) = unsafe {
            (
                ggml_sys::ggml_blck_size(id),
                ggml_sys::ggml_type_size(id),
                ggml_sys::ggml_is_quantized(id),
                CStr::from_ptr(ggml_sys::ggml_type_name(id)),
            )
        };
        match GgmlType::from_id(id) {
            Some(ty) => {
                assert_eq!(ty.id(), id);
                assert_eq!(ty.block_size(), block_size as u64, "{ty}");
                assert_eq!(ty.type_size(), type_size as u64, "{ty}");
                assert_eq!(ty.is_quantized(), quantized, "{ty}");
                assert!(
                    ty.name().eq_ignore_ascii_case(name.to_str().unwrap()),
                    "{ty}"
                );
            }
            None => {
                assert_eq!((block_size, type_size), (0, 0), "type {id} is missing");
                assert!(
                    GgmlType::removed_name(id).is_some(),
                    "type {id} is not listed as removed"
                );
            }
        }
    }
    assert_eq!(GgmlType::from_id(ggml_sys::GGML_TYPE_COUNT), None);
}

/// A model with a tensor of every type and a value of every kind that ggml reads.
fn write_every_type(path: &Path, alignment: u32) {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "test");
    metadata.insert("flag", true);
    metadata.insert("numbers", vec![1_i32, -2, 3]);
    metadata.insert("words", vec!["one", "", "three"]);
    metadata.insert("ratio", 0.5_f64);
    let tensors = GgmlType::ALL
        .iter()
        .enumerate()
        .map(|(index, &ty)| TensorPlan {
            name: format!("tensor.{ty}"),
            ty,
            shape: Shape::new(&[ty.block_size() * 2, 1 + index as u64 % 3]).unwrap(),
        });
    let options = WriterOptions {
        alignment: Some(alignment),
        ..WriterOptions::default()
    };
    let writer = Writer::create(path, metadata, tensors.collect(), &options).unwrap();
    for (index, info) in writer.tensors().iter().enumerate() {
        writer
            .write_tensor(index, &vec![index as u8; info.bytes as usize])
            .unwrap();
    }
    writer.finish().unwrap();
}

/// ggml's own reader, closed on drop.
struct Theirs(*mut ggml_sys::gguf_context);

impl Theirs {
    fn open(path: &Path) -> Self {
        let name = CString::new(path.to_str().unwrap()).unwrap();
        let params = ggml_sys::gguf_init_params {
            no_alloc: true,
            ctx: std::ptr::null_mut(),
        };
        // SAFETY: the name is a C string, and without a `ctx` nothing else is returned.
        let context = unsafe { ggml_sys::gguf_init_from_file(name.as_ptr(), params) };
        assert!(!context.is_null(), "ggml refuses {}", path.display());
        Self(context)
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        // SAFETY: made by `gguf_init_from_file` and freed once.
        unsafe { ggml_sys::gguf_free(self.0) };
    }
}

#[test]
fn ggml_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    for alignment in [32, 256] {
        let path = folder.path().join(format!("{alignment}.gguf"));
        write_every_type(&path, alignment);
        let ours = Gguf::open(&path).unwrap();
        let theirs = Theirs::open(&path);

        // SAFETY: the context is alive; indices are below the counts it reports.
        unsafe {
            assert_eq!(ggml_sys::gguf_get_alignment(theirs.0), alignment as usize);
            assert_eq!(
                ggml_sys::gguf_get_n_kv(theirs.0),
                ours.metadata().len() as i64
            );
            for (index, (key, value)) in ours.metadata().iter().enumerate() {
                let index = index as i64;
                assert_eq!(
                    CStr::from_ptr(ggml_sys::gguf_get_key(theirs.0, index)).to_str(),
                    Ok(key)
                );
                assert_eq!(
                    ggml_sys::gguf_get_kv_type(theirs.0, index),
                    value.value_type().id(),
                    "{key}"
                );
                if let Some(array) = value.as_array() {
                    assert_eq!(
                        ggml_sys::gguf_get_arr_type(theirs.0, index),
                        array.element_type().id(),
                        "{key}"
                    );
                    assert_eq!(
                        ggml_sys::gguf_get_arr_n(theirs.0, index),
                        array.len(),
                        "{key}"
                    );
                }
            }
            assert_eq!(
                ggml_sys::gguf_get_n_tensors(theirs.0),
                ours.tensors().len() as i64
            );
            let data_start = ggml_sys::gguf_get_data_offset(theirs.0);
            for (index, info) in ours.tensors().iter().enumerate() {
                let index = index as i64;
                let name = CStr::from_ptr(ggml_sys::gguf_get_tensor_name(theirs.0, index));
                assert_eq!(name.to_str(), Ok(info.name.as_str()));
                assert_eq!(
                    ggml_sys::gguf_get_tensor_type(theirs.0, index),
                    info.ty.id(),
                    "{}",
                    info.name
                );
                assert_eq!(
                    ggml_sys::gguf_get_tensor_size(theirs.0, index) as u64,
                    info.bytes,
                    "{}",
                    info.name
                );
                let offset = data_start + ggml_sys::gguf_get_tensor_offset(theirs.0, index);
                assert_eq!(offset as u64, info.offset, "{}", info.name);
            }
        }
    }
}
