//! Slash commands: parsed before any mode, from the text alone.

use super::types::JobId;

/// A command that a person typed in a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Help,
    Start,
    New,
    Stop,
    Status,
    /// Without text: show what waits.
    Queue(QueueCommand),
    Retry,
    Undo,
    Usage,
    Whoami,
    Version,
    Restart,
    Cron(CronCommand),
    Approve {
        id: Option<i64>,
        session: bool,
    },
    Deny {
        id: Option<i64>,
    },
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueCommand {
    Show,
    Clear,
    /// Put this at the end without interrupting anything.
    Add(String),
}

/// What is to be done about scheduled jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CronCommand {
    /// Anything that is not understood: how it is written.
    Usage,
    /// When, and what.
    Add(String),
    /// The same, and the text is sent as it is.
    Remind(String),
    List,
    Remove(JobId),
    Pause(JobId),
    Resume(JobId),
    Run(JobId),
}

impl CronCommand {
    fn parse(argument: &str) -> Self {
        let (word, rest) = argument.split_once(char::is_whitespace).unwrap_or((argument, ""));
        let job = super::event::question_id(rest);
        match (word.to_lowercase().as_str(), job) {
            ("" | "list" | "ls", _) => Self::List,
            ("add", _) => Self::Add(rest.trim().to_owned()),
            ("remove" | "rm" | "delete", Some(job)) => Self::Remove(job),
            ("pause", Some(job)) => Self::Pause(job),
            ("resume", Some(job)) => Self::Resume(job),
            ("run", Some(job)) => Self::Run(job),
            _ => Self::Usage,
        }
    }
}

/// Name and description, in the order of /help and of the platforms' command menus.
pub const COMMANDS: &[(&str, &str)] = &[
    ("help", "what I understand"),
    ("new", "start a new conversation"),
    ("stop", "stop what I am doing"),
    ("status", "what I am doing"),
    ("queue", "what waits; /queue TEXT adds, /queue clear empties"),
    ("retry", "answer the last message again"),
    ("undo", "take back the last exchange"),
    ("usage", "tokens used in this conversation"),
    ("cron", "scheduled jobs: /cron add \"every 2h\" TEXT, /cron list, /cron remove|pause|resume|run N"),
    ("remind", "say something later: /remind in 20m TEXT"),
    ("approve", "allow the command I asked about; /approve session: all until /new"),
    ("deny", "refuse it"),
    ("whoami", "your id and rights here"),
    ("version", "which version this is"),
    ("restart", "restart the gateway (admins)"),
];

impl Command {
    /// `None`: not a command. A path (`/etc/passwd`) is not one, nor is a lone slash.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.trim_start().strip_prefix('/')?;
        let (word, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        // A group adds the bot's name: /stop@gate_bot.
        let word = word.split('@').next().unwrap_or_default().to_lowercase();
        if word.is_empty() || !word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            return None;
        }
        let argument = argument.trim();
        let id = super::event::question_id(argument);
        Some(match word.as_str() {
            "help" => Self::Help,
            "start" => Self::Start,
            "new" | "reset" => Self::New,
            "stop" | "cancel" => Self::Stop,
            "status" => Self::Status,
            "queue" | "q" => Self::Queue(match argument {
                "" => QueueCommand::Show,
                "clear" => QueueCommand::Clear,
                text => QueueCommand::Add(text.to_owned()),
            }),
            "retry" => Self::Retry,
            "undo" => Self::Undo,
            "usage" => Self::Usage,
            "whoami" => Self::Whoami,
            "version" => Self::Version,
            "restart" => Self::Restart,
            "cron" => Self::Cron(CronCommand::parse(argument)),
            "remind" => Self::Cron(CronCommand::Remind(argument.to_owned())),
            "approve" => Self::Approve { id, session: argument.eq_ignore_ascii_case("session") },
            "deny" => Self::Deny { id },
            _ => Self::Unknown(word),
        })
    }

    /// Commands that must run at most once, whatever is redelivered: their row is done before they act.
    #[must_use]
    pub fn once_only(&self) -> bool {
        matches!(self, Self::Restart)
    }

    /// Commands that change the transcript: a message that comes after them must see what they did.
    #[must_use]
    pub fn holds(&self) -> bool {
        matches!(self, Self::New | Self::Undo | Self::Retry)
    }

    /// The text of /help.
    #[must_use]
    pub fn help() -> String {
        let mut text = "Write what you need; I answer with the model and can use tools on this machine.\n".to_owned();
        for (name, description) in COMMANDS {
            text.push_str(&format!("\n/{name} – {description}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_their_commands() {
        let check = |text: &str, expect: Option<Command>| assert_eq!(Command::parse(text), expect, "{text}");
        check("hello /stop", None);
        check("/", None);
        check("/etc/passwd is what?", None);
        check(" /stop", Some(Command::Stop));
        check("/STOP@gate_bot now", Some(Command::Stop));
        check("/queue", Some(Command::Queue(QueueCommand::Show)));
        check("/queue clear", Some(Command::Queue(QueueCommand::Clear)));
        check("/queue then\ndo that", Some(Command::Queue(QueueCommand::Add("then\ndo that".into()))));
        check("/approve", Some(Command::Approve { id: None, session: false }));
        check("/approve 17", Some(Command::Approve { id: Some(17), session: false }));
        check("/approve session", Some(Command::Approve { id: None, session: true }));
        check("/deny #3", Some(Command::Deny { id: Some(3) }));
        check("/cron", Some(Command::Cron(CronCommand::List)));
        check("/cron add every 2h look\naround", Some(Command::Cron(CronCommand::Add("every 2h look\naround".into()))));
        check("/cron remove #3", Some(Command::Cron(CronCommand::Remove(3))));
        check("/cron Run 3", Some(Command::Cron(CronCommand::Run(3))));
        check("/cron pause", Some(Command::Cron(CronCommand::Usage)));
        check("/remind in 20m tea", Some(Command::Cron(CronCommand::Remind("in 20m tea".into()))));
        check("/frobnicate", Some(Command::Unknown("frobnicate".into())));
    }

    #[test]
    fn every_listed_command_parses() {
        for (name, _) in COMMANDS {
            assert!(!matches!(Command::parse(&format!("/{name}")), None | Some(Command::Unknown(_))), "{name}");
        }
    }
}
