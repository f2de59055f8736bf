//! The service around the gateway: lock, control socket, the supervisor's protocol, what `status` says.

pub mod report;
