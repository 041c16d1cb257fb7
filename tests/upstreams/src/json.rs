//! Values as JSON text. The tests have their own implementation of all formats, so that an error of the client's parser
//! is not repeated here.

use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// An object with its fields in this order.
pub fn object<const N: usize>(fields: [(&str, Json); N]) -> Json {
    Json::Object(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

pub fn list<T: Into<Json>>(items: impl IntoIterator<Item = T>) -> Json {
    Json::List(items.into_iter().map(Into::into).collect())
}

impl From<bool> for Json {
    fn from(value: bool) -> Json {
        Json::Bool(value)
    }
}

impl From<u64> for Json {
    fn from(value: u64) -> Json {
        // Every number here is below 2⁵³.
        Json::Number(value as f64)
    }
}

impl From<f64> for Json {
    fn from(value: f64) -> Json {
        Json::Number(value)
    }
}

impl From<&str> for Json {
    fn from(value: &str) -> Json {
        Json::Text(value.to_owned())
    }
}

impl From<String> for Json {
    fn from(value: String) -> Json {
        Json::Text(value)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Json {
        value.map_or(Json::Null, Into::into)
    }
}

impl Json {
    /// Returns the same fields with values of other types, at every depth. The fields named in `kept` stay as they are.
    pub fn mistyped(self, kept: &[&str]) -> Json {
        match self {
            Json::Null => Json::List(Vec::new()),
            Json::Bool(value) => Json::Text(if value { "yes" } else { "no" }.to_owned()),
            // DShield's JSON has this form for a number in the version that was made from XML.
            Json::Number(_) => object([("text", Json::Text(self.to_string()))]),
            Json::Text(text) => Json::Number(text.len() as f64),
            Json::List(_) => Json::Text("list".to_owned()),
            Json::Object(fields) => {
                let spoil = |(name, value): (String, Json)| {
                    // Keeps a text that has a name in `kept`. An object can have such a name, too, and its fields are
                    // changed.
                    let keep = kept.contains(&name.as_str()) && matches!(value, Json::Text(_));
                    let value = if keep { value } else { value.mistyped(kept) };
                    (name, value)
                };
                Json::Object(fields.into_iter().map(spoil).collect())
            }
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Number(value) => write!(f, "{value}"),
            Json::Text(text) => write_text(f, text),
            Json::List(items) => {
                f.write_str("[")?;
                for (nth, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if nth == 0 { "" } else { "," })?;
                }
                f.write_str("]")
            }
            Json::Object(fields) => {
                f.write_str("{")?;
                for (nth, (name, value)) in fields.iter().enumerate() {
                    f.write_str(if nth == 0 { "" } else { "," })?;
                    write_text(f, name)?;
                    write!(f, ":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(f, "\\{character}")?,
            '\n' => f.write_str("\\n")?,
            control if (control as u32) < 0x20 => write!(f, "\\u{:04x}", control as u32)?,
            other => write!(f, "{other}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Json {
        object([
            ("ip", "8.8.8.8".into()),
            ("noise", true.into()),
            ("count", 65_546_u64.into()),
            ("density", 0.25.into()),
            ("feeds", Json::Null),
            ("types", list(["a", "b"])),
            ("text", "\"\\\n\u{1}é".into()),
        ])
    }

    #[test]
    fn the_text_is_what_a_parser_reads() {
        let read: serde_json::Value = serde_json::from_str(&sample().to_string()).unwrap();
        let expected = serde_json::json!({
            "ip": "8.8.8.8", "noise": true, "count": 65_546, "density": 0.25, "feeds": null,
            "types": ["a", "b"], "text": "\"\\\n\u{1}é",
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn mistyped_values_keep_no_type_and_no_field_is_lost() {
        let outer = object([("ip", sample())]).mistyped(&["ip"]);
        let read: serde_json::Value = serde_json::from_str(&outer.to_string()).unwrap();
        let expected = serde_json::json!({"ip": {
            "ip": "8.8.8.8", "noise": "yes", "count": {"text": "65546"}, "density": {"text": "0.25"},
            "feeds": [], "types": "list", "text": 6,
        }});
        assert_eq!(read, expected);
    }
}
