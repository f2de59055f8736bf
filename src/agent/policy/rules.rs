//! The rules behind the shapes: what each command's words mean.

use super::places::{is_device, is_root_or_home, is_system, place, written_place};
use super::shell::{self, Command, Script, Word};

/// A rule that applies: the shape, and the part of the command it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub shape: &'static str,
    pub detail: String,
}

pub(super) fn found(shape: &'static str, detail: impl Into<String>) -> Option<Found> {
    Some(Found { shape, detail: detail.into() })
}

/// How deep scripts within scripts (`sh -c`, `eval`, `xargs sh -c`) are followed.
const DEPTH_MAX: usize = 6;

const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "ash", "fish"];
const INTERPRETERS: &[&str] = &["python", "python3", "perl", "ruby", "node", "php"];
const DATABASES: &[&str] =
    &["psql", "mysql", "mariadb", "sqlite3", "sqlcmd", "mongosh", "mongo", "clickhouse-client", "cockroach", "duckdb", "cqlsh"];

/// Reviews a whole command line.
pub(super) fn script(text: &str) -> Option<Found> {
    review_script(text, 0)
}

fn review_script(text: &str, depth: usize) -> Option<Found> {
    if depth > DEPTH_MAX {
        return None;
    }
    if let Some(name) = fork_bomb(text) {
        return found("fork-bomb", name);
    }
    let scripts = shell::parse(text);
    scripts.iter().find_map(|script| (0..script.len()).find_map(|index| review_command(script, index, depth)))
}

/// `name(){ name|name& };name`, whatever the name and the spaces.
fn fork_bomb(text: &str) -> Option<String> {
    let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let at = dense.find("(){")?;
    let name: String = dense[..at].chars().rev().take_while(|c| !";&|(){}'\"".contains(*c)).collect();
    let name: String = name.chars().rev().collect();
    let name = name.strip_prefix("function").unwrap_or(&name);
    let body = dense[at + 3..].split('}').next()?;
    (!name.is_empty() && body.contains(&format!("{name}|{name}"))).then(|| format!("{name}(){{{body}}}"))
}

fn review_command(script: &Script, index: usize, depth: usize) -> Option<Found> {
    let command = &script[index];
    for redirect in command.redirects.iter().filter(|redirect| redirect.operator.contains('>')) {
        // `2>&1` names a descriptor.
        let is_descriptor = redirect.operator.ends_with('&') && redirect.target.text.parse::<u32>().is_ok();
        if let Some(found) = written_place(&redirect.target.text).filter(|_| !is_descriptor) {
            return Some(found);
        }
    }
    review_words(&command.words, command, script, depth)
}

/// Reviews the words of a command, those of the command that it wraps included.
fn review_words(words: &[Word], command: &Command, script: &Script, depth: usize) -> Option<Found> {
    if depth > DEPTH_MAX {
        return None;
    }
    let words = strip_prefixes(words);
    let first = words.first()?;
    let name = base_name(&first.text);
    let call = Call { name, words: &words[1..], command, script, depth };
    if let Some(result) = call.wrapped() {
        return result;
    }
    call.as_shell().or_else(|| call.plain()).or_else(|| call.hidden_name(first))
}

/// The name of the program without its folder.
fn base_name(text: &str) -> &str {
    text.rsplit('/').next().unwrap_or(text)
}

/// Leaves reserved words and assignments out.
fn strip_prefixes(words: &[Word]) -> &[Word] {
    const RESERVED: &[&str] = &["if", "then", "elif", "else", "do", "while", "until", "!", "{", "}", "time", "fi", "done", "esac"];
    let is_assignment = |word: &Word| {
        let name = word.text.split('=').next().unwrap_or_default();
        word.text.contains('=') && !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let skip = words.iter().take_while(|word| (!word.quoted && RESERVED.contains(&word.text.as_str())) || is_assignment(word)).count();
    &words[skip..]
}

/// One command, taken apart: its name and the words after it.
struct Call<'a> {
    name: &'a str,
    words: &'a [Word],
    command: &'a Command,
    script: &'a Script,
    depth: usize,
}

impl Call<'_> {
    fn texts(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(|word| word.text.as_str())
    }

    fn has(&self, wanted: &[&str]) -> bool {
        self.texts().any(|text| wanted.contains(&text))
    }

    /// A short option, alone or in a cluster: `-rf` has `r` and `f`.
    fn flag(&self, letter: char) -> bool {
        self.texts().take_while(|text| *text != "--").any(|text| is_cluster(text) && text.contains(letter))
    }

    fn operands(&self) -> impl Iterator<Item = &Word> {
        self.words.iter().filter(|word| !word.text.starts_with('-') || word.text == "-")
    }

    /// The words from `at` on as a command of their own.
    fn rest(&self, at: usize) -> Option<Found> {
        review_words(self.words.get(at..)?, self.command, self.script, self.depth + 1)
    }

    fn line(&self) -> String {
        let mut line = self.name.to_owned();
        for text in self.texts() {
            line.push(' ');
            line.push_str(text);
        }
        line.chars().take(80).collect()
    }

    /// Commands that run another. `None`: it is none of them; `Some(result)`: what the other one is.
    fn wrapped(&self) -> Option<Option<Found>> {
        // Options that take a value as the next word.
        let with_value: &[&str] = match self.name {
            "sudo" | "doas" => &["-u", "-g", "-h", "-p", "-C", "-D", "-R", "-T", "-U", "-r", "-t"],
            "env" => &["-u", "-C", "--unset", "--chdir"],
            "nice" => &["-n", "--adjustment"],
            "ionice" => &["-c", "-n", "-p"],
            "timeout" => &["-s", "-k", "--signal", "--kill-after"],
            "xargs" => &["-I", "-n", "-P", "-d", "-L", "-s", "-a", "-E", "--arg-file", "--max-args", "--max-procs", "--delimiter"],
            "stdbuf" => &["-i", "-o", "-e"],
            "strace" | "ltrace" => &["-e", "-o", "-p", "-s", "-u"],
            "taskset" | "chrt" | "nohup" | "setsid" | "exec" | "command" | "builtin" | "time" | "busybox" | "chroot" | "unshare"
            | "watch" | "caffeinate" | "systemd-run" => &["-n", "-p", "-a"],
            "find" => return self.find(),
            "eval" => {
                let joined: Vec<&str> = self.texts().collect();
                return Some(self.fetched().or_else(|| review_script(&joined.join(" "), self.depth + 1)));
            }
            "su" | "runuser" | "script" | "flock" if self.option_value("-c").is_some() => {
                return Some(review_script(self.option_value("-c").unwrap_or_default(), self.depth + 1));
            }
            "ssh" => {
                // What follows the host runs there, which may be a machine as dear as this one.
                let mut host = 0;
                while let Some(option) = self.words.get(host).map(|word| word.text.as_str()).filter(|text| text.starts_with('-')) {
                    host += if option.len() == 2 && "pilobcDEeFIJLmOQRSWw".contains(&option[1..]) { 2 } else { 1 };
                }
                let joined: Vec<&str> = self.texts().skip(host + 1).collect();
                return Some(review_script(&joined.join(" "), self.depth + 1));
            }
            "trap" => return Some(review_script(&self.words.first()?.text, self.depth + 1)),
            _ => return None,
        };
        let mut at = 0;
        while let Some(text) = self.words.get(at).map(|word| word.text.as_str()) {
            if with_value.contains(&text) {
                at += 2;
            } else if text.starts_with('-') || (matches!(self.name, "env" | "sudo" | "doas") && text.contains('=')) {
                at += 1;
            } else {
                break;
            }
        }
        // The duration, the mask, the priority, the new root.
        if matches!(self.name, "timeout" | "taskset" | "chrt" | "chroot") {
            at += 1;
        }
        if self.name == "xargs" && self.words.get(at).is_some_and(|word| base_name(&word.text) == "rm") {
            return Some(found("delete", "xargs rm"));
        }
        Some(self.rest(at))
    }

    fn option_value(&self, option: &str) -> Option<&str> {
        let at = self.words.iter().position(|word| word.text == option)?;
        self.words.get(at + 1).map(|word| word.text.as_str())
    }

    fn find(&self) -> Option<Option<Found>> {
        if self.has(&["-delete"]) {
            return Some(found("delete", "find -delete"));
        }
        for (at, word) in self.words.iter().enumerate() {
            if matches!(word.text.as_str(), "-exec" | "-execdir" | "-ok" | "-okdir") {
                if self.words.get(at + 1).is_some_and(|word| base_name(&word.text) == "rm") {
                    return Some(found("delete", "find -exec rm"));
                }
                if let Some(result) = self.rest(at + 1) {
                    return Some(Some(result));
                }
            }
        }
        Some(None)
    }

    /// A substitution in the words that fetches from the network.
    fn fetched(&self) -> Option<Found> {
        let fetches = |text: &str| text.contains("curl ") || text.contains("wget ") || text.contains("fetch ");
        let substituted = |word: &&Word| word.dynamic && (word.text.contains("$(") || word.text.contains("<(")) && fetches(&word.text);
        self.words.iter().find(substituted).and_then(|_| found("remote-script", self.line()))
    }

    /// A shell or an interpreter: what it is given to run.
    fn as_shell(&self) -> Option<Found> {
        let is_shell = SHELLS.contains(&self.name);
        if !is_shell && !INTERPRETERS.contains(&self.name) && !matches!(self.name, "source" | ".") {
            return None;
        }
        if let Some(found) = self.fetched() {
            return Some(found);
        }
        if is_shell {
            let inline = self.words.iter().position(|word| is_cluster(&word.text) && word.text.contains('c'));
            if let Some(at) = inline {
                let text = self.words[at + 1..].iter().find(|word| !word.text.starts_with('-'))?;
                return review_script(&text.text, self.depth + 1);
            }
            if let Some(text) = &self.command.document {
                return review_script(text, self.depth + 1);
            }
        }
        // Reads its program from the pipe: with no script file, or with `-`.
        let reads_pipe = self.operands().next().is_none_or(|word| matches!(word.text.as_str(), "-" | "/dev/stdin")) || self.has(&["-s"]);
        if reads_pipe { self.fed_script(is_shell) } else { None }
    }

    /// What comes through the pipe.
    fn fed_script(&self, is_shell: bool) -> Option<Found> {
        let mut source = self.command.fed_by;
        let mut steps = 0;
        while let Some(feeder) = source.and_then(|index| self.script.get(index)) {
            let words = strip_prefixes(&feeder.words);
            let names: Vec<&str> = words.iter().map(|word| base_name(&word.text)).collect();
            let first = names.iter().find(|name| !matches!(**name, "sudo" | "env" | "nohup")).copied().unwrap_or_default();
            let text = || words[1..].iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
            match first {
                "curl" | "wget" | "fetch" => return found("remote-script", format!("{first} … | {}", self.name)),
                "base64" | "xxd" | "openssl" | "uudecode" => return found("hidden-script", format!("{first} … | {}", self.name)),
                "echo" | "printf" if is_shell => return review_script(&text(), self.depth + 1),
                "cat" if is_shell && feeder.document.is_some() => {
                    return review_script(feeder.document.as_deref().unwrap_or_default(), self.depth + 1);
                }
                _ => source = feeder.fed_by,
            }
            steps += 1;
            if steps > 32 {
                break;
            }
        }
        None
    }

    /// The command is a variable: then the words alone must tell.
    fn hidden_name(&self, first: &Word) -> Option<Found> {
        let recursive_force = self.flag('r') && self.flag('f') || self.has(&["--recursive"]);
        if first.dynamic && recursive_force { found("delete", format!("{} {}", first.text, self.line())) } else { None }
    }

    /// Commands that do what their name says.
    fn plain(&self) -> Option<Found> {
        self.files().or_else(|| self.system()).or_else(|| self.work())
    }

    fn files(&self) -> Option<Found> {
        let is_place = |check: fn(&str) -> bool| self.operands().any(|word| check(&place(&word.text)));
        match self.name {
            "rm" | "unlink" | "rmdir" => {
                let recursive = self.flag('r') || self.flag('R') || self.has(&["--recursive"]);
                if self.name == "rm" && (recursive || self.operands().any(|word| word.glob)) || is_place(is_root_or_home) {
                    return found("delete", self.line());
                }
                self.operands().find_map(|word| written_place(&word.text))
            }
            "dd" => {
                let target = self.texts().find_map(|text| text.strip_prefix("of="))?;
                written_place(target).or_else(|| is_device(target).then(|| Found { shape: "disk", detail: self.line() }))
            }
            "truncate" | "shred" => found("truncate", self.line()),
            "tee" => self.operands().find_map(|word| written_place(&word.text)),
            "cp" | "install" | "ln" | "rsync" => self.operands().last().and_then(|word| written_place(&word.text)),
            // What is moved away is gone from where it was.
            "mv" => self.operands().find_map(|word| written_place(&word.text)),
            "sed" | "perl" if self.texts().any(|text| text.starts_with("-i") || text == "--in-place") => {
                self.operands().find_map(|word| written_place(&word.text))
            }
            "chmod" | "chown" | "chgrp" => self.permissions(),
            _ if matches!(self.name, "fdisk" | "sfdisk" | "sgdisk" | "gdisk" | "parted" | "cfdisk") && !self.flag('l') => {
                found("disk", self.line())
            }
            "wipefs" | "blkdiscard" | "mkswap" | "lvremove" | "vgremove" | "pvremove" | "badblocks" => found("disk", self.line()),
            "cryptsetup" if self.has(&["luksFormat", "erase", "luksErase"]) => found("disk", self.line()),
            "zpool" | "zfs" if self.has(&["destroy"]) => found("disk", self.line()),
            name if name == "mkfs" || name.starts_with("mkfs.") || name.starts_with("mke2fs") => found("disk", self.line()),
            _ => None,
        }
    }

    fn permissions(&self) -> Option<Found> {
        let recursive = self.flag('R') || self.has(&["--recursive"]);
        let mode = self.operands().next().map(|word| word.text.as_str()).unwrap_or_default();
        let open = self.name == "chmod"
            && (matches!(mode, "777" | "0777" | "a+w" | "o+w" | "a+rwx" | "ugo+rwx" | "666") || mode.contains("a=rwx"));
        let setuid = self.name == "chmod" && (mode.contains("+s") || (mode.len() == 4 && mode.starts_with(['4', '2', '6'])));
        let wide = self.operands().skip(1).any(|word| {
            let place = place(&word.text);
            is_root_or_home(&place) || is_system(&place)
        });
        ((recursive && (wide || open)) || setuid || (wide && open)).then(|| Found { shape: "permissions", detail: self.line() })
    }

    fn system(&self) -> Option<Found> {
        let names_gateway = || self.texts().any(|text| text.contains("hermes-gateway"));
        match self.name {
            "shutdown" | "reboot" | "poweroff" | "halt" => found("power", self.line()),
            "init" | "telinit" if self.has(&["0", "6", "1"]) => found("power", self.line()),
            "systemctl" if self.has(&["poweroff", "reboot", "halt", "kexec", "suspend", "hibernate", "rescue", "emergency"]) => {
                found("power", self.line())
            }
            "systemctl" | "service" | "rc-service" | "launchctl" | "sv" | "s6-svc" | "supervisorctl" => self.services(),
            "killall" | "pkill" | "killall5" | "skill" => found(if names_gateway() { "gateway" } else { "kill" }, self.line()),
            "fuser" if self.flag('k') => found("kill", self.line()),
            "kill" => self.kill(),
            "hermes-gateway" => {
                let words: Vec<&str> = self.texts().filter(|text| !text.starts_with('-') && *text != "gateway").collect();
                let ends = self.has(&["stop", "restart"]) || (words.contains(&"run") && self.has(&["--replace"]));
                let service = words.first() == Some(&"service") && self.has(&["uninstall", "install", "stop", "restart"]);
                (ends || service).then(|| Found { shape: "gateway", detail: self.line() })
            }
            "crontab" if self.flag('r') => found("crontab", self.line()),
            "userdel" | "groupdel" | "deluser" | "delgroup" | "passwd" | "chpasswd" | "usermod" | "visudo" | "vipw" => {
                found("accounts", self.line())
            }
            "iptables" | "ip6tables" if self.flag('F') || self.flag('X') || self.has(&["--flush"]) => found("firewall", self.line()),
            "nft" if self.has(&["flush", "delete"]) => found("firewall", self.line()),
            "ufw" if self.has(&["disable", "reset"]) => found("firewall", self.line()),
            _ => None,
        }
    }

    fn services(&self) -> Option<Found> {
        let names_gateway = self.texts().any(|text| text.contains("hermes-gateway"));
        let ends = self.has(&["stop", "disable", "mask", "kill", "isolate", "unload", "bootout", "remove", "down", "-d"]);
        let restarts = self.has(&["restart", "try-restart", "reload-or-restart", "force-reload", "condrestart", "kickstart"]);
        if names_gateway && (ends || restarts) {
            return found("gateway", self.line());
        }
        ends.then(|| Found { shape: "services", detail: self.line() })
    }

    fn kill(&self) -> Option<Found> {
        if self.texts().any(|text| text == "$PPID" || text.contains("hermes-gateway")) {
            return found("gateway", self.line());
        }
        if self.has(&["-l", "-L"]) {
            return None;
        }
        // The first word may be the signal; what follows are targets: -1 is everybody, 1 is init, 0 is our own group.
        let mut targets: Vec<&str> = self.texts().collect();
        if matches!(targets.first(), Some(&"-s" | &"-n")) {
            targets.drain(..2.min(targets.len()));
        } else if targets.len() > 1 && targets[0].starts_with('-') && targets[0] != "--" {
            targets.remove(0);
        }
        targets.iter().any(|target| matches!(*target, "-1" | "1")).then(|| Found { shape: "kill", detail: self.line() })
    }

    fn work(&self) -> Option<Found> {
        match self.name {
            "git" => self.git(),
            "docker" | "podman" | "nerdctl" => {
                let prune = self.has(&["prune"]);
                let remove = self.has(&["rm", "rmi", "remove"]) && (self.flag('f') || self.has(&["--force", "volume", "network"]));
                let down = self.has(&["down"]) && (self.has(&["-v", "--volumes"]));
                (prune || remove || down).then(|| Found { shape: "containers", detail: self.line() })
            }
            "docker-compose" if self.has(&["down"]) && self.has(&["-v", "--volumes"]) => found("containers", self.line()),
            "kubectl" | "oc" if self.has(&["delete", "drain"]) => found("containers", self.line()),
            "dropdb" | "dropuser" => found("database", self.line()),
            "redis-cli" if self.texts().any(|text| matches!(text.to_ascii_lowercase().as_str(), "flushall" | "flushdb")) => {
                found("database", self.line())
            }
            name if DATABASES.contains(&name) => self.database(),
            _ => None,
        }
    }

    fn git(&self) -> Option<Found> {
        // Options of git itself come before the subcommand; some take a value.
        let mut at = 0;
        while let Some(text) = self.words.get(at).map(|word| word.text.as_str()).filter(|text| text.starts_with('-')) {
            at += if matches!(text, "-C" | "-c" | "--git-dir" | "--work-tree") { 2 } else { 1 };
        }
        let subcommand = self.words.get(at)?.text.as_str();
        let sub = Call { name: subcommand, words: &self.words[at + 1..], ..*self };
        let lost = match subcommand {
            "push" => {
                sub.flag('f')
                    || sub.flag('d')
                    || sub.has(&["--delete", "--mirror", "--prune"])
                    || sub.texts().any(|text| text.starts_with("--force") || text.starts_with('+') || text.starts_with(':'))
            }
            "reset" => sub.has(&["--hard"]),
            "clean" => sub.flag('f') || sub.has(&["--force"]),
            "rm" => sub.flag('r'),
            "filter-branch" | "filter-repo" => true,
            "reflog" => sub.has(&["expire", "delete"]),
            "stash" => sub.has(&["clear", "drop"]),
            "branch" => sub.flag('D'),
            "checkout" | "restore" => sub.has(&[".", "-f", "--force"]),
            _ => false,
        };
        lost.then(|| Found { shape: "git", detail: self.line() })
    }

    /// SQL that a database client is given by its arguments, a here-document or a pipe.
    fn database(&self) -> Option<Found> {
        let mut texts: Vec<String> = self.texts().map(str::to_owned).collect();
        texts.extend(self.command.document.clone());
        if let Some(feeder) = self.command.fed_by.and_then(|index| self.script.get(index)) {
            texts.extend(feeder.words.iter().map(|word| word.text.clone()));
            texts.extend(feeder.document.clone());
        }
        let statement = texts.iter().flat_map(|text| text.split(';')).find(|statement| destroys_data(statement))?;
        found("database", statement.trim().chars().take(80).collect::<String>())
    }
}

/// `-rf`, not `--recursive` and not `-`.
fn is_cluster(text: &str) -> bool {
    text.len() > 1 && text.starts_with('-') && !text.starts_with("--") && text[1..].chars().all(char::is_alphanumeric)
}

fn destroys_data(statement: &str) -> bool {
    let words: Vec<String> = statement.split_whitespace().map(str::to_ascii_uppercase).collect();
    let pair = |first: &str, seconds: &[&str]| words.windows(2).any(|pair| pair[0] == first && seconds.contains(&pair[1].as_str()));
    let lower = statement.to_ascii_lowercase();
    pair("DROP", &["TABLE", "DATABASE", "SCHEMA", "USER", "ROLE", "COLLECTION", "KEYSPACE", "VIEW", "INDEX"])
        || words.first().is_some_and(|word| word == "TRUNCATE")
        || (pair("DELETE", &["FROM"]) && !words.iter().any(|word| word == "WHERE"))
        || lower.contains("dropdatabase(")
        || lower.contains(".drop(")
}
