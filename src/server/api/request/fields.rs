//! Fields of a JSON object, read leniently.

use serde_json::{Map, Value};

use crate::server::api::ApiError;

/// An object of a request. Absent and null are the same.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a Map<String, Value>);

/// Reads a body.
///
/// # Errors
/// It is no JSON object.
pub fn parse_body(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    // Some clients send no body where no field is needed.
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(ApiError::invalid(format!(
            "the body must be a JSON object, found {}",
            kind_of(&other)
        ))),
        Err(e) => Err(ApiError::invalid(format!(
            "the body is not valid JSON: {e}"
        ))),
    }
}

/// The kind of a value, in words.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn expected(name: &str, what: &str, found: &Value) -> ApiError {
    ApiError::field(name, format!("expected {what}, found {}", kind_of(found)))
}

impl<'a> Fields<'a> {
    /// The fields of an object.
    pub fn new(map: &'a Map<String, Value>) -> Self {
        Self(map)
    }

    /// A value that is there and not null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// The first of several names that is there.
    pub fn first(&self, names: &[&'a str]) -> Option<(&'a str, &'a Value)> {
        names.iter().find_map(|&name| Some((name, self.get(name)?)))
    }

    /// A text.
    pub fn str(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(expected(name, "a string", other)),
        }
    }

    /// A switch; 0, 1, "true" and "false" will do.
    pub fn bool(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(Value::Number(n)) if n.as_u64() == Some(0) => Ok(Some(false)),
            Some(Value::Number(n)) if n.as_u64() == Some(1) => Ok(Some(true)),
            Some(Value::String(text)) if text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" => Ok(Some(false)),
            Some(other) => Err(expected(name, "a boolean", other)),
        }
    }

    /// A number.
    pub fn float(&self, name: &str) -> Result<Option<f64>, ApiError> {
        self.get(name).map(|v| float_of(name, v)).transpose()
    }

    /// A whole number; `1.0` is one.
    pub fn int(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.get(name).map(|v| int_of(name, v)).transpose()
    }

    /// A whole number within bounds.
    pub fn int_in(&self, name: &str, least: i64, most: i64) -> Result<Option<i64>, ApiError> {
        match self.int(name)? {
            Some(n) if !(least..=most).contains(&n) => Err(ApiError::field(
                name,
                format!("expected {least} to {most}, found {n}"),
            )),
            other => Ok(other),
        }
    }

    /// An array.
    pub fn array(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(expected(name, "an array", other)),
        }
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(expected(name, "an object", other)),
        }
    }

    /// A text, or a list of texts.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(vec![text.clone()])),
            Some(Value::Array(list)) => list
                .iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text.clone()),
                    other => Err(expected(name, "strings", other)),
                })
                .collect::<Result<_, _>>()
                .map(Some),
            Some(other) => Err(expected(name, "a string or an array of strings", other)),
        }
    }
}

/// A number, as such or in a string.
pub fn float_of(name: &str, value: &Value) -> Result<f64, ApiError> {
    let number = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number
        .filter(|n| n.is_finite())
        .ok_or_else(|| expected(name, "a number", value))
}

/// A whole number, as such, as a float without fraction, or in a string.
pub fn int_of(name: &str, value: &Value) -> Result<i64, ApiError> {
    if let Some(n) = value.as_i64() {
        return Ok(n);
    }
    if let Value::String(text) = value
        && let Ok(n) = text.trim().parse()
    {
        return Ok(n);
    }
    let number = float_of(name, value)?;
    // Beyond 2^53 a float is no exact whole number any more.
    if number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0 {
        return Ok(number as i64);
    }
    Err(expected(name, "a whole number", value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_read_leniently() {
        let Value::Object(map) = json!({
            "a": null, "n": "3", "f": 2.0, "x": 2.5, "s": "t", "yes": 1, "list": ["p", "q"],
        }) else {
            unreachable!()
        };
        let f = Fields::new(&map);
        assert_eq!(f.str("a").unwrap(), None);
        assert_eq!(f.int("n").unwrap(), Some(3));
        assert_eq!(f.int("f").unwrap(), Some(2));
        assert_eq!(f.float("x").unwrap(), Some(2.5));
        assert_eq!(f.bool("yes").unwrap(), Some(true));
        assert_eq!(f.texts("s").unwrap().unwrap(), ["t"]);
        assert_eq!(f.texts("list").unwrap().unwrap(), ["p", "q"]);
        assert_eq!(f.first(&["zz", "s"]).unwrap().0, "s");
        for (name, message) in [
            ("x", "Field 'x': expected a whole number, found a number"),
            ("s", "Field 's': expected a number, found a string"),
        ] {
            assert_eq!(f.int(name).unwrap_err().message, message);
        }
        assert!(f.int_in("n", 4, 5).is_err());
    }

    #[test]
    fn bodies_are_objects() {
        assert!(parse_body(b" \n").unwrap().is_empty());
        assert!(parse_body(b"[1]").is_err());
        assert!(parse_body(b"{\"a\":").is_err());
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(parse_body(deep.as_bytes()).is_err());
    }
}
