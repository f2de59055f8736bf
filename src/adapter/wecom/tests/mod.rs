//! Tests of the adapter: frames as WeCom documents them, and what the outlet sends over a connection that is scripted.

mod frames;
mod sending;
