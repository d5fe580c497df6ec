//! Writes documents as YAML. It reads none: that is `registry::yaml`.

use serde_json::Value;

/// A list as documents behind each other, anything else as one document.
pub fn documents(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(document).collect::<Vec<_>>().join("---\n"),
        single => document(single),
    }
}

fn document(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => block(value, 0, &mut text),
        scalar => {
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
    text
}

/// Writes a collection that isn't empty, each entry on a line of its own.
fn block(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(entries) => {
            for (key, entry) in entries {
                text.push_str(&format!("{pad}{}:", plain_or_quoted(key)));
                after_sign(entry, indent + 2, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                if is_collection(item) {
                    block(item, indent + 2, &mut inner);
                    // The dash stands where the first entry's indentation was.
                    text.push_str(&format!("{pad}- {}", &inner[indent + 2..]));
                } else {
                    text.push_str(&format!("{pad}- {}\n", inline(item)));
                }
            }
        }
        scalar => text.push_str(&format!("{pad}{}\n", inline(scalar))),
    }
}

fn after_sign(entry: &Value, indent: usize, text: &mut String) {
    if is_collection(entry) {
        text.push('\n');
        block(entry, indent, text);
    } else {
        text.push_str(&format!(" {}\n", inline(entry)));
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => plain_or_quoted(text),
        // Empty collections, numbers, booleans and null are the same in JSON.
        other => other.to_string(),
    }
}

/// A text as it is where no reader could take it for anything else, else in JSON's quotes, which
/// YAML reads alike.
fn plain_or_quoted(text: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_-./@<>".contains(character);
    let starts_like_a_word = text.starts_with(|first: char| first.is_ascii_alphabetic());
    let keyword =
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if starts_like_a_word && !keyword && text.chars().all(plain) {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

fn is_collection(value: &Value) -> bool {
    matches!(value, Value::Object(_) | Value::Array(_)) && !is_empty(value)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(entries) => entries.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_written_as_people_would() {
        let document = json!({
            "kind": "FeatureView",
            "metadata": {"name": "airport_weather", "description": "Hourly: °F", "tags": {"tier": "1", "on": "yes"}},
            "spec": {"ttl": "3h", "features": [{"name": "temp", "default": 0.5}, {"name": "wind"}], "keys": [["a"], []], "empty": {}},
        });
        let expected = "\
kind: FeatureView
metadata:
  name: airport_weather
  description: \"Hourly: °F\"
  tags:
    tier: \"1\"
    \"on\": \"yes\"
spec:
  ttl: \"3h\"
  features:
    - name: temp
      default: 0.5
    - name: wind
  keys:
    - - a
    - []
  empty: {}
";
        assert_eq!(documents(&document), expected);
    }

    #[test]
    fn several_documents_are_kept_apart() {
        assert_eq!(documents(&json!([{"a": 1}, {"b": 2}])), "a: 1\n---\nb: 2\n");
        assert_eq!(documents(&json!([])), "");
    }
}
