//! Access tokens that are fetched with a credential and expire: kept, fetched anew in good time, and dropped when the
//! platform refuses one. Shared by the threads of an adapter; no lock is held while one is fetched.

use crate::clock;
use crate::config::Secret;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The token of one adapter. Two threads that find it missing both fetch one; the platforms take both.
#[derive(Debug, Default)]
pub struct Bearer {
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    token: Secret,
    refresh_at: Instant,
    expires_at: Instant,
}

impl Bearer {
    /// The token, fetched by `fetch` if there is none or it ends within `margin`. If a refresh fails for now, the one that
    /// is still valid is used. `fetch` → the token and how long it is valid.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub fn get<E: std::fmt::Display>(&self, margin: Duration, fetch: impl FnOnce() -> Result<(Secret, Duration), E>) -> Result<Secret, E> {
        let known = self.lock().clone();
        let now = clock::now();
        if let Some(known) = known.as_ref().filter(|known| now < known.refresh_at) {
            return Ok(known.token.clone());
        }
        match fetch() {
            Ok((token, valid)) => {
                // A token that is valid for less than the margin is used for half of its time.
                let refresh_at = now + valid.saturating_sub(margin).max(valid / 2);
                *self.lock() = Some(Known { token: token.clone(), refresh_at, expires_at: now + valid });
                Ok(token)
            }
            Err(error) => match known.filter(|known| now < known.expires_at) {
                Some(known) => {
                    log::debug!("no new access token yet: {error}");
                    Ok(known.token)
                }
                None => Err(error),
            },
        }
    }

    /// The platform does not accept this token any more. One that has been fetched meanwhile stays.
    pub fn refused(&self, token: &Secret) {
        let mut known = self.lock();
        if known.as_ref().is_some_and(|known| known.token.expose() == token.expose()) {
            *known = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Known>> {
        // A token is valid after any panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, valid: Duration) -> Result<(Secret, Duration), String> {
        Ok((Secret::new(text.to_owned()), valid))
    }

    #[test]
    fn a_token_is_fetched_once_and_again_when_refused() {
        let bearer = Bearer::default();
        let (margin, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        assert_eq!(bearer.get(margin, || Err("down")).err(), Some("down"));
        let one = bearer.get(margin, || token("one", hour)).expect("fetched");
        let again = bearer.get(margin, || -> Result<_, String> { panic!("it is known") }).expect("known");
        assert_eq!((one.expose(), again.expose()), ("one", "one"));
        bearer.refused(&Secret::new("older".to_owned()));
        assert!(bearer.get(margin, || Err("down")).is_ok(), "another one was meant");
        bearer.refused(&one);
        assert_eq!(bearer.get(margin, || token("two", hour)).expect("fetched").expose(), "two");
    }

    #[test]
    fn a_token_that_still_holds_bridges_a_failing_refresh() {
        let bearer = Bearer::default();
        bearer.get(Duration::ZERO, || token("one", Duration::from_secs(3600))).expect("fetched");
        bearer.lock().as_mut().expect("known").refresh_at = clock::now();
        assert_eq!(bearer.get(Duration::ZERO, || Err("down")).expect("still valid").expose(), "one");
        bearer.lock().as_mut().expect("known").expires_at = clock::now();
        assert_eq!(bearer.get(Duration::ZERO, || Err("down")).err(), Some("down"));
    }
}
