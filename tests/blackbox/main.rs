//! Black-box tests: the real binary against fakes of the outside world, with faults.
//!
//! Names begin with the number of the failure class that the test is about; `tests/README.md` has the table.

// Tests may block: the harness and the deadlines in `support` bound them. Unwinding ends a test, so they may panic too.
#![allow(clippy::disallowed_methods)]

mod approvals;
mod busy;
mod cli;
mod commands;
mod crash;
mod crowd;
mod fakes;
mod instance;
mod lifecycle;
mod matrix;
mod outside;
mod platforms;
mod provider;
mod resources;
mod schedule;
mod soak;
mod support;
mod systemd;
mod telegram_basics;
mod telegram_faults;
mod telegram_groups;
mod tidy;
mod tools;
