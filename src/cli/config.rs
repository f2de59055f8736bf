//! `config check`, `config show`, `config path`.

use super::args::ConfigCommand;
use super::output::{complain, print};
use super::{Context, code};

pub(super) fn config(context: &Context<'_>, command: ConfigCommand) -> u8 {
    let path = &context.places.config;
    if command == ConfigCommand::Path {
        print(&format!("{}\n", path.display()));
        if !path.exists() {
            complain("(there is no such file yet)");
        }
        return code::OK;
    }
    let loaded = match context.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    if command == ConfigCommand::Show {
        print(&format!("# {}\n{}", path.display(), crate::config::show(&loaded.config)));
        return code::OK;
    }
    let enabled: Vec<&str> = loaded.config.adapters.iter().filter(|adapter| adapter.enabled).map(|adapter| adapter.name.as_str()).collect();
    let adapters = if enabled.is_empty() { "none (chat from this machine only)".to_owned() } else { enabled.join(", ") };
    let model = loaded.config.providers.first().map_or("none", |provider| provider.model.as_str());
    let warnings = match loaded.warnings.len() {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        more => format!(", {more} warnings"),
    };
    print(&format!("{} is right{warnings}\n  model      {model}\n  adapters   {adapters}\n", context.environment.shorten(path)));
    code::OK
}
