//! The two forms in which Microsoft tells of an alert, read into one.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value};
use url::Url;

use super::entities::{field, text};
use super::{Event, Identity, quoted};

/// The most alerts of one incident that are read.
const MOST_ALERTS: usize = 50;

/// An alert.
pub(super) struct Alert {
    name: Option<String>,
    /// The Azure resource that it is about as a whole.
    pub(super) resource: Option<String>,
    /// When what it is about ended, as far as was known.
    pub(super) time: Option<Timestamp>,
    /// Its entities, or why they cannot be read.
    pub(super) entities: Result<Vec<Value>, String>,
}

impl Alert {
    /// How it is called in a refusal.
    pub(super) fn called(&self) -> String {
        match &self.name {
            Some(name) => format!("alert {}", quoted(name)),
            None => "an alert".to_owned(),
        }
    }
}

/// What is said of the incident for people.
#[derive(Default)]
pub(super) struct Told {
    pub(super) id: Option<String>,
    pub(super) title: Option<String>,
    pub(super) severity: Option<String>,
    pub(super) url: Option<String>,
}

/// Which incident it is.
pub(super) fn identity(event: Event<'_>) -> Result<Identity, String> {
    match event {
        Event::DefenderAlert(alert) => {
            let alert = object(alert, "the alert")?;
            let id = text(alert, "SystemAlertId")?.ok_or("the alert has no SystemAlertId")?;
            let told = Told {
                id: said(Some(id), 256),
                title: said(text(alert, "AlertDisplayName")?, 1024),
                severity: said(text(alert, "Severity")?, 256),
                url: link(text(alert, "AlertUri")?),
            };
            Ok(Identity { key: key(id)?, facts: told.incident("MicrosoftDefenderForCloud") })
        }
        Event::SentinelIncident(incident) => {
            let incident = object(incident, "the incident")?;
            let properties = properties(incident)?;
            let id = text(incident, "id")?.ok_or("the incident has no id")?;
            let number = match field(properties, "incidentNumber")? {
                Some(Value::Number(number)) => number.to_string(),
                Some(Value::String(number)) => number.clone(),
                // The last part of its ID is its GUID.
                _ => id.rsplit('/').next().unwrap_or(id).to_owned(),
            };
            let told = Told {
                id: said(Some(&number), 256),
                title: said(text(properties, "title")?, 1024),
                severity: said(text(properties, "severity")?, 256),
                url: link(text(properties, "incidentUrl")?),
            };
            Ok(Identity { key: key(id)?, facts: told.incident("MicrosoftSentinel") })
        }
    }
}

/// The alerts of an event. What Sentinel says to be related to the whole incident is one more.
pub(super) fn alerts(event: Event<'_>) -> Result<Vec<Alert>, String> {
    match event {
        Event::DefenderAlert(alert) => Ok(vec![one(object(alert, "the alert")?)]),
        Event::SentinelIncident(incident) => {
            let properties = properties(object(incident, "the incident")?)?;
            let list = list(properties, "alerts")?;
            if list.len() > MOST_ALERTS {
                return Err(format!(
                    "the incident has {} alerts, and {MOST_ALERTS} are the most: isolate the namespace, or create responses by hand",
                    list.len()
                ));
            }
            let mut alerts = Vec::new();
            for alert in list {
                let alert = object(alert, "an alert of the incident")?;
                alerts.push(one(match field(alert, "properties")? {
                    Some(properties) => object(properties, "an alert's properties")?,
                    None => alert,
                }));
            }
            let related = self::list(properties, "relatedEntities")?;
            if !related.is_empty() {
                // They are of all alerts, so the last one's time is theirs.
                let time = alerts.iter().filter_map(|alert: &Alert| alert.time).max();
                let entities = Ok(related.iter().map(entity).collect());
                alerts.push(Alert { name: None, resource: None, time, entities });
            }
            Ok(alerts)
        }
    }
}

/// The kinds of entities there are, for a message.
pub(super) fn kinds(alerts: &[Alert]) -> Vec<String> {
    let entities = alerts.iter().filter_map(|alert| alert.entities.as_ref().ok()).flatten();
    let kinds: BTreeSet<String> =
        entities.filter_map(|entity| text(entity.as_object()?, "Type").ok().flatten()).map(quoted).take(10).collect();
    kinds.into_iter().collect()
}

fn one(alert: &Map<String, Value>) -> Alert {
    let words = |name| text(alert, name).ok().flatten();
    let time = ["EndTimeUtc", "StartTimeUtc", "TimeGenerated"].into_iter().find_map(|name| words(name)?.parse().ok());
    Alert {
        name: words("AlertDisplayName").map(str::to_owned),
        resource: words("AzureResourceId").map(str::to_owned),
        time,
        entities: entities(alert),
    }
}

/// As a list, or as a text that is one: Sentinel's table of alerts has the latter.
fn entities(alert: &Map<String, Value>) -> Result<Vec<Value>, String> {
    match field(alert, "Entities")? {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list.clone()),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|error| format!("its Entities are no list of JSON: {error}"))
        }
        Some(_) => Err("its Entities are no list".to_owned()),
    }
}

/// An entity as Sentinel's own has it, `kind` and `properties`, in the form of an alert's.
fn entity(related: &Value) -> Value {
    let Some(object) = related.as_object() else { return related.clone() };
    let (Some(Value::String(kind)), Some(Value::Object(properties))) = (object.get("kind"), object.get("properties"))
    else {
        return related.clone();
    };
    let mut entity = properties.clone();
    entity.entry("Type").or_insert_with(|| kind.as_str().into());
    Value::Object(entity)
}

fn properties(incident: &Map<String, Value>) -> Result<&Map<String, Value>, String> {
    object(field(incident, "properties")?.unwrap_or(&Value::Null), "the incident's properties")
}

fn list<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], String> {
    match field(object, name)? {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(format!("the incident's {name} are no list")),
    }
}

fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{what} is no object of JSON"))
}

/// IDs are compared as Azure compares them.
fn key(id: &str) -> Result<String, String> {
    if id.len() > 1024 || id.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("{} is no ID of an incident", quoted(id)));
    }
    Ok(id.to_ascii_lowercase())
}

/// Words for people, as much as a response takes of them, without what would change how others are shown.
fn said(words: Option<&str>, most: usize) -> Option<String> {
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let words: String = words?.chars().map(|c| if invisible(c) { ' ' } else { c }).take(most).collect();
    Some(words.trim().to_owned()).filter(|words| !words.is_empty())
}

/// A link that a person may follow. Another one is left out.
fn link(url: Option<&str>) -> Option<String> {
    let url = Url::parse(url?).ok()?;
    let plain = url.scheme() == "https" && url.username().is_empty() && url.password().is_none();
    Some(url.to_string()).filter(|url| plain && url.len() <= 1024)
}
