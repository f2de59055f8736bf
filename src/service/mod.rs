//! The service around the gateway: lock, control socket, the supervisor's protocol, what `status` says.

mod address;
pub mod admin;
pub mod again;
pub mod client;
#[cfg(test)]
pub(crate) mod fake;
mod lines;
pub mod lock;
pub mod notify;
pub mod peer;
mod protocol;
pub mod report;
pub mod takeover;
mod unit_timeout;
pub mod wake;
