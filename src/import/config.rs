//! Typed values of a `config.json`, with errors that name the file and the key.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ImportError;

/// Sizes and counts above this are damage, not models.
const MAX_SIZE: u64 = 1 << 24;

/// A JSON object and the file it came from.
#[derive(Debug, Clone)]
pub(super) struct Config<'a> {
    path: PathBuf,
    json: &'a Value,
}

impl<'a> Config<'a> {
    pub fn new(folder: &Path, name: &str, json: &'a Value) -> Self {
        Self {
            path: folder.join(name),
            json,
        }
    }

    /// The value under a key; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// An object under a key.
    pub fn object(&self, key: &str) -> Option<Config<'a>> {
        self.get(key).filter(|v| v.is_object()).map(|json| Config {
            path: self.path.clone(),
            json,
        })
    }

    pub fn str(&self, key: &str) -> Result<Option<&'a str>, ImportError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool, ImportError> {
        Ok(self
            .typed(key, "true or false", Value::as_bool)?
            .unwrap_or(default))
    }

    /// A size or count from 0 to [`MAX_SIZE`].
    pub fn size_opt(&self, key: &str) -> Result<Option<u32>, ImportError> {
        let small = |v: &Value| v.as_u64().filter(|&n| n <= MAX_SIZE).map(|n| n as u32);
        self.typed(key, "a whole number up to 16777216", small)
    }

    pub fn size(&self, key: &str) -> Result<u32, ImportError> {
        match self.size_opt(key)? {
            Some(0) => Err(self.wrong(key, "a positive number", 0)),
            Some(n) => Ok(n),
            None => Err(self.wrong(key, "a positive number", "nothing")),
        }
    }

    pub fn size_or(&self, key: &str, default: u32) -> Result<u32, ImportError> {
        Ok(self.size_opt(key)?.unwrap_or(default))
    }

    pub fn f32_opt(&self, key: &str) -> Result<Option<f32>, ImportError> {
        let finite = |v: &Value| v.as_f64().map(|f| f as f32).filter(|f| f.is_finite());
        self.typed(key, "a number", finite)
    }

    pub fn f32_or(&self, key: &str, default: f32) -> Result<f32, ImportError> {
        Ok(self.f32_opt(key)?.unwrap_or(default))
    }

    /// An id or a list of ids.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>, ImportError> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = |v: &Value| match v {
            Value::Array(list) => list.iter().map(id).collect(),
            other => id(other).map(|n| vec![n]),
        };
        Ok(self
            .typed(key, "a token id or a list of them", ids)?
            .unwrap_or_default())
    }

    /// Refuses a value that this program does not compute with.
    pub fn check(
        &self,
        fits: bool,
        key: &str,
        expected: impl Display,
        found: impl Display,
    ) -> Result<(), ImportError> {
        if fits {
            Ok(())
        } else {
            Err(self.wrong(key, expected, found))
        }
    }

    pub fn wrong(&self, key: &str, expected: impl Display, found: impl Display) -> ImportError {
        ImportError::Config {
            path: self.path.clone(),
            key: key.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ImportError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(self.wrong(key, expected, value)),
        }
    }
}
