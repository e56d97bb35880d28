//! Isolate: cut a pod off from the network.
//!
//! Cilium's deny tier where Cilium serves the pod, a network policy everywhere. What is claimed follows observation: the
//! engine's own report for this pod, and the operator's own connection attempts before and after.

mod policies;

use std::net::{IpAddr, SocketAddr};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::PolicyRule;
use tourniquet_api::{Answer, Assurance, Direction, Outcome, Probe, Residual, Verb, names};

use crate::action::{Act, Assessment, Contained, Context, Plan, Undo};
use crate::effect::Effect;
use crate::rbac::rule;
use crate::world::{PeerResponse, Read, Unread};

pub(crate) const ISOLATE: Isolate = Isolate;

/// The action.
pub(crate) struct Isolate;

/// How long Cilium may take before we say that it does not enforce. A new label takes up to 35 s by its default timing
/// (a random wait of up to 30 s, then 5 s), and a change of labels meanwhile starts both again.
const CILIUM_SETTLES: SignedDuration = SignedDuration::from_secs(120);

/// How long an engine that reports nothing may take before what we see counts.
const OTHERS_SETTLE: SignedDuration = SignedDuration::from_secs(5);

/// A port to try on a pod that declares none. Nobody has to listen: a refused connection reached the pod as well.
const ANY_PORT: u16 = 80;

/// What is known of the policy engine that serves the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// Cilium reports on this very pod.
    Cilium { in_force: bool },
    /// Nobody reports: another engine, or none. A served policy kind proves nothing, since CRDs survive an uninstall.
    Silent,
}

impl Act for Isolate {
    fn verb(&self) -> Verb {
        Verb::Isolate
    }

    fn rbac(&self) -> Vec<PolicyRule> {
        let own = ["get", "list", "watch", "create", "patch", "delete"];
        vec![
            rule("", &["pods"], &["get", "list", "watch", "patch"]),
            rule("networking.k8s.io", &["networkpolicies"], &own),
            rule("cilium.io", &["ciliumclusterwidenetworkpolicies"], &own),
            rule("cilium.io", &["ciliumendpoints"], &["get", "list", "watch"]),
        ]
    }

    fn reads(&self, cx: &Context<'_>) -> Vec<Read> {
        let (namespace, name) = place(cx);
        vec![
            Read::Pod { namespace: namespace.into(), name: name.into() },
            Read::NetworkPolicies { namespace: namespace.into() },
            Read::CiliumEndpoint { namespace: namespace.into(), name: name.into() },
            Read::ClusterwidePolicy { name: names::policy(cx.response_uid) },
        ]
    }

    fn plan(&self, cx: &Context<'_>) -> Result<Plan, Unread> {
        let Some(pod) = pod(cx)? else { return Ok(Plan::default()) };
        if finished(pod) {
            return Ok(Plan::default());
        }
        let name = names::policy(cx.response_uid);
        let mut effects = Vec::new();
        // Policies before labels: from the moment of a label change Cilium skips policy changes for half a minute.
        if endpoint_serves(cx)? {
            effects.extend(policies::put_clusterwide(cx, cx.world.clusterwide_policy(&name)?));
        }
        let existing = cx.world.network_policies(place(cx).0)?;
        effects.extend(policies::put_network_policy(cx, policies::named(existing, &name)));
        effects.extend(policies::put_labels(cx, pod));

        let mut probes: Vec<Probe> = cx.before.map(|before| before.probes.clone()).unwrap_or_default();
        // A control that comes after an effect proves nothing, so only the first plan makes one.
        if cx.before.is_none()
            && !effects.is_empty()
            && let Some(address) = address(pod)
        {
            probes.push(Probe {
                direction: Direction::Ingress,
                peer: address.to_string(),
                before: cx.world.control(&address)?,
                before_at: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(cx.world.now),
                after: None,
                at: None,
            });
        }
        Ok(Plan { effects, probes })
    }

    fn assess(&self, cx: &Context<'_>) -> Result<Assessment, Unread> {
        let mut assessment = Assessment {
            outcome: Outcome::Failed,
            reason: "TargetGone",
            message: String::new(),
            assurance: Assurance::None,
            probes: cx.before.map(|before| before.probes.clone()).unwrap_or_default(),
            contained: None,
            residual: Vec::new(),
            watch: Vec::new(),
            again_after: None,
        };
        let name = format!("{}/{}", place(cx).0, place(cx).1);
        let Some(pod) = pod(cx)?.filter(|pod| !finished(pod)) else {
            let before = cx.before.map_or(Outcome::Pending, |before| before.outcome);
            assessment.outcome = if before == Outcome::Done { Outcome::Done } else { Outcome::Failed };
            assessment.message = format!("pod {name} no longer runs; there is nothing left to hold");
            return Ok(assessment);
        };

        let mut after = None;
        // Only what answered before can be seen to be silent now.
        if let Some(probe) = assessment.probes.first_mut().filter(|probe| probe.before.reached())
            && let Ok(address) = probe.peer.parse::<SocketAddr>()
        {
            assessment.watch.push(address);
            if let Some(reach) = cx.world.reach(&address)? {
                after = Some(reach.answer);
                probe.after = after;
                probe.at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(reach.since));
            }
        }
        let allowing = policies::allowing(pod, cx.world.network_policies(place(cx).0)?);
        let verdict = judge(&Seen {
            engine: engine(cx, cx.response_uid, was_in_force(cx))?,
            after,
            controlled: !assessment.watch.is_empty(),
            others: policies::others_hold(cx, pod),
            allowing: &allowing,
            elapsed: cx.elapsed(),
            pod: &name,
        });
        assessment.outcome = verdict.outcome;
        assessment.reason = verdict.reason;
        assessment.message = verdict.message;
        assessment.assurance = verdict.assurance;
        assessment.contained = Some(verdict.contained);
        assessment.again_after = verdict.again_after;
        assessment.residual = residual(&name, verdict.contained);
        Ok(assessment)
    }

    fn undo(&self, cx: &Context<'_>) -> Result<Undo, Unread> {
        let name = names::policy(cx.response_uid);
        let pod = pod(cx)?;
        let mut undo = Undo::default();
        if let Some(pod) = pod.filter(|pod| !finished(pod)) {
            let mut peers: Vec<&PeerResponse> = cx.world.responses()?.iter().collect();
            peers.retain(|peer| peer.live && peer.uid != cx.response_uid && isolates(&peer.isolates, cx));
            // The same one is named whatever the order of the list.
            peers.sort_by_key(|peer| (&peer.name, &peer.uid));
            for peer in peers {
                if holds(cx, pod, &peer.uid, peer.contains)? {
                    undo.held_by.get_or_insert(peer.name.clone());
                } else if contributes(cx, pod)? {
                    let (namespace, name) = place(cx);
                    let message =
                        format!("response {} also isolates pod {namespace}/{name} and is not in force yet", peer.name);
                    undo.waits.get_or_insert(("WaitingForHolder", message));
                }
            }
            if undo.held_by.is_some() {
                undo.waits = None;
            }
        }
        // The deny tier first and the labels last, as when applying: a label change makes Cilium skip policy changes.
        if let Some(policy) = cx.world.clusterwide_policy(&name)? {
            undo.effects.push(Effect::Delete { object: policies::clusterwide_ref(cx, Some(policy.uid.clone())) });
        }
        if let Some(policy) = policies::named(cx.world.network_policies(place(cx).0)?, &name) {
            undo.effects.push(Effect::Delete { object: policies::network_policy_ref(cx, policy.metadata.uid.clone()) });
        }
        if let Some(pod) = pod {
            undo.effects.extend(policies::withdraw_labels(cx, pod));
        }
        Ok(undo)
    }
}

fn place<'a>(cx: &Context<'a>) -> (&'a str, &'a str) {
    (cx.target.namespace.as_deref().unwrap_or_default(), &cx.target.name)
}

/// The pinned pod. A pod of the same name with another UID is another pod.
fn pod<'a>(cx: &Context<'a>) -> Result<Option<&'a Pod>, Unread> {
    let (namespace, name) = place(cx);
    let pod = cx.world.pod(namespace, name)?;
    Ok(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&cx.target.uid)))
}

fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Where to try the pod: the first TCP port that it declares.
fn address(pod: &Pod) -> Option<SocketAddr> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()?;
    let ports =
        pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|container| container.ports.iter().flatten());
    let port = ports
        .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .find_map(|port| u16::try_from(port.container_port).ok())
        .unwrap_or(ANY_PORT);
    Some(SocketAddr::new(ip, port))
}

/// Whether Cilium serves this very pod.
fn endpoint_serves(cx: &Context<'_>) -> Result<bool, Unread> {
    let (namespace, name) = place(cx);
    let endpoint = cx.world.cilium_endpoint(namespace, name)?;
    Ok(endpoint.is_some_and(|endpoint| endpoint.pod_uid.as_deref() == Some(&cx.target.uid)))
}

/// Whether this response was in force on the pod when it was last looked at.
fn was_in_force(cx: &Context<'_>) -> bool {
    cx.before.is_some_and(|before| before.outcome == Outcome::Done)
}

/// What the engine says of one response's policy on this pod.
fn engine(cx: &Context<'_>, response_uid: &str, was_in_force: bool) -> Result<Engine, Unread> {
    if !endpoint_serves(cx)? {
        return Ok(Engine::Silent);
    }
    let (namespace, name) = place(cx);
    // An endpoint that waits for its next identity goes on enforcing the present one.
    let in_force = cx.world.cilium_endpoint(namespace, name)?.is_some_and(|endpoint| {
        (endpoint.state == "ready" || was_in_force)
            && endpoint.identity_labels.contains(&policies::identity_label(response_uid))
    });
    if !in_force {
        return Ok(Engine::Cilium { in_force });
    }
    let policy = cx.world.clusterwide_policy(&names::policy(response_uid))?;
    Ok(Engine::Cilium { in_force: policy.is_some_and(|policy| policy.valid && !policy.terminating) })
}

/// Whether a response holds the pod, as far as anybody reports: in force where the engine says so, else in place.
fn holds(cx: &Context<'_>, pod: &Pod, response_uid: &str, was_in_force: bool) -> Result<bool, Unread> {
    match engine(cx, response_uid, was_in_force)? {
        Engine::Cilium { in_force } => Ok(in_force),
        Engine::Silent => {
            let existing = cx.world.network_policies(place(cx).0)?;
            Ok(policies::named(existing, &names::policy(response_uid)).is_some()
                && policies::label(pod, &names::isolation_label(response_uid)) == Some(names::ISOLATION_VALUE))
        }
    }
}

/// Whether this response may be what holds the pod, so that letting go could open a gap. Unlike [`holds`] this errs on the
/// side of yes: an endpoint whose labels have just changed is not `ready`, and enforces its present identity all the same.
fn contributes(cx: &Context<'_>, pod: &Pod) -> Result<bool, Unread> {
    if !endpoint_serves(cx)? {
        return holds(cx, pod, cx.response_uid, was_in_force(cx));
    }
    let (namespace, name) = place(cx);
    let endpoint = cx.world.cilium_endpoint(namespace, name)?;
    Ok(endpoint.is_some_and(|endpoint| endpoint.identity_labels.contains(&policies::identity_label(cx.response_uid))))
}

fn isolates(pods: &[(String, String, Option<String>)], cx: &Context<'_>) -> bool {
    pods.iter().any(|(namespace, name, uid)| match uid {
        Some(uid) => *uid == cx.target.uid,
        // Not accepted yet: it may become one.
        None => (namespace.as_str(), name.as_str()) == place(cx),
    })
}

/// What is seen of one isolated pod.
struct Seen<'a> {
    engine: Engine,
    /// The answer of the latest attempt, where one answered before.
    after: Option<Answer>,
    /// Whether there is a positive control.
    controlled: bool,
    /// Whether another response has its label on the pod.
    others: bool,
    allowing: &'a [String],
    elapsed: SignedDuration,
    pod: &'a str,
}

struct Verdict {
    outcome: Outcome,
    reason: &'static str,
    message: String,
    assurance: Assurance,
    contained: Contained,
    again_after: Option<SignedDuration>,
}

/// What may be said of it.
fn judge(seen: &Seen<'_>) -> Verdict {
    let pod = seen.pod;
    let verdict = |outcome, reason, assurance, contained, message: String| Verdict {
        outcome,
        reason,
        message,
        assurance,
        contained,
        again_after: None,
    };
    let settling = |limit: SignedDuration, contained, message: String| Verdict {
        again_after: Some(limit - seen.elapsed),
        ..verdict(Outcome::Running, "Settling", Assurance::Accepted, contained, message)
    };
    let open = seen.after.is_some_and(Answer::reached);
    let silent = seen.after == Some(Answer::TimedOut);
    match seen.engine {
        Engine::Cilium { in_force: true } if !open => {
            let mut message = format!("Cilium denies all new connections of pod {pod}, but from its own node");
            if !seen.allowing.is_empty() {
                message += &format!("; overruled: NetworkPolicy {}", seen.allowing.join(", "));
            }
            let assurance = if silent { Assurance::Probed } else { Assurance::EngineReported };
            message += match (silent, seen.controlled) {
                (true, _) => "; it answered the operator before and does not now",
                (false, true) => "; not tried from the operator yet",
                (false, false) => "; it did not answer the operator before, so trying it now would prove nothing",
            };
            verdict(Outcome::Done, "DenyTier", assurance, Contained::Held, message)
        }
        Engine::Cilium { .. } if seen.elapsed < CILIUM_SETTLES => settling(
            CILIUM_SETTLES,
            Contained::Open,
            format!(
                "the policies are accepted; Cilium has not given pod {pod} the identity that they select yet (up to 35 s is usual)"
            ),
        ),
        Engine::Cilium { in_force } => verdict(
            Outcome::Partial,
            "NotInForce",
            Assurance::Accepted,
            Contained::Open,
            if in_force {
                format!("Cilium reports the policy in force, and pod {pod} still answers the operator")
            } else {
                format!(
                    "Cilium has not put the policy in force on pod {pod}; see the endpoint's state with kubectl get ciliumendpoint"
                )
            },
        ),
        Engine::Silent if open => {
            if seen.elapsed < OTHERS_SETTLE {
                return settling(
                    OTHERS_SETTLE,
                    Contained::Open,
                    format!("the policy is accepted; pod {pod} still answers"),
                );
            }
            let (reason, message) = if seen.allowing.is_empty() {
                ("NotEnforced", format!("nothing enforces the policy: pod {pod} still answers the operator"))
            } else {
                (
                    "AllowedByPolicy",
                    format!(
                        "pod {pod} still answers the operator; NetworkPolicy {} allows traffic",
                        seen.allowing.join(", ")
                    ),
                )
            };
            verdict(Outcome::Partial, reason, Assurance::Accepted, Contained::Open, message)
        }
        Engine::Silent if !seen.allowing.is_empty() => verdict(
            Outcome::Partial,
            "AllowedByPolicy",
            Assurance::Accepted,
            Contained::Open,
            format!(
                "policies add up, and no deny tier is known here: NetworkPolicy {} goes on allowing traffic of pod {pod}; delete it or its rules",
                seen.allowing.join(", ")
            ),
        ),
        Engine::Silent if silent && !seen.others => verdict(
            Outcome::Done,
            "NetworkPolicy",
            Assurance::Probed,
            Contained::Held,
            format!("pod {pod} answered the operator before and does not now"),
        ),
        Engine::Silent if seen.controlled && !silent && seen.elapsed < OTHERS_SETTLE => {
            settling(OTHERS_SETTLE, Contained::Unseen, format!("the policy is accepted; pod {pod} is being tried"))
        }
        Engine::Silent => verdict(
            Outcome::Partial,
            "NotObserved",
            Assurance::Accepted,
            Contained::Unseen,
            if silent {
                format!(
                    "pod {pod} does not answer, and another response isolates it too: nobody can tell which one holds it"
                )
            } else {
                format!(
                    "the policy is accepted; no engine reports on pod {pod}, and there is no answer from before to compare with"
                )
            },
        ),
    }
}

/// What stays open, so that nobody believes more than is true.
fn residual(pod: &str, contained: Contained) -> Vec<Residual> {
    let residual = |code: &str, severity: &str, message: String, remedy: Option<&str>| Residual {
        code: code.to_owned(),
        severity: severity.to_owned(),
        message,
        remedy: remedy.map(str::to_owned),
    };
    if contained == Contained::Open {
        return vec![residual(
            "NotContained",
            "High",
            format!("pod {pod} can still be reached, and can still reach others"),
            Some(
                "contain it by other means, such as a network security group or deleting the pod, until Contained is True",
            ),
        )];
    }
    vec![
        residual(
            "EstablishedFlowsMaySurvive",
            "Medium",
            format!("policies judge new connections; some that were open before may go on to and from pod {pod}"),
            Some("end them from inside: kubectl exec … kill, or delete the pod when its memory is not needed"),
        ),
        residual(
            "EgressNotProbed",
            "Low",
            format!("what pod {pod} can reach was not tried from inside it; egress is denied by the same policies"),
            None,
        ),
        residual(
            "NodeCanStillReach",
            "Low",
            format!("pod {pod}'s own node can still open connections to it: the kubelet's probes come from there"),
            None,
        ),
    ]
}
