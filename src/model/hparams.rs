//! Reading hyper-parameters: keys under the architecture's prefix, with bounds.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::LoadError;
use crate::gguf::{Gguf, Metadata, Value};

/// No model comes near these; a broken file might. They bound what a file can make us allocate.
const MAX_LAYERS: u32 = 2048;
const MAX_EXTENT: u32 = 1 << 24;
const MAX_HEADS: u32 = 1024;
const MAX_HEAD_WIDTH: u32 = 4096;

/// Keys of one file under `<arch>.`.
pub struct Keys<'a> {
    path: PathBuf,
    arch: String,
    metadata: &'a Metadata,
}

impl<'a> Keys<'a> {
    /// Keys of `gguf` under the prefix `arch`.
    pub fn new(gguf: &'a Gguf, arch: &str) -> Self {
        Self::of(&path_of(gguf), gguf.metadata(), arch)
    }

    /// Keys of `metadata` under the prefix `arch`; errors name `path`.
    pub fn of(path: &Path, metadata: &'a Metadata, arch: &str) -> Self {
        Self {
            path: path.to_owned(),
            arch: arch.to_owned(),
            metadata,
        }
    }

    /// The file, for errors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A count or extent that must be there: 1 up to a bound no real model exceeds.
    pub fn extent(&self, key: &str) -> Result<u32, LoadError> {
        let value = self
            .metadata
            .require_u32(&self.full(key))
            .map_err(|e| self.metadata_error(e))?;
        self.bounded(key, value, 1, MAX_EXTENT)
    }

    /// A count or extent with a default.
    pub fn extent_or(&self, key: &str, default: u32) -> Result<u32, LoadError> {
        self.extent_opt(key).map(|v| v.unwrap_or(default))
    }

    /// A count or extent that may be absent. Zero counts as absent, as writers use it for "none".
    pub fn extent_opt(&self, key: &str) -> Result<Option<u32>, LoadError> {
        match self
            .metadata
            .u32(&self.full(key))
            .map_err(|e| self.metadata_error(e))?
        {
            None | Some(0) => Ok(None),
            Some(value) => self.bounded(key, value, 1, MAX_EXTENT).map(Some),
        }
    }

    /// A number of layers that must be there.
    pub fn layers(&self, key: &str) -> Result<u32, LoadError> {
        let value = self
            .metadata
            .require_u32(&self.full(key))
            .map_err(|e| self.metadata_error(e))?;
        self.bounded(key, value, 1, MAX_LAYERS)
    }

    /// A number of layers, zero allowed.
    pub fn layers_or(&self, key: &str, default: u32) -> Result<u32, LoadError> {
        let value = self
            .metadata
            .u32(&self.full(key))
            .map_err(|e| self.metadata_error(e))?
            .unwrap_or(default);
        self.bounded(key, value, 0, MAX_LAYERS)
    }

    /// A finite float that must be there.
    pub fn f32(&self, key: &str) -> Result<f32, LoadError> {
        let value = self
            .metadata
            .require_f32(&self.full(key))
            .map_err(|e| self.metadata_error(e))?;
        self.finite(key, value)
    }

    /// A finite float with a default.
    pub fn f32_or(&self, key: &str, default: f32) -> Result<f32, LoadError> {
        let value = self
            .metadata
            .f32(&self.full(key))
            .map_err(|e| self.metadata_error(e))?
            .unwrap_or(default);
        self.finite(key, value)
    }

    /// Epsilon of a norm, with a default or not.
    pub fn epsilon(&self, key: &str, default: Option<f32>) -> Result<f32, LoadError> {
        let eps = match default {
            Some(default) => self.f32_or(key, default)?,
            None => self.f32(key)?,
        };
        self.check((0.0..1.0).contains(&eps), key, "0 to 1", eps)?;
        Ok(eps)
    }

    /// Attention heads.
    pub fn head_count(&self) -> Result<u32, LoadError> {
        let value = self.extent("attention.head_count")?;
        self.bounded("attention.head_count", value, 1, MAX_HEADS)
    }

    /// Width of a head or of a part of one, bounded so that products of sizes stay small numbers.
    pub fn head_width(&self, key: &str, default: u32) -> Result<u32, LoadError> {
        let value = self.extent_or(key, default)?;
        self.bounded(key, value, 1, MAX_HEAD_WIDTH)
    }

    /// `rope.dimension_count`: how much of a head of `head_dim` rotates.
    pub fn rope_dims(&self, default: u32, head_dim: u32) -> Result<u32, LoadError> {
        let n = self.extent_or("rope.dimension_count", default)?;
        self.check(
            n.is_multiple_of(2) && n <= head_dim,
            "rope.dimension_count",
            format!("an even number up to {head_dim}"),
            n,
        )?;
        Ok(n)
    }

    /// A flag with a default.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        Ok(self
            .metadata
            .bool(&self.full(key))
            .map_err(|e| self.metadata_error(e))?
            .unwrap_or(default))
    }

    /// A string that may be absent.
    pub fn str(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.metadata
            .str(&self.full(key))
            .map_err(|e| self.metadata_error(e))
    }

    /// One value per layer; a scalar stands for all of them. `None` if absent.
    pub fn per_layer(&self, key: &str, n_layer: u32) -> Result<Option<Vec<u32>>, LoadError> {
        let full = self.full(key);
        match self.metadata.get(&full) {
            None => Ok(None),
            Some(Value::Array(_)) => {
                let values = self
                    .metadata
                    .u32_array(&full)
                    .map_err(|e| self.metadata_error(e))?
                    .unwrap_or_default();
                if values.len() != n_layer as usize {
                    return Err(self.value(
                        key,
                        format!("{n_layer} values, one per layer"),
                        format!("{} values", values.len()),
                    ));
                }
                Ok(Some(values))
            }
            Some(_) => {
                let value = self
                    .metadata
                    .require_u32(&full)
                    .map_err(|e| self.metadata_error(e))?;
                Ok(Some(vec![value; n_layer as usize]))
            }
        }
    }

    /// Fails with a value error unless `holds`.
    pub fn check(
        &self,
        holds: bool,
        key: &str,
        expected: impl Display,
        found: impl Display,
    ) -> Result<(), LoadError> {
        if holds {
            Ok(())
        } else {
            Err(self.value(key, expected, found))
        }
    }

    /// The error for a key whose value does not fit.
    pub fn value(&self, key: &str, expected: impl Display, found: impl Display) -> LoadError {
        LoadError::Value {
            path: self.path.clone(),
            key: self.full(key),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn metadata_error(&self, source: crate::gguf::MetadataError) -> LoadError {
        LoadError::Metadata {
            path: self.path.clone(),
            source,
        }
    }

    fn bounded(&self, key: &str, value: u32, min: u32, max: u32) -> Result<u32, LoadError> {
        self.check(
            (min..=max).contains(&value),
            key,
            format!("{min} to {max}"),
            value,
        )?;
        Ok(value)
    }

    fn finite(&self, key: &str, value: f32) -> Result<f32, LoadError> {
        self.check(value.is_finite(), key, "a finite number", value)?;
        Ok(value)
    }
}

/// Path of a file's first shard, for errors.
pub fn path_of(gguf: &Gguf) -> PathBuf {
    gguf.shards()
        .first()
        .map(|s| s.path().to_owned())
        .unwrap_or_default()
}
