//! `http_fetch`: a web page or an answer of an API, as text.
//!
//! The model chooses the address, so the addresses by which clouds hand out credentials to whoever runs on a machine are
//! refused, in every spelling, also after a redirect.

use super::{Input, Tool, ToolContext, ToolOutcome, check, cut, html, settle, shown};
use crate::limits;
use crate::net::{Body, Bounds, Client, NetError, Request, Response, Url};
use crate::provider::ToolSpec;
use crate::thread;
use serde_json::{Value, json};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

pub(super) struct HttpFetch;

/// Silence after which the server is given up.
const SILENCE: Duration = Duration::from_secs(20);

impl Tool for HttpFetch {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "http_fetch",
            description: "Fetches an http or https address and returns status, type and text. Web pages come as text without markup, unless raw is set."
                .to_owned(),
            schema: json!({
                "type": "object",
                "properties": {
                    "url": {"type": "string", "description": "The address."},
                    "method": {"type": "string", "enum": ["GET", "POST"]},
                    "headers": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Request headers."},
                    "body": {"type": "string", "description": "The body of a POST. JSON, if the headers name no content type."},
                    "raw": {"type": "boolean", "description": "Do not turn HTML into text."}
                },
                "required": ["url"]
            }),
        }
    }

    fn summary(&self, input: &Value) -> String {
        let method = input.get("method").and_then(Value::as_str).map_or("GET", |method| if method == "POST" { "POST" } else { "GET" });
        format!("{method} {}", shown(input, "url"))
    }

    fn run(&self, input: &Value, context: &ToolContext<'_>) -> ToolOutcome {
        settle(fetch(&Input(input), context))
    }
}

fn fetch(input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
    let mut url = address(input.text("url")?.trim())?;
    let mut method = match input.optional_text("method")?.unwrap_or("GET") {
        "GET" | "get" => "GET",
        "POST" | "post" => "POST",
        _ => return Err(ToolOutcome::error("bad input: the field \"method\" must be GET or POST")),
    };
    let mut headers = headers(input)?;
    let body = input.optional_text("body")?;
    let raw = input.flag("raw")?;
    let deadline = context.deadline.within(limits::FETCH_TIME);
    let client = Client::new(context.net, context.token);
    for _ in 0..=limits::FETCH_REDIRECTS_MAX {
        check(context, deadline)?;
        let _busy = thread::enter(format_args!("http_fetch {}", url.target.host), deadline);
        let body = if method == "POST" { post_body(body.unwrap_or_default(), &headers) } else { Body::Empty };
        let sent = headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("content-type")).cloned().collect();
        let request = Request { method, url: url.address(), headers: sent, body };
        let bounds = Bounds {
            headers: deadline.within(Duration::from_secs(30)),
            silence: SILENCE,
            total: deadline,
            body_bytes_max: limits::FETCH_BYTES_MAX,
        };
        let response = client.send(&request, bounds).map_err(|error| failed(&error))?;
        let location = header(&response, "location");
        match (response.status, location) {
            (301 | 302 | 303 | 307 | 308, Some(location)) => {
                let next = checked(url.join(location))?;
                if response.status == 303 || (method == "POST" && matches!(response.status, 301 | 302)) {
                    method = "GET";
                }
                if next.target != url.target {
                    // Credentials are for the server they were meant for.
                    headers.retain(|(name, _)| {
                        !matches!(name.to_ascii_lowercase().as_str(), "authorization" | "cookie" | "proxy-authorization")
                    });
                }
                url = next;
            }
            _ => return told(response, &url, raw, context),
        }
    }
    Err(ToolOutcome::error(format!("more than {} redirects, the last one to {}", limits::FETCH_REDIRECTS_MAX, url.address())))
}

fn headers(input: &Input<'_>) -> Result<Vec<(String, String)>, ToolOutcome> {
    let bad = || ToolOutcome::error("bad input: the field \"headers\" must be an object of names and strings");
    let mut headers = Vec::new();
    for (name, value) in input.get("headers").map(|value| value.as_object().ok_or_else(bad)).transpose()?.into_iter().flatten() {
        let value = value.as_str().ok_or_else(bad)?;
        let clean =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') && !value.contains(['\r', '\n', '\0']);
        if !clean {
            return Err(bad());
        }
        // These are the client's own business.
        if !["host", "content-length", "connection", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str()) {
            headers.push((name.clone(), value.to_owned()));
        }
    }
    Ok(headers)
}

fn post_body(body: &str, headers: &[(String, String)]) -> Body {
    let content_type = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let content_type = content_type.map_or_else(|| "application/json".to_owned(), |(_, value)| value.clone());
    Body::Bytes { content_type, bytes: body.as_bytes().to_vec() }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

fn failed(error: &NetError) -> ToolOutcome {
    match error {
        NetError::Cancelled => ToolOutcome::cancelled(),
        NetError::Timeout { phase, peer, after } => {
            ToolOutcome::error(format!("{peer} did not answer: {phase} took more than {} s", after.as_secs()))
        }
        NetError::Resolve { host, cause } => ToolOutcome::error(format!("{host} has no address: {cause}")),
        NetError::Connect { peer, cause } => ToolOutcome::error(format!("cannot connect to {peer}: {cause}")),
        NetError::Tls { peer, cause } => ToolOutcome::error(format!("no secure connection to {peer}: {cause}")),
        NetError::Broken { peer, cause, .. } => ToolOutcome::error(format!("the connection to {peer} broke: {cause}")),
        NetError::Protocol { peer, cause } => ToolOutcome::error(format!("{peer} gave an answer that cannot be used: {cause}")),
        NetError::BadUrl(cause) => ToolOutcome::error(format!("bad input: the field \"url\" cannot be used: {cause}")),
    }
}

/// Reads the body and tells of it.
fn told(response: Response, url: &Url, raw: bool, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
    let status = response.status;
    let content_type = header(&response, "content-type").unwrap_or("unknown type").to_owned();
    let mut body = Vec::new();
    let mut reader = response.body.take(limits::FETCH_BYTES_MAX as u64);
    let mut broken = None;
    let mut buffer = [0; 16 * 1024];
    loop {
        context.token.check().map_err(|_| ToolOutcome::cancelled())?;
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => body.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                broken = Some(error.to_string());
                break;
            }
        }
    }
    context.token.check().map_err(|_| ToolOutcome::cancelled())?;
    let mut content = format!("[{status} · {content_type} · {} bytes · {}]\n", body.len(), url.address());
    if super::paths::looks_binary(&body) {
        content.push_str("[not a text; fetch it into a file with curl in the shell tool]");
    } else {
        let text = String::from_utf8_lossy(&body);
        let is_html = content_type.contains("html") && !raw;
        let text = if is_html { html::to_text(&text) } else { text.into_owned() };
        let kept = cut(&text, limits::TOOL_OUTPUT_BYTES_MAX);
        content.push_str(kept);
        if kept.len() < text.len() || body.len() >= limits::FETCH_BYTES_MAX {
            content.push_str(&format!("\n[cut after {} bytes of text]", kept.len()));
        }
    }
    if let Some(cause) = broken {
        content.push_str(&format!("\n[the connection ended before the text did: {cause}]"));
    }
    Ok(ToolOutcome { content, is_error: status >= 400, end: format!("status {status}") })
}

/// Checks an address that the model or a redirect gives.
fn address(text: &str) -> Result<Url, ToolOutcome> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !matches!(scheme.as_deref(), Some("http" | "https")) {
        let shown = cut(text, 200);
        return Err(ToolOutcome::error(format!("bad input: the field \"url\" must begin with http:// or https://: {shown}")));
    }
    checked(Url::parse(text))
}

/// An address that was given or redirected to.
fn checked(parsed: Result<Url, NetError>) -> Result<Url, ToolOutcome> {
    let url = parsed.map_err(|error| failed(&error))?;
    let host = &url.target.host;
    if is_metadata_host(host) {
        return Err(ToolOutcome::error(format!("refused: {host} hands out this machine's credentials")));
    }
    Ok(url)
}

/// Link-local addresses and the names that stand for them.
fn is_metadata_host(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if matches!(
        host.as_str(),
        "metadata.google.internal" | "metadata" | "instance-data" | "instance-data.ec2.internal" | "metadata.azure.internal"
    ) {
        return true;
    }
    let address = match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped().or_else(|| address.to_ipv4()) {
            Some(mapped) => mapped,
            None => return address.is_unicast_link_local() || address.segments()[..2] == [0xfd00, 0x0ec2],
        },
        Ok(IpAddr::V4(address)) => address,
        Err(_) => match old_spelling(&host) {
            Some(address) => address,
            None => return false,
        },
    };
    // 100.100.100.200 is another provider's.
    address.is_link_local() || address == Ipv4Addr::new(100, 100, 100, 200)
}

/// An IPv4 address as inet_aton(3) takes it: one to four numbers, decimal, octal or hexadecimal.
fn old_spelling(host: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| {
        if let Some(digits) = part.strip_prefix("0x") {
            u32::from_str_radix(if digits.is_empty() { "0" } else { digits }, 16).ok()
        } else if part.len() > 1 && part.starts_with('0') {
            u32::from_str_radix(part, 8).ok()
        } else {
            part.parse().ok()
        }
    };
    let parts: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) {
        return None;
    }
    let high = first.iter().enumerate().fold(0, |sum, (at, part)| sum | (part << (24 - 8 * at)));
    let room = 8 * (4 - first.len());
    (room == 32 || *last < 1 << room).then(|| Ipv4Addr::from(high | last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_that_hand_out_credentials_are_refused_in_every_spelling() {
        for host in [
            "169.254.169.254",
            "169.254.170.2",
            "2852039166",
            "0xa9fea9fe",
            "0xA9.0xFE.0xA9.0xFE",
            "0251.0376.0251.0376",
            "169.254.43518",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "metadata.google.internal",
            "Metadata.Google.Internal.",
            "100.100.100.200",
        ] {
            assert!(is_metadata_host(host), "{host}");
            assert!(address(&format!("http://{host}/latest/meta-data")).is_err(), "{host}");
        }
        for host in ["example.org", "127.0.0.1", "10.0.0.1", "[::1]", "192.168.1.1", "1.1", "0x7f.1", "metadata.example.org", "cafe"] {
            assert!(!is_metadata_host(host), "{host}");
        }
    }

    #[test]
    fn addresses_are_checked() {
        for bad in [
            "",
            "example.org",
            "ftp://example.org",
            "file:///etc/passwd",
            "http://",
            "http://a b/",
            "https://u:p@example.org/",
            "javascript:1",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert_eq!(address("https://example.org/a?b=c#d").expect("good").address(), "https://example.org/a?b=c");
        assert!(address("http://[::1]:8080/x").is_ok());
    }
}
