//! Rules for the tree itself that no compiler checks.

use std::path::{Path, PathBuf};

/// Longer files are to be split.
const LINES_MAX: usize = 700;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(directory)];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())).flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file is text");
                found.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

fn all_sources() -> Vec<(PathBuf, String)> {
    [sources("src"), sources("tests")].concat()
}

/// Lines of code with their numbers: without comments, texts cut out roughly.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

/// Where a condition holds, as `file:line: text`.
fn places(sources: &[(PathBuf, String)], holds: impl Fn(&Path, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources {
        let lines = code(text).filter(|(_, line)| holds(path, line));
        found.extend(lines.map(|(number, line)| format!("{}:{number}: {}", path.display(), line.trim())));
    }
    found
}

/// The sources of the product: without test modules, be they files of their own or at the end of one.
fn product(directory: &str) -> Vec<(PathBuf, String)> {
    let all = sources(directory);
    let mut tests = Vec::new();
    for (path, text) in &all {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            let name = pair[1].split_once("mod ").and_then(|(_, name)| name.strip_suffix(';'));
            // A module lies beside `mod.rs`, or in the folder named after the file.
            let home = if path.ends_with("mod.rs") || path.ends_with("lib.rs") {
                path.parent().map(Path::to_owned)
            } else {
                Some(path.with_extension(""))
            };
            tests.extend(home.zip(name).map(|(home, name)| home.join(name)));
        }
    }
    let is_test = |path: &Path| tests.iter().any(|test| path.starts_with(test) || path.with_extension("") == *test);
    all.into_iter().filter(|(path, _)| !is_test(path)).map(|(path, text)| (path, without_tests(&text))).collect()
}

/// The file up to its test module.
fn without_tests(text: &str) -> String {
    match text.find("#[cfg(test)]\nmod ").filter(|at| text[*at..].lines().nth(1).is_some_and(|line| line.ends_with('{'))) {
        Some(at) => text[..at].to_owned(),
        None => text.to_owned(),
    }
}

/// The module of a file: the first name below `src`.
fn module(path: &Path) -> String {
    let name = path.components().nth(1).map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    name.trim_end_matches(".rs").to_owned()
}

#[test]
fn each_file_says_what_it_is() {
    let bare: Vec<_> = all_sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(bare.is_empty(), "files without a `//!` header: {bare:#?}");
}

#[test]
fn files_are_short_and_clean() {
    let mut wrong = Vec::new();
    for (path, text) in all_sources() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
        let odd = text.lines().position(|line| line.ends_with(char::is_whitespace) || line.contains('\t'));
        wrong.extend(odd.map(|line| format!("{}:{}: trailing white space or a tab", path.display(), line + 1)));
        if !text.ends_with('\n') || text.ends_with("\n\n") {
            wrong.push(format!("{}: ends without, or with more than one, end of line", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, so that this file does not contain them.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("db", "g!("),
    ];
    let mut found = Vec::new();
    for (path, text) in all_sources() {
        let lines = text.lines().enumerate().filter(|(_, line)| words.iter().any(|word| contains_word(line, word)));
        found.extend(lines.map(|(number, line)| format!("{}:{}: {}", path.display(), number + 1, line.trim())));
    }
    assert!(found.is_empty(), "{found:#?}");
}

fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let part = |neighbour: Option<char>| neighbour.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part(before) && (word.ends_with('(') || !part(after))
    })
}

#[test]
fn core_decides_and_touches_nothing() {
    let forbidden = [
        "std::fs",
        "std::net",
        "std::thread",
        "std::process",
        "std::env",
        "std::io",
        "Instant::now",
        "SystemTime",
        "crossbeam_channel",
        "rusqlite",
        "ureq",
    ];
    let core: Vec<_> = product("src/core");
    let found = places(&core, |_, line| forbidden.iter().any(|name| line.contains(name)));
    assert!(found.is_empty(), "core has no clock, file, socket or thread: {found:#?}");
}

#[test]
fn arrows_point_down() {
    let upper = ["cli", "control", "adapter", "agent", "service", "http", "provider"];
    let lower = ["core", "thread", "net", "process", "store", "config", "text", "clock", "limits"];
    let uses = |line: &str, module: &str| contains_word(line, &format!("crate::{module}"));
    let found = places(&product("src"), |path, line| {
        let here = module(path);
        let up = lower.contains(&here.as_str()) && upper.iter().any(|upper| uses(line, upper));
        let cli = here != "cli" && here != "main" && uses(line, "cli");
        let control = !matches!(here.as_str(), "cli" | "main" | "control") && uses(line, "control");
        up || cli || control
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn adapters_do_not_know_each_other() {
    let sources = sources("src/adapter");
    // Each folder or file with a name of a platform; shared parts lie beside them.
    let platforms = [
        "telegram",
        "feishu",
        "qqbot",
        "weixin",
        "wecom",
        "homeassistant",
        "discord",
        "slack",
        "matrix",
        "irc",
        "signal",
        "mattermost",
        "webhook",
    ];
    let found = places(&sources, |path, line| {
        let here =
            path.components().nth(2).map(|part| part.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()).unwrap_or_default();
        platforms.contains(&here.as_str()) && platforms.iter().any(|other| *other != here && line.contains(&format!("adapter::{other}")))
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn unsafe_code_has_two_homes() {
    let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    let sources = all_sources();
    let found = places(&sources, |path, line| {
        !matches!(module(path).as_str(), "process" | "thread") && words.iter().any(|word| line.contains(word)) && path.starts_with("src")
    });
    assert!(found.is_empty(), "{found:#?}");
    let mut unexplained = Vec::new();
    for (path, text) in sources.iter().filter(|(path, _)| path.starts_with("src")) {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in
            lines.iter().enumerate().filter(|(_, line)| line.split("//").next().is_some_and(|code| code.contains("unsafe {")))
        {
            let above = lines[number.saturating_sub(8)..=number].iter().any(|line| line.contains("SAFETY"));
            if !above {
                unexplained.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(unexplained.is_empty(), "unsafe without SAFETY: {unexplained:#?}");
}

#[test]
fn a67_no_async_runtime_is_linked() {
    let banned = [
        "tokio",
        "async-std",
        "smol",
        "futures",
        "futures-util",
        "futures-executor",
        "hyper",
        "reqwest",
        "mio",
        "async-io",
        "axum",
        "async-executor",
        "polling",
    ];
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let names: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert!(names.len() > 20, "the lock file was read");
    let found: Vec<&&str> = names.iter().filter(|name| banned.contains(name)).collect();
    assert!(found.is_empty(), "{found:?}");
    let found = places(&product("src"), |_, line| {
        contains_word(line, "async")
            || line.split(".await").skip(1).any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a67_no_wait_is_without_an_end() {
    // The compiler's lint knows the types. This asks for a reason where the lint was switched off.
    let calls = [concat!(".re", "cv()"), concat!(".wait_with", "_output()"), concat!("thread::", "sleep("), concat!("process::", "exit(")];
    let mut found = Vec::new();
    for (path, text) in product("src") {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in code(&text).filter(|(_, line)| calls.iter().any(|call| line.contains(call))) {
            let above = &lines[number.saturating_sub(4)..number];
            let argued = above.iter().any(|line| line.contains("disallowed_methods") && (line.contains("//") || line.contains("reason")));
            if !argued {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "waits without an end, and no reason given: {found:#?}");
}

#[test]
fn tests_do_not_sleep_and_are_not_skipped() {
    let words = [concat!("thread::", "sleep"), concat!("#[", "ignore"), concat!("should", "_panic")];
    let found = places(&sources("tests"), |_, line| words.iter().any(|word| line.contains(word)));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn no_path_of_a_machine_is_in_the_tree() {
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/."), concat!("/home/", "user"), concat!("/fa", "rm/")];
    let mut found = Vec::new();
    for (path, text) in all_sources() {
        let lines = text.lines().enumerate().filter(|(_, line)| paths.iter().any(|known| line.contains(known)));
        found.extend(lines.map(|(number, line)| format!("{}:{}: {}", path.display(), number + 1, line.trim())));
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// The names of all black-box tests without their modules, those made by macros among them.
fn black_box_tests() -> Vec<String> {
    let mut command = std::process::Command::new(std::env::current_exe().expect("the test binary"));
    let output = crate::support::process::run(command.arg("--list"), b"", std::time::Duration::from_secs(20)).expect(0);
    let names = output.stdout.lines().filter_map(|line| line.strip_suffix(": test")?.rsplit("::").next().map(str::to_owned));
    let names: Vec<String> = names.collect();
    assert!(names.len() > 100, "the tests are listed: {names:?}");
    names
}

/// `61` and `65` of `a61_a65_killed_…`.
fn numbers(test: &str) -> impl Iterator<Item = u32> {
    test.split('_').map_while(|part| part.strip_prefix('a')?.parse().ok())
}

#[test]
fn the_table_of_failures_is_complete() {
    let readme = std::fs::read_to_string(root().join("tests/README.md")).expect("tests/README.md");
    let row = |number: u32| readme.lines().find(|line| line.starts_with(&format!("| {number} |")));
    let missing: Vec<u32> = (1..=81).filter(|number| row(*number).is_none()).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    let tests = black_box_tests();
    let mut wrong = Vec::new();
    for test in &tests {
        let unnamed = numbers(test).filter(|number| !row(*number).is_some_and(|row| row.contains(&format!("`{test}`"))));
        wrong.extend(unnamed.map(|number| format!("{test} is not in row {number}")));
    }
    let units: String = sources("src").into_iter().map(|(_, text)| text).collect();
    let numbered = |line: &&str| line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    for name in readme.lines().filter(numbered).flat_map(|line| line.split('`').skip(1).step_by(2)) {
        if !tests.iter().any(|test| test == name) && !units.contains(&format!("fn {name}(")) {
            wrong.push(format!("README names `{name}`, which is not a test"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
