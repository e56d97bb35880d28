//! What may be said of an isolated pod, from what was seen of it.

use jiff::SignedDuration;
use tourniquet_api::{Answer, Assurance, Containment, Direction, Outcome, Probe, Residual, TargetResult};

use super::calico;
use super::containment::{self, AGENT_ANSWERS, ALONE};
use super::seen;
use crate::action::{Contained, Context};
use crate::world::Unread;

/// How long Cilium may take before we say that it does not enforce. A new label takes up to 35 s by its default timing
/// (a random wait of up to 30 s, then 5 s), and a change of labels meanwhile starts both again.
const CILIUM_SETTLES: SignedDuration = SignedDuration::from_secs(120);

/// How long Cilium may take to look at a policy. Its operator does within a second; reports on pods survive an uninstall.
pub(super) const CILIUM_JUDGES: SignedDuration = SignedDuration::from_secs(15);

/// How long an engine that reports nothing may take before what we see counts.
pub(super) const OTHERS_SETTLE: SignedDuration = SignedDuration::from_secs(5);

/// What is known of the policy engine that serves the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// Cilium reports on this very pod.
    Cilium {
        /// It has given the pod the identity that the policy selects.
        in_force: bool,
        /// It has looked at the policy at all.
        judged: bool,
    },
    /// Nobody reports: another engine, or none. A served policy kind proves nothing, since CRDs survive an uninstall.
    Silent,
}

/// What is seen of one isolated pod.
pub(super) struct Seen<'a> {
    pub(super) engine: Engine,
    /// The answer of the latest attempt, where one answered before.
    pub(super) after: Option<Answer>,
    /// Whether there is a positive control.
    pub(super) controlled: bool,
    /// Whether another response has its label on the pod.
    pub(super) others: bool,
    /// Whether the agent cannot say that the pod is cut, nor that nothing of a cut is there.
    pub(super) uncertain: bool,
    /// Whether the network policy of this response is there, is as it was put, and selects the pod.
    pub(super) in_place: bool,
    pub(super) allowing: &'a [String],
    /// What is known of Calico's tier, where its kinds are served and nobody reports.
    pub(super) tier: Option<&'a calico::Tier>,
    pub(super) elapsed: SignedDuration,
    /// What was reported before.
    pub(super) before: Option<&'a TargetResult>,
    pub(super) pod: &'a str,
}

pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) assurance: Assurance,
    pub(super) contained: Contained,
    pub(super) again_after: Option<SignedDuration>,
}

/// What may be said of it.
pub(super) fn judge(seen: &Seen<'_>) -> Verdict {
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
    if let Some(verdict) = seen.tier.and_then(|tier| calico::judge(seen, tier)) {
        return verdict;
    }
    match seen.engine {
        Engine::Cilium { in_force: true, .. } if !open => {
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
        Engine::Cilium { judged: false, .. } if seen.elapsed >= CILIUM_JUDGES => verdict(
            Outcome::Partial,
            "NotEnforced",
            Assurance::Accepted,
            Contained::Open,
            format!(
                "nothing enforces the policy: there is a report of Cilium on pod {pod}, but no Cilium that looks at policies; is it still installed?"
            ),
        ),
        Engine::Cilium { in_force, judged } if seen.elapsed < CILIUM_SETTLES => settling(
            if judged { CILIUM_SETTLES } else { CILIUM_JUDGES },
            Contained::Open,
            if in_force {
                format!("Cilium reports the policy in force; pod {pod} answered the operator a moment ago")
            } else {
                format!(
                    "the policies are accepted; Cilium has not given pod {pod} the identity that they select yet (up to 35 s is usual)"
                )
            },
        ),
        Engine::Cilium { in_force, .. } => verdict(
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
        Engine::Silent if !seen.allowing.is_empty() && seen.tier.is_none() => verdict(
            Outcome::Partial,
            "AllowedByPolicy",
            Assurance::Accepted,
            Contained::Open,
            format!(
                "policies add up, and no deny tier is known here: NetworkPolicy {} goes on allowing traffic of pod {pod}; delete it or its rules",
                seen.allowing.join(", ")
            ),
        ),
        Engine::Silent if silent && !seen.others && !seen.uncertain && seen.in_place => verdict(
            Outcome::Done,
            "NetworkPolicy",
            Assurance::Probed,
            Contained::Held,
            format!("pod {pod} answered the operator before and does not now"),
        ),
        // The operator has just started: the attempts begin again, and until the first has ended what was seen stands.
        Engine::Silent if seen.controlled && seen.after.is_none() => match seen.before.filter(|_| seen.in_place) {
            // What a cut held stands for nothing that the policies do.
            Some(before) if before.outcome == Outcome::Done && before.reason.as_deref() != Some(CUT) => Verdict {
                again_after: Some(OTHERS_SETTLE),
                ..verdict(
                    Outcome::Done,
                    "NetworkPolicy",
                    before.assurance.unwrap_or_default(),
                    Contained::Held,
                    before.message.clone().unwrap_or_default(),
                )
            },
            _ => Verdict {
                again_after: Some(OTHERS_SETTLE),
                ..settling(
                    OTHERS_SETTLE,
                    Contained::Unseen,
                    format!("the policy is accepted; pod {pod} is being tried"),
                )
            },
        },
        Engine::Silent if seen.controlled && !silent && seen.elapsed < OTHERS_SETTLE => {
            settling(OTHERS_SETTLE, Contained::Unseen, format!("the policy is accepted; pod {pod} is being tried"))
        }
        Engine::Silent => verdict(
            Outcome::Partial,
            "NotObserved",
            Assurance::Accepted,
            Contained::Unseen,
            if silent && seen.uncertain {
                format!(
                    "pod {pod} does not answer; that may be by a cut that is not whole, which says nothing of the policies"
                )
            } else if silent && !seen.in_place {
                format!("pod {pod} does not answer; that is not by the policy of this response, which is not in place")
            } else if silent {
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

/// The reason of an isolation that the agent's cut holds.
pub(super) const CUT: &str = "Cut";

/// What may be said while the policies are not due yet, and nothing is known of the cut.
fn not_yet(pod: &str) -> Verdict {
    Verdict {
        outcome: Outcome::Running,
        reason: "Settling",
        message: format!("pod {pod} is being cut off; policies follow when that has lasted, or is not answered"),
        assurance: Assurance::None,
        contained: Contained::Unseen,
        again_after: Some(AGENT_ANSWERS),
    }
}

/// What may be said with what the agent says: a cut that was read back from the kernel is the stronger word. What the policies
/// come to, once they are due, is said beside it.
pub(super) fn with_agent(
    cx: &Context<'_>,
    policies: Option<Verdict>,
    after: Option<Answer>,
    egress: Option<&Probe>,
) -> Result<Verdict, Unread> {
    let name = format!("{}/{}", cx.target.namespace.as_deref().unwrap_or_default(), cx.target.name);
    let alone = policies.is_none();
    let policies = policies.unwrap_or_else(|| not_yet(&name));
    let Some(containment) = seen::containment(cx)? else { return Ok(policies) };
    let node = &containment.spec.node_name;
    let status = containment.status.clone().unwrap_or_default();
    let look_again = |verdict: Verdict, after: SignedDuration| Verdict {
        again_after: [verdict.again_after, Some(after)].into_iter().flatten().min(),
        ..verdict
    };
    if !containment::holds(cx, cx.response_uid)? {
        let why = status.message.as_deref().unwrap_or("it has not answered yet");
        let message = format!("{}; the agent on node {node} has not cut the pod off: {why}", policies.message);
        let verdict = Verdict { message, ..policies };
        return Ok(if cx.elapsed() < AGENT_ANSWERS {
            look_again(verdict, AGENT_ANSWERS - cx.elapsed())
        } else {
            verdict
        });
    }
    // The operator's own attempts lag behind the cut: one answered a moment ago says nothing of it.
    if after.is_some_and(Answer::reached) && cx.elapsed() >= OTHERS_SETTLE {
        return Ok(Verdict {
            outcome: Outcome::Partial,
            reason: "NotInForce",
            message: format!(
                "the agent reads the cut back from the kernel of node {node}, and pod {name} still answers the operator"
            ),
            assurance: Assurance::None,
            contained: Contained::Open,
            again_after: None,
        });
    }
    if let Some(probe) = egress.filter(|probe| probe.before.reached() && probe.after.is_some_and(Answer::reached)) {
        return Ok(Verdict {
            outcome: Outcome::Partial,
            reason: "NotInForce",
            message: format!(
                "the agent reads the cut back from the kernel of node {node}, and {} still answers pod {name} from inside",
                probe.peer
            ),
            assurance: Assurance::None,
            contained: Contained::Open,
            again_after: None,
        });
    }
    let mut message =
        format!("the agent on node {node} cut pod {name} off in its own network namespace, open connections included");
    let silent = after == Some(Answer::TimedOut);
    let egress = egress.filter(|probe| is_proven(probe));
    message += match (silent, egress) {
        (false, None) => "; read back from the kernel",
        (true, _) => "; ingress proven: it answered the operator before and does not now",
        (false, Some(_)) => "",
    };
    if let Some(probe) = egress {
        message += &format!("; egress proven: {} answered it before and does not now", probe.peer);
    }
    message += match policies.contained {
        _ if alone => "; policies follow after a minute",
        Contained::Held => "; the policies are in force as well",
        Contained::Unseen | Contained::Open => "; the policies are not in force, or nobody can see whether they are",
    };
    let verdict = Verdict {
        outcome: Outcome::Done,
        reason: CUT,
        message,
        assurance: if silent || egress.is_some() { Assurance::Probed } else { Assurance::KernelVerified },
        contained: Contained::Held,
        again_after: policies.again_after.filter(|_| !alone),
    };
    Ok(if alone { look_again(verdict, ALONE - cx.elapsed()) } else { verdict })
}

/// Whether what answered before is silent now.
fn is_proven(probe: &Probe) -> bool {
    probe.before.reached() && probe.after == Some(Answer::TimedOut)
}

/// What stays open of a pod that is cut off.
pub(super) fn cut_residual(pod: &str, probes: &[Probe], containment: Option<&Containment>) -> Vec<Residual> {
    let mut residuals = vec![Residual {
        code: "NodeCanStillReach".to_owned(),
        severity: "Low".to_owned(),
        message: format!(
            "pod {pod}'s own node can still open connections to the ports of its probes: the kubelet does"
        ),
        remedy: None,
    }];
    let egress = probes.iter().find(|probe| probe.direction == Direction::Egress);
    if !egress.is_some_and(is_proven) {
        let why = match egress {
            Some(probe) if probe.before.reached() => format!("{} answered before, and is being tried", probe.peer),
            Some(probe) => format!("{} did not answer it before either", probe.peer),
            None => "nothing was tried from inside it".to_owned(),
        };
        residuals.push(Residual {
            code: "EgressNotProbed".to_owned(),
            severity: "Low".to_owned(),
            message: format!(
                "that pod {pod} reaches nobody was not proven ({why}); the cut drops what it sends, as read back from the kernel"
            ),
            remedy: None,
        });
    }
    let status = containment.and_then(|containment| containment.status.as_ref());
    if status.is_some_and(|status| status.hooks.as_deref() == Some("Inet")) {
        residuals.push(Residual {
            code: "RawSocketsOpen".to_owned(),
            severity: "Medium".to_owned(),
            message: format!(
                "pod {pod} is cut where IP packets pass only (its node's kernel is older than 5.16, or its agent was told so): what it \
                 sends on raw packet sockets is not stopped"
            ),
            remedy: Some("cut the node's port off, or delete the pod when its memory is not needed".to_owned()),
        });
    }
    if let Some(status) = status.filter(|status| status.restored > 0) {
        residuals.push(Residual {
            code: "CutTamperedWith".to_owned(),
            severity: "High".to_owned(),
            message: format!(
                "something in pod {pod} changed the cut, {} times at least; the agent put it back each time",
                status.restored
            ),
            remedy: Some(
                "it has CAP_NET_ADMIN: stop its processes, or delete the pod when its memory is not needed".to_owned(),
            ),
        });
    }
    residuals
}

/// What stays open, so that nobody believes more than is true.
pub(super) fn residual(pod: &str, engine: Engine, contained: Contained) -> Vec<Residual> {
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
            if matches!(engine, Engine::Cilium { .. }) {
                // Measured on Cilium 1.19.5 (docs/benchmarks.md): replies skip policy, and only TCP needs packets both ways.
                format!(
                    "over a UDP flow that was open before, pod {pod} can go on sending to the peer that opened it, and a peer to the pod \
                     that opened it; TCP connections stop, and go on after the release"
                )
            } else {
                format!("policies judge new connections; those that were open before may go on to and from pod {pod}")
            },
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
