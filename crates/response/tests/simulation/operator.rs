//! The operator's loop, one write at a time, so that anything can happen in between: a crash, another response, a user.

use std::collections::BTreeMap;

use serde_json::json;
use tourniquet_api::{IncidentResponse, IncidentResponseStatus, names};
use tourniquet_response::{Failure, Pass, Phase, finalizer_ahead, report_failures};

use super::Sim;
use super::api::Stale;
use super::laws::Looked;
use crate::fixtures::seconds;

/// Longer than anything that is waited for: identities, and the limits after which a verdict is final.
const QUIET: usize = 8;
const PAUSE: i64 = 20;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is more to do at once.
    Moved,
    /// Nothing to do before something changes, or time passes.
    Rests,
}

/// The process. All that it has in memory is lost in a crash.
#[derive(Clone, Default)]
pub(crate) struct Operator {
    runs: BTreeMap<String, Run>,
    /// Writes so far, over all its lives.
    pub(crate) writes: usize,
    crash_after: Option<usize>,
}

/// One reconcile under way.
#[derive(Clone)]
struct Run {
    response: IncidentResponse,
    plan: Pass,
    looked: Looked,
    next: Next,
}

#[derive(Clone)]
enum Next {
    /// The finalizer, while it is still being decided.
    Ahead,
    /// Of a refused one the finalizer, before it is said.
    First,
    Status,
    Finalizer,
    Step(usize, Vec<Failure>),
    /// Everything was written: look again at what was read last.
    Look,
}

impl Operator {
    /// One that crashes after so many writes, and is started again.
    pub(crate) fn that_crashes_after(writes: usize) -> Self {
        Self { crash_after: Some(writes), ..Self::default() }
    }

    /// Loses everything that it has in memory.
    pub(crate) fn crash(&mut self, sim: &mut Sim) {
        self.runs.clear();
        sim.forget_attempts();
    }

    /// Goes on with one response, up to its next write.
    pub(crate) fn step(&mut self, sim: &mut Sim, name: &str) -> Progress {
        let before = self.writes;
        let progress = match self.runs.remove(name) {
            None => self.look(sim, name, None),
            Some(Run { response, next: Next::Look, .. }) => self.look(sim, name, Some(response)),
            Some(run) => self.write(sim, name, run),
        };
        if self.writes > before && self.crash_after.is_some_and(|at| at == self.writes) {
            self.crash(sim);
            return Progress::Moved;
        }
        progress
    }

    fn look(&mut self, sim: &mut Sim, name: &str, known: Option<IncidentResponse>) -> Progress {
        let Some(response) = known.or_else(|| sim.responses.get(name).cloned()) else { return Progress::Rests };
        let plan = sim.decide(&response);
        sim.watch(response.metadata.uid.as_deref().unwrap_or_default(), &plan.watch);
        let looked = sim.looked();
        if same(&plan.status, &response) {
            sim.says_so_again(&response, looked);
        }
        let run = Run { response, plan, looked, next: Next::Ahead };
        self.schedule(sim, name, run)
    }

    /// Keeps a run whose next write is needed; skips the writes that are not.
    fn schedule(&mut self, sim: &Sim, name: &str, mut run: Run) -> Progress {
        loop {
            let next = match &run.next {
                Next::Ahead if finalizer_ahead(&run.response, &sim.settings()) => break,
                Next::Ahead => Next::First,
                Next::First if run.plan.finalizer_goes_first() && has_finalizer(&run.response) => break,
                Next::First => Next::Status,
                Next::Status if !same(&run.plan.status, &run.response) => break,
                Next::Status => Next::Finalizer,
                Next::Finalizer if has_finalizer(&run.response) != run.plan.finalizer && !too_late(&run) => break,
                Next::Finalizer if run.plan.steps.is_empty() => return Progress::Rests,
                Next::Finalizer => Next::Step(0, Vec::new()),
                Next::Step(..) | Next::Look => break,
            };
            run.next = next;
        }
        self.runs.insert(name.to_owned(), run);
        Progress::Moved
    }

    fn write(&mut self, sim: &mut Sim, name: &str, mut run: Run) -> Progress {
        self.writes += 1;
        match run.next {
            Next::Ahead => match sim.set_finalizer(&run.response, true) {
                Ok(now) => self.schedule(sim, name, Run { response: now, next: Next::First, ..run }),
                Err(Stale) => Progress::Moved,
            },
            Next::First => match sim.set_finalizer(&run.response, false) {
                Ok(now) => self.schedule(sim, name, Run { response: now, next: Next::Status, ..run }),
                Err(Stale) => Progress::Moved,
            },
            Next::Status => match sim.write_status(&run.response, &run.plan.status, run.looked) {
                Ok(now) => self.schedule(sim, name, Run { response: now, next: Next::Finalizer, ..run }),
                Err(Stale) => Progress::Moved,
            },
            Next::Finalizer => match sim.set_finalizer(&run.response, run.plan.finalizer) {
                Ok(now) if run.plan.steps.is_empty() => self.schedule(sim, name, Run { response: now, ..run }),
                Ok(now) => self.schedule(sim, name, Run { response: now, next: Next::Step(0, Vec::new()), ..run }),
                Err(Stale) => Progress::Moved,
            },
            Next::Step(at, failures) if at < run.plan.steps.len() => {
                run.next = perform(sim, name, &run.plan, at, failures);
                self.schedule(sim, name, run)
            }
            Next::Step(_, failures) if !failures.is_empty() => {
                let undoing = run.plan.phase == Phase::Releasing;
                let status = report_failures(&run.response, &run.plan.status, undoing, &failures, sim.now);
                let _ = sim.write_status(&run.response, &status, run.looked);
                Progress::Rests
            }
            Next::Step(..) | Next::Look => {
                self.writes -= 1;
                self.schedule(sim, name, Run { next: Next::Look, ..run })
            }
        }
    }

    /// Works until nothing changes any more, whatever time it takes.
    pub(crate) fn settle(&mut self, sim: &mut Sim) {
        let mut quiet = 0;
        for _ in 0..20 * QUIET {
            let mut moved = false;
            for name in sim.responses.keys().cloned().collect::<Vec<_>>() {
                moved |= self.work_on(sim, &name);
            }
            quiet = if moved { 0 } else { quiet + 1 };
            if quiet == QUIET {
                return;
            }
            sim.wait(seconds(PAUSE));
        }
        panic!("it never comes to rest");
    }

    /// Works on one response until it rests; whether there was anything to do.
    pub(crate) fn work_on(&mut self, sim: &mut Sim, name: &str) -> bool {
        let before = self.writes;
        for _ in 0..100 {
            if self.step(sim, name) == Progress::Rests {
                return self.writes > before;
            }
        }
        panic!(
            "response {name} is worked on without end: {:?}",
            sim.responses.get(name).map(|it| sim.decide(it).steps)
        );
    }
}

/// What follows a failure is done all the same.
fn perform(sim: &mut Sim, name: &str, plan: &Pass, at: usize, mut failures: Vec<Failure>) -> Next {
    let step = &plan.steps[at];
    let next = at + 1;
    if let Err(message) = sim.perform(&step.effect, name) {
        failures.push(step.failed(message));
    }
    if next == plan.steps.len() && failures.is_empty() { Next::Look } else { Next::Step(next, failures) }
}

/// To an object that is being deleted nobody can add a finalizer.
fn too_late(run: &Run) -> bool {
    run.plan.finalizer && run.response.metadata.deletion_timestamp.is_some()
}

fn has_finalizer(response: &IncidentResponse) -> bool {
    response.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == names::FINALIZER)
}

/// As they are stored.
pub(crate) fn same(status: &IncidentResponseStatus, response: &IncidentResponse) -> bool {
    json!(status) == response.status.as_ref().map_or_else(|| json!({}), |stored| json!(stored))
}
