//! Which tool calls a person is asked about first.
//!
//! Pure. [`SHAPES`] lists the shapes of commands that need approval, and [`review`] finds them. This guards against a
//! model's mistakes, not against malice: a program can do anything that its name does not tell. What must hold against
//! everybody is enforced elsewhere (protected files, the environment of children, requests from inside).

mod places;
mod rules;
mod shell;
#[cfg(test)]
mod tests;

use serde_json::Value;

/// A kind of dangerous command, as it is documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Also what `/approve session` approves.
    pub name: &'static str,
    /// What it covers.
    pub what: &'static str,
    /// Why a person is asked.
    pub why: &'static str,
}

/// Everything that needs approval.
pub const SHAPES: &[Shape] = &[
    Shape {
        name: "delete",
        what: "rm -r, rm with a wildcard, rm of / or a home directory, find -delete, find -exec rm, xargs rm, git rm -r",
        why: "deletes files that cannot be brought back",
    },
    Shape {
        name: "disk",
        what: "mkfs, fdisk, parted, wipefs, blkdiscard, lvremove …; dd, cp, tee or a redirection to a device under /dev",
        why: "overwrites a disk or a partition table",
    },
    Shape {
        name: "system-files",
        what: "writing, moving or deleting under /etc, /boot, /usr (but /usr/local), /bin, /sbin, /lib, /sys, /proc",
        why: "changes files that the system needs",
    },
    Shape {
        name: "permissions",
        what: "chmod -R or chown -R of a system or home directory, chmod -R 777 or a+w of anything, setuid bits",
        why: "changes who may read and write many files",
    },
    Shape {
        name: "remote-script",
        what: "curl or wget piped or substituted into a shell or interpreter",
        why: "runs a program from the network unseen",
    },
    Shape { name: "hidden-script", what: "base64 -d, xxd -r or openssl piped into a shell", why: "runs commands that cannot be read here" },
    Shape { name: "power", what: "shutdown, reboot, poweroff, halt, init 0 or 6, systemctl poweroff …", why: "stops the whole machine" },
    Shape {
        name: "services",
        what: "systemctl or service stop, disable, mask, kill, isolate; launchctl unload, rc-service stop",
        why: "stops a service that others may rely on",
    },
    Shape { name: "kill", what: "kill of -1 or 1, killall, pkill, fuser -k", why: "ends processes by the dozen or by name" },
    Shape {
        name: "git",
        what: "git push --force, --delete or --mirror, reset --hard, clean -f, filter-branch, reflog expire, stash clear",
        why: "throws away work or rewrites what others have",
    },
    Shape {
        name: "containers",
        what: "docker or podman system/volume/image prune, rm -f, volume rm, compose down -v; kubectl delete",
        why: "deletes containers, images or volumes",
    },
    Shape {
        name: "database",
        what: "DROP, TRUNCATE or DELETE without WHERE given to a database client; dropdb",
        why: "deletes data in a database",
    },
    Shape { name: "truncate", what: "truncate, shred", why: "destroys the content of files" },
    Shape { name: "fork-bomb", what: "a function that pipes itself into itself", why: "makes processes until the machine stands still" },
    Shape { name: "crontab", what: "crontab -r", why: "deletes all scheduled jobs of the user" },
    Shape { name: "accounts", what: "userdel, groupdel, passwd, chpasswd, usermod, visudo", why: "changes who may log in" },
    Shape { name: "firewall", what: "iptables -F or -X, nft flush, ufw disable or reset", why: "opens or cuts the machine's network" },
    Shape {
        name: "credentials",
        what: "writing to ~/.ssh, ~/.gnupg, ~/.aws, /etc/sudoers, /etc/passwd or /etc/shadow",
        why: "changes keys or who may become root",
    },
    Shape {
        name: "gateway",
        what: "hermes-gateway stop, restart, run --replace or service …; systemctl … hermes-gateway; kill $PPID",
        why: "stops or restarts this gateway; say /restart instead",
    },
];

/// A call that a person must approve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Danger {
    pub why: String,
    /// What would be done, for the question: the command, or the file and what happens to it.
    pub shown: String,
    /// The name of one of [`SHAPES`].
    pub shape: &'static str,
}

/// Longest text put into a question; platforms take 4096 characters and the question has words of its own.
const SHOWN_CHARACTERS_MAX: usize = 1500;

/// Whether a call needs approval, and why.
#[must_use]
pub fn review(tool: &str, input: &Value) -> Option<Danger> {
    let text = |field: &str| input.get(field).and_then(Value::as_str);
    let (found, shown) = match tool {
        "shell" => {
            let command = text("command")?;
            (rules::script(command)?, command.to_owned())
        }
        "write_file" | "edit_file" => {
            let path = text("path")?;
            let verb = if tool == "write_file" { "write" } else { "edit" };
            (places::written_place(path)?, format!("{verb} {path}"))
        }
        _ => return None,
    };
    Some(Danger { why: format!("{}: {}", found.detail, shape(found.shape).why), shown: shorten(&shown), shape: found.shape })
}

fn shape(name: &str) -> &'static Shape {
    SHAPES.iter().find(|shape| shape.name == name).expect("every rule names a shape of the table, which a test checks")
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARACTERS_MAX {
        return text.to_owned();
    }
    // Head and tail: what is dangerous may stand at either end.
    let head: String = text.chars().take(SHOWN_CHARACTERS_MAX * 2 / 3).collect();
    let tail: Vec<char> = text.chars().rev().take(SHOWN_CHARACTERS_MAX / 3).collect();
    let left_out = text.chars().count() - head.chars().count() - tail.len();
    format!("{head}\n[{left_out} characters left out]\n{}", tail.iter().rev().collect::<String>())
}
