//! Reading JSON as platforms send it: what is unknown is skipped, and what is missing or of the wrong type is `None` (an
//! empty list), so that one odd field never costs a message. For `#[serde(deserialize_with = "…")]`. Pure.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What has the wrong type counts as absent.
///
/// # Errors
/// Those of the deserializer itself.
pub fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// An integer, also as text (some platforms write all of theirs so) or as a number with `.0`.
///
/// # Errors
/// Those of the deserializer itself.
pub fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(to_integer(&Value::deserialize(deserializer)?))
}

/// The elements that have the right type.
///
/// # Errors
/// Those of the deserializer itself.
pub fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let Value::Array(values) = Value::deserialize(deserializer)? else { return Ok(Vec::new()) };
    Ok(values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
}

/// A text, or a number as one: ids come as both.
///
/// # Errors
/// Those of the deserializer itself.
pub fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

/// Reads an integer from a JSON value of whatever shape.
#[must_use]
pub fn to_integer(value: &Value) -> Option<i64> {
    // Ids have up to 52 bits, which a double holds exactly.
    #[allow(clippy::cast_possible_truncation)]
    let from_float = |float: f64| (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64);
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).or_else(|| value.as_f64().and_then(from_float))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Odd {
        #[serde(deserialize_with = "lenient")]
        text: Option<String>,
        #[serde(deserialize_with = "integer")]
        number: Option<i64>,
        #[serde(deserialize_with = "list")]
        many: Vec<u8>,
        #[serde(deserialize_with = "word")]
        id: Option<String>,
    }

    #[test]
    fn wrong_types_cost_their_field_alone() {
        let read = |value: Value| serde_json::from_value::<Odd>(value).expect("reads");
        assert_eq!(read(json!({"text": 7, "number": {}, "many": "x", "id": []})), Odd::default());
        let fine = Odd { text: Some("a".to_owned()), number: Some(7), many: vec![1, 2], id: Some("18446744073709551615".to_owned()) };
        assert_eq!(
            read(json!({"text": "a", "number": "7", "many": [1, "x", 2, 999], "id": 18_446_744_073_709_551_615_u64, "new": 1})),
            fine
        );
        assert_eq!(read(json!({"number": 7.0})).number, Some(7));
        assert_eq!(read(json!({"number": 7.5})).number, None);
    }
}
