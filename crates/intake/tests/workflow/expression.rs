//! The workflow definition language, as far as the templates use it.
//!
//! As in Logic Apps, a property of a text is an error, and so is one that is not there, unless it is asked for with `?`.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) name: &'a str,
    pub(super) trigger: &'a Value,
    pub(super) parameters: &'a Map<String, Value>,
    pub(super) outputs: &'a BTreeMap<String, Value>,
    pub(super) item: Option<&'a Value>,
}

impl<'a> Scope<'a> {
    pub(super) fn with_item(self, item: &'a Value) -> Self {
        Self { item: Some(item), ..self }
    }

    /// A value of a definition, with every expression in it carried out.
    pub(super) fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(list) => list.iter().map(|value| self.value(value)).collect(),
            Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), self.value(value))).collect(),
            other => other.clone(),
        }
    }

    fn text(&self, text: &str) -> Value {
        if let Some(expression) = text.strip_prefix('@').filter(|rest| !rest.starts_with(['@', '{'])) {
            return self.expression(expression);
        }
        let (mut told, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("@{") {
            let (expression, after) = after.split_once('}').expect("an expression ends");
            told.push_str(before);
            told.push_str(&string(&self.expression(expression)));
            rest = after;
        }
        (told + rest).into()
    }

    fn expression(&self, text: &str) -> Value {
        let mut parser = Parser { scope: self, chars: text.chars().peekable() };
        let value = parser.expression();
        assert_eq!(parser.chars.next(), None, "something is left of {text}");
        value
    }

    fn call(&self, function: &str, arguments: &[Value]) -> Value {
        let name = || arguments[0].as_str().unwrap();
        match (function, arguments.len()) {
            ("parameters", 1) => {
                self.parameters.get(name()).unwrap_or_else(|| panic!("no parameter {}", name())).clone()
            }
            ("triggerBody", 0) => self.trigger.clone(),
            // Of an action that was not run.
            ("outputs", 1) => self.outputs.get(name()).cloned().unwrap_or_default(),
            ("body", 1) => self.outputs.get(name()).map(|output| output["body"].clone()).unwrap_or_default(),
            ("item", 0) => self.item.expect("there is an item").clone(),
            ("workflow", 0) => json!({"run": {"name": self.name}}),
            ("utcNow", 0) => Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.0000000Z").to_string().into(),
            ("utcNow", 1) if name() == "r" => Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string().into(),
            ("base64", 1) => STANDARD.encode(name()).into(),
            ("string", 1) => string(&arguments[0]).into(),
            ("createArray", _) => arguments.into(),
            ("coalesce", _) => arguments.iter().find(|value| !value.is_null()).cloned().unwrap_or_default(),
            ("equals", 2) => (arguments[0] == arguments[1]).into(),
            _ => panic!("no template has had {function} of {} so far", arguments.len()),
        }
    }
}

struct Parser<'a> {
    scope: &'a Scope<'a>,
    chars: Peekable<Chars<'a>>,
}

impl Parser<'_> {
    fn expression(&mut self) -> Value {
        while self.chars.next_if(|c| *c == ' ').is_some() {}
        let mut value = if self.chars.peek() == Some(&'\'') { self.literal().into() } else { self.function() };
        loop {
            let lenient = self.chars.next_if(|c| *c == '?').is_some();
            let property = if self.chars.next_if(|c| *c == '[').is_some() {
                let property = self.literal();
                assert_eq!(self.chars.next(), Some(']'));
                property
            } else if self.chars.next_if(|c| *c == '.').is_some() {
                self.word()
            } else {
                assert!(!lenient, "a ? leads nowhere");
                return value;
            };
            value = match value {
                Value::Object(mut map) => match map.remove(&property) {
                    Some(value) => value,
                    None if lenient => Value::Null,
                    None => panic!("there is no {property}"),
                },
                Value::Null if lenient => Value::Null,
                other => panic!("{other} has no properties, so no {property}"),
            };
        }
    }

    fn function(&mut self) -> Value {
        let function = self.word();
        assert_eq!(self.chars.next(), Some('('), "{function} is called");
        let mut arguments = Vec::new();
        while self.chars.next_if(|c| *c == ')').is_none() {
            arguments.push(self.expression());
            let _ = self.chars.next_if(|c| *c == ',');
        }
        self.scope.call(&function, &arguments)
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.chars.next_if(char::is_ascii_alphanumeric) {
            word.push(c);
        }
        word
    }

    fn literal(&mut self) -> String {
        assert_eq!(self.chars.next(), Some('\''), "a text begins");
        let mut text = String::new();
        loop {
            match self.chars.next().expect("a text ends") {
                '\'' => return text,
                c => text.push(c),
            }
        }
    }
}

fn string(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
