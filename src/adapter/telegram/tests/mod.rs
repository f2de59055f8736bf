//! Tests of the whole adapter against a Bot API server on loopback.
#![allow(clippy::disallowed_methods)] // The server and the adapter run on plain threads here, which are joined.

mod fake;
mod harness;
mod receiving;
mod sending;
mod settings;
