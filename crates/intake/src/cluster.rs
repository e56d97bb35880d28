//! What an intake does in the cluster: create responses, read its own, release them. Nothing else is asked of the API server.

use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tourniquet_api::IncidentResponse;

use crate::mapping::Refused;
use crate::respond::{INCIDENT_LABEL, MANAGED_BY, Order, same};

/// The most responses of one incident that are looked at.
const MOST_LISTED: u32 = 500;

/// The response namespace, as this intake may use it.
#[derive(Clone)]
pub struct Responses {
    api: Api<IncidentResponse>,
}

/// What was done about a message, and can be looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The responses, by name.
    pub names: Vec<String>,
    /// Their value of [`INCIDENT_LABEL`].
    pub incident: String,
    /// Whether they were released, and not created.
    pub release: bool,
    /// What was not acted on.
    pub refused: Vec<Refused>,
}

/// A request that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The API server has decided: it would say the same again.
    Refused(String),
    /// It may pass.
    Passing(String),
}

impl Responses {
    /// Those of this namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }

    /// Does what is asked for. Doing it again does nothing more.
    ///
    /// # Errors
    /// With what keeps it from being done for now; what the API server refuses is in [`Done::refused`].
    pub async fn carry_out(&self, order: &Order) -> Result<Done, String> {
        match order {
            Order::Create { responses, refused } => self.create_all(responses, refused.clone()).await,
            Order::Release { incident } => self.release_all(incident).await,
        }
    }

    /// How the responses of something done stand now; those that are gone are left out.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn look(&self, done: &Done) -> Result<Vec<IncidentResponse>, Failure> {
        if done.names.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.of_incident(&done.incident).await?;
        let name = |response: &IncidentResponse| response.metadata.name.clone().unwrap_or_default();
        Ok(all.into_iter().filter(|response| done.names.contains(&name(response))).collect())
    }

    async fn create_all(&self, responses: &[IncidentResponse], refused: Vec<Refused>) -> Result<Done, String> {
        let mut done = Done { names: Vec::new(), incident: String::new(), release: false, refused };
        for response in responses {
            let name = response.metadata.name.clone().unwrap_or_default();
            if let Some(incident) = response.metadata.labels.as_ref().and_then(|labels| labels.get(INCIDENT_LABEL)) {
                done.incident.clone_from(incident);
            }
            match self.create(response, &name).await {
                Ok(()) => done.names.push(name),
                Err(Failure::Refused(why)) => done.refused.push(Refused::new(called(response), why)),
                Err(Failure::Passing(why)) => return Err(why),
            }
        }
        Ok(done)
    }

    async fn create(&self, response: &IncidentResponse, name: &str) -> Result<(), Failure> {
        match self.api.create(&PostParams::default(), response).await {
            Ok(_) => Ok(()),
            // A message that is delivered again, or the answer of whose first request was lost.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let there = self.api.get(name).await.map_err(|error| failure(&error))?;
                same(&there, response).map_err(Failure::Refused)
            }
            Err(error) => Err(failure(&error)),
        }
    }

    async fn release_all(&self, incident: &str) -> Result<Done, String> {
        let all = self.of_incident(incident).await.map_err(Failure::into_words)?;
        let mut done = Done { names: Vec::new(), incident: incident.to_owned(), release: true, refused: Vec::new() };
        for response in all {
            match self.release(&response).await {
                Ok(()) => done.names.push(response.metadata.name.unwrap_or_default()),
                Err(Failure::Refused(why)) => done.refused.push(Refused::new(called(&response), why)),
                Err(Failure::Passing(why)) => return Err(why),
            }
        }
        Ok(done)
    }

    async fn release(&self, response: &IncidentResponse) -> Result<(), Failure> {
        if response.spec.release == Some(true) || response.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let name = response.metadata.name.clone().unwrap_or_default();
        // The UID: a response of this name that came meanwhile is another one.
        let patch = json!({"metadata": {"uid": response.metadata.uid}, "spec": {"release": true}});
        match self.api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            // Gone is undone.
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(failure(&error)),
        }
    }

    async fn of_incident(&self, incident: &str) -> Result<Vec<IncidentResponse>, Failure> {
        let (key, value) = MANAGED_BY;
        let wanted =
            ListParams::default().labels(&format!("{INCIDENT_LABEL}={incident},{key}={value}")).limit(MOST_LISTED);
        Ok(self.api.list(&wanted).await.map_err(|error| failure(&error))?.items)
    }
}

impl Failure {
    fn into_words(self) -> String {
        match self {
            Self::Refused(why) | Self::Passing(why) => why,
        }
    }
}

fn called(response: &IncidentResponse) -> String {
    crate::outcome::target(response)
}

/// Whether asking again may help.
fn failure(error: &kube::Error) -> Failure {
    match error {
        // 401 is a token that is not accepted yet, or any more; 409 is somebody who wrote at the same time.
        kube::Error::Api(status)
            if (400..500).contains(&status.code) && ![401, 408, 409, 429].contains(&status.code) =>
        {
            Failure::Refused(format!("the cluster refused it: {}", status.message))
        }
        kube::Error::Api(status) => Failure::Passing(format!("{} ({})", status.message, status.code)),
        other => Failure::Passing(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_the_api_server_has_decided_is_told_and_the_rest_is_asked_again() {
        let of = |code| failure(&kube::Error::Api(Status::failure("no", "Reason").with_code(code).boxed()));
        for code in [400, 403, 404, 422] {
            assert_eq!(of(code), Failure::Refused("the cluster refused it: no".into()), "{code}");
        }
        for code in [401, 409, 429, 500, 503] {
            assert_eq!(of(code), Failure::Passing(format!("no ({code})")), "{code}");
        }
    }
}
