//! Texts on their way to a platform: split into parts that fit, and turned from Markdown into its dialect.
//!
//! Pure functions, linear in the length of the text: no clock, no file, no thread. One file a dialect.

pub mod feishu;
pub mod html;
pub mod plain;
pub mod split;
