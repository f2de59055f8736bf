//! What an error of the API means, decided once (QQ docs, "error-trace/openapi"). Pure.

/// What is to be done about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It is done, or will be when somebody at QQ has looked at it.
    Accepted,
    /// A message with this `msg_id` and `msg_seq` was sent before.
    Duplicate,
    /// The access token is not accepted.
    Token,
    /// Nothing but the operator helps. The remedy.
    Fatal(&'static str),
    /// The bot may not use this part of the API.
    NoPrivilege,
    /// The message that is replied to takes no more replies: it is too old, unknown, or was replied to often enough.
    NoRoom,
    /// Native Markdown is not for this bot.
    Markdown,
    /// There is an address in the text that is not registered.
    Link,
    /// The bot's connection is not up yet.
    NotConnected,
    /// Trouble on their side, or too fast.
    Later,
    /// Never like this.
    Reject,
}

/// Decides by the HTTP status and the code in the body (0 if there is none).
pub(super) fn classify(status: u16, code: i64) -> Class {
    match (status, code) {
        // "Accepted, processed asynchronously": the body looks like an error.
        (201 | 202, _) | (_, 304_023 | 304_024) => Class::Accepted,
        (_, 40_054_005) => Class::Duplicate,
        (_, 11_243) => Class::Token,
        (_, 11_251 | 11_261 | 11_275) => Class::Fatal("QQ does not know the bot: check `app_id` and `client_secret` against q.qq.com"),
        (_, 11_265) => Class::Fatal("the bot is banned: see its messages on q.qq.com, and appeal there"),
        (_, 11_253 | 11_254) => Class::NoPrivilege,
        (_, 304_016 | 304_025..=304_027 | 22_009) => Class::NoRoom,
        (_, 50_056 | 304_036) => Class::Markdown,
        (_, 304_003 | 40_034_028) => Class::Link,
        (_, 304_018) => Class::NotConnected,
        (_, 11_242 | 11_252 | 11_263 | 11_281) | (408 | 425 | 429 | 500.., _) => Class::Later,
        (401, _) => Class::Token,
        (200..300, 0) => Class::Accepted,
        _ => Class::Reject,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let check = |status: u16, codes: &[i64], expect: Class| {
            for code in codes {
                assert_eq!(classify(status, *code), expect, "{status} {code}");
            }
        };
        check(200, &[0], Class::Accepted);
        check(204, &[0], Class::Accepted);
        check(201, &[0, 304_023], Class::Accepted);
        check(202, &[304_024, 11_243], Class::Accepted);
        check(400, &[304_023, 304_024], Class::Accepted);
        check(400, &[40_054_005], Class::Duplicate);
        check(401, &[0, 11_243, 99], Class::Token);
        check(500, &[11_243], Class::Token);
        check(403, &[11_253, 11_254], Class::NoPrivilege);
        check(400, &[304_016, 304_025, 304_026, 304_027], Class::NoRoom);
        check(429, &[22_009], Class::NoRoom);
        check(400, &[50_056, 304_036], Class::Markdown);
        check(400, &[304_003, 40_034_028], Class::Link);
        check(400, &[304_018], Class::NotConnected);
        check(500, &[11_242, 11_252, 11_263, 11_281, 0], Class::Later);
        check(200, &[11_242], Class::Later);
        check(429, &[0, 1], Class::Later);
        check(504, &[0], Class::Later);
        check(400, &[0, 50_006, 12_345], Class::Reject);
        check(200, &[50_006], Class::Reject);
        check(404, &[0], Class::Reject);
        for code in [11_251, 11_261, 11_275, 11_265] {
            assert!(matches!(classify(400, code), Class::Fatal(_)), "{code}");
        }
    }
}
