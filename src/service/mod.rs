//! The service around the gateway: lock, control socket, the supervisor's protocol, what `status` says.

mod address;
pub mod admin;
pub mod again;
pub mod client;
pub mod credential;
#[cfg(test)]
pub(crate) mod fake;
mod lines;
pub mod lock;
pub mod manage;
pub mod notify;
pub mod peer;
mod protocol;
pub mod report;
pub mod restart;
pub mod systemd;
pub mod takeover;
pub mod unit;
mod unit_timeout;
pub mod wake;
