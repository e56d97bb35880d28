//! That it was released, said in each folder of evidence: after the release, which waits for no store. A deletion waits a little.
//!
//! It needs no journal: what is written is the same each time, and the first one stays. So it is begun until its outcome is in the status.

use tourniquet_api::{IncidentResponseStatus, TargetResult};

use super::release::is_under_way;
use super::{Look, Pass, Step, expired};
use crate::conditions::{self, Is};
use crate::deeds::released_by;
use crate::effect::{Effect, Kind};
use crate::status;
use crate::target;
use crate::task::{Release, ReleaseReport, ReleasedFolder, TaskKey, TaskReport, TaskState, Work};
use crate::world::Unread;

/// The condition: whether each folder says that the response was released. Absent where there is none.
pub(crate) const RELEASE_RECORDED: &str = "ReleaseRecorded";
/// What it is called among the actions, none of which can be called so.
const RELEASE: &str = "release.json";

impl Look<'_> {
    /// Has it said, once nothing more comes into the folders.
    pub(super) fn record_release(&self, pass: &mut Pass) -> Result<(), Unread> {
        let is_decided = conditions::find(&pass.status.conditions, RELEASE_RECORDED)
            .is_some_and(|recorded| recorded.status != "Unknown");
        let folders = self.folders(&pass.status);
        let (Some(first), false) = (folders.first(), is_decided || is_under_way(&pass.status)) else { return Ok(()) };
        let key =
            TaskKey { response: self.uid.to_owned(), action: RELEASE.to_owned(), target: String::new(), undo: true };
        let total = folders.len();
        let Some(target) = pass.status.targets.iter().find(|target| target.uid == first.target_uid) else {
            return Ok(());
        };
        let object = target::object(target, Kind::Pod);
        let effect = match &self.world.task(&key)?.state {
            Some(TaskState::Ended(TaskReport::Release(report))) => {
                self.recorded(&mut pass.status, report, total);
                return Ok(());
            }
            Some(TaskState::Running { ending: false, .. }) if self.response.metadata.deletion_timestamp.is_some() => {
                Some(Effect::Stop { object, key })
            }
            Some(TaskState::Running { .. }) => None,
            // No report of anything else is one.
            Some(TaskState::Ended(_)) | None => {
                let Some(release) = self.released(&pass.status, folders) else { return Ok(()) };
                Some(Effect::Start { object, key, work: Work::Release(Box::new(release)) })
            }
        };
        let mut conditions = status::conditions(&mut pass.status, self.response, self.world.now);
        let message = format!("release.json is being added to {total} folders of evidence");
        conditions.set(RELEASE_RECORDED, Is::Unknown, "Recording", message);
        pass.finalizer = true;
        pass.steps.extend(effect.map(|effect| Step { action: RELEASE.to_owned(), target: None, effect }));
        Ok(())
    }

    fn recorded(&self, status: &mut IncidentResponseStatus, report: &ReleaseReport, total: usize) {
        let ReleaseReport { done, trouble } = report;
        let mut conditions = status::conditions(status, self.response, self.world.now);
        match trouble {
            None => {
                let message = format!("release.json was added to {done} folders of evidence");
                conditions.set(RELEASE_RECORDED, Is::True, "Recorded", message);
            }
            Some(why) => {
                let message = format!(
                    "release.json is in {done} of {total} folders of evidence, and is not tried again: {why}. When it was released, this status and its events say"
                );
                conditions.set(RELEASE_RECORDED, Is::False, "NotRecorded", message);
            }
        }
    }

    /// What is said; none before it is released.
    fn released(&self, status: &IncidentResponseStatus, folders: Vec<ReleasedFolder>) -> Option<Release> {
        let reverted = conditions::find(&status.conditions, "Reverted").filter(|reverted| reverted.status == "True")?;
        let asked = self.response.spec.release == Some(true);
        let deleted = self.response.metadata.deletion_timestamp.is_some();
        let reason = match reverted.reason.as_str() {
            "Released" if deleted && !asked && !expired(self.response, self.world.now) => "Deleted",
            reason => reason,
        };
        Some(Release {
            response: self.name.clone(),
            folders,
            at: reverted.last_transition_time.0,
            by: released_by(self.response),
            reason: reason.to_owned(),
            said: reverted.message.clone(),
        })
    }

    /// Those that were opened.
    fn folders(&self, status: &IncidentResponseStatus) -> Vec<ReleasedFolder> {
        let url = |result: &TargetResult| {
            let collected = result.evidence.as_ref().and_then(|evidence| evidence.url.as_ref());
            collected.or(result.run.as_ref().and_then(|run| run.url.as_ref())).is_some()
        };
        let mut folders = Vec::new();
        for (action, state) in self.response.spec.actions.iter().zip(&status.actions) {
            let collects = action.collect.as_ref().map(|collect| &collect.store_ref);
            let Some(store) = collects.or(action.run.as_ref().and_then(|run| run.store_ref.as_ref())) else { continue };
            for result in state.results.iter().filter(|result| url(result)) {
                let target = status.targets.iter().find(|target| target.uid == result.target_uid);
                folders.extend(target.map(|target| ReleasedFolder {
                    store: store.name.clone(),
                    action: state.name.clone(),
                    target_name: target.name.clone(),
                    target_uid: target.uid.clone(),
                }));
            }
        }
        folders
    }
}
