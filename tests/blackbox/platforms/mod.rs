//! What every platform must hold, shown for each of them: one suite over fakes that have the same face.

// The platforms' own modules use it.
#![allow(dead_code)]

mod feishu;
mod homeassistant;
mod homeassistant_real;
mod homeassistant_tools;
mod qqbot;
mod suite;
mod telegram;
pub mod together;
mod wecom;
mod weixin;
mod weixin_login;

use crate::support::gateway::Setup;
use crate::support::http::Server;
use std::net::SocketAddr;
use std::time::Duration;

/// A fake of a platform with one user, who is allowed, in a private chat with the bot.
pub trait Platform: Sized + 'static {
    /// The platform's name, and that of its section in the configuration.
    const NAME: &'static str;
    /// With [`Platform::configure`]: a dead connection is found out within this time.
    const INTERVAL: Duration;
    /// What was said while nobody was connected, or was not confirmed, is delivered to the next connection.
    const KEEPS: bool;
    /// At an orderly stop the WebSocket ends with a CLOSE frame.
    const GOODBYE: bool = false;

    /// A platform of its own, with a credential that no other test uses.
    fn start() -> Self;
    /// Everything that the adapter talks to, WebSocket included, is behind this one address.
    fn server(&self) -> &Server;
    /// Adds the section of the configuration. Each address in it, and each that the platform hands out, leads to `address`:
    /// the server's own, or a proxy's in front of it. Heartbeats are as short as can be.
    fn configure(&self, setup: Setup, address: SocketAddr) -> Setup;

    /// The user says something. → the message's id
    fn says(&self, text: &str) -> String;
    /// The platform delivers that message once more, as it does after a lost acknowledgement.
    fn repeat(&self, id: &str);
    /// The platform knows that the gateway has it (an acknowledgement, a cursor). `true` where it never asks.
    fn is_confirmed(&self, id: &str) -> bool;
    /// The bot's messages as the user sees them now, oldest first, without markup; edited ones in their last form.
    fn texts(&self) -> Vec<String>;

    /// Connections that are up and logged in.
    fn connected(&self) -> usize;
    /// Connections that ever were.
    fn connects(&self) -> usize;
    /// From now on the credential is not accepted, or it is again.
    fn refuse(&self, refuse: bool);
}

/// The platform's own address.
pub fn configured<P: Platform>(platform: &P, setup: Setup) -> Setup {
    platform.configure(setup, platform.server().address)
}
