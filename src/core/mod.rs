//! Pure decisions: no clock, file, socket or thread in here (a test enforces it).

pub mod record;
pub mod types;
