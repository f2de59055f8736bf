//! Addresses in texts: QQ refuses those that are not registered for the bot, in any message. Pure.

/// How addresses are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    AsTheyAre,
    /// `https://example.com/a` becomes `example[.]com/a`.
    Veiled,
    /// So does everything that looks like a name of a host: `example.com`.
    NamesVeiled,
}

impl Links {
    /// What to try when the text was refused because of an address.
    pub fn stricter(self) -> Option<Self> {
        match self {
            Self::AsTheyAre => Some(Self::Veiled),
            Self::Veiled => Some(Self::NamesVeiled),
            Self::NamesVeiled => None,
        }
    }

    /// Writes the text so.
    pub fn apply(self, text: &str) -> String {
        match self {
            Self::AsTheyAre => text.to_owned(),
            Self::Veiled => veiled(text),
            Self::NamesVeiled => names_veiled(&veiled(text)),
        }
    }
}

fn is_host(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '-')
}

fn veiled(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(found) = ["http://", "https://"].iter().filter_map(|scheme| Some((lower[at..].find(scheme)?, scheme.len()))).min() {
        let (before, length) = found;
        let host = at + before + length;
        let end = text[host..].find(|character| !is_host(character)).map_or(text.len(), |length| host + length);
        out.push_str(&text[at..at + before]);
        out.push_str(&text[host..end].replace('.', "[.]"));
        at = end;
    }
    out.push_str(&text[at..]);
    out
}

fn names_veiled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let length = rest.find(|character| !is_host(character)).unwrap_or(rest.len());
        let word = &rest[..length];
        let last = word.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        let is_name = word.trim_end_matches('.').contains('.') && last.len() >= 2 && last.bytes().all(|byte| byte.is_ascii_alphabetic());
        if is_name {
            out.push_str(&word.replace('.', "[.]"))
        } else {
            out.push_str(word)
        }
        // And the character that ended the word.
        let next = rest[length..].chars().next().map_or(0, char::len_utf8);
        out.push_str(&rest[length..length + next]);
        at += length + next;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_veiled() {
        let check = |links: Links, text: &str, expect: &str| assert_eq!(links.apply(text), expect);
        check(Links::AsTheyAre, "see https://a.example/x", "see https://a.example/x");
        check(Links::Veiled, "see HTTPS://a.b.example/x.html?y, http://c.example.", "see a[.]b[.]example/x.html?y, c[.]example[.]");
        check(Links::Veiled, "a.example stays, 在https://例.cn", "a.example stays, 在例.cn");
        check(
            Links::NamesVeiled,
            "a.example goes, 1.5 and e.g. stay; https://b.example",
            "a[.]example goes, 1.5 and e.g. stay; b[.]example",
        );
    }

    proptest! {
        #[test]
        fn no_scheme_is_left(text in "(.|https?://|HTTP://|[a-z.]{1,5}){0,40}") {
            for links in [Links::Veiled, Links::NamesVeiled] {
                let out = links.apply(&text);
                prop_assert!(out.len() <= text.len() * 3);
            }
        }
    }
}
