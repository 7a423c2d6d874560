//! What a checkpoint's settings say about the forms its matrices are stored in.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use serde_json::Value;

use crate::import::source::{CONFIG, Checkpoint, SourceError};

/// Block of an FP8 matrix where the settings name none: the one that every known maker uses.
const DEFAULT_BLOCK: [u64; 2] = [128, 128];

/// How an affine matrix is quantised, as far as the settings say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffineSpec {
    /// Weights of a row that share a scale and an offset.
    pub group_size: u64,
    /// Bits of a code; None where the settings leave it to the shapes.
    pub bits: Option<u64>,
    /// `affine`, or another of MLX's modes.
    pub mode: String,
}

/// What `config.json` says about quantised matrices.
#[derive(Clone, Debug)]
pub struct CodecOptions {
    affine: Option<AffineSpec>,
    modules: HashMap<String, AffineSpec>,
    block: [u64; 2],
}

impl CodecOptions {
    /// Reads `quantization` (MLX: defaults, and one entry per module that differs) and `quantization_config`.
    ///
    /// # Errors
    /// A group size, a number of bits or a block size that is not a positive number.
    pub fn from_config(ckpt: &Checkpoint) -> Result<Self, SourceError> {
        let config = ckpt.config();
        let reader = Reader { ckpt };
        let mlx = [
            config.get("quantization"),
            config.get("quantization_config"),
        ]
        .into_iter()
        .zip(["quantization", "quantization_config"])
        .find_map(|(value, key)| Some((value?, key)))
        .filter(|(value, _)| value.get("group_size").is_some());
        let mut affine = None;
        let mut modules = HashMap::new();
        if let Some((value, key)) = mlx {
            let default = reader.affine(value, key, None)?;
            for (module, entry) in value.as_object().into_iter().flatten() {
                if entry.get("group_size").is_some() || entry.get("bits").is_some() {
                    let key = format!("{key}.{module}");
                    let spec = reader.affine(entry, &key, Some(&default))?;
                    modules.insert(module.clone(), spec);
                }
            }
            affine = Some(default);
        }
        Ok(Self {
            affine,
            modules,
            block: reader.block(config.get("quantization_config"))?,
        })
    }

    /// What holds for the affine matrix of that module; None where the settings name no group size.
    pub fn affine(&self, module: &str) -> Option<&AffineSpec> {
        self.modules.get(module).or(self.affine.as_ref())
    }

    /// Rows and columns of an FP8 matrix that share a scale.
    pub fn fp8_block(&self) -> [u64; 2] {
        self.block
    }
}

struct Reader<'a> {
    ckpt: &'a Checkpoint,
}

impl Reader<'_> {
    fn affine(
        &self,
        value: &Value,
        key: &str,
        default: Option<&AffineSpec>,
    ) -> Result<AffineSpec, SourceError> {
        let number = |name: &str| {
            let value = value.get(name).filter(|value| !value.is_null());
            value
                .map(|value| self.positive(value, &format!("{key}.{name}")))
                .transpose()
        };
        let group_size = match (number("group_size")?, default) {
            (Some(given), _) => given,
            (None, Some(default)) => default.group_size,
            (None, None) => return Err(self.wrong(&format!("{key}.group_size"), &Value::Null)),
        };
        let mode = match value.get("mode") {
            None | Some(Value::Null) => default.map_or("affine", |default| default.mode.as_str()),
            Some(Value::String(mode)) => mode,
            Some(other) => return Err(self.wrong(&format!("{key}.mode"), other)),
        };
        Ok(AffineSpec {
            group_size,
            bits: number("bits")?.or(default.and_then(|default| default.bits)),
            mode: mode.to_owned(),
        })
    }

    fn block(&self, config: Option<&Value>) -> Result<[u64; 2], SourceError> {
        let Some(config) = config else {
            return Ok(DEFAULT_BLOCK);
        };
        let groups = config.get("config_groups").and_then(Value::as_object);
        let of_group = groups
            .into_iter()
            .flatten()
            .map(|(name, group)| {
                let key = format!("config_groups.{name}.weights.block_structure");
                (key, group.pointer("/weights/block_structure"))
            })
            .find(|(_, value)| value.is_some_and(|value| !value.is_null()));
        let own = config.get("weight_block_size");
        let (key, value) = match (own, of_group) {
            (Some(own), _) if !own.is_null() => ("weight_block_size".to_owned(), own),
            (_, Some((key, Some(value)))) => (key, value),
            _ => return Ok(DEFAULT_BLOCK),
        };
        let key = format!("quantization_config.{key}");
        match value.as_array().map(Vec::as_slice) {
            Some([rows, columns]) => {
                Ok([self.positive(rows, &key)?, self.positive(columns, &key)?])
            }
            _ => Err(self.wrong(&key, value)),
        }
    }

    fn positive(&self, value: &Value, key: &str) -> Result<u64, SourceError> {
        let number = value.as_u64().filter(|&number| number > 0);
        number.ok_or_else(|| self.wrong(key, value))
    }

    fn wrong(&self, key: &str, found: &Value) -> SourceError {
        let expected = match key.rsplit('.').next() {
            Some("mode") => "a string",
            Some("weight_block_size" | "block_structure") => "two positive numbers",
            _ => "a positive number",
        };
        SourceError::Setting {
            path: self.ckpt.folder().join(CONFIG),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: found.to_string(),
        }
    }
}
