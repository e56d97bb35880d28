//! Random stories: what happens to pods, their namespace and a node, in any order.

use proptest::prelude::*;
use serde_json::json;
use tourniquet_api::names;

use super::agents::Mood;
use super::asked::{self, Asked};
use super::network::Engine;
use super::objects::{THINGS, Thing};
use super::operator::Operator;
use super::outsiders::Tampering;
use super::{BYSTANDER, LATE, Sim};
use crate::fixtures::labels::UNSCHEDULABLE;
use crate::fixtures::{allow_all, policy, seconds};

/// The responses that a story is about.
pub(crate) const RESPONSES: [&str; 6] = ["ir-1", "ir-2", "ir-3", "ir-4", "ir-5", "ir-6"];

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Create {
        response: usize,
        asked: Asked,
        expire_after: Option<u64>,
        dry_run: bool,
    },
    Delete(usize),
    Release(usize),
    /// The operator goes on with this response: so many writes.
    Work {
        response: usize,
        writes: usize,
    },
    /// The operator brings everything to rest.
    Settle,
    Crash,
    /// The API server refuses the next effect.
    Fail,
    Wait(i64),
    Label(Thing, usize, usize),
    Unlabel(Thing, usize),
    GitOps(Thing, Vec<(usize, usize)>),
    /// Somebody cordons the node, or uncordons it.
    Cordon(bool),
    AddPolicy(usize),
    RemovePolicy(usize),
    Tamper(Tampering, usize),
    /// Another one comes in its place. A pod that is gone or not there yet starts.
    Replace(Thing),
    VanishPod,
    FinishPod,
    LoseEndpoint,
    /// The agents look, and do what they are asked for.
    AgentsAct,
    /// The same, but what they did is not written down yet.
    AgentsDo,
    AgentsBecome(Mood),
    TamperCut(Mood),
    VanishNode,
}

/// The labels that others use; the second is the one that we put on every isolated pod.
const KEYS: [&str; 3] = [asked::KEYS[0], names::CONTAINED_LABEL, asked::KEYS[1]];
const VALUES: [&str; 4] = [asked::VALUES[0], "true", asked::VALUES[1], asked::VALUES[2]];

fn response() -> impl Strategy<Value = usize> {
    0..RESPONSES.len()
}

/// What responders and the operator do.
fn work(asked: BoxedStrategy<Asked>) -> impl Strategy<Value = Event> {
    let expiry = prop_oneof![4 => Just(None), 1 => (1..300u64).prop_map(Some)];
    prop_oneof![
        5 => (response(), asked, expiry, proptest::bool::weighted(0.1)).prop_map(
            |(response, asked, expire_after, dry_run)| Event::Create { response, asked, expire_after, dry_run }
        ),
        3 => response().prop_map(Event::Delete),
        1 => response().prop_map(Event::Release),
        12 => (response(), 1..12usize).prop_map(|(response, writes)| Event::Work { response, writes }),
        2 => Just(Event::Settle),
        2 => Just(Event::Crash),
        1 => Just(Event::Fail),
        4 => (1..40i64).prop_map(Event::Wait),
        3 => Just(Event::AgentsAct),
        2 => Just(Event::AgentsDo),
    ]
}

/// What others do to what is theirs.
fn others() -> impl Strategy<Value = Event> {
    let thing = || {
        let [pod, pods @ .., namespace, node] = THINGS;
        prop_oneof![4 => Just(pod), 1 => proptest::sample::select(pods.to_vec()), 1 => Just(namespace), 1 => Just(node)]
    };
    let label = || (0..KEYS.len(), 0..VALUES.len());
    prop_oneof![
        4 => (thing(), label()).prop_map(|(thing, (key, value))| Event::Label(thing, key, value)),
        1 => (thing(), 0..KEYS.len()).prop_map(|(thing, key)| Event::Unlabel(thing, key)),
        3 => (thing(), proptest::collection::vec(label(), 0..3)).prop_map(|(thing, labels)| Event::GitOps(thing, labels)),
        1 => proptest::bool::ANY.prop_map(Event::Cordon),
        2 => (0..4usize).prop_map(Event::AddPolicy),
        1 => (0..4usize).prop_map(Event::RemovePolicy),
        1 => thing().prop_map(Event::Replace),
        1 => Just(Event::LoseEndpoint),
        1 => prop_oneof![Just(Event::FinishPod), Just(Event::VanishPod)],
    ]
}

/// What others do to what is ours.
fn tampering() -> impl Strategy<Value = Event> {
    let how = proptest::sample::select(vec![
        Tampering::DeletesNetworkPolicy,
        Tampering::AllowsInNetworkPolicy,
        Tampering::NarrowsNetworkPolicy,
        Tampering::DeletesDenyPolicy,
        Tampering::EmptiesDenyPolicy,
        Tampering::NarrowsDenyPolicy,
        Tampering::RemovesIsolationLabel,
        Tampering::RemovesContainedLabel,
        Tampering::DeletesContainment,
        Tampering::RemovesHolder,
    ]);
    (how, response()).prop_map(|(how, response)| Event::Tamper(how, response))
}

/// What befalls agents and nodes.
fn nodes() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::AgentsBecome(Mood::Away)),
        4 => Just(Event::AgentsBecome(Mood::Works)),
        1 => Just(Event::AgentsBecome(Mood::Fails)),
        1 => Just(Event::TamperCut(Mood::Works)),
        2 => Just(Event::TamperCut(Mood::Fails)),
        1 => Just(Event::VanishNode),
    ]
}

/// A story with nobody but us and the passing of time.
pub(crate) fn quiet_story() -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(work(asked::anything()), 1..60)
}

/// A story about agents that come and go, and about who meddles with what they are asked for.
pub(crate) fn agents_story() -> impl Strategy<Value = Vec<Event>> {
    let meddling = proptest::sample::select(vec![Tampering::DeletesContainment, Tampering::RemovesHolder]);
    let meddling = (meddling, response()).prop_map(|(how, response)| Event::Tamper(how, response));
    proptest::collection::vec(prop_oneof![8 => work(asked::anything()), 4 => nodes(), 1 => meddling], 1..60)
}

/// A story in which everybody takes part.
pub(crate) fn story() -> impl Strategy<Value = Vec<Event>> {
    story_of(asked::anything())
}

/// The same about one pod, which is isolated and nothing else.
pub(crate) fn isolations() -> impl Strategy<Value = Vec<Event>> {
    story_of(asked::isolation())
}

/// The same about pods that are isolated one by one, several together, and with their namespace.
pub(crate) fn isolations_of_many() -> impl Strategy<Value = Vec<Event>> {
    let pods = [Thing::Pod(LATE), Thing::Pod(BYSTANDER), Thing::Namespace];
    let comings = proptest::sample::select(pods.to_vec()).prop_map(Event::Replace);
    let work = work(asked::isolations_of_many());
    proptest::collection::vec(
        prop_oneof![12 => work, 2 => comings, 2 => others(), 1 => tampering(), 2 => nodes()],
        1..60,
    )
}

/// The same of which everything can be undone without a journal.
pub(crate) fn story_without_journal() -> impl Strategy<Value = Vec<Event>> {
    story_of(asked::what_derives())
}

fn story_of(asked: BoxedStrategy<Asked>) -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(prop_oneof![10 => work(asked), 3 => others(), 1 => tampering(), 2 => nodes()], 1..60)
}

/// A cluster in which nothing has happened yet: any engine, with agents and without.
pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    let engine = prop_oneof![3 => Just(Engine::Cilium), 2 => Just(Engine::Additive), 2 => Just(Engine::None)];
    (engine, proptest::bool::ANY).prop_map(|(engine, agents)| Cluster { engine, agents })
}

/// What there is besides the pods.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cluster {
    pub(crate) engine: Engine,
    pub(crate) agents: bool,
}

impl Cluster {
    pub(crate) fn start(self) -> Sim {
        if self.agents { Sim::with_agents(self.engine) } else { Sim::new(self.engine) }
    }
}

/// Lets it all happen. The laws that hold at every moment are checked on the way.
pub(crate) fn happen(sim: &mut Sim, operator: &mut Operator, events: &[Event]) {
    for event in events {
        match event {
            Event::Create { response, asked, expire_after, dry_run } => {
                sim.create_asked(RESPONSES[*response], asked, *expire_after, *dry_run);
            }
            Event::Delete(response) => sim.delete_response(RESPONSES[*response]),
            Event::Release(response) => sim.release_response(RESPONSES[*response]),
            Event::Work { response, writes } => {
                for _ in 0..*writes {
                    operator.step(sim, RESPONSES[*response]);
                }
            }
            Event::Settle => operator.settle(sim),
            Event::Crash => operator.crash(sim),
            Event::Fail => sim.fail_next = true,
            Event::Wait(time) => sim.wait(seconds(*time)),
            Event::Label(thing, key, value) => sim.user_labels(*thing, KEYS[*key], VALUES[*value]),
            Event::Unlabel(thing, key) => sim.user_unlabels(*thing, KEYS[*key]),
            Event::Cordon(true) => sim.user_labels(Thing::Node, UNSCHEDULABLE, "true"),
            Event::Cordon(false) => sim.user_unlabels(Thing::Node, UNSCHEDULABLE),
            Event::GitOps(thing, labels) => {
                let labels: Vec<_> = labels.iter().map(|(key, value)| (KEYS[*key], VALUES[*value])).collect();
                sim.gitops_applies(*thing, &labels);
            }
            Event::AddPolicy(which) => sim.user_adds(users_policy(*which)),
            Event::RemovePolicy(which) => sim.user_removes(users_policy(*which).metadata.name.as_deref().unwrap()),
            Event::Tamper(how, response) => sim.tampered(*how, RESPONSES[*response]),
            Event::Replace(thing) => sim.is_replaced(*thing),
            Event::VanishPod => sim.pod_vanishes(),
            Event::FinishPod => sim.pod_finishes(),
            Event::LoseEndpoint => sim.endpoint_vanishes(),
            Event::AgentsAct => sim.agents_act(),
            Event::AgentsDo => sim.agents_do(),
            Event::AgentsBecome(mood) => sim.agents_become(*mood),
            Event::TamperCut(then) => sim.cut_is_tampered(*then),
            Event::VanishNode => sim.node_vanishes(),
        }
    }
}

fn users_policy(which: usize) -> k8s_openapi::api::networking::v1::NetworkPolicy {
    match which {
        0 => allow_all("allow-all"),
        1 => policy(
            "allow-blue",
            json!({
                "podSelector": { "matchLabels": { "app": "blue" } },
                "policyTypes": ["Ingress"],
                "ingress": [{}],
            }),
        ),
        2 => policy("allow-egress", json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{}] })),
        _ => policy("deny-all", json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] })),
    }
}

/// Everybody lets go, agents run that can, and the operator comes to its end.
pub(crate) fn everybody_lets_go(sim: &mut Sim, operator: &mut Operator) {
    for name in RESPONSES {
        sim.delete_response(name);
    }
    sim.agents_become(Mood::Works);
    operator.settle(sim);
}
