//! The login: a code that is scanned with WeChat, and what comes of it. For the command `login`; it may run beside a
//! gateway. Talks to whoever sits at the terminal through a [`Face`].

use super::account::{Account, may_lead_to, redirected};
use super::api::{app_headers, base_info, post_headers};
use crate::adapter::rest::{Answer, Rest, escaped, readable};
use crate::clock::Deadline;
use crate::limits;
use crate::net::{NetError, NetOptions};
use crate::thread::{CancelToken, Cancelled};
use serde_json::{Value, json};
use std::time::Duration;

/// After a question that could not be answered, or was answered at once.
const PAUSE: Duration = Duration::from_secs(1);
/// Answers in a row that say nothing of the state.
const ODD_ANSWERS_MAX: u32 = 5;

/// Where the person is.
pub trait Face {
    /// Shows the code that is to be scanned, an address.
    fn code(&mut self, url: &str);
    /// Says what goes on, one line.
    fn say(&mut self, text: &str);
    /// Asks for the number that WeChat shows. `None`: there is nobody to ask, or it took too long.
    fn number(&mut self, wrong: bool, deadline: Deadline) -> Option<String>;
}

/// Why there is no login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginError {
    Cancelled,
    /// Nobody scanned any of the codes, or it took longer than WeChat waits.
    TooLate,
    /// Too many wrong numbers.
    Blocked,
    /// The number was asked for and not given.
    NoNumber,
    /// The account has a bot whose token is in use.
    Bound,
    /// Nobody answers, or not as expected.
    Failed(String),
}

impl std::fmt::Display for LoginError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::TooLate => f.write_str("no code was scanned and confirmed in time; log in again when the phone is at hand"),
            Self::Blocked => f.write_str("WeChat has blocked this login after too many wrong numbers; wait some minutes, then log in again"),
            Self::NoNumber => f.write_str("the number that WeChat shows was not given; log in again"),
            Self::Bound => f.write_str("WeChat says that this account is connected already; go on with the token of the last login, or remove the connection in WeChat and log in again"),
            Self::Failed(cause) => f.write_str(cause),
        }
    }
}

impl std::error::Error for LoginError {}

impl From<Cancelled> for LoginError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Logs in at `base_url`. Ends within [`limits::WEIXIN_LOGIN`], or when `token` is cancelled.
///
/// # Errors
/// [`LoginError`].
pub fn login(base_url: &str, net: &NetOptions, token: &CancelToken, face: &mut dyn Face) -> Result<Account, LoginError> {
    let base_url = super::address("the address", base_url).map_err(LoginError::Failed)?;
    let deadline = Deadline::after(limits::WEIXIN_LOGIN);
    let mut login = Login { rest: Rest::new(net, token), token, face, home: base_url, deadline };
    for codes in 0..=limits::WEIXIN_LOGIN_CODES_MAX {
        if codes > 0 {
            login.face.say("That code has expired; here is a new one.");
        }
        if let Some(account) = login.with_one_code()? {
            return Ok(account);
        }
    }
    Err(LoginError::TooLate)
}

struct Login<'a> {
    rest: Rest,
    token: &'a CancelToken,
    face: &'a mut dyn Face,
    home: String,
    deadline: Deadline,
}

/// What the server says about a code.
#[derive(Debug, Clone, PartialEq)]
enum Status {
    Wait,
    Scanned,
    Confirmed(Value),
    Expired,
    Redirect(String),
    NeedNumber,
    Blocked,
    Bound,
    /// None that is known here; what was said instead.
    Other(String),
}

impl Login<'_> {
    /// From a new code to its end. `None`: it has expired.
    fn with_one_code(&mut self) -> Result<Option<Account>, LoginError> {
        let (code, url) = self.new_code()?;
        self.face.code(&url);
        let (mut base, mut number, mut scanned, mut odd) = (self.home.clone(), None::<String>, false, 0);
        loop {
            self.token.check()?;
            if self.deadline.passed() {
                return Err(LoginError::TooLate);
            }
            let status = self.status(&base, &code, number.as_deref())?;
            odd = if matches!(status, Status::Other(_)) { odd + 1 } else { 0 };
            match status {
                Status::Wait => {}
                Status::Scanned => {
                    if !std::mem::replace(&mut scanned, true) {
                        self.face.say("Scanned. Confirm it in WeChat.");
                    }
                }
                Status::Confirmed(answer) => return self.account(&base, &answer).map(Some),
                Status::Expired => return Ok(None),
                Status::Redirect(host) => match redirected(&base, &host) {
                    Some(next) => base = next,
                    None => {
                        let host = readable(&host, 80);
                        return Err(LoginError::Failed(format!("the login was sent on to {host}, which is not one of WeChat's servers")));
                    }
                },
                Status::NeedNumber => {
                    let asked = self.face.number(number.is_some(), self.deadline);
                    self.token.check()?;
                    number = Some(asked.ok_or(LoginError::NoNumber)?);
                }
                Status::Blocked => return Err(LoginError::Blocked),
                Status::Bound => return Err(LoginError::Bound),
                Status::Other(said) if odd >= ODD_ANSWERS_MAX => {
                    return Err(LoginError::Failed(format!("the login cannot go on: WeChat's server says \"{said}\"")));
                }
                Status::Other(_) => self.pause()?,
            }
        }
    }

    fn pause(&self) -> Result<(), LoginError> {
        Ok(self.token.sleep(PAUSE.min(self.deadline.remaining()))?)
    }

    /// A code: what it is called, and what is to be shown.
    fn new_code(&self) -> Result<(String, String), LoginError> {
        let url = format!("{}/ilink/bot/get_bot_qrcode?bot_type=3", self.home);
        let body = json!({"local_token_list": [], "base_info": base_info()});
        let bound = || self.deadline.within(limits::WEIXIN_CALL);
        let mut answer =
            self.rest.call("POST", url.clone(), post_headers(None), Some(&body), bound()).map_err(|error| no_answer(&error))?;
        if matches!(answer.status, 404 | 405) {
            // Older servers take it only so.
            answer = self.rest.call("GET", url, app_headers(), None, bound()).map_err(|error| no_answer(&error))?;
        }
        let text = |key: &str| answer.json.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        match (text("qrcode"), text("qrcode_img_content")) {
            (Some(code), Some(url)) if url.len() <= limits::WEIXIN_LOGIN_CODE_BYTES_MAX && !url.chars().any(char::is_control) => {
                Ok((code.to_owned(), url.to_owned()))
            }
            _ => Err(LoginError::Failed(format!("there is no code to scan: {}", said(&answer)))),
        }
    }

    /// A server that does not answer has nothing new.
    fn status(&self, base: &str, code: &str, number: Option<&str>) -> Result<Status, LoginError> {
        let mut url = format!("{base}/ilink/bot/get_qrcode_status?qrcode={}", escaped(code));
        if let Some(number) = number {
            url.push_str(&format!("&verify_code={}", escaped(number)));
        }
        let began = crate::clock::now();
        match self.rest.call("GET", url, app_headers(), None, self.deadline.within(limits::WEIXIN_LOGIN_POLL)) {
            Err(NetError::Cancelled) => Err(LoginError::Cancelled),
            Ok(answer) if answer.status == 200 => {
                let status = read_status(&answer.json);
                if matches!(status, Status::Wait | Status::Scanned) && began.elapsed() < PAUSE {
                    self.pause()?;
                }
                Ok(status)
            }
            Ok(answer) if (400..500).contains(&answer.status) && answer.status != 408 && answer.status != 429 => {
                Err(LoginError::Failed(format!("the login cannot go on: {}", said(&answer))))
            }
            Ok(_) | Err(_) => {
                self.pause()?;
                Ok(Status::Wait)
            }
        }
    }

    fn account(&self, base: &str, answer: &Value) -> Result<Account, LoginError> {
        let no_token = || LoginError::Failed("WeChat confirmed the login, but gave no token; log in again".to_owned());
        let mut account = Account::from_json(answer).ok_or_else(no_token)?;
        // Where it says nothing, or nothing that can be believed, the bot is served where the login was.
        account.base_url = account.base_url.filter(|url| may_lead_to(base, url)).or_else(|| Some(base.to_owned()));
        // What is written must be readable.
        Account::read(&account.document()).map_err(|_| no_token())
    }
}

fn no_answer(error: &NetError) -> LoginError {
    match error {
        NetError::Cancelled => LoginError::Cancelled,
        error => LoginError::Failed(error.to_string()),
    }
}

fn said(answer: &Answer) -> String {
    let message = answer.json.get("errmsg").and_then(Value::as_str).map(|text| readable(text, 200)).filter(|text| !text.is_empty());
    message.unwrap_or_else(|| format!("HTTP {}, not an answer of this interface", answer.status))
}

fn read_status(answer: &Value) -> Status {
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
    match text("status") {
        "wait" => Status::Wait,
        "scaned" | "scanned" => Status::Scanned,
        "confirmed" => Status::Confirmed(answer.clone()),
        "expired" => Status::Expired,
        "scaned_but_redirect" => Status::Redirect(text("redirect_host").to_owned()),
        "need_verifycode" => Status::NeedNumber,
        "verify_code_blocked" => Status::Blocked,
        "binded_redirect" => Status::Bound,
        "" => Status::Other(readable(text("errmsg"), 80)),
        other => Status::Other(readable(other, 40)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_a_login() {
        let check = |answer: Value, expect: Status| assert_eq!(read_status(&answer), expect, "{answer}");
        check(json!({"status": "wait"}), Status::Wait);
        check(json!({"status": "scaned"}), Status::Scanned);
        check(json!({"status": "expired"}), Status::Expired);
        check(json!({"status": "scaned_but_redirect", "redirect_host": "a.weixin.qq.com"}), Status::Redirect("a.weixin.qq.com".to_owned()));
        check(json!({"status": "need_verifycode"}), Status::NeedNumber);
        check(json!({"status": "verify_code_blocked"}), Status::Blocked);
        check(json!({"status": "binded_redirect"}), Status::Bound);
        check(json!({"status": "new\nthing"}), Status::Other("new thing".to_owned()));
        check(json!({"ret": -1, "errmsg": "no such code"}), Status::Other("no such code".to_owned()));
        check(json!({}), Status::Other(String::new()));
        check(json!([1]), Status::Other(String::new()));
        let confirmed = json!({"status": "confirmed", "bot_token": "tok"});
        check(confirmed.clone(), Status::Confirmed(confirmed));
    }
}
