//! Takes a shell command line apart: commands, words, redirections, and what is nested in them.
//!
//! Pure. It follows the quoting rules of the POSIX shell closely enough to tell a command from a text that mentions
//! one; it does not expand anything, and what it does not understand it keeps as a word.

/// Nesting of substitutions that is followed. People nest two deep; deeper text is taken as one word.
const DEPTH_MAX: usize = 8;

/// One word, quotes removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    /// An unquoted `*`, `?` or `[` is in it.
    pub glob: bool,
    /// A variable or a substitution is in it; its text stays as it was written.
    pub dynamic: bool,
    /// Some of it was quoted or escaped.
    pub quoted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redirect {
    pub operator: String,
    pub target: Word,
}

/// One simple command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Command {
    pub words: Vec<Word>,
    pub redirects: Vec<Redirect>,
    /// The text of a here-document or here-string.
    pub document: Option<String>,
    /// The index of the command whose output it reads.
    pub fed_by: Option<usize>,
}

/// The commands of one script, in order. Indices of pipelines refer to this list.
pub(super) type Script = Vec<Command>;

/// The script itself first, then those nested in its substitutions.
pub(super) fn parse(text: &str) -> Vec<Script> {
    let mut scripts = Vec::new();
    parse_nested(text, 0, &mut scripts);
    scripts
}

fn parse_nested(text: &str, depth: usize, scripts: &mut Vec<Script>) {
    let mut parser = Parser { chars: text.chars().collect(), ..Parser::default() };
    parser.run();
    let nested = std::mem::take(&mut parser.nested);
    scripts.push(parser.commands);
    if depth < DEPTH_MAX {
        for inner in nested {
            parse_nested(&inner, depth + 1, scripts);
        }
    }
}

#[derive(Default)]
struct Parser {
    chars: Vec<char>,
    at: usize,
    commands: Script,
    current: Command,
    nested: Vec<String>,
    /// Here-documents whose body begins after the next line end: index of the command (as it will be), delimiter, `<<-`.
    documents: Vec<(usize, String, bool)>,
}

impl Parser {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn run(&mut self) {
        while let Some(c) = self.peek(0) {
            match c {
                ' ' | '\t' | '\r' => self.at += 1,
                '\\' if self.peek(1) == Some('\n') => self.at += 2,
                '#' => self.at += self.chars[self.at..].iter().take_while(|c| **c != '\n').count(),
                '\n' => {
                    self.at += 1;
                    self.finish();
                    self.read_documents();
                }
                '|' => self.bar(),
                '&' if self.peek(1) == Some('>') => self.redirect(),
                ';' | '&' | '(' | ')' => {
                    self.at += 1;
                    self.finish();
                }
                '<' | '>' if self.peek(1) != Some('(') => self.redirect(),
                _ => {
                    let word = self.word();
                    let is_descriptor = !word.text.is_empty() && !word.quoted && word.text.chars().all(|c| c.is_ascii_digit());
                    // The number of a redirection, as in `2>file`.
                    if !(is_descriptor && matches!(self.peek(0), Some('<' | '>'))) {
                        self.current.words.push(word);
                    }
                }
            }
        }
        self.finish();
    }

    fn finish(&mut self) {
        let done = std::mem::take(&mut self.current);
        if !(done.words.is_empty() && done.redirects.is_empty()) {
            self.commands.push(done);
        }
    }

    fn bar(&mut self) {
        let two = self.peek(1);
        self.at += if matches!(two, Some('|' | '&')) { 2 } else { 1 };
        self.finish();
        if two != Some('|') {
            self.current.fed_by = self.commands.len().checked_sub(1);
        }
    }

    fn redirect(&mut self) {
        let start = self.at;
        while matches!(self.peek(0), Some('<' | '>' | '&' | '|')) && self.at - start < 3 {
            // `>(` and `<(` are words, and `<&-` ends here.
            self.at += 1;
            if self.peek(0) == Some('(') {
                break;
            }
        }
        let mut operator: String = self.chars[start..self.at].iter().collect();
        if operator == "<<" && self.peek(0) == Some('-') {
            self.at += 1;
            operator.push('-');
        }
        while matches!(self.peek(0), Some(' ' | '\t')) {
            self.at += 1;
        }
        let target = self.word();
        match operator.as_str() {
            "<<" | "<<-" => self.documents.push((self.commands.len(), target.text, operator == "<<-")),
            "<<<" => self.current.document = Some(target.text),
            _ => self.current.redirects.push(Redirect { operator, target }),
        }
    }

    /// Takes the bodies of here-documents out of the text, so that their lines are not taken for commands.
    fn read_documents(&mut self) {
        for (command, delimiter, strip) in std::mem::take(&mut self.documents) {
            let mut body = String::new();
            while self.at < self.chars.len() {
                let line: String = self.chars[self.at..].iter().take_while(|c| **c != '\n').collect();
                self.at = (self.at + line.chars().count() + 1).min(self.chars.len());
                if (if strip { line.trim_start_matches('\t') } else { &line }) == delimiter {
                    break;
                }
                body.push_str(&line);
                body.push('\n');
            }
            if let Some(command) = self.commands.get_mut(command) {
                command.document = Some(body);
            }
        }
    }

    fn word(&mut self) -> Word {
        let mut word = Word::default();
        while let Some(c) = self.peek(0) {
            match c {
                ' ' | '\t' | '\r' | '\n' | ';' | '|' | ')' => break,
                '&' => break,
                '<' | '>' if self.peek(1) == Some('(') && word.text.is_empty() => {
                    self.at += 1;
                    self.substitution(&mut word, c);
                }
                '(' | '<' | '>' => break,
                '\'' => self.single_quoted(&mut word),
                '"' => self.double_quoted(&mut word),
                '\\' => {
                    self.at += 1;
                    word.quoted = true;
                    match self.peek(0) {
                        Some('\n') => {}
                        Some(escaped) => word.text.push(escaped),
                        None => break,
                    }
                    self.at += 1;
                }
                '$' | '`' => self.dollar(&mut word),
                _ => {
                    word.glob |= matches!(c, '*' | '?' | '[');
                    word.text.push(c);
                    self.at += 1;
                }
            }
        }
        word
    }

    fn single_quoted(&mut self, word: &mut Word) {
        word.quoted = true;
        self.at += 1;
        while let Some(c) = self.peek(0) {
            self.at += 1;
            if c == '\'' {
                return;
            }
            word.text.push(c);
        }
    }

    fn double_quoted(&mut self, word: &mut Word) {
        word.quoted = true;
        self.at += 1;
        while let Some(c) = self.peek(0) {
            match c {
                '"' => {
                    self.at += 1;
                    return;
                }
                '\\' if matches!(self.peek(1), Some('"' | '\\' | '$' | '`' | '\n')) => {
                    word.text.extend(self.peek(1).filter(|c| *c != '\n'));
                    self.at += 2;
                }
                '$' | '`' => self.dollar(word),
                _ => {
                    word.text.push(c);
                    self.at += 1;
                }
            }
        }
    }

    /// A variable, a substitution, or a plain dollar sign.
    fn dollar(&mut self, word: &mut Word) {
        let c = self.chars[self.at];
        self.at += 1;
        if c == '`' {
            let inner = self.until_backtick();
            word.dynamic = true;
            word.text.push_str(&format!("$({inner})"));
            self.nested.push(inner);
            return;
        }
        match self.peek(0) {
            Some('(') => self.substitution(word, '$'),
            Some('{') => {
                word.dynamic = true;
                let inside: String = self.chars[self.at..].iter().take_while(|c| **c != '}').collect();
                self.at = (self.at + inside.chars().count() + 1).min(self.chars.len());
                word.text.push_str(&format!("${inside}}}"));
            }
            Some('\'') => self.single_quoted(word),
            Some(next) if next.is_alphanumeric() || "_@*#?$!-".contains(next) => {
                word.dynamic = true;
                word.text.push('$');
                word.text.push(next);
                self.at += 1;
                while let Some(more) = self.peek(0).filter(|c| c.is_alphanumeric() || *c == '_') {
                    if !(next.is_alphabetic() || next == '_') {
                        break;
                    }
                    word.text.push(more);
                    self.at += 1;
                }
            }
            _ => word.text.push('$'),
        }
    }

    fn until_backtick(&mut self) -> String {
        let mut inner = String::new();
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match c {
                '`' => break,
                '\\' if self.peek(0) == Some('`') => {
                    inner.push('`');
                    self.at += 1;
                }
                _ => inner.push(c),
            }
        }
        inner
    }

    /// `$(…)`, `<(…)` or `>(…)`; `at` is on the parenthesis.
    fn substitution(&mut self, word: &mut Word, kind: char) {
        word.dynamic = true;
        let start = self.at + 1;
        let (mut depth, mut quote) = (0_usize, None);
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match (quote, c) {
                (None | Some('"'), '\\') => self.at += 1,
                (None, '\'' | '"') => quote = Some(c),
                (Some(open), _) if open == c => quote = None,
                (None, '(') => depth += 1,
                (None, ')') => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                _ => {}
            }
        }
        self.at = self.at.min(self.chars.len());
        let closed = depth == 0;
        let end = if closed { self.at - 1 } else { self.at };
        let inner: String = self.chars[start.min(end)..end].iter().collect();
        word.text.push_str(&format!("{kind}({inner})"));
        self.nested.push(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Commands of all scripts, words joined by `|`, a feeding command marked by `<`.
    fn shape(text: &str) -> Vec<String> {
        let scripts = parse(text);
        let show = |command: &Command| {
            let words: Vec<&str> = command.words.iter().map(|word| word.text.as_str()).collect();
            let redirects: String = command.redirects.iter().map(|it| format!(" {}{}", it.operator, it.target.text)).collect();
            let document = command.document.as_ref().map(|text| format!(" <<{text:?}")).unwrap_or_default();
            format!("{}{}{redirects}{document}", if command.fed_by.is_some() { "<" } else { "" }, words.join("|"))
        };
        scripts.iter().flatten().map(show).collect()
    }

    #[test]
    fn lines_come_apart_as_the_shell_would_take_them() {
        let check = |text: &str, expect: &[&str]| assert_eq!(shape(text), expect, "{text}");
        check("", &[]);
        check("echo \"rm -rf /\"", &["echo|rm -rf /"]);
        check("a b;c&&d||e&f\ng", &["a|b", "c", "d", "e", "f", "g"]);
        check("a | b |& c", &["a", "<b", "<c"]);
        check("a 'x y'\"z $V\" \\;", &["a|x yz $V|;"]);
        check("a >f 2>&1 <g >>h", &["a >f >&1 <g >>h"]);
        check("a&>f b", &["a|b &>f"]);
        check("a # b; c\nd", &["a", "d"]);
        check("a x#y", &["a|x#y"]);
        check("a $(b `c d`) e", &["a|$(b `c d`)|e", "b|$(c d)", "c|d"]);
        check("a \"$(b 'x)' c)\"", &["a|$(b 'x)' c)", "b|x)|c"]);
        check("bash <(curl x)", &["bash|<(curl x)", "curl|x"]);
        check("(a; b) | sh", &["a", "b", "<sh"]);
        check("cat <<EOF > f\nrm -rf /\nEOF\nnext", &["cat >f <<\"rm -rf /\\n\"", "next"]);
        check("cat <<-'E' | sh\n\tx\n\tE\n", &["cat <<\"\\tx\\n\"", "<sh"]);
        check("sh <<< 'a b'", &["sh <<\"a b\""]);
        check("a ${X:-y} $1 $X.c", &["a|${X:-y}|$1|$X.c"]);
        check("a\\\nb c \\\n d", &["ab|c|d"]);
        check("a $(b", &["a|$(b)", "b"]);
        check("a \"unclosed", &["a|unclosed"]);
        check("echo $'a\\tb'", &["echo|a\\tb"]);
    }

    #[test]
    fn globs_count_only_unquoted() {
        let glob = |text: &str| parse(text)[0][0].words[1].glob;
        assert!(glob("rm *.o") && glob("rm a?") && !glob("rm '*.o'") && !glob("rm \\*"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-c $()`'\"\\\\<>|&;#{}*\n-]{0,60}") {
            parse(&text);
        }
    }
}
