//! One response brought to where it should be: look, decide, write down, act, look again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use kube::ResourceExt;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use tourniquet_api::{IncidentResponse, IncidentResponseStatus, names};
use tourniquet_cluster::{Cluster, Written};
use tourniquet_response::{
    Effect, Failure, Note, ObjectRef, Observation, Pass, Phase, Read, Recent, Settings, Step, Told, World,
    finalizer_ahead, mark_unreadable, notes, notes_of_unreadable, pass, report_failures, undo_unreadable, unobservable,
};
use tracing::{Instrument, error, info, info_span, warn};

use crate::events::Publisher;
use crate::metrics::Metrics;
use crate::pause::{Fault, Pauses};
use crate::prober::Prober;
use crate::tasks::Tasks;
use crate::triggers::{Known, Stored};
use crate::turns::{self, Turns};

/// How often one reconcile looks again at its own effects. Two are usual: act, then see. A response that others keep changing
/// waits for its next turn like one that fails, so that it cannot keep a worker for itself.
const ROUNDS: usize = 8;
/// How many objects of one response are written to at the same time.
const AT_A_TIME: usize = 16;
/// A look that nothing gave cause to.
const AT_THE_LATEST: Duration = Duration::from_secs(300);

/// What a reconcile needs.
pub(crate) struct Context {
    pub(crate) cluster: Cluster,
    pub(crate) settings: Settings,
    pub(crate) prober: Prober,
    pub(crate) tasks: Tasks,
    pub(crate) turns: Turns,
    pub(crate) publisher: Publisher,
    pub(crate) metrics: Metrics,
    pub(crate) known: Known,
    pub(crate) told: Mutex<Told>,
    pub(crate) recent: Mutex<Recent>,
    /// How long each response waits after a failure.
    pub(crate) pauses: Pauses,
}

/// Why a reconcile did not come to its end. It was reported where it could be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cluster(#[from] tourniquet_cluster::Error),
    #[error("{0}")]
    Effects(String, Fault),
    #[error("after {ROUNDS} rounds there is still something to do: somebody else changes it as fast as it is done")]
    Restless,
}

impl Context {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Error {
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Cluster(error) => error.into(),
            Self::Effects(_, fault) => *fault,
            Self::Restless => Fault::default(),
        }
    }
}

/// `namespace/name`.
pub(crate) fn name(stored: &Stored) -> String {
    format!("{}/{}", stored.namespace().unwrap_or_default(), stored.name_any())
}

/// Reconciles what is stored, readable or not.
pub(crate) async fn reconcile(stored: Arc<Stored>, cx: Arc<Context>) -> Result<Action, Error> {
    let uid = stored.uid().unwrap_or_default();
    let span = info_span!("response", response = name(&stored), uid);
    async {
        let result = match &stored.0 {
            Ok(response) => reconcile_response(response, &cx).await,
            Err(invalid) => reconcile_unreadable(invalid, &cx).await,
        };
        match &result {
            Ok(_) => {
                cx.pauses.forget(&uid);
            }
            Err(error) => {
                cx.metrics.failed();
                warn!(%error, "tried again later");
            }
        }
        result
    }
    .instrument(span)
    .await
}

/// An object that cannot be read is said to be so in its own status. Deleted, it is undone like any other.
async fn reconcile_unreadable(invalid: &InvalidObject, cx: &Context) -> Result<Action, Error> {
    let (namespace, name) = (
        invalid.metadata.namespace.as_deref().unwrap_or_default(),
        invalid.metadata.name.as_deref().unwrap_or_default(),
    );
    error!(error = invalid.error, "the stored object cannot be read");
    let Some(stored) = cx.cluster.stored(namespace, name).await? else { return Ok(Action::await_change()) };
    if stored.metadata.uid != invalid.metadata.uid {
        return Ok(Action::await_change());
    }
    let none = serde_json::Value::Null;
    let status = stored.data.get("status").unwrap_or(&none);
    let ours = stored.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER);
    if stored.metadata.deletion_timestamp.is_some() && ours {
        let mut world = World::new(jiff::Timestamp::now());
        let left = loop {
            match undo_unreadable(&stored.metadata, status, &world, &cx.settings) {
                Ok(left) => break left,
                Err(unread) => cx.cluster.observe(unread, &mut world).await?,
            }
        };
        if left.effects.is_empty() {
            if let Some(blocked) = left.blocked {
                warn!(blocked, "not undone yet");
                return Ok(Action::requeue(Duration::from_secs(5)));
            }
            cx.cluster.set_finalizer(&stored.metadata, false).await?;
            return Ok(Action::await_change());
        }
        for effect in &left.effects {
            cx.cluster.perform(effect).await?;
            info!(%effect, "done");
        }
        return Ok(Action::requeue(Duration::from_millis(250)));
    }
    let wanted = mark_unreadable(status, &invalid.error, stored.metadata.generation, jiff::Timestamp::now());
    if wanted != *status {
        let notes = notes_of_unreadable(&stored.metadata, status, &wanted);
        cx.cluster.write_bare_status(&stored, wanted).await?;
        cx.publisher.publish(&stored.metadata, notes);
    }
    Ok(Action::await_change())
}

async fn reconcile_response(stored: &IncidentResponse, cx: &Context) -> Result<Action, Error> {
    let uid = stored.uid().unwrap_or_default();
    // What is to be undone is somebody's service that does not run.
    let lets_go = stored.metadata.deletion_timestamp.is_some() || stored.spec.release == Some(true);
    let mut holds = stored.status.is_some() && !lets_go;
    // Of a new one, what the watch told is read as well as anything: nothing is done before a status is written for this very version.
    let mut told = Some(stored).filter(|stored| stored.status.is_none());
    for _ in 0..ROUNDS {
        let turn = if holds { cx.turns.take(&uid) } else { None };
        if holds && turn.is_none() {
            return Ok(Action::requeue(turns::AGAIN));
        }
        holds = !lets_go;
        let mut notes = Vec::new();
        let ended = round(stored, told.take(), cx, &mut notes).await;
        if matches!(ended, Ok(Round::Stale)) {
            holds = false;
        } else {
            cx.turns.decided(&uid);
        }
        // After the effects, whatever became of them: none of them waits for an event.
        cx.publisher.publish(&stored.metadata, notes);
        if let Round::Ended(action) = ended? {
            return Ok(action);
        }
    }
    Err(Error::Restless)
}

/// What one look came to.
enum Round {
    /// Somebody changed the response meanwhile: nothing was done, and it is read again.
    Stale,
    /// Something was done, and what came of it is to be seen.
    Acted,
    /// There is nothing to be done for now.
    Ended(Action),
}

/// Decides once, and carries it out.
async fn round(
    stored: &IncidentResponse,
    told: Option<&IncidentResponse>,
    cx: &Context,
    notes: &mut Vec<Note>,
) -> Result<Round, Error> {
    let (namespace, name) = (stored.namespace().unwrap_or_default(), stored.name_any());
    let uid = stored.uid().unwrap_or_default();
    // Otherwise never from the cache: what authorizes an effect is what is stored now.
    let current = match told {
        Some(told) => Some(told.clone()),
        None => cx.cluster.response(&namespace, &name).await?,
    };
    let Some(mut response) = current.filter(|current| current.uid().as_deref() == Some(&uid)) else {
        cx.prober.watch(&uid, &[]);
        cx.tasks.forget(&uid);
        cx.turns.forget(&uid);
        cx.metrics.forget(&uid);
        cx.told().forget(&uid);
        return Ok(Round::Ended(Action::await_change()));
    };
    cx.metrics.sees(&uid, &response);
    let decided = if finalizer_ahead(&response, &cx.settings) {
        let finalizer = cx.cluster.set_finalizer(&response.metadata, true);
        let (finalizer, decided) = futures::join!(finalizer, decide(&response, &uid, cx));
        match finalizer {
            Ok(Written::Stale) => return Ok(Round::Stale),
            Ok(Written::Done(metadata)) => {
                response.metadata = *metadata;
                decided
            }
            // Without it nothing is done, and it is said why.
            Err(error) => Err(error.into()),
        }
    } else {
        decide(&response, &uid, cx).await
    };
    let plan = match decided {
        Ok(plan) => plan,
        Err(error) => {
            // What cannot be seen is said, like everything else: nobody may go on believing an old status.
            let status = unobservable(&response, &error.to_string(), jiff::Timestamp::now());
            if serialized(&status) != serialized(&response.status.clone().unwrap_or_default()) {
                write(&mut response, &status, cx, notes).await?;
            }
            return Err(error);
        }
    };
    cx.prober.watch(&uid, &plan.watch);

    if plan.finalizer_goes_first() && !keep_finalizer(&mut response, &plan, cx).await? {
        return Ok(Round::Stale);
    }
    if serialized(&plan.status) != serialized(&response.status.clone().unwrap_or_default()) {
        if !write(&mut response, &plan.status, cx, notes).await? {
            return Ok(Round::Stale);
        }
        report(&plan);
    }
    if !keep_finalizer(&mut response, &plan, cx).await? {
        return Ok(Round::Stale);
    }
    if plan.steps.is_empty() {
        let after = plan.again_after.map_or(AT_THE_LATEST, |after| {
            Duration::try_from(after).unwrap_or_default().clamp(Duration::from_millis(50), AT_THE_LATEST)
        });
        let rests = matches!(plan.phase, Phase::Refused | Phase::Released | Phase::Planned | Phase::Unaccepted);
        return Ok(Round::Ended(if rests { Action::await_change() } else { Action::requeue(after) }));
    }
    let mut fault = Fault::default();
    let failures = perform(&plan, cx, &mut fault).await;
    if !failures.is_empty() {
        let undoing = plan.phase == Phase::Releasing;
        cx.metrics.not_undone(if undoing { failures.len() } else { 0 });
        let status = report_failures(&response, &plan.status, undoing, &failures, jiff::Timestamp::now());
        write(&mut response, &status, cx, notes).await?;
        let messages: Vec<&str> = failures.iter().map(|failure| failure.message.as_str()).collect();
        return Err(Error::Effects(messages.join("; "), fault));
    }
    Ok(Round::Acted)
}

/// Writes the status, and notes what in it is worth an event. False when somebody changed the response since it was read.
async fn write(
    response: &mut IncidentResponse,
    status: &IncidentResponseStatus,
    cx: &Context,
    noted: &mut Vec<Note>,
) -> Result<bool, Error> {
    let Written::Done(now) = cx.cluster.write_status(response, status).await? else { return Ok(false) };
    let (uid, before) = (response.uid().unwrap_or_default(), response.status.clone().unwrap_or_default());
    cx.metrics.written(&uid, &response.spec.actions, &before, status);
    let news = notes(response, &before, status);
    noted.extend(cx.told().news(&uid, status, news));
    *response = *now;
    cx.known.written(response);
    cx.recent().written(response, jiff::Timestamp::now());
    Ok(true)
}

/// Puts the finalizer on, or takes it off. False when somebody changed the response since it was read.
async fn keep_finalizer(response: &mut IncidentResponse, plan: &Pass, cx: &Context) -> Result<bool, Error> {
    let has_finalizer = response.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER);
    // To an object that is being deleted the API server lets nobody add one: whoever took ours off, undo goes on.
    let deleted = response.metadata.deletion_timestamp.is_some();
    if has_finalizer == plan.finalizer || (plan.finalizer && deleted) {
        return Ok(true);
    }
    match cx.cluster.set_finalizer(&response.metadata, plan.finalizer).await? {
        Written::Stale => Ok(false),
        Written::Done(metadata) => {
            response.metadata = *metadata;
            Ok(true)
        }
    }
}

/// Looks until there is enough to decide.
async fn decide(response: &IncidentResponse, uid: &str, cx: &Context) -> Result<Pass, Error> {
    let mut world = World::new(jiff::Timestamp::now());
    loop {
        let mut unread = match pass(response, &world, &cx.settings) {
            Ok(pass) => return Ok(pass),
            Err(unread) => unread,
        };
        unread.0.retain(|read| {
            let seen = match read {
                Read::Reach { address } => Observation::Reach(cx.prober.reach(uid, *address)),
                Read::Recent => Observation::Recent(cx.recent().seen()),
                Read::Task(key) => Observation::Task(cx.tasks.look(key)),
                _ => return true,
            };
            world.observed.insert(read.clone(), seen);
            false
        });
        cx.cluster.observe(unread, &mut world).await?;
    }
}

/// Carries the steps out, past those that fail: where one policy is refused, the other may contain the pod. In order of the kinds of
/// object, and on each object in order; on objects of one kind at the same time: fifty pods one after the other would be fifty waits.
async fn perform(plan: &Pass, cx: &Context, fault: &mut Fault) -> Vec<Failure> {
    let mut failures = Vec::new();
    for of_kind in plan.steps.chunk_by(|one, other| one.effect.object().kind == other.effect.object().kind) {
        let mut by_object: BTreeMap<&ObjectRef, Vec<&Step>> = BTreeMap::new();
        for step in of_kind {
            by_object.entry(step.effect.object()).or_default().push(step);
        }
        let performing: Vec<_> = by_object.into_values().map(|steps| perform_in_order(steps, cx)).collect();
        for (failure, of) in stream::iter(performing).buffered(AT_A_TIME).concat().await {
            *fault = fault.and(of);
            failures.push(failure);
        }
    }
    failures
}

async fn perform_in_order(steps: Vec<&Step>, cx: &Context) -> Vec<(Failure, Fault)> {
    let mut failures = Vec::new();
    for step in steps {
        let performed = match &step.effect {
            Effect::Start { object, key, work } => {
                cx.tasks.start(object, key, work);
                Ok(())
            }
            Effect::Stop { key, .. } => {
                cx.tasks.stop(key);
                Ok(())
            }
            request => cx.cluster.perform(request).await,
        };
        match performed {
            Ok(()) => info!(action = step.action, effect = %step.effect, "done"),
            Err(error) => failures.push((step.failed(error.to_string()), Fault::from(&error))),
        }
    }
    failures
}

/// As it is stored: times have no fractions of a second there.
fn serialized(status: &IncidentResponseStatus) -> serde_json::Value {
    serde_json::to_value(status).unwrap_or_default()
}

fn report(plan: &Pass) {
    let condition = |type_: &str| {
        let condition = plan.status.conditions.iter().find(|condition| condition.type_ == type_);
        condition.map_or("", |condition| condition.status.as_str())
    };
    let ready = plan.status.conditions.iter().find(|condition| condition.type_ == "Ready");
    info!(
        phase = ?plan.phase,
        ready = condition("Ready"),
        contained = condition("Contained"),
        reason = ready.map_or("", |ready| ready.reason.as_str()),
        why = ready.map_or("", |ready| ready.message.as_str()),
        "reported"
    );
}
