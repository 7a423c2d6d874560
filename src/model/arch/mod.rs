//! Architectures: one file each, one line in the table of [`super::registry`].

pub mod bailing_hybrid;
