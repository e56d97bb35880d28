//! The workflow definition language, as far as the templates use it.
//!
//! As in Logic Apps, a property of a text is an error, and so is one that is not there, unless it is asked for with `?`. What an argument is asked for, it is
//! evaluated for, whether or not the function needs it: a template that holds here holds where less is evaluated, too.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::{Map, Value};

use crate::functions::string;
use crate::{Run, Triggered};

#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) by: Triggered<'a>,
    pub(crate) parameters: &'a Map<String, Value>,
    pub(crate) run: &'a Run,
    pub(crate) item: Option<&'a Value>,
}

impl<'a> Scope<'a> {
    pub(crate) fn with_item(self, item: &'a Value) -> Self {
        Self { item: Some(item), ..self }
    }

    /// A value of a definition, with every expression in it carried out.
    pub(crate) fn value(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => self.text(text)?,
            Value::Array(list) => list.iter().map(|value| self.value(value)).collect::<Result<Vec<_>, _>>()?.into(),
            Value::Object(map) => {
                let evaluated = map.iter().map(|(key, value)| Ok((key.clone(), self.value(value)?)));
                evaluated.collect::<Result<Map<_, _>, String>>()?.into()
            }
            other => other.clone(),
        })
    }

    fn text(&self, text: &str) -> Result<Value, String> {
        if let Some(expression) = text.strip_prefix('@').filter(|rest| !rest.starts_with(['@', '{'])) {
            let mut parser = Parser { scope: self, chars: expression.chars().peekable() };
            let value = parser.expression()?;
            assert_eq!(parser.chars.next(), None, "something is left of {expression}");
            return Ok(value);
        }
        let (mut told, mut rest) = (String::new(), text.to_owned());
        while let Some((before, after)) = rest.split_once("@{") {
            told.push_str(before);
            let mut parser = Parser { scope: self, chars: after.chars().peekable() };
            told.push_str(&string(&parser.expression()?));
            assert_eq!(parser.chars.next(), Some('}'), "an expression ends: {after}");
            rest = parser.chars.collect();
        }
        Ok((told + &rest).into())
    }
}

struct Parser<'a> {
    scope: &'a Scope<'a>,
    chars: Peekable<Chars<'a>>,
}

impl Parser<'_> {
    fn expression(&mut self) -> Result<Value, String> {
        self.spaces();
        let mut value = match self.chars.peek() {
            Some('\'') => self.literal().into(),
            Some(c) if c.is_ascii_digit() => self.word().parse::<i64>().expect("a whole number").into(),
            _ => self.named()?,
        };
        loop {
            let lenient = self.chars.next_if(|c| *c == '?').is_some();
            let property = if self.chars.next_if(|c| *c == '[').is_some() {
                let property = self.expression()?;
                assert_eq!(self.chars.next(), Some(']'));
                property
            } else if self.chars.next_if(|c| *c == '.').is_some() {
                self.word().into()
            } else {
                assert!(!lenient, "a ? leads nowhere");
                self.spaces();
                return Ok(value);
            };
            value = match (value, &property) {
                (Value::Object(mut map), Value::String(property)) => match map.remove(property) {
                    Some(value) => value,
                    None if lenient => Value::Null,
                    None => return Err(format!("there is no {property}")),
                },
                (Value::Null, _) if lenient => Value::Null,
                (other, _) => return Err(format!("{other} has no properties, so no {property}")),
            };
        }
    }

    /// A function's value, or one of the three words.
    fn named(&mut self) -> Result<Value, String> {
        let name = self.word();
        match name.as_str() {
            "null" => return Ok(Value::Null),
            "true" => return Ok(true.into()),
            "false" => return Ok(false.into()),
            _ => assert_eq!(self.chars.next(), Some('('), "{name} is called"),
        }
        let mut arguments = Vec::new();
        self.spaces();
        while self.chars.next_if(|c| *c == ')').is_none() {
            arguments.push(self.expression()?);
            let _ = self.chars.next_if(|c| *c == ',');
        }
        self.scope.call(&name, &arguments)
    }

    fn spaces(&mut self) {
        while self.chars.next_if(|c| *c == ' ').is_some() {}
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.chars.next_if(char::is_ascii_alphanumeric) {
            word.push(c);
        }
        word
    }

    /// In which two quotes stand for one.
    fn literal(&mut self) -> String {
        assert_eq!(self.chars.next(), Some('\''), "a text begins");
        let mut text = String::new();
        loop {
            match self.chars.next().expect("a text ends") {
                '\'' if self.chars.next_if(|c| *c == '\'').is_none() => return text,
                c => text.push(c),
            }
        }
    }
}
