//! The agent: what a turn does, and with which tools.

pub mod policy;
