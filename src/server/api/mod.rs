//! Requests and answers of the HTTP interface as plain data: JSON in, [`Generate`](super::protocol::Generate) out, and
//! events in, JSON out. Nothing here waits, and nothing here knows sockets.

pub mod error;
pub mod request;
pub mod response;

pub use error::{ApiError, ErrorKind};
