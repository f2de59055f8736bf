//! Sending: notifications of the user interface, or a `notify` service. Owns the thread `adapter/NAME/send`.
//!
//! A notification has an id of our choice, and a second one with the same id replaces the first (Home Assistant,
//! persistent notification): so a repeated attempt shows nothing twice, and a message can be edited.

use super::Settings;
use super::api::{Api, notification};
use super::own::OWN_CALLS;
use crate::adapter::{Outlet, Part, SendError};
use crate::clock::Deadline;
use crate::core::types::ChatRef;
use crate::limits;
use crate::net::NetOptions;
use crate::text::plain;
use crate::text::split::{Unit, split};
use crate::thread::{CancelToken, enter};
use serde_json::{Value, json};
use std::sync::Arc;

const TITLE: &str = "Hermes";
const CREATE: &str = "persistent_notification.create";
const DISMISS: &str = "persistent_notification.dismiss";

pub(super) struct HomeAssistantOutlet {
    api: Api,
    /// The service that is called instead of showing notifications: `notify.mobile_app_x`.
    notify: Option<String>,
    name: String,
}

impl HomeAssistantOutlet {
    pub fn new(settings: &Arc<Settings>, name: &str, net: &NetOptions, token: &CancelToken) -> Self {
        Self { api: Api::new(settings, net, token), notify: settings.notify.clone(), name: name.to_owned() }
    }

    fn call(&self, service: &str, data: &Value, idempotent: bool, deadline: Deadline) -> Result<(), SendError> {
        let deadline = deadline.within(limits::HOMEASSISTANT_CALL);
        let _busy = enter(format_args!("home assistant {service}"), deadline);
        let own = OWN_CALLS.begin();
        let contexts = self.api.service(service, data, idempotent, deadline)?;
        own.changed(contexts.iter().map(String::as_str));
        Ok(())
    }

    fn show(&self, id: &str, text: &str, deadline: Deadline) -> Result<(), SendError> {
        self.call(CREATE, &notification(id, TITLE, &plain::plain(text)), true, deadline)
    }

    fn cannot(&self, what: &str) -> SendError {
        SendError::Reject { cause: format!("{}: a message sent by `notify` cannot be {what}", self.name) }
    }
}

/// The companion app replaces a message by one with the same tag; other services may refuse what they do not know.
pub(super) fn takes_tags(notify: &str) -> bool {
    notify.starts_with("notify.mobile_app_")
}

/// The id of a message. One without a key is a preview, of which there can be several.
fn id_of(key: &str) -> String {
    if key.is_empty() {
        let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(12).collect();
        return format!("hermes-preview-{random}");
    }
    format!("hermes-{key}")
}

fn nothing_to_see(text: &str) -> Result<(), SendError> {
    match text.trim().is_empty() {
        true => Err(SendError::Reject { cause: "there is nothing to be seen in the message".to_owned() }),
        false => Ok(()),
    }
}

impl Outlet for HomeAssistantOutlet {
    fn split(&self, text: &str) -> Vec<String> {
        split(text, Unit::Chars, limits::HOMEASSISTANT_TEXT_CHARS_MAX)
    }

    fn send(&mut self, part: &Part<'_>, deadline: Deadline) -> Result<String, SendError> {
        nothing_to_see(part.text)?;
        let id = id_of(part.key);
        let Some(notify) = self.notify.clone() else {
            return self.show(&id, part.text, deadline).map(|()| id);
        };
        let mut data = json!({"title": TITLE, "message": plain::plain(part.text)});
        let tags = takes_tags(&notify);
        if tags {
            data["data"] = json!({"tag": id});
        }
        self.call(&notify, &data, tags, deadline).map(|()| id)
    }

    fn edit(&mut self, platform_id: &str, part: &Part<'_>, deadline: Deadline) -> Result<(), SendError> {
        nothing_to_see(part.text)?;
        if self.notify.is_some() {
            return Err(self.cannot("edited"));
        }
        self.show(platform_id, part.text, deadline)
    }

    /// There is no such sign.
    fn typing(&mut self, _chat: &ChatRef, _deadline: Deadline) -> Result<(), SendError> {
        Ok(())
    }

    fn delete(&mut self, _chat: &ChatRef, platform_id: &str, deadline: Deadline) -> Result<(), SendError> {
        if self.notify.is_some() {
            return Err(self.cannot("taken back"));
        }
        self.call(DISMISS, &json!({"notification_id": platform_id}), true, deadline)
    }
}
