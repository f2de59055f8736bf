//! The parameters of a Bot API call: JSON, form, multipart or query, all the same to the methods.

use super::http::Request;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// What a request carries, whatever its encoding. All of a form's fields are texts.
pub struct Params {
    pub fields: Map<String, Value>,
    /// Uploaded files: field name → file name and content.
    pub files: HashMap<String, (String, Vec<u8>)>,
}

impl Params {
    pub fn int(&self, key: &str) -> Option<i64> {
        let value = self.fields.get(key)?;
        value.as_i64().or_else(|| value.as_str()?.parse().ok())
    }
    pub fn text(&self, key: &str) -> Option<&str> {
        self.fields.get(key).and_then(Value::as_str)
    }
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.fields.get(key), Some(Value::Bool(true))) || matches!(self.text(key), Some("true" | "True" | "1"))
    }
    /// An object or array, which a form carries as JSON in a text.
    pub fn json(&self, key: &str) -> Option<Value> {
        let value = self.fields.get(key)?;
        value.as_str().map_or_else(|| Some(value.clone()), |text| serde_json::from_str(text).ok())
    }
}

pub fn decode(request: &Request) -> Result<Params, String> {
    let mut params = Params { fields: Map::new(), files: HashMap::new() };
    form(request.query(), &mut params.fields);
    let kind = request.header("content-type").unwrap_or_default().to_owned();
    if request.body.is_empty() {
        return Ok(params);
    }
    if kind.starts_with("application/json") {
        let body: Value = serde_json::from_slice(&request.body).map_err(|_| "can't parse request parameters as JSON".to_owned())?;
        let Value::Object(fields) = body else { return Err("request parameters must be an object".to_owned()) };
        params.fields.extend(fields);
    } else if kind.starts_with("application/x-www-form-urlencoded") {
        form(&String::from_utf8_lossy(&request.body), &mut params.fields);
    } else if let Some((_, boundary)) = kind.split_once("boundary=") {
        multipart(&request.body, boundary.trim_matches('"'), &mut params)?;
    }
    Ok(params)
}

fn form(text: &str, fields: &mut Map<String, Value>) {
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        fields.insert(unescape(key), Value::String(unescape(value)));
    }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let hex = tail.get(..2).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn multipart(body: &[u8], boundary: &str, params: &mut Params) -> Result<(), String> {
    let find = |haystack: &[u8], needle: &[u8]| haystack.windows(needle.len()).position(|window| window == needle);
    let delimiter = format!("--{boundary}");
    let mut rest = body;
    let start = find(rest, delimiter.as_bytes()).ok_or("multipart without its boundary")?;
    rest = &rest[start + delimiter.len()..];
    while !rest.starts_with(b"--") {
        let head = find(rest, b"\r\n\r\n").ok_or("multipart part without headers")?;
        let end = find(rest, format!("\r\n{delimiter}").as_bytes()).ok_or("multipart part without an end")?;
        let headers = String::from_utf8_lossy(&rest[..head]).into_owned();
        let content = &rest[head + 4..end];
        let attribute = |name: &str| {
            let start = headers.find(&format!("{name}=\""))? + name.len() + 2;
            headers[start..].split('"').next().map(str::to_owned)
        };
        let name = attribute(" name").ok_or("multipart part without a name")?;
        match attribute("filename") {
            Some(file) => drop(params.files.insert(name, (file, content.to_vec()))),
            None => drop(params.fields.insert(name, Value::String(String::from_utf8_lossy(content).into_owned()))),
        }
        rest = &rest[end + 2 + delimiter.len()..];
    }
    Ok(())
}
