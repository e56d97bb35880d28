//! Least privilege, by the API server's audit log: whatever the operator and the agents asked for during the end-to-end tests the chart grants them, and it
//! grants nothing that none of them asked for.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    chart::{
        self,
        rights::{self, Right},
    },
    install::NAMESPACE,
};

/// Who has rights: the account's namespace, and the name of account and program.
const PROGRAMS: [(&str, &str); 2] = [(NAMESPACE, "tourniquet-operator"), ("tourniquet-agent", "tourniquet-agent")];

/// Rights that no request of these tests uses, and why they are granted all the same.
const UNSEEN: &[(&str, &str)] = &[
    (
        "update incidentresponses/finalizers.tourniquet.dev",
        "no request: our own admission policy asks whether whoever takes the finalizer off has it",
    ),
    ("get tiers.projectcalico.org", CALICO),
    ("get tier.globalnetworkpolicies.projectcalico.org", CALICO),
    ("list tier.globalnetworkpolicies.projectcalico.org", CALICO),
    ("watch tier.globalnetworkpolicies.projectcalico.org", CALICO),
    ("create tier.globalnetworkpolicies.projectcalico.org", CALICO),
    ("patch tier.globalnetworkpolicies.projectcalico.org", CALICO),
    ("update tier.globalnetworkpolicies.projectcalico.org", CALICO),
    ("delete tier.globalnetworkpolicies.projectcalico.org", CALICO),
];

const CALICO: &str = "no request: Calico's own API server asks whether whoever writes a policy into a tier may get the tier and has this right on policies in it, and none runs here";

/// What may be asked for without a right of ours: what is served, by which Kubernetes' role system:discovery is everybody's.
const DISCOVERY: [&str; 3] = ["/api", "/apis", "/version"];

/// A line of the log.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    user: User,
    #[serde(default)]
    user_agent: String,
    verb: String,
    #[serde(rename = "requestURI")]
    uri: String,
    object_ref: Option<ObjectRef>,
    #[serde(default)]
    response_status: Answer,
    request_received_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    api_group: String,
    namespace: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    code: u16,
}

/// Something that a program asked for, once however often it did.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    /// In the words of a right, and where.
    Resource(Right),
    Path(String),
}

/// Everything that was asked for, with the name of the program.
#[derive(Default)]
pub(crate) struct Asked {
    requests: BTreeSet<(&'static str, Request)>,
}

/// What one test of these found.
pub(crate) struct Verdict {
    pub(crate) name: String,
    /// What is not as it should be; nothing, if it passed.
    pub(crate) wrong: Vec<String>,
}

impl Asked {
    /// Adds what the log in this folder has from some moment on.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) fn read(&mut self, logs: &Path, since: Timestamp) -> Result<()> {
        for path in files(logs)? {
            let file = fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            for line in BufReader::new(file).lines() {
                let line = line?;
                // The last one may be half written, by an API server that goes on.
                let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
                if line.request_received_timestamp >= since {
                    self.add(line);
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, line: Line) {
        // Tests have tokens of these accounts too, and try what must not work. They do not say that they are the program.
        let is_by = |(namespace, name): &(&str, &str)| {
            line.user.username == format!("system:serviceaccount:{namespace}:{name}")
                && line.user_agent.starts_with(&format!("{name}/"))
        };
        let Some((_, program)) = PROGRAMS.into_iter().find(is_by) else { return };
        let Some(object) = line.object_ref else {
            let path = line.uri.split('?').next().unwrap_or_default();
            self.requests.insert((program, Request::Path(path.to_owned())));
            return;
        };
        let resource = [object.resource, object.subresource];
        let resource = resource.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("/");
        let mut verbs = vec![line.verb];
        // An apply that creates takes both, and so does an exec by WebSocket, which is a GET, from Kubernetes 1.35 on.
        if verbs == ["patch"] && line.response_status.code == 201 || verbs == ["get"] && resource == "pods/exec" {
            verbs.push("create".to_owned());
        }
        for verb in verbs {
            let (group, resource) = (object.api_group.clone(), resource.clone());
            let right = Right { group, resource, verb, namespace: object.namespace.clone() };
            self.requests.insert((program, Request::Resource(right)));
        }
    }

    /// Holds it against what the chart grants. Whether each right was used only all tests together show.
    ///
    /// # Errors
    /// When the chart does not render, or the log has nothing of the operator: then nothing was looked at.
    pub(crate) fn judge(&self, all_tests: bool) -> Result<Vec<Verdict>> {
        ensure!(
            self.requests.iter().any(|(program, _)| *program == PROGRAMS[0].1),
            "the audit log has no request of the operator"
        );
        let objects = chart::objects(&chart::template(&[])?)?;
        let mut verdicts = Vec::new();
        for account in PROGRAMS {
            let (program, granted) = (account.1, rights::of(&objects, account)?);
            verdicts.push(Verdict {
                name: format!("{program} asked for nothing that it has no right to"),
                wrong: self.uncovered(program, &granted),
            });
            if all_tests {
                verdicts.push(Verdict {
                    name: format!("{program} has no right that it did not use"),
                    wrong: self.unused(program, &granted),
                });
            }
        }
        Ok(verdicts)
    }

    fn of<'a>(&'a self, program: &'a str) -> impl Iterator<Item = &'a Request> {
        self.requests.iter().filter(move |(of, _)| *of == program).map(|(_, request)| request)
    }

    fn uncovered(&self, program: &str, granted: &BTreeSet<Right>) -> Vec<String> {
        let is_uncovered = |request: &&Request| match request {
            Request::Resource(asked) => !granted.iter().any(|right| covers(right, asked)),
            Request::Path(path) => !DISCOVERY.iter().any(|root| path == root || path.starts_with(&format!("{root}/"))),
        };
        let name = |request: &Request| match request {
            Request::Resource(asked) => asked.to_string(),
            Request::Path(path) => path.clone(),
        };
        self.of(program).filter(is_uncovered).map(|request| format!("not granted: {}", name(request))).collect()
    }

    fn unused(&self, program: &str, granted: &BTreeSet<Right>) -> Vec<String> {
        let is_used = |right: &Right| {
            self.of(program).any(|request| matches!(request, Request::Resource(asked) if covers(right, asked)))
        };
        let is_unseen = |right: &Right| UNSEEN.iter().any(|(unseen, _)| *unseen == right.to_string());
        let unused = granted.iter().filter(|right| !is_unseen(right) && !is_used(right));
        let unused = unused.map(|right| format!("granted and not used: {right}"));
        // The operator's are the only ones in that list: what is there must go when the right does.
        let of_program = if program == PROGRAMS[0].1 { UNSEEN } else { &[] };
        let stale = of_program.iter().filter(|(unseen, _)| granted.iter().all(|right| right.to_string() != *unseen));
        let stale = stale.map(|(unseen, _)| format!("in the list of what cannot be seen, and not granted: {unseen}"));
        unused.chain(stale).collect()
    }
}

fn covers(right: &Right, asked: &Right) -> bool {
    let place = right.namespace.is_none() || right.namespace == asked.namespace;
    place && (&right.group, &right.resource, &right.verb) == (&asked.group, &asked.resource, &asked.verb)
}

/// The log, and what was put beside it when it was full.
fn files(logs: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(logs).with_context(|| format!("cannot look into {}", logs.display()))?;
    let is_audit = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("audit") && name.ends_with(".log")
    };
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_audit).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const OPERATOR: &str = "tourniquet-operator";

    fn line(more: &Value) -> String {
        let mut line = json!({
            "user": { "username": "system:serviceaccount:tourniquet-system:tourniquet-operator" },
            "userAgent": "tourniquet-operator/0.1.0", "verb": "get", "requestURI": "/api/v1/namespaces/shop/pods/web",
            "objectRef": { "resource": "pods", "namespace": "shop", "name": "web", "apiVersion": "v1" },
            "responseStatus": { "code": 200 }, "requestReceivedTimestamp": "2026-11-26T12:00:00.000000Z",
        });
        line.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        format!("{line}\n")
    }

    /// What a log with these lines has since noon.
    fn asked(lines: &[Value]) -> Asked {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("audit.log"), lines.iter().map(line).collect::<String>()).unwrap();
        let mut asked = Asked::default();
        asked.read(folder.path(), "2026-11-26T12:00:00Z".parse().unwrap()).unwrap();
        asked
    }

    fn right(verb: &str, resource: &str, namespace: Option<&str>) -> Right {
        let (verb, resource) = (verb.to_owned(), resource.to_owned());
        Right { group: String::new(), resource, verb, namespace: namespace.map(str::to_owned) }
    }

    fn names(asked: &Asked) -> Vec<String> {
        asked.uncovered(OPERATOR, &BTreeSet::new())
    }

    #[test]
    fn what_is_asked_for_takes_a_right_where_it_is_asked_for() {
        let asked = asked(&[json!({})]);
        assert_eq!(names(&asked), ["not granted: get pods in shop"]);
        for granted in [right("get", "pods", None), right("get", "pods", Some("shop"))] {
            assert!(asked.uncovered(OPERATOR, &[granted].into()).is_empty());
        }
        for other in [right("list", "pods", None), right("get", "nodes", None), right("get", "pods", Some("soc"))] {
            assert_eq!(asked.uncovered(OPERATOR, &[other].into()).len(), 1);
        }
    }

    #[test]
    fn a_right_that_nobody_used_is_named_and_one_that_cannot_be_seen_is_not() {
        let asked = asked(&[json!({})]);
        let calico = right("create", "tier.globalnetworkpolicies", None);
        let calico = Right { group: "projectcalico.org".to_owned(), ..calico };
        let granted: BTreeSet<Right> = [right("get", "pods", None), right("delete", "pods", None), calico].into();
        let unused = asked.unused(OPERATOR, &granted);
        assert_eq!(unused[0], "granted and not used: delete pods");
        let stale = "not granted: update incidentresponses/finalizers.tourniquet.dev";
        assert!(unused[1..].iter().all(|line| line.starts_with("in the list of what cannot be seen")), "{unused:?}");
        assert!(unused.iter().any(|line| line.ends_with(stale)), "{unused:?}");
    }

    #[test]
    fn an_apply_that_creates_takes_both_verbs_and_so_does_an_exec() {
        assert_eq!(names(&asked(&[json!({ "verb": "patch" })])), ["not granted: patch pods in shop"]);
        let created = json!({ "verb": "patch", "responseStatus": { "code": 201 } });
        assert_eq!(names(&asked(&[created])).len(), 2);
        let exec = json!({ "objectRef": { "resource": "pods", "subresource": "exec", "namespace": "shop" } });
        assert_eq!(
            names(&asked(&[exec])),
            ["not granted: create pods/exec in shop", "not granted: get pods/exec in shop"]
        );
    }

    #[test]
    fn what_is_served_everybody_may_ask() {
        let path = |path: &str| json!({ "objectRef": null, "requestURI": path });
        assert!(names(&asked(&[path("/apis"), path("/apis/cilium.io/v2?timeout=5s"), path("/version")])).is_empty());
        assert_eq!(
            names(&asked(&[path("/metrics"), path("/apiserver")])),
            ["not granted: /apiserver", "not granted: /metrics"]
        );
    }

    #[test]
    fn others_and_what_was_before_do_not_count() {
        let nobody = asked(&[
            json!({ "userAgent": "curl/8" }),
            json!({ "user": { "username": "system:serviceaccount:default:tourniquet-operator" } }),
            json!({ "requestReceivedTimestamp": "2026-11-26T11:59:59.999999Z" }),
        ]);
        assert!(names(&nobody).is_empty());
        assert!(nobody.judge(false).is_err_and(|error| error.to_string().contains("no request of the operator")));
    }
}
