//! A peer in a process of its own, so that it can be stopped: a proxy in front of a fake.

use crate::support::faults::Proxy;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

const VARIABLE: &str = "BLACKBOX_PEER_OF";

/// Not a test of its own: the program that [`Peer::start`] runs.
#[test]
fn the_peer_of_other_tests() {
    let Ok(server) = std::env::var(VARIABLE) else { return };
    let proxy = Proxy::start(server.parse().expect("an address"));
    println!("\npeer at {}", proxy.address);
    // Until the one that started it is gone.
    let _ = std::io::stdin().read(&mut [0]);
}

pub struct Peer {
    child: Child,
    pub address: SocketAddr,
}

impl Peer {
    pub fn start(server: SocketAddr) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("the test binary"));
        command.args(["--exact", "matrix::peer::the_peer_of_other_tests", "--nocapture"]).env(VARIABLE, server.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the peer");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("peer at ")?.parse().ok()).expect("the peer's address");
        Self { child, address }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("signalling the peer");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
