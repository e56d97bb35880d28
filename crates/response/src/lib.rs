//! What each response means: acceptance, plan, assessment and undo.
//!
//! Everything here is a pure function of a response, a [`World`] that somebody observed, and the [`Settings`]. There is no
//! async, no I/O and no clock: the time is part of the world. So every decision can be tested without a cluster, and a
//! restart at any point plans again from what is seen.
//!
//! One call of [`pass`] answers: what to write into status, whether the finalizer is needed, what to do next, and when to
//! look again. What it needs to see it asks for with [`Unread`].

mod accept;
mod action;
mod collect;
mod concerns;
mod conditions;
mod cordon;
mod deeds;
mod effect;
mod events;
mod fields;
mod isolate;
mod label;
mod leftovers;
mod pass;
mod power;
mod preserve;
mod rbac;
mod receipt;
mod recent;
mod run;
mod settings;
mod status;
mod target;
mod task;
mod told;
mod unreadable;
mod world;

pub use concerns::Concerns;
pub use deeds::{Deed, deeds, released_by};
pub use effect::{Effect, Kind, ObjectRef};
pub use events::{About, Note, NoteType, notes, notes_of_unreadable};
pub use fields::merge;
pub use leftovers::{
    LEFTOVER_UNDONE, Leftovers, Orphan, Remnant, Standing, Traces, carries_trace, leftovers, name_on_node,
    vanished_in_force,
};
pub use pass::{Failure, Pass, Phase, Step, finalizer_ahead, pass, peer};
pub use power::{POWER_OFF, Power};
pub use rbac::{rbac_rules, rbac_rules_of};
pub use receipt::{Grant, Grants, Looked, Neighbour, Neighbours};
pub use recent::Recent;
pub use settings::{Agents, BlastRadius, Budget, Settings};
pub use status::{report_failures, unobservable};
pub use task::{
    Artifact, Collection, CollectionReport, Command, CommandReport, Custody, Ended, FromOutside, Progress, Release,
    ReleaseReport, ReleasedFolder, Seal, TaskKey, TaskReport, TaskSeen, TaskState, Way, Work,
};
pub use told::Told;
pub use unreadable::{Leftover, mark_unreadable, undo_unreadable};
pub use world::{
    AdmissionBackend, Calico, CalicoTier, CiliumEndpoint, ClusterwidePolicy, Engines, Observation, PeerResponse, Reach,
    Read, ServiceSelector, Unread, World,
};
