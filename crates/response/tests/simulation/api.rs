//! What the operator may ask of the API server, with the API server's rules.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use tourniquet_api::{IncidentResponse, IncidentResponseSpec, IncidentResponseStatus, names};
use tourniquet_response::{Effect, Kind, ObjectRef};

use super::Sim;
use super::asked::Asked;
use super::laws::Looked;
use super::network::{Clusterwide, Engine};
use crate::fixtures::{self, object, stored};

/// Somebody changed the object since it was read, or it is gone.
#[derive(Debug)]
pub(crate) struct Stale;

impl Sim {
    /// A responder asks for this.
    pub(crate) fn create_asked(&mut self, name: &str, asked: &Asked, expire_after: Option<u64>, dry_run: bool) {
        self.create(name, |spec| {
            spec.target = object(asked.of.target());
            spec.actions = object(asked.actions());
            spec.expire_after = expire_after.map(tourniquet_api::Duration::from_secs);
            spec.dry_run = dry_run;
        });
    }

    /// A responder asks for the isolation of `shop/web`.
    pub(crate) fn create_response(&mut self, name: &str, expire_after: Option<u64>) {
        self.create(name, |spec| spec.expire_after = expire_after.map(tourniquet_api::Duration::from_secs));
    }

    fn create(&mut self, name: &str, change: impl FnOnce(&mut IncidentResponseSpec)) {
        if self.responses.contains_key(name) {
            return;
        }
        let mut response = fixtures::response(name, &self.issue_uid());
        change(&mut response.spec);
        response.metadata.creation_timestamp = Some(Time(self.now));
        self.store(response);
        self.changed();
    }

    pub(crate) fn delete_response(&mut self, name: &str) {
        let Some(mut response) = self.responses.get(name).cloned() else { return };
        response.metadata.deletion_timestamp.get_or_insert(Time(self.now));
        self.store(response);
        self.changed();
    }

    pub(crate) fn release_response(&mut self, name: &str) {
        let Some(mut response) = self.responses.get(name).cloned() else { return };
        response.spec.release = Some(true);
        response.metadata.generation = response.metadata.generation.map(|generation| generation + 1);
        self.store(response);
        self.changed();
    }

    pub(crate) fn status(&self, name: &str) -> IncidentResponseStatus {
        self.responses.get(name).and_then(|response| response.status.clone()).unwrap_or_default()
    }

    pub(super) fn next_version(&mut self) -> String {
        self.versions += 1;
        self.versions.to_string()
    }

    fn store(&mut self, mut response: IncidentResponse) -> IncidentResponse {
        response.metadata.resource_version = Some(self.next_version());
        let name = response.metadata.name.clone().expect("a response has a name");
        let finalized = response.metadata.finalizers.iter().flatten().next().is_none();
        if response.metadata.deletion_timestamp.is_some() && finalized {
            self.responses.remove(&name);
        } else {
            self.responses.insert(name, response.clone());
        }
        response
    }

    /// Whether it is still the one that was read.
    pub(super) fn is_fresh(&self, read: &IncidentResponse) -> bool {
        self.fresh(read).is_ok()
    }

    /// The stored object, if it is still the one that was read.
    fn fresh(&self, read: &IncidentResponse) -> Result<IncidentResponse, Stale> {
        let current = read.metadata.name.as_ref().and_then(|name| self.responses.get(name));
        current
            .filter(|current| current.metadata.resource_version == read.metadata.resource_version)
            .cloned()
            .ok_or(Stale)
    }

    /// Replaces the status. `looked` is when what it says was seen.
    pub(crate) fn write_status(
        &mut self,
        read: &IncidentResponse,
        status: &IncidentResponseStatus,
        looked: Looked,
    ) -> Result<IncidentResponse, Stale> {
        let mut response = self.fresh(read)?;
        response.status = Some(stored(status));
        let response = self.store(response);
        self.laws.claimed(&response, looked);
        self.laws.noted(read, &response);
        self.changed();
        Ok(response)
    }

    pub(crate) fn set_finalizer(&mut self, read: &IncidentResponse, wanted: bool) -> Result<IncidentResponse, Stale> {
        let mut response = self.fresh(read)?;
        assert!(
            !wanted || response.metadata.deletion_timestamp.is_none(),
            "the API server takes no new finalizer while an object is being deleted"
        );
        response.metadata.finalizers = wanted.then(|| vec![names::FINALIZER.to_owned()]);
        let response = self.store(response);
        self.changed();
        Ok(response)
    }

    /// Carries out an effect of a response. Gone, or replaced by another object of the name, is success.
    pub(crate) fn perform(&mut self, effect: &Effect, response: &str) -> Result<(), String> {
        self.check_authorized(effect, response);
        self.carry_out(effect)
    }

    pub(super) fn carry_out(&mut self, effect: &Effect) -> Result<(), String> {
        if std::mem::take(&mut self.fail_next) {
            return Err(format!("cannot {effect}: the API server is busy"));
        }
        let done = match effect {
            Effect::Apply { object: of, manager, fields } if of.kind == Kind::Containment => {
                self.apply_containment(of, manager, fields)
            }
            Effect::Withdraw { object: of, manager } if of.kind == Kind::Containment => {
                self.apply_containment(of, manager, &Value::Null)
            }
            Effect::Apply { object: of, manager, fields } => self.apply(of, manager, fields),
            Effect::Withdraw { object: of, manager } => self.apply(of, manager, &Value::Null),
            Effect::Patch { object: of, manager, version, fields } => {
                self.patch(of, manager, version.as_deref(), fields);
                Ok(())
            }
            Effect::Put { object: of, manifest, .. } => self.put(of, manifest),
            Effect::Delete { object: of, version } => {
                self.delete(of, version.as_deref());
                Ok(())
            }
            Effect::Start { .. } | Effect::Stop { .. } => panic!("no response of these stories runs a command"),
        };
        self.changed();
        done
    }

    /// A forced apply: what the manifest says wins, and what it does not mention stays.
    fn put(&mut self, of: &ObjectRef, manifest: &Value) -> Result<(), String> {
        let mut manifest = manifest.clone();
        if manifest["metadata"]["resourceVersion"].is_string() {
            return self.replace(of, manifest);
        }
        match of.kind {
            Kind::NetworkPolicy => {
                let before = self.policies.network.get(&of.name).map(|policy| json!(policy));
                let mut merged = before.unwrap_or_else(|| self.new_object());
                // The selector is one value there; Cilium's, in a custom resource, is merged key by key.
                merged["spec"]["podSelector"] = manifest["spec"]["podSelector"].take();
                manifest["spec"].as_object_mut().map(|spec| spec.remove("podSelector"));
                merge(&mut merged, &manifest);
                self.policies.network.insert(of.name.clone(), object(merged));
            }
            Kind::CiliumClusterwideNetworkPolicy if self.engine == Engine::Cilium => {
                let before = self.policies.clusterwide.get(&of.name).cloned();
                let mut policy = before.unwrap_or_else(|| Clusterwide { manifest: self.new_object(), valid: false });
                merge(&mut policy.manifest, &manifest);
                self.policies.clusterwide.insert(of.name.clone(), policy);
            }
            kind => return Err(format!("{} is not served", kind.as_str())),
        }
        Ok(())
    }

    /// What is not in the manifest goes. An object that is gone, or is another one by now, is looked at again.
    fn replace(&mut self, of: &ObjectRef, manifest: Value) -> Result<(), String> {
        let uid = manifest["metadata"]["uid"].clone();
        match of.kind {
            Kind::NetworkPolicy => {
                if let Some(policy) = self.policies.network.get_mut(&of.name)
                    && json!(policy.metadata.uid) == uid
                {
                    *policy = object(manifest);
                }
            }
            Kind::CiliumClusterwideNetworkPolicy => {
                if let Some(policy) = self.policies.clusterwide.get_mut(&of.name)
                    && policy.manifest["metadata"]["uid"] == uid
                {
                    policy.manifest = manifest;
                }
            }
            kind => return Err(format!("{} is not ours", kind.as_str())),
        }
        Ok(())
    }

    fn new_object(&mut self) -> Value {
        json!({ "metadata": { "uid": self.issue_uid(), "resourceVersion": "1" } })
    }

    fn delete(&mut self, of: &ObjectRef, version: Option<&str>) {
        match of.kind {
            Kind::NetworkPolicy => {
                self.policies.network.retain(|name, policy| *name != of.name || policy.metadata.uid != of.uid);
            }
            Kind::CiliumClusterwideNetworkPolicy => self.policies.clusterwide.retain(|name, policy| {
                *name != of.name || policy.manifest["metadata"]["uid"].as_str() != of.uid.as_deref()
            }),
            Kind::Containment => self.delete_containment(of, version),
            Kind::Pod | Kind::Namespace | Kind::Node | Kind::Tier | Kind::GlobalNetworkPolicy => {
                panic!("nothing deletes {of}")
            }
        }
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
