//! What the platform's error codes mean, in one table. Pure.

use crate::adapter::lenient::to_integer;
use serde_json::Value;

/// The classes that are told apart. Each caller knows what its class means for a connection, a message or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The app's id or secret is not accepted.
    Credential,
    /// The access token is not accepted: another one is fetched, once.
    Token,
    /// A permission was not granted to the app; the answer lists those that would do.
    Scope,
    /// The app has no bot.
    Ability,
    /// Too many requests: later.
    Rate,
    /// Nobody can be reached there: not in the chat, blocked, out of the app's range.
    Target,
    /// The message that was meant is not there any more.
    Gone,
    /// The message has been edited too often, or is too old for it.
    EditsUsed,
    TooLong,
    /// The card cannot be rendered.
    Card,
    /// This request can never work.
    Permanent,
    /// The server's own trouble: later.
    Server,
}

/// The class of an answer that is not a success.
pub(super) fn class(status: u16, code: i64) -> Class {
    match code {
        10003 | 10012 | 10014 => Class::Credential,
        99_991_661 | 99_991_663 | 99_991_664 | 99_991_665 | 99_991_668 | 99_991_671 => Class::Token,
        99_991_672 | 99_991_679 => Class::Scope,
        99_991_400 | 99_991_402 | 11020 | 11021 | 230_020 => Class::Rate,
        230_002 | 230_013 | 230_027 | 230_035 | 230_053 => Class::Target,
        230_006 => Class::Ability,
        230_011 | 231_003 => Class::Gone,
        230_025 => Class::TooLong,
        230_072 | 230_075 => Class::EditsUsed,
        230_099 => Class::Card,
        1 | 1_000_040_343 => Class::Server,
        // 230001, 230017, 230022, 230028 and what is not known.
        _ => match status {
            429 => Class::Rate,
            500.. => Class::Server,
            _ => Class::Permanent,
        },
    }
}

/// The permissions that an answer asks for, any one of which will do: from `error.permission_violations`, else from the
/// first list in its text.
pub(super) fn scopes(answer: &Value) -> Vec<String> {
    let listed = answer["error"]["permission_violations"].as_array().into_iter().flatten();
    let listed: Vec<&str> = listed.filter_map(|violation| violation["subject"].as_str()).collect();
    let text = answer["msg"].as_str().unwrap_or_default();
    let in_text = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(list, _)| list);
    let fine = |scope: &&str| {
        let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, ':' | '.' | '_' | '-');
        !scope.is_empty() && scope.len() <= 80 && scope.chars().all(plain)
    };
    let names = if listed.is_empty() { in_text.split(',').map(str::trim).collect() } else { listed };
    names.into_iter().filter(fine).take(10).map(str::to_owned).collect()
}

/// The code of an answer; `None` if it is not one of the platform's.
pub(super) fn code(answer: &Value) -> Option<i64> {
    to_integer(answer.get("code")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_code_of_the_documentation_has_its_class() {
        let table: &[(Class, &[i64])] = &[
            (Class::Credential, &[10003, 10014, 10012]),
            (Class::Token, &[99_991_661, 99_991_663, 99_991_664, 99_991_665, 99_991_668, 99_991_671]),
            (Class::Scope, &[99_991_672, 99_991_679]),
            (Class::Rate, &[99_991_400, 99_991_402, 11020, 11021, 230_020]),
            (Class::Permanent, &[230_001, 230_017, 230_022, 230_028, 987_654]),
            (Class::Target, &[230_002, 230_013, 230_027, 230_035, 230_053]),
            (Class::Ability, &[230_006]),
            (Class::Gone, &[230_011, 231_003]),
            (Class::TooLong, &[230_025]),
            (Class::EditsUsed, &[230_072, 230_075]),
            (Class::Card, &[230_099]),
            (Class::Server, &[1, 1_000_040_343]),
        ];
        for (expect, codes) in table {
            for code in *codes {
                for status in [200, 400] {
                    assert_eq!(class(status, *code), *expect, "{status} {code}");
                }
            }
        }
        assert_eq!(class(429, 5), Class::Rate);
        assert_eq!(class(502, 5), Class::Server);
        assert_eq!(class(500, 230_002), Class::Target, "a known code says more than the status");
    }

    #[test]
    fn missing_permissions_are_named() {
        let msg = "Access denied. One of the following scopes is required: [im:message, im:message:send_as_bot].应用尚未开通：[x y]";
        assert_eq!(scopes(&json!({"code": 99_991_672, "msg": msg})), ["im:message", "im:message:send_as_bot"]);
        let violations = json!([{"type": "action_scope_required", "subject": "im:resource"}, {"subject": 7}]);
        assert_eq!(scopes(&json!({"msg": msg, "error": {"permission_violations": violations}})), ["im:resource"]);
        for odd in [json!({}), json!({"msg": "no list"}), json!({"msg": "[<b>, ]"}), json!(null), json!({"msg": 7, "error": 1})] {
            assert!(scopes(&odd).is_empty(), "{odd}");
        }
        assert_eq!((code(&json!({"code": "7"})), code(&json!({})), code(&json!([]))), (Some(7), None, None));
    }
}
