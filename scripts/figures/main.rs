//! The figures of this program, measured on the release binary against fakes on loopback, as a table.
//!
//! Not a test: times depend on the machine and on what else it does, so nothing here fails. `scripts/bench` runs it;
//! words after `--` choose groups (`scripts/bench idle stop`).

// A harness may block, wait and panic as it likes.
#![allow(clippy::disallowed_methods)]

mod idle;
mod load;
mod measure;
mod peers;
#[allow(unused_imports)] // Only the fakes behind one face, not the tests.
#[path = "../../tests/blackbox/platforms/mod.rs"]
mod platforms;
mod stop;
#[allow(dead_code)] // The tests use all of it.
#[path = "../../tests/blackbox/support/mod.rs"]
mod support;
mod tls;

use measure::Figure;

type Group = (&'static str, fn() -> Vec<Figure>);

/// In the order of the table.
const GROUPS: [Group; 7] = [
    ("size", idle::size),
    ("start", idle::start),
    ("idle", idle::idle),
    ("latency", load::latency),
    ("load", load::throughput),
    ("stop", stop::stop),
    ("platforms", peers::platforms),
];

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = chosen.iter().find(|name| GROUPS.iter().all(|(known, _)| known != name)) {
        let known: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
        eprintln!("no group of figures is called {unknown}; there are: {}", known.join(", "));
        std::process::exit(2);
    }
    println!("{}", measure::machine());
    println!();
    println!("| figure | target | measured | |");
    println!("|---|---|---|---|");
    for (name, group) in GROUPS {
        if chosen.is_empty() || chosen.iter().any(|word| word == name) {
            eprintln!("measuring: {name}");
            for figure in group() {
                println!("{figure}");
            }
        }
    }
}
