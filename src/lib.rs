//! hermes-gateway: between chat platforms and a language-model agent.

pub mod adapter;
pub mod agent;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod core;
pub mod limits;
pub mod net;
pub mod process;
pub mod provider;
pub mod service;
pub mod store;
pub mod text;
pub mod thread;
