//! Text as it is: the fallback when a platform refuses its own dialect, and the dialect of platforms that have none.
//!
//! Markdown is made to be readable unrendered, so it is left alone; only what no platform takes is removed.

/// Characters that platforms refuse or drop: control characters other than line break and tab.
pub(super) fn is_unwanted(character: char) -> bool {
    character.is_control() && !matches!(character, '\n' | '\t')
}

/// The text without control characters; `\r\n` becomes `\n`.
#[must_use]
pub fn plain(markdown: &str) -> String {
    if markdown.chars().any(is_unwanted) {
        markdown.chars().filter(|character| !is_unwanted(*character)).collect()
    } else {
        markdown.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn control_characters_go_and_the_rest_stays() {
        let check = |input: &str, expect: &str| assert_eq!(plain(input), expect);
        check("**a** `b`\n\tc", "**a** `b`\n\tc");
        check("a\r\nb\u{0}\u{1b}[31mc", "a\nb[31mc");
        check("", "");
    }
}
