//! Requests: lenient JSON to typed values. Unknown fields are ignored, null is as absent, numbers may be strings.

pub mod anthropic;
pub mod boundaries;
pub mod chat;
pub mod constraint;
pub mod fields;
pub mod messages;
pub mod options;
pub mod prompt;
pub mod responses;
pub mod sampling;

pub use fields::Fields;
pub use options::{Defaults, Options};
