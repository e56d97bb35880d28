//! The functions that the templates use. What they do with values that Microsoft's documentation does not speak of is an error here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use crate::expression::Scope;

impl Scope<'_> {
    pub(crate) fn call(&self, function: &str, arguments: &[Value]) -> Result<Value, String> {
        let text = |at: usize| {
            let argument: &Value = &arguments[at];
            argument.as_str().ok_or_else(|| format!("{function} takes a text, and not {argument}"))
        };
        let outputs = |name: &str| self.run.outputs.get(name).cloned().unwrap_or_default();
        Ok(match (function, arguments.len()) {
            ("parameters", 1) => {
                self.parameters.get(text(0)?).unwrap_or_else(|| panic!("no parameter {}", arguments[0])).clone()
            }
            ("variables", 1) => self.run.variables[text(0)?].clone(),
            ("triggerBody", 0) => self.by.body.clone(),
            // Of an action that was not run.
            ("outputs", 1) => outputs(text(0)?),
            ("body", 1) => outputs(text(0)?)["body"].clone(),
            ("item", 0) => self.item.expect("there is an item").clone(),
            ("items", 1) => self.run.items[text(0)?].clone(),
            ("workflow", 0) => json!({"run": {"name": self.by.name}}),
            ("utcNow", 0) => time(Timestamp::now()),
            ("utcNow", 1) if text(0)? == "r" => {
                Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string().into()
            }
            ("addSeconds", 3) => {
                assert_eq!(text(2)?, "yyyy-MM-ddTHH:mm:ssZ", "no template has had another format so far");
                let added = at(text(0)?)? + SignedDuration::from_secs(number(&arguments[1])?);
                added.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
            }
            ("addMinutes", 2) => time(at(text(0)?)? + SignedDuration::from_mins(number(&arguments[1])?)),
            ("ticks", 1) => i64::try_from(at(text(0)?)?.as_nanosecond() / 100).unwrap().into(),
            ("base64", 1) => STANDARD.encode(text(0)?).into(),
            ("string", 1) => string(&arguments[0]).into(),
            ("json", 1) => serde_json::from_str(text(0)?).map_err(|error| error.to_string())?,
            ("concat", _) => arguments.iter().map(string).collect::<String>().into(),
            ("toLower", 1) => text(0)?.to_lowercase().into(),
            ("replace", 3) => text(0)?.replace(text(1)?, text(2)?).into(),
            ("split", 2) => text(0)?.split(text(1)?).collect(),
            ("join", 2) => {
                let parts: Result<Vec<&str>, String> =
                    list(&arguments[0])?.iter().map(|part| part.as_str().ok_or("join takes texts".into())).collect();
                parts?.join(text(1)?).into()
            }
            // As RFC 3986 has it: a space is %20, and not +.
            ("encodeUriComponent", 1) => {
                byte_serialize(text(0)?.as_bytes()).collect::<String>().replace('+', "%20").into()
            }
            ("startsWith", 2) => text(0)?.starts_with(text(1)?).into(),
            ("contains", 2) => match &arguments[0] {
                Value::Array(all) => all.contains(&arguments[1]).into(),
                Value::String(all) => all.contains(text(1)?).into(),
                Value::Object(all) => all.contains_key(text(1)?).into(),
                other => return Err(format!("contains takes no {other}")),
            },
            ("empty", 1) => (length(&arguments[0])? == 0).into(),
            ("length", 1) => length(&arguments[0])?.into(),
            ("first", 1) => list(&arguments[0])?.first().cloned().unwrap_or_default(),
            ("last", 1) => list(&arguments[0])?.last().cloned().unwrap_or_default(),
            ("take", 2) => {
                let most = usize::try_from(number(&arguments[1])?).unwrap();
                match &arguments[0] {
                    Value::String(text) => text.chars().take(most).collect::<String>().into(),
                    other => list(other)?.iter().take(most).cloned().collect(),
                }
            }
            ("union", 2) => {
                let mut all: Vec<Value> = Vec::new();
                for value in list(&arguments[0])?.iter().chain(list(&arguments[1])?) {
                    if !all.contains(value) {
                        all.push(value.clone());
                    }
                }
                all.into()
            }
            ("sort", 2) => {
                let by = text(1)?;
                let mut all = list(&arguments[0])?.clone();
                all.sort_by_key(|value| string(&value[by]));
                all.into()
            }
            ("reverse", 1) => list(&arguments[0])?.iter().rev().cloned().collect(),
            ("createArray", _) => arguments.into(),
            ("setProperty", 3) => {
                let mut object = arguments[0].as_object().ok_or("setProperty takes an object")?.clone();
                object.insert(text(1)?.to_owned(), arguments[2].clone());
                object.into()
            }
            ("coalesce", _) => arguments.iter().find(|value| !value.is_null()).cloned().unwrap_or_default(),
            ("equals", 2) => (arguments[0] == arguments[1]).into(),
            ("greater", 2) => (number(&arguments[0])? > number(&arguments[1])?).into(),
            ("less", 2) => (number(&arguments[0])? < number(&arguments[1])?).into(),
            ("if", 3) => arguments[if truth(&arguments[0])? { 1 } else { 2 }].clone(),
            ("not", 1) => (!truth(&arguments[0])?).into(),
            ("and", 2..) => arguments.iter().map(truth).collect::<Result<Vec<_>, _>>()?.into_iter().all(|so| so).into(),
            ("or", 2..) => arguments.iter().map(truth).collect::<Result<Vec<_>, _>>()?.into_iter().any(|so| so).into(),
            _ => panic!("no template has had {function} of {} so far", arguments.len()),
        })
    }
}

pub(crate) fn string(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn time(at: Timestamp) -> Value {
    at.strftime("%Y-%m-%dT%H:%M:%S.0000000Z").to_string().into()
}

fn at(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("{text} is no time"))
}

fn number(value: &Value) -> Result<i64, String> {
    value.as_i64().ok_or_else(|| format!("{value} is no whole number"))
}

fn truth(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{value} is neither true nor false"))
}

fn list(value: &Value) -> Result<&Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{value} is no list"))
}

fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::String(text) => Ok(text.chars().count()),
        Value::Array(list) => Ok(list.len()),
        Value::Object(map) => Ok(map.len()),
        Value::Null => Ok(0),
        other => Err(format!("{other} has no length")),
    }
}
