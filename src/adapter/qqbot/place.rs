//! Where people talk to the bot: the four kinds of chats, their names, and the addresses to send to. Pure.

use crate::adapter::rest::escaped;
use crate::limits;
use std::time::Duration;

/// A chat, as its id says: `c2c:OPENID`, `group:OPENID`, `channel:ID`, `dm:GUILD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Private(String),
    Group(String),
    /// A channel of a guild.
    Channel(String),
    /// Direct messages in a guild, by the id of their own guild.
    Direct(String),
}

impl Place {
    /// Reads the id of a chat.
    pub fn parse(chat: &str) -> Option<Self> {
        let (kind, id) = chat.split_once(':')?;
        if id.is_empty() || id.len() > limits::QQBOT_ID_BYTES_MAX || id.contains(char::is_whitespace) {
            return None;
        }
        let id = id.to_owned();
        match kind {
            "c2c" => Some(Self::Private(id)),
            "group" => Some(Self::Group(id)),
            "channel" => Some(Self::Channel(id)),
            "dm" => Some(Self::Direct(id)),
            _ => None,
        }
    }

    /// The id of the chat.
    pub fn chat(&self) -> String {
        match self {
            Self::Private(id) => format!("c2c:{id}"),
            Self::Group(id) => format!("group:{id}"),
            Self::Channel(id) => format!("channel:{id}"),
            Self::Direct(id) => format!("dm:{id}"),
        }
    }

    /// Where messages are posted (QQ docs, "send").
    pub fn messages(&self) -> String {
        match self {
            Self::Private(id) => format!("/v2/users/{}/messages", escaped(id)),
            Self::Group(id) => format!("/v2/groups/{}/messages", escaped(id)),
            Self::Channel(id) => format!("/channels/{}/messages", escaped(id)),
            Self::Direct(id) => format!("/dms/{}/messages", escaped(id)),
        }
    }

    pub fn is_private(&self) -> bool {
        matches!(self, Self::Private(_) | Self::Direct(_))
    }

    /// Replies are numbered there, so that none is shown twice. Guilds do not know that.
    pub fn counts(&self) -> bool {
        matches!(self, Self::Private(_) | Self::Group(_))
    }

    /// How long a message there can be replied to.
    pub fn window(&self) -> Duration {
        if matches!(self, Self::Private(_)) { limits::QQBOT_REPLY_PRIVATE } else { limits::QQBOT_REPLY_GROUP }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chats_have_addresses() {
        let check = |chat: &str, path: &str, private: bool| {
            let place = Place::parse(chat).expect("a chat");
            assert_eq!((place.chat().as_str(), place.messages().as_str(), place.is_private()), (chat, path, private));
        };
        check("c2c:E4F4AEA33253A2797FB897C50B81D7ED", "/v2/users/E4F4AEA33253A2797FB897C50B81D7ED/messages", true);
        check("group:C9F778FE6ADF9D1D1DBE395BF744A33A", "/v2/groups/C9F778FE6ADF9D1D1DBE395BF744A33A/messages", false);
        check("channel:100010", "/channels/100010/messages", false);
        check("dm:18700000000001", "/dms/18700000000001/messages", true);
        check("c2c:a/../b", "/v2/users/a%2F..%2Fb/messages", true);
        for odd in ["", "c2c:", "E4F4", "user:E4F4", "c2c:a b"] {
            assert_eq!(Place::parse(odd), None, "{odd:?}");
        }
    }
}
