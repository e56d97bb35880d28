//! One Containment as the agent has it: what is asked for, what the kernel was seen to hold, and who is busy with it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tourniquet_agent::netns::{NetNs, NsId};
use tourniquet_api::{Answer, Containment, ContainmentState, ContainmentStatus, Direction};

use crate::pod::Hold;

/// How often what is proven is tried again: silence from inside has to last as long as the cut does.
const AGAIN: Duration = Duration::from_secs(30);

/// How long to look for the next sandbox of a pod. The kubelet starts one within a second or two, unless it waits after
/// failures.
const SEEK_FOR: Duration = Duration::from_secs(30);

/// One Containment.
pub(crate) struct Entry {
    /// As it is stored, as far as the agent has heard.
    pub(crate) containment: Containment,
    /// What is so; what is stored follows.
    pub(crate) status: ContainmentStatus,
    /// When the agent heard of what is asked for.
    pub(crate) received: Timestamp,
    /// What is kept of the pod; away while it is being worked on, since two at a time would undo each other's work.
    pub(crate) hold: Option<Hold>,
    /// Something has changed while it was being worked on.
    pub(crate) again: bool,
    /// Its status is being written.
    pub(crate) writing: bool,
    /// It is not stored any more.
    pub(crate) gone: bool,
    /// It was in the list that is being read.
    pub(crate) listed: bool,
    /// Until when to look for a pod whose sandbox has just ended: the runtime may be making another one.
    pub(crate) seeking: Option<Instant>,
    /// When the kernel was last asked.
    pub(crate) asked: Option<Instant>,
    /// An attempt from inside the pod is under way.
    trying: bool,
    /// When the last one ended.
    tried: Option<Instant>,
}

impl Entry {
    pub(crate) fn new(containment: Containment, hold: Hold) -> Self {
        Self {
            status: containment.status.clone().unwrap_or_default(),
            containment,
            received: Timestamp::now(),
            hold: Some(hold),
            again: false,
            writing: false,
            gone: false,
            listed: true,
            seeking: None,
            asked: None,
            trying: false,
            tried: None,
        }
    }

    /// Takes what the API server says. Returns whether anything else is asked for than before.
    pub(crate) fn update(&mut self, containment: Containment) -> bool {
        let another = self.containment.metadata.uid != containment.metadata.uid;
        let changed = another || self.gone || self.containment.metadata.generation != containment.metadata.generation;
        if another {
            self.status = containment.status.clone().unwrap_or_default();
        }
        if changed {
            self.received = Timestamp::now();
        }
        self.containment = containment;
        self.listed = true;
        self.gone = false;
        changed
    }

    /// Whether anything was ever seen of it.
    pub(crate) fn is_known(&self) -> bool {
        self.status.observed_generation.is_some()
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.status.state == ContainmentState::Cut
    }

    /// Takes what was seen. A pod that was cut and is nowhere is looked for: a new sandbox has the same UID and is not cut.
    pub(crate) fn saw(&mut self, status: ContainmentStatus) {
        let gone = self.is_cut() && status.state == ContainmentState::PodGone;
        let bereft = self.hold.as_ref().is_some_and(|hold| hold.bereft);
        let another = self.status.network_namespace != status.network_namespace && status.network_namespace.is_some();
        self.status = status;
        if gone || bereft {
            self.seeking = Instant::now().checked_add(SEEK_FOR);
        }
        if another || self.seeking.is_some_and(|end| end <= Instant::now()) {
            self.seeking = None;
        }
    }

    /// Whether what is stored is not what is so.
    pub(crate) fn is_stale(&self) -> bool {
        // As they are stored: a time has six digits there, or none.
        let stored = |status: &ContainmentStatus| serde_json::to_value(status).unwrap_or_default();
        stored(&self.status) != stored(&self.containment.status.clone().unwrap_or_default())
    }

    /// What is to be tried from inside now, if anything is: only what answered before can be seen to be silent.
    pub(crate) fn try_next(&mut self) -> Option<(NetNs, SocketAddr)> {
        let namespace = self.hold.as_ref()?.namespace.clone().filter(|_| self.is_cut() && !self.trying)?;
        let probe = self.status.probes.iter().find(|probe| probe.direction == Direction::Egress)?;
        let due = probe.after.is_none() || self.tried.is_none_or(|tried| tried.elapsed() >= AGAIN);
        let peer = probe.peer.parse().ok().filter(|_| due && probe.before.reached())?;
        self.trying = true;
        Some((namespace, peer))
    }

    /// Takes the answer of an attempt that began then. One that ends while the pod is being worked on, or in another namespace than
    /// the one that is cut, may be of before or of after, and counts for nothing.
    pub(crate) fn tried(&mut self, namespace: NsId, peer: SocketAddr, answer: Option<Answer>, began: Timestamp) {
        self.trying = false;
        let current = self.hold.as_ref().and_then(|hold| hold.namespace.as_ref());
        if !self.is_cut() || current.is_none_or(|current| current.id() != namespace) {
            return;
        }
        self.tried = Some(Instant::now());
        let cut_since = self.status.cut_at.as_ref().is_some_and(|cut| cut.0 <= began);
        let text = peer.to_string();
        let probe =
            self.status.probes.iter_mut().find(|probe| probe.direction == Direction::Egress && probe.peer == text);
        let Some(probe) = probe.filter(|probe| cut_since && answer.is_some() && probe.after != answer) else { return };
        probe.after = answer;
        probe.at = Some(Time(began));
    }
}
