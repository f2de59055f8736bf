//! An adapter that receives only while no other gateway of this machine uses its credential.
//!
//! Wraps any adapter, so that none of them has to think of it. The lock is taken on the adapter's own thread, with each
//! connection, and kept between connections.

use crate::adapter::{Adapter, AdapterError, Inlet, Link, Outlet, SendLink, Traits};
use crate::clock::Deadline;
use crate::config::{AdapterConfig, Secret};
use crate::net::NetOptions;
use crate::service::credential::{self, Held};
use crate::thread::CancelToken;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// When to look again after another gateway was found to use the credential: it may be one that is just ending.
const AGAIN: Duration = Duration::from_secs(5);

struct Exclusive {
    adapter: Arc<dyn Adapter>,
    platform: String,
    credential: Secret,
    state_dir: PathBuf,
}

/// Wraps an adapter. One without a credential stays as it is.
pub(super) fn exclusive(adapter: Arc<dyn Adapter>, entry: &AdapterConfig, state_dir: &Path) -> Arc<dyn Adapter> {
    // All of them together are the account; their order is that of their names.
    let secrets: Vec<&str> = entry.secrets.values().map(Secret::expose).collect();
    if secrets.is_empty() {
        return adapter;
    }
    let credential = Secret::new(secrets.join("\n"));
    Arc::new(Exclusive { adapter, platform: entry.platform.clone(), credential, state_dir: state_dir.to_owned() })
}

impl Adapter for Exclusive {
    fn traits(&self) -> Traits {
        self.adapter.traits()
    }

    fn inlet(&self) -> Box<dyn Inlet> {
        Box::new(ExclusiveInlet {
            inlet: self.adapter.inlet(),
            platform: self.platform.clone(),
            credential: self.credential.clone(),
            state_dir: self.state_dir.clone(),
            held: None,
        })
    }

    fn outlet(&self, link: &SendLink) -> Box<dyn Outlet> {
        self.adapter.outlet(link)
    }

    fn sends_through_inlet(&self) -> bool {
        self.adapter.sends_through_inlet()
    }

    fn check(&self, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<Option<String>, AdapterError> {
        self.adapter.check(net, token, deadline)
    }
}

struct ExclusiveInlet {
    inlet: Box<dyn Inlet>,
    platform: String,
    credential: Secret,
    state_dir: PathBuf,
    held: Option<Held>,
}

impl Inlet for ExclusiveInlet {
    fn run(&mut self, link: &Link) -> Result<std::convert::Infallible, AdapterError> {
        if self.held.is_none() {
            match credential::acquire(&self.platform, &self.credential, &self.state_dir) {
                Ok(held) => self.held = Some(held),
                Err(conflict) => return Err(AdapterError::Retry { cause: conflict.to_string(), after: Some(AGAIN) }),
            }
        }
        self.inlet.run(link)
    }
}
