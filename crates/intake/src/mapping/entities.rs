//! The entities of an alert. They refer to each other as Newtonsoft's Json.NET writes references: `{"$ref": "5"}` stands for the object with `"$id": "5"`,
//! wherever that is, also nested and also further down.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::quoted;

/// The most objects and lists of one alert, and how deep they may lie. The largest published alert has some 60, four deep.
const MOST_VALUES: usize = 4_000;
const DEEPEST: usize = 24;

/// How many references may lead to references.
const MOST_HOPS: usize = 8;

/// What an ID stands for.
enum Definition<'a> {
    One(&'a Map<String, Value>),
    /// More than one object has it, and they differ.
    Several,
}

/// The entities of one alert.
pub(super) struct Graph<'a> {
    list: &'a [Value],
    /// Every object that is no reference, in the order in which they are written.
    objects: Vec<&'a Map<String, Value>>,
    by_id: BTreeMap<String, Definition<'a>>,
}

impl<'a> Graph<'a> {
    /// # Errors
    /// When it is larger than any alert.
    pub(super) fn new(list: &'a [Value]) -> Result<Self, String> {
        let mut graph = Self { list, objects: Vec::new(), by_id: BTreeMap::new() };
        let mut seen = 0;
        // Without recursion: how deep it is was decided by somebody else. A stack turns siblings around, so they go onto it from the end.
        let mut open: Vec<(&Value, usize)> = list.iter().rev().map(|value| (value, 1)).collect();
        while let Some((value, depth)) = open.pop() {
            seen += 1;
            if seen > MOST_VALUES || depth > DEEPEST {
                return Err(format!(
                    "its entities are more than {MOST_VALUES} values, or more than {DEEPEST} deep, and were not read"
                ));
            }
            match value {
                Value::Object(object) => {
                    if !object.contains_key("$ref") {
                        graph.objects.push(object);
                        graph.define(object);
                    }
                    open.extend(object.values().rev().filter(|value| nests(value)).map(|value| (value, depth + 1)));
                }
                Value::Array(list) => {
                    open.extend(list.iter().rev().filter(|value| nests(value)).map(|value| (value, depth + 1)));
                }
                _ => {}
            }
        }
        Ok(graph)
    }

    fn define(&mut self, object: &'a Map<String, Value>) {
        let Some(id) = object.get("$id").and_then(identifier) else { return };
        self.by_id
            .entry(id)
            .and_modify(|known| {
                // One that is there twice in the same words is one.
                if !matches!(known, Definition::One(known) if *known == object) {
                    *known = Definition::Several;
                }
            })
            .or_insert(Definition::One(object));
    }

    /// Every entity, nested ones too.
    pub(super) fn entities(&self) -> impl Iterator<Item = &'a Map<String, Value>> {
        self.objects.iter().copied()
    }

    /// Those of one type, in lower case.
    pub(super) fn of_type(&self, kind: &'static str) -> impl Iterator<Item = &'a Map<String, Value>> {
        self.entities()
            .filter(move |entity| text(entity, "Type").ok().flatten().is_some_and(|its| its.eq_ignore_ascii_case(kind)))
    }

    /// What is in the list itself and leads nowhere, and why.
    pub(super) fn broken(&self) -> Vec<(String, String)> {
        let wrong = self.list.iter().filter_map(|value| match value {
            Value::Object(object) => Some(("an entity that is a reference".to_owned(), self.follow(object).err()?)),
            _ => Some(("an entity".to_owned(), "it is no object".to_owned())),
        });
        wrong.collect()
    }

    /// What a field of an entity is, or refers to. `None` without such a field.
    ///
    /// # Errors
    /// When it leads nowhere, or nobody can say where.
    pub(super) fn resolve(
        &self,
        entity: &'a Map<String, Value>,
        name: &str,
    ) -> Result<Option<&'a Map<String, Value>>, String> {
        match field(entity, name)? {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => self.follow(object).map(Some),
            Some(_) => Err(format!("its {name} is no entity")),
        }
    }

    fn follow(&self, object: &'a Map<String, Value>) -> Result<&'a Map<String, Value>, String> {
        let mut at = object;
        for _ in 0..=MOST_HOPS {
            let Some(reference) = at.get("$ref") else { return Ok(at) };
            if at.len() > 1 {
                return Err("it is a reference and an entity at once".to_owned());
            }
            let id = identifier(reference).ok_or("it has a reference that is no text")?;
            at = match self.by_id.get(&id) {
                Some(Definition::One(object)) => object,
                Some(Definition::Several) => {
                    return Err(format!(
                        "it refers to the entity {}, and several that differ are called so",
                        quoted(&id)
                    ));
                }
                None => return Err(format!("it refers to the entity {}, which is not there", quoted(&id))),
            };
        }
        Err("it refers to itself".to_owned())
    }
}

fn nests(value: &Value) -> bool {
    matches!(value, Value::Object(_) | Value::Array(_))
}

fn identifier(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A field, in Defender's spelling (`ResourceId`) or Sentinel's (`resourceId`).
///
/// # Errors
/// When it is there in both.
pub(super) fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Value>, String> {
    let mut fields = object.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    match (fields.next(), fields.next()) {
        (first, None) => Ok(first),
        _ => Err(format!("it has more than one {name}")),
    }
}

/// A field that is text; none when it is null or empty.
///
/// # Errors
/// When it is there in two spellings, or is something else.
pub(super) fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    match field(object, name)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty()).map(String::as_str)),
        Some(_) => Err(format!("its {name} is no text")),
    }
}
