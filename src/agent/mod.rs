//! The agent: what a turn does, and with which tools.

pub mod policy;
mod progress;
mod prompt;
pub mod tools;
mod transcript;
pub mod turn;
