//! "Did you mean": the nearest of the known words. Pure.

/// The word of `known` that `word` was probably meant to be; `None` if nothing is near.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    // Words of absurd length are nobody's typing error, and the distance costs time quadratic in it.
    let length = word.chars().count();
    if length > 64 {
        return None;
    }
    let allowed = (length / 3).max(1);
    let rated = known.into_iter().map(|candidate| (distance(&word, candidate), candidate));
    rated.filter(|(distance, _)| *distance <= allowed).min().map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that make `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word() {
        let known = ["allowed_users", "allowed_chats", "admins", "token", "token_env", "base_url", "ask", "cut"];
        let check = |word: &str, expect: Option<&str>| assert_eq!(nearest(word, known), expect, "{word}");
        check("alowed_users", Some("allowed_users"));
        check("allowed-user", Some("allowed_users"));
        check("tokne", Some("token"));
        check("admin", Some("admins"));
        check("baseurl", Some("base_url"));
        check("aks", Some("ask"));
        check("colour", None);
        check("", None);
        check(&"x".repeat(10_000), None);
    }
}
