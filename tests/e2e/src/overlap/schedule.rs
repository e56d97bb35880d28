//! What happens, drawn from a seed.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};

/// The pods that responses are about.
pub(super) const PODS: [&str; 2] = ["web", "db"];
/// A label that pods, namespace and node have before anything is done.
pub(super) const OWNED: &str = "owner";
/// One that both pods have, and that nobody changes.
pub(super) const SELECTED: (&str, &str) = ("tier", "front");
/// Responses of one schedule at least, and so many more at most.
const RESPONSES: (usize, usize) = (6, 4);

/// What a response asks for. A target or a verb is added here: to the enum, to [`Asked::draw`], to [`Asked::spec`], and, when it isolates,
/// to [`Asked::isolates`].
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Isolate {
        pod: usize,
    },
    LabelPod {
        pod: usize,
        overwrite: bool,
    },
    LabelNamespace {
        overwrite: bool,
    },
    Cordon,
    /// An isolation, and a label that replaces somebody's.
    IsolateAndLabel {
        pod: usize,
        label_first: bool,
    },
    /// All pods with a label, together.
    IsolateSelected,
    /// All pods of the namespace, and a label on the namespace itself, or none.
    IsolateNamespace {
        label: bool,
    },
    /// A cordon, and a label that replaces somebody's.
    CordonAndLabel,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Create(usize),
    /// Wait until it is carried out, or has failed.
    Settle(usize),
    Release(usize),
    Delete(usize),
    /// The operator is killed, and started again.
    Kill,
    /// Wait until the pod is answered again, where nobody holds it.
    Answers(usize),
    /// Wait until more was tried on the pod.
    Watch(usize),
}

/// One schedule.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    pub(super) asked: Vec<Asked>,
    pub(super) steps: Vec<Step>,
}

impl Asked {
    fn draw(rng: &mut fastrand::Rng) -> Self {
        let (pod, flag) = (rng.usize(..PODS.len()), rng.bool());
        match rng.u8(..16) {
            0..=4 => Self::Isolate { pod },
            5 => Self::LabelPod { pod, overwrite: flag },
            6 => Self::LabelNamespace { overwrite: flag },
            7 => Self::Cordon,
            8 => Self::CordonAndLabel,
            9 | 10 => Self::IsolateSelected,
            11..=13 => Self::IsolateNamespace { label: flag },
            _ => Self::IsolateAndLabel { pod, label_first: flag },
        }
    }

    /// As it is asked for.
    pub(super) fn spec(&self, namespace: &str, node: &str) -> Value {
        let on_pod = |pod: usize| json!({ "pod": { "namespace": namespace, "name": PODS[pod] } });
        let selector = json!({ "matchLabels": { SELECTED.0: SELECTED.1 } });
        let on_namespace = json!({ "namespace": { "name": namespace } });
        let label = |overwrite: bool| {
            // Of the same key as others, which can be refused, and one that nobody refuses.
            let (key, value) = if overwrite { (OWNED, "soc") } else { ("incident", "4711") };
            json!({ "label": { "set": { key: value }, "overwrite": overwrite } })
        };
        let (target, actions) = match *self {
            Self::Isolate { pod } => (on_pod(pod), json!([{ "isolate": {} }])),
            Self::LabelPod { pod, overwrite } => (on_pod(pod), json!([label(overwrite)])),
            Self::LabelNamespace { overwrite } => (on_namespace, json!([label(overwrite)])),
            Self::IsolateSelected => {
                (json!({ "pods": { "namespace": namespace, "selector": selector } }), json!([{ "isolate": {} }]))
            }
            Self::IsolateNamespace { label: true } => (on_namespace, json!([{ "isolate": {} }, label(false)])),
            Self::IsolateNamespace { .. } => (on_namespace, json!([{ "isolate": {} }])),
            Self::Cordon => (json!({ "node": { "name": node } }), json!([{ "cordon": {} }])),
            Self::IsolateAndLabel { pod, label_first: true } => (on_pod(pod), json!([label(true), { "isolate": {} }])),
            Self::IsolateAndLabel { pod, .. } => (on_pod(pod), json!([{ "isolate": {} }, label(false)])),
            Self::CordonAndLabel => (json!({ "node": { "name": node } }), json!([{ "cordon": {} }, label(true)])),
        };
        json!({ "target": target, "actions": actions })
    }

    /// The pods that have to be silent once it says `Contained=True`.
    pub(super) fn isolates(&self) -> BTreeSet<usize> {
        match *self {
            Self::Isolate { pod } | Self::IsolateAndLabel { pod, .. } => [pod].into(),
            Self::IsolateSelected | Self::IsolateNamespace { .. } => (0..PODS.len()).collect(),
            Self::LabelPod { .. } | Self::LabelNamespace { .. } | Self::Cordon | Self::CordonAndLabel => [].into(),
        }
    }
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let asked: Vec<Asked> = (0..RESPONSES.0 + rng.usize(..=RESPONSES.1)).map(|_| Asked::draw(&mut rng)).collect();
        // What is still to happen to each response, the next one last.
        let mut left: Vec<Vec<Step>> = (0..asked.len()).map(|number| Self::life(number, &mut rng)).collect();
        let mut steps = Vec::new();
        loop {
            let living: Vec<usize> = (0..left.len()).filter(|number| !left[*number].is_empty()).collect();
            let Some(number) = rng.choice(living) else { break };
            steps.extend(left[number].pop());
            match rng.u8(..12) {
                0 => steps.push(Step::Kill),
                1 | 2 => steps.push(Step::Answers(rng.usize(..PODS.len()))),
                3 | 4 => steps.push(Step::Watch(rng.usize(..PODS.len()))),
                _ => {}
            }
        }
        Self { seed, asked, steps }
    }

    fn life(number: usize, rng: &mut fastrand::Rng) -> Vec<Step> {
        let mut life = vec![Step::Create(number)];
        // Without one it is let go while it is still being carried out.
        if rng.u8(..4) > 0 {
            life.push(Step::Settle(number));
        }
        if rng.bool() {
            life.push(Step::Release(number));
        }
        life.push(Step::Delete(number));
        life.reverse();
        life
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, asked) in self.asked.iter().enumerate() {
            write!(f, "{number} {asked:?}; ")?;
        }
        write!(f, "{:?}", self.steps)
    }
}
