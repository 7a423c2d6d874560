//! The demo model with changes: what a converter gone wrong would write.

use std::path::{Path, PathBuf};

use oxling::gguf::{GgmlType, Gguf, Metadata, Shape, TensorPlan, Value, Writer, WriterOptions};

/// A model in memory.
#[derive(Clone)]
pub struct Draft {
    pub metadata: Metadata,
    pub tensors: Vec<(TensorPlan, Vec<u8>)>,
}

/// Path of the demo model.
pub fn demo_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-ling-IQ4_NL.gguf")
}

impl Draft {
    /// The demo model.
    pub fn demo() -> Self {
        let gguf = Gguf::open(&demo_path()).unwrap();
        let tensor = |t: &oxling::gguf::TensorInfo| {
            let plan = TensorPlan {
                name: t.name.clone(),
                ty: t.ty,
                shape: t.shape,
            };
            (plan, gguf.data(t).to_vec())
        };
        Self {
            metadata: gguf.metadata().clone(),
            tensors: gguf.tensors().iter().map(tensor).collect(),
        }
    }

    /// Sets a key of the architecture.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.metadata.insert(format!("bailing_hybrid.{key}"), value);
    }

    /// Removes a key of the architecture.
    pub fn unset(&mut self, key: &str) {
        assert!(
            self.metadata
                .remove(&format!("bailing_hybrid.{key}"))
                .is_some(),
            "{key} was not there"
        );
    }

    /// Removes a tensor.
    pub fn drop_tensor(&mut self, name: &str) {
        let before = self.tensors.len();
        self.tensors.retain(|(plan, _)| plan.name != name);
        assert_eq!(self.tensors.len() + 1, before, "{name} was not there");
    }

    /// Replaces a tensor, or adds it, with zeros for content.
    pub fn put(&mut self, name: &str, ty: GgmlType, dims: &[u64]) {
        let shape = Shape::new(dims).unwrap();
        let bytes = vec![0; shape.bytes(ty).unwrap() as usize];
        let plan = TensorPlan {
            name: name.to_owned(),
            ty,
            shape,
        };
        match self.tensors.iter_mut().find(|(plan, _)| plan.name == name) {
            Some(tensor) => *tensor = (plan, bytes),
            None => self.tensors.push((plan, bytes)),
        }
    }

    /// Writes the model.
    pub fn write(self, path: &Path) {
        let (plans, contents): (Vec<_>, Vec<_>) = self.tensors.into_iter().unzip();
        let writer = Writer::create(path, self.metadata, plans, &WriterOptions::default()).unwrap();
        for (index, bytes) in contents.iter().enumerate() {
            writer.write_tensor(index, bytes).unwrap();
        }
        writer.finish().unwrap();
    }
}
