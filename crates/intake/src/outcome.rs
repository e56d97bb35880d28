//! What a playbook is told. Pure.
//!
//! One object for each message, written anew whenever there is more to say. Its `comment` is whole sentences, ready for the incident: a Logic App has nothing to
//! put together.

use serde::Serialize;
use tourniquet_api::{Assurance, IncidentResponse, Outcome as ActionOutcome};

use crate::mapping::Refused;

/// What Sentinel takes as one comment is 30,000 characters.
const LONGEST: usize = 20_000;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    /// Nothing was done, and nothing will be.
    Refused,
    /// Under way: there will be more to say.
    Working,
    /// This is how it stands; nobody writes to it any more.
    Settled,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The message's.
    pub id: String,
    /// How far it is.
    pub state: State,
    /// All of it in words.
    pub comment: String,
    /// The responses, as far as there are any.
    pub responses: Vec<Told>,
    /// What was not acted on, and why.
    pub refused: Vec<Refused>,
}

/// What became of one response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Its name.
    pub name: String,
    /// What it acts on.
    pub target: String,
    /// Whether there is nothing to wait for.
    pub settled: bool,
    /// Its condition Ready, in a sentence.
    pub ready: String,
    /// Its condition Contained: True, False or Unknown; absent where nothing is isolated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contained: Option<String>,
    /// How far that is known: the weakest of all targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assurance: Option<String>,
    /// What is still open.
    pub residual: Vec<String>,
    /// Where evidence lies, with the digest of its record.
    pub evidence: Vec<String>,
    /// How to undo it.
    pub release: String,
}

/// What was done about a message, and how it stands.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// How many responses it was done with.
    pub asked: usize,
    /// Those of them that are still there.
    pub responses: &'a [IncidentResponse],
    /// What was not acted on.
    pub refused: &'a [Refused],
    /// Where they are.
    pub namespace: &'a str,
    /// Whether nobody will look any more.
    pub over: bool,
}

/// Of a message that nothing is done about.
#[must_use]
pub fn refused(id: &str, refused: Refused) -> Outcome {
    none(id, refused, "Nothing was done.")
}

/// Of a message of which nobody can say what was done: whoever took it up ended before it was told.
#[must_use]
pub fn unknown(id: &str, refused: Refused) -> Outcome {
    none(id, refused, "What was done of it before is not known: see the responses in the cluster.")
}

fn none(id: &str, refused: Refused, words: &str) -> Outcome {
    let seen = Seen { asked: 0, responses: &[], refused: &[refused], namespace: "", over: true };
    outcome(id, &seen, Vec::new(), words)
}

/// Of responses that were created, or were there.
#[must_use]
pub fn created(id: &str, seen: &Seen<'_>) -> Outcome {
    let told = seen.responses.iter().map(|response| told(response, seen.namespace)).collect();
    outcome(id, seen, told, "Nothing was done.")
}

/// Of responses that were to be released.
#[must_use]
pub fn released(id: &str, seen: &Seen<'_>) -> Outcome {
    let told = |response: &IncidentResponse| {
        // What was done before is settled too, and is not what is waited for.
        Told { settled: is(response, "Reverted"), ..told(response, seen.namespace) }
    };
    let nothing = if seen.refused.is_empty() {
        "No response of an intake is left for this incident: there is nothing to release."
    } else {
        "Nothing was released."
    };
    outcome(id, seen, seen.responses.iter().map(told).collect(), nothing)
}

/// Whether there is nothing more to come of a response that is carried out.
fn is_settled(response: &IncidentResponse) -> bool {
    ["Ready", "Stalled", "Reverted"].iter().any(|condition| is(response, condition))
}

fn is(response: &IncidentResponse, condition: &str) -> bool {
    // A status of an earlier generation is about what was asked before.
    let seen = response.status.as_ref().and_then(|status| status.observed_generation);
    seen >= response.metadata.generation
        && self::condition(response, condition).is_some_and(|(status, _)| status == "True")
}

fn condition<'a>(response: &'a IncidentResponse, kind: &str) -> Option<(&'a str, String)> {
    let conditions = &response.status.as_ref()?.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((&found.status, format!("{}: {}", found.reason, found.message)))
}

fn told(response: &IncidentResponse, namespace: &str) -> Told {
    let name = response.metadata.name.clone().unwrap_or_default();
    let actions = response.status.iter().flat_map(|status| &status.actions);
    let results = || actions.clone().flat_map(|action| &action.results);
    let assurance =
        results().filter(|result| result.outcome != ActionOutcome::Undone).filter_map(|result| result.assurance).min();
    let evidence = results().filter_map(|result| {
        let evidence = result.evidence.as_ref()?;
        Some(format!(
            "{} of {} artifacts are stored whole: {} (SHA-256 of its record: {})",
            evidence.artifacts_done,
            evidence.artifacts_total,
            evidence.url.as_deref().unwrap_or("nowhere yet"),
            evidence.record_digest.as_deref().unwrap_or("not sealed yet"),
        ))
    });
    let outputs = results().filter_map(|result| {
        let run = result.run.as_ref()?;
        let code =
            run.exit_code.map_or("an exit code that nobody knows".to_owned(), |code| format!("exit code {code}"));
        let place = run.url.as_ref().map(|url| {
            format!("; its outputs: {url} (SHA-256 of their record: {})", run.digest.as_deref().unwrap_or("not sealed"))
        });
        Some(format!("the command ended with {code}{}", place.unwrap_or_default()))
    });
    let residual = response.status.iter().flat_map(|status| &status.residual).map(|open| {
        let remedy = open.remedy.as_ref().map(|remedy| format!(" Remedy: {remedy}"));
        format!("{} {}: {}.{}", open.severity, open.code, open.message, remedy.unwrap_or_default())
    });
    let ready = match condition(response, "Accepted") {
        Some(("False", why)) => format!("refused, and nothing was touched: {why}"),
        _ => condition(response, "Ready").map_or("the operator has not seen it yet".to_owned(), |(_, why)| why),
    };
    Told {
        target: target(response),
        settled: is_settled(response),
        ready,
        contained: condition(response, "Contained").map(|(status, _)| status.to_owned()),
        assurance: assurance.map(assured),
        residual: residual.collect(),
        evidence: evidence.chain(outputs).collect(),
        release: format!(
            "kubectl --namespace {namespace} patch incidentresponse {name} --type merge --patch '{{\"spec\":{{\"release\":true}}}}'"
        ),
        name,
    }
}

/// As the operator has it in status, which may not be there yet.
pub(crate) fn target(response: &IncidentResponse) -> String {
    let target = &response.spec.target;
    match (&target.pod, &target.namespace, &target.node) {
        (Some(pod), ..) => format!("pod {}/{}", pod.namespace, pod.name),
        (_, Some(namespace), _) => format!("namespace {}", namespace.name),
        (.., Some(node)) => format!("node {}", node.name),
        _ => "pods".to_owned(),
    }
}

fn assured(assurance: Assurance) -> String {
    match assurance {
        Assurance::Probed => "Probed: a connection that was answered before is not any more",
        Assurance::KernelVerified => "KernelVerified: the agent read the cut back from the node's kernel",
        Assurance::EngineReported => "EngineReported: the policy engine says that it is in force on this pod",
        Assurance::Accepted => "Accepted: the API server took the policies; nothing more is known",
        Assurance::None => "None: nothing shows that it is cut off",
    }
    .to_owned()
}

fn outcome(id: &str, seen: &Seen<'_>, responses: Vec<Told>, nothing: &str) -> Outcome {
    let open = responses.iter().any(|told| !told.settled);
    let state = match (seen.asked, open) {
        (0, _) if !seen.refused.is_empty() => State::Refused,
        (_, true) if !seen.over => State::Working,
        _ => State::Settled,
    };
    let mut lines: Vec<String> = responses.iter().flat_map(lines).collect();
    let gone = seen.asked.saturating_sub(responses.len());
    if gone > 0 {
        lines.push(format!(
            "{gone} of {} responses are there no more: somebody deleted them, and a response is undone before it goes.",
            seen.asked
        ));
    }
    if open && seen.over {
        lines.push(
            "Not all of it was done when the intake stopped looking: see the responses in the cluster.".to_owned(),
        );
    }
    if seen.asked == 0 {
        lines.push(nothing.to_owned());
    }
    lines.extend(seen.refused.iter().map(|refused| format!("Not acted on: {refused}")));
    Outcome { id: id.to_owned(), state, comment: comment(&lines), responses, refused: seen.refused.to_vec() }
}

fn lines(told: &Told) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", told.target, told.ready)];
    if let Some(contained) = &told.contained {
        let proven = told.assurance.as_ref().map(|assurance| format!(" ({assurance})"));
        lines.push(format!("Contained: {contained}{}", proven.unwrap_or_default()));
    }
    lines.extend(told.residual.iter().map(|open| format!("Still open: {open}")));
    lines.extend(told.evidence.iter().map(|evidence| format!("Evidence: {evidence}")));
    lines.push(format!("Release: the playbook that releases, on this incident; or {}", told.release));
    lines
}

/// Sentinel shows comments as HTML: what others chose in it stays text.
fn comment(lines: &[String]) -> String {
    let text = lines.join("\n").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\n', "<br>");
    if text.chars().count() <= LONGEST {
        return text;
    }
    let mut cut: String = text.chars().take(LONGEST).collect();
    // Not in the middle of a line, or of one of the replacements.
    cut.truncate(cut.rfind("<br>").unwrap_or_default());
    cut + "<br>… and more: see the responses in the cluster."
}
