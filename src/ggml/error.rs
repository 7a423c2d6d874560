//! Errors of the ggml layer.

use std::fmt;

use super::DType;

/// An operation's operands do not fit. ggml would have aborted the process.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{op}: {rule} ({operands})")]
pub struct ShapeError {
    /// The ggml operation, such as `mul_mat`.
    pub op: &'static str,
    /// The rule that does not hold.
    pub rule: &'static str,
    /// Types and shapes of the operands.
    pub operands: String,
}

/// What can go wrong while a graph is built.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GraphError {
    /// Operands do not fit.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The graph was sized for fewer tensors.
    #[error("the graph needs more than the {capacity} tensors it was sized for")]
    TooLarge {
        /// Tensors the arena has room for.
        capacity: usize,
    },
    /// ggml could not allocate.
    #[error("ggml could not allocate {what}")]
    Alloc {
        /// What was to be allocated.
        what: &'static str,
    },
    /// A tensor identifier that belongs to another store.
    #[error("tensor #{index} does not exist in this store of {count} tensors")]
    UnknownTensor {
        /// The identifier's index.
        index: usize,
        /// Tensors in the store.
        count: usize,
    },
    /// An operation would write into weights.
    #[error("{op} writes into `{tensor}`, which is read-only")]
    ReadOnly {
        /// The ggml operation.
        op: &'static str,
        /// Name of the destination.
        tensor: String,
    },
}

/// What can go wrong while devices, buffers and computations are set up and run.
#[derive(Debug, thiserror::Error)]
pub enum GgmlError {
    /// The graph could not be built.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// No device can run an operation of the graph.
    #[error("no device can run {op} on {operands} (devices: {devices})")]
    Unsupported {
        /// The ggml operation.
        op: String,
        /// Types and shapes of its operands.
        operands: String,
        /// Devices that were asked.
        devices: String,
    },
    /// A buffer could not be allocated.
    #[error("could not allocate {bytes} bytes on {device}")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// Device or buffer type.
        device: String,
    },
    /// A device could not be started.
    #[error("could not start device {device}")]
    DeviceInit {
        /// Name of the device.
        device: String,
    },
    /// A device could not be found.
    #[error("no device is called `{name}` (there are: {known})")]
    UnknownDevice {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A remote server could not be reached or refused.
    #[error("RPC server {endpoint} did not answer")]
    Rpc {
        /// `host:port`.
        endpoint: String,
    },
    /// This build lacks a backend.
    #[error("this build has no {backend} backend")]
    MissingBackend {
        /// The backend asked for.
        backend: &'static str,
    },
    /// Bytes written to or read from a tensor do not match its size.
    #[error(
        "tensor `{tensor}` holds {expected} bytes, but offset {offset} + {len} bytes were asked for"
    )]
    Range {
        /// The tensor.
        tensor: String,
        /// Its size in bytes.
        expected: usize,
        /// Start of the access.
        offset: usize,
        /// Length of the access.
        len: usize,
    },
    /// A handle of another graph was used.
    #[error("a tensor handle of another graph was used")]
    ForeignHandle,
    /// A graph gets memory once; afterwards it is computed as often as wanted, or built anew.
    #[error("the graph was given memory before: build a new one")]
    AlreadyAllocated,
    /// A tensor that is no input of the graph was to be set, or one of a store to be read past its lock.
    #[error("`{tensor}` is not {what} of the graph")]
    WrongSlot {
        /// The tensor.
        tensor: String,
        /// What it would have to be.
        what: &'static str,
    },
    /// An index outside what it selects from.
    #[error("index {index} of input `{tensor}` is not below {bound}")]
    Index {
        /// The input.
        tensor: String,
        /// The index.
        index: i64,
        /// Number of things to select from.
        bound: u64,
    },
    /// A graph was computed or accessed before it was allocated.
    #[error("the graph has no memory yet: allocate it first")]
    NotAllocated,
    /// The computation failed.
    #[error("ggml reports `{status}` from a computation")]
    Compute {
        /// ggml's status.
        status: String,
    },
    /// A type has no conversion that was asked for.
    #[error("type {ty} cannot be {what}")]
    Type {
        /// The type.
        ty: DType,
        /// What was asked for.
        what: &'static str,
    },
}

impl GgmlError {
    /// A way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OutOfMemory { .. } => {
                Some("use a smaller context (-c), fewer sequences (-np) or a smaller cache type (-ctk q8_0)".into())
            }
            Self::MissingBackend { backend } => {
                Some(format!("build with `--features {}`", backend.to_lowercase()))
            }
            Self::UnknownDevice { .. } => Some("`oxling run --list-devices` lists the devices".into()),
            Self::Rpc { .. } => Some("start ggml-rpc-server there and check host and port".into()),
            _ => None,
        }
    }
}

/// Formats a shape as `{256, 4}` without trailing ones.
pub(super) struct ShapeFmt(pub [i64; 4]);

impl fmt::Display for ShapeFmt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.0.iter().rposition(|&n| n != 1).map_or(1, |i| i + 1);
        let parts: Vec<String> = self.0[..last].iter().map(i64::to_string).collect();
        write!(f, "{{{}}}", parts.join(", "))
    }
}
