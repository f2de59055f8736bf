//! Where things are: the configuration file and the state directory. Decides by looking at the environment and at
//! which files exist; reads nothing.

use super::environment::Environment;
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "hermes-gateway";
const SYSTEM_CONFIG: &str = "/etc/hermes-gateway/config.toml";
const SYSTEM_STATE: &str = "/var/lib/hermes-gateway";
/// Names the configuration where the command line does not.
pub const CONFIG_VARIABLE: &str = "HERMES_GATEWAY_CONFIG";
/// Names the state directory where the command line names nothing at all.
pub const STATE_VARIABLE: &str = "HERMES_GATEWAY_STATE_DIR";

/// What the command line says about places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    pub config: Option<PathBuf>,
    pub profile: Option<String>,
    pub state_dir: Option<PathBuf>,
}

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The file to be read. It may not exist: then it is the place where it should be.
    pub config: PathBuf,
    /// What was asked for explicitly must exist.
    pub config_chosen: bool,
    pub state_dir: PathBuf,
    /// `default`, or what `--profile` says.
    pub profile: String,
}

/// Why there are no places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlacesError {
    BadProfile(String),
    /// Neither `HOME` nor anything else says where the user's files are.
    NoHome,
}

impl std::fmt::Display for PlacesError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadProfile(name) => {
                write!(f, "`{name}` cannot be the name of a profile: use letters, digits, `-` and `_`")
            }
            Self::NoHome => f.write_str("HOME is not set; say where things are with --config and --state-dir"),
        }
    }
}

impl std::error::Error for PlacesError {}

/// Finds the places. `exists` tells whether a file is there.
///
/// # Errors
/// [`PlacesError`].
pub fn find(choice: &Choice, environment: &Environment, exists: &dyn Fn(&Path) -> bool) -> Result<Places, PlacesError> {
    let profile = choice.profile.as_deref().unwrap_or("default");
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if profile.is_empty() || profile.len() > 64 || !profile.chars().all(valid) || profile.starts_with('-') {
        return Err(PlacesError::BadProfile(profile.to_owned()));
    }
    let config_home = environment.directory("XDG_CONFIG_HOME").or_else(|| environment.home().map(|home| home.join(".config")));
    let user_config = config_home.map(|directory| directory.join(DIRECTORY).join("config.toml"));
    let chosen = choice.config.clone().or_else(|| environment.get(CONFIG_VARIABLE).map(|text| environment.expand(text)));
    let config_chosen = chosen.is_some();
    let base = match chosen {
        Some(path) => std::path::absolute(&path).unwrap_or(path),
        None => first_existing(user_config, profile, exists).ok_or(PlacesError::NoHome)?,
    };
    let state_dir = state_dir(choice, environment, &base)?;
    if profile == "default" {
        return Ok(Places { config: base, config_chosen, state_dir, profile: profile.to_owned() });
    }
    // An explicit one is meant as it stands; all other places are shared by the profiles.
    let state_dir = if choice.state_dir.is_some() { state_dir } else { state_dir.join("profiles").join(profile) };
    Ok(Places { config: profile_file(&base, profile), config_chosen, state_dir, profile: profile.to_owned() })
}

/// `profiles/NAME.toml` beside the main file.
fn profile_file(base: &Path, profile: &str) -> PathBuf {
    base.with_file_name("profiles").join(format!("{profile}.toml"))
}

/// The user's place if something is there, else the system's if something is there, else the user's, where it should be.
fn first_existing(user: Option<PathBuf>, profile: &str, exists: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let there = |base: &Path| exists(&if profile == "default" { base.to_owned() } else { profile_file(base, profile) });
    let system = PathBuf::from(SYSTEM_CONFIG);
    match user {
        Some(user) if there(&user) || !there(&system) => Some(user),
        Some(_) => Some(system),
        None => there(&system).then_some(system),
    }
}

fn state_dir(choice: &Choice, environment: &Environment, config: &Path) -> Result<PathBuf, PlacesError> {
    if let Some(path) = &choice.state_dir {
        return Ok(std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    }
    // Set for the tools of a gateway, so that this program, called by them, means that very gateway.
    let same = choice.config.is_none() && choice.profile.is_none();
    if let Some(path) = environment.directory(STATE_VARIABLE).filter(|_| same) {
        return Ok(path);
    }
    if let Some(path) = environment.first_directory("STATE_DIRECTORY") {
        return Ok(path);
    }
    if environment.root && config.starts_with("/etc") {
        return Ok(PathBuf::from(SYSTEM_STATE));
    }
    let xdg = environment.directory("XDG_STATE_HOME").or_else(|| environment.home().map(|home| home.join(".local/state")));
    xdg.map(|directory| directory.join(DIRECTORY)).ok_or(PlacesError::NoHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(choice: &Choice, environment: &Environment, existing: &[&str]) -> Result<(String, String), PlacesError> {
        let places = find(choice, environment, &|path| existing.iter().any(|known| Path::new(known) == path))?;
        Ok((places.config.display().to_string(), places.state_dir.display().to_string()))
    }

    #[test]
    fn places_in_their_order() {
        let user = Environment::default().with("HOME", "/home/ana");
        let mut root = Environment::default().with("HOME", "/root");
        root.root = true;
        let none = Choice::default();
        let chosen = Choice { config: Some("/x/c.toml".into()), ..Choice::default() };
        let work = Choice { profile: Some("work".into()), ..Choice::default() };
        let xdg = user.clone().with("XDG_CONFIG_HOME", "/cfg").with("XDG_STATE_HOME", "/st").with("XDG_CONFIG_DIRS", "/no");
        let variable = user.clone().with("HERMES_GATEWAY_CONFIG", "~/other.toml");
        let service = root.clone().with("STATE_DIRECTORY", "/var/lib/gw:/var/lib/second");
        let (home_config, etc) = ("/home/ana/.config/hermes-gateway/config.toml", "/etc/hermes-gateway/config.toml");
        let home_state = "/home/ana/.local/state/hermes-gateway";
        let check = |choice: &Choice, environment: &Environment, existing: &[&str], config: &str, state: &str| {
            assert_eq!(places(choice, environment, existing), Ok((config.to_owned(), state.to_owned())), "{choice:?} {environment:?}");
        };
        check(&none, &user, &[], home_config, home_state);
        check(&none, &user, &[home_config, etc], home_config, home_state);
        check(&none, &user, &[etc], etc, home_state);
        check(&none, &root, &[etc], etc, "/var/lib/hermes-gateway");
        check(&none, &service, &[etc], etc, "/var/lib/gw");
        let tool = user.clone().with("HERMES_GATEWAY_STATE_DIR", "/st").with("HERMES_GATEWAY_CONFIG", "/c.toml");
        check(&none, &tool, &[etc], "/c.toml", "/st");
        check(&chosen, &tool, &[etc], "/x/c.toml", home_state);
        check(&none, &xdg, &[], "/cfg/hermes-gateway/config.toml", "/st/hermes-gateway");
        check(&none, &variable, &[home_config], "/home/ana/other.toml", home_state);
        check(&chosen, &variable, &[home_config], "/x/c.toml", home_state);
        check(&work, &user, &[], "/home/ana/.config/hermes-gateway/profiles/work.toml", &format!("{home_state}/profiles/work"));
        let both = Choice { state_dir: Some("/s".into()), ..work };
        check(&both, &user, &[], "/home/ana/.config/hermes-gateway/profiles/work.toml", "/s");
    }

    #[test]
    fn no_places() {
        let bad = Choice { profile: Some("../x".into()), ..Choice::default() };
        assert_eq!(places(&bad, &Environment::default().with("HOME", "/h"), &[]), Err(PlacesError::BadProfile("../x".into())));
        assert_eq!(places(&Choice::default(), &Environment::default(), &[]), Err(PlacesError::NoHome));
    }
}
