//! What the API server and the kubelet have of a pod, as evidence.

use std::collections::BTreeMap;

use futures::io::AsyncRead;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DynamicObject, ListParams, LogParams};
use kube::client::Body;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::error::{Cause, Error};
use crate::exec::ContainerRef;
use crate::observe::existing;
use crate::{Cluster, within};

/// How many objects of one kind are listed at most.
const MOST: u32 = 500;
/// How far owners are followed.
const OWNERS: usize = 5;
/// The labels of the agents' pods, as the chart has them.
const AGENTS: &str = "app.kubernetes.io/name=tourniquet,app.kubernetes.io/component=agent";

impl Cluster {
    /// The newest log file of a container, with times; or that of the one before its last restart. Not followed: what is written after the
    /// request is not in it.
    ///
    /// # Errors
    /// When the kubelet has none, or cannot be asked.
    pub async fn log(
        &self,
        place: &ContainerRef,
        previous: bool,
        limit: u64,
    ) -> Result<impl AsyncRead + Send + use<>, Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &place.namespace);
        let parameters = LogParams {
            container: Some(place.container.clone()),
            previous,
            timestamps: true,
            // One more than is taken, so that it is seen that there is more.
            limit_bytes: i64::try_from(limit.saturating_add(1)).ok(),
            ..LogParams::default()
        };
        let log = within(api.log_stream(&place.pod, &parameters)).await;
        log.map_err(|cause| {
            Error::request(
                "read the log of",
                format_args!("container {} of Pod {}/{}", place.container, place.namespace, place.pod),
                cause,
            )
        })
    }

    /// The container of the agent on a node; `None` when none is ready there.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn agent_on(&self, namespace: &str, node: &str) -> Result<Option<ContainerRef>, Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let on_node = ListParams::default().labels(AGENTS).fields(&format!("spec.nodeName={node}"));
        let pods = within(api.list(&on_node)).await;
        let pods = pods.map_err(|cause| Error::request("list the agents on", format_args!("Node {node}"), cause))?;
        Ok(pods.items.into_iter().find_map(|pod| {
            let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
            let agent = statuses.iter().find(|status| status.name == "agent")?;
            let runs = agent.state.as_ref().is_some_and(|state| state.running.is_some());
            Some(ContainerRef {
                namespace: namespace.to_owned(),
                pod: pod.metadata.name.clone()?,
                pod_uid: pod.metadata.uid.clone()?,
                container: agent.name.clone(),
                container_id: agent.container_id.clone().filter(|_| runs)?,
            })
        }))
    }

    /// A pod as it is stored, if it is this one.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn pod(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<Pod>, Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pod = within(api.get_opt(name)).await;
        let pod = pod.map_err(|cause| Error::request("read", format_args!("Pod {namespace}/{name}"), cause))?;
        Ok(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(uid)))
    }

    /// A pod and what belongs to it, as stored: its owners, its node, the Services and NetworkPolicies of its namespace, its service account and what binds roles in its
    /// namespace. What cannot be read is named in it.
    pub async fn manifest_of(&self, pod: &Pod) -> Value {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let mut left_out = Vec::new();
        let mut listed = BTreeMap::new();
        for (group, kind, plural) in [
            ("", "Service", "services"),
            ("networking.k8s.io", "NetworkPolicy", "networkpolicies"),
            ("rbac.authorization.k8s.io", "RoleBinding", "rolebindings"),
        ] {
            match self.list_of(&namespace, group, kind, plural).await {
                Ok((items, more)) => {
                    listed.insert(plural, items);
                    left_out.extend(more.then(|| format!("there are more than {MOST} {plural}")));
                }
                Err(cause) => left_out.push(format!("{plural}: {cause}")),
            }
        }
        let account_name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let account = self.service_account(&namespace, account_name).await.map_err(|error| error.to_string());
        let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = existing(within(nodes.get(&node_name)).await).map_err(|cause| cause.to_string());
        let owners = self.owners_of(pod).await;
        for error in [account.as_ref().err(), node.as_ref().err(), owners.as_ref().err()].into_iter().flatten() {
            left_out.push(error.clone());
        }
        json!({
            "pod": pod, "owners": owners.ok(), "node": node.ok(), "serviceAccount": account.ok(),
            "services": listed.get("services"), "networkPolicies": listed.get("networkpolicies"),
            "roleBindings": listed.get("rolebindings"), "leftOut": left_out,
        })
    }

    /// The objects of one kind in a namespace, and whether there are more.
    async fn list_of(&self, namespace: &str, group: &str, kind: &str, plural: &str) -> Result<(Value, bool), Cause> {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let list = within(api.list(&ListParams::default().limit(MOST))).await?;
        Ok((json!(list.items), list.metadata.continue_.is_some_and(|more| !more.is_empty())))
    }

    /// What owns it, the nearest first.
    async fn owners_of(&self, pod: &Pod) -> Result<Vec<DynamicObject>, String> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let mut owners: Vec<DynamicObject> = Vec::new();
        let mut references = pod.metadata.owner_references.clone().unwrap_or_default();
        while let Some(owner) = references.into_iter().find(|owner| owner.controller == Some(true)) {
            let found = self.workload(&namespace, &owner.kind, &owner.name).await.map_err(|error| error.to_string())?;
            let Some(found) = found.filter(|found| found.metadata.uid.as_ref() == Some(&owner.uid)) else { break };
            references = found.metadata.owner_references.clone().unwrap_or_default();
            owners.push(found);
            if owners.len() == OWNERS {
                break;
            }
        }
        Ok(owners)
    }

    /// What owns a pod, and what owns that, the nearest first, by what each says of its owner; and why it is not known any further, where it is not.
    pub async fn owners(&self, pod: &Pod) -> (Vec<OwnerReference>, Option<String>) {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let mut owners: Vec<OwnerReference> = Vec::new();
        let mut references = pod.metadata.owner_references.clone().unwrap_or_default();
        while let Some(owner) = references.into_iter().find(|owner| owner.controller == Some(true)) {
            let (kind, name) = (owner.kind.clone(), owner.name.clone());
            owners.push(owner.clone());
            if owners.len() == OWNERS {
                return (owners, Some(format!("owners were followed no further than {OWNERS}")));
            }
            references = match self.workload(&namespace, &kind, &name).await {
                Ok(Some(found)) if found.metadata.uid.as_ref() == Some(&owner.uid) => {
                    found.metadata.owner_references.unwrap_or_default()
                }
                Ok(_) => return (owners, Some(format!("what owns {kind} {namespace}/{name} could not be seen"))),
                Err(error) => return (owners, Some(error.to_string())),
            };
        }
        (owners, None)
    }

    /// The API server's clock less ours, by the time in its answer, which has whole seconds; and how far that may be wrong.
    ///
    /// # Errors
    /// When the API server cannot be asked, or its answer has no time.
    pub async fn clock(&self) -> Result<(SignedDuration, SignedDuration), Error> {
        let failed = |cause| Error::request("read the clock of", "the API server", cause);
        let request = http::Request::get("/version").body(Body::empty());
        let request = request.map_err(|error| failed(Cause::Transport(error.to_string())))?;
        let asked = Timestamp::now();
        let answer = within(self.client.send(request)).await.map_err(failed)?;
        let answered = Timestamp::now();
        let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
        let theirs = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        let theirs = theirs.ok_or_else(|| failed(Cause::Transport("its answer has no time".to_owned())))?;
        let way = answered.duration_since(asked) / 2;
        // Somewhere within that second.
        let second = SignedDuration::from_millis(500);
        Ok((theirs.timestamp().duration_since(asked + way) + second, second + way))
    }

    /// The events about a pod, as stored: the API server keeps them for about an hour.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn events_of(&self, namespace: &str, uid: &str) -> Result<Value, Error> {
        let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Event"), "events");
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind);
        let of_pod = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        let events = within(api.list(&of_pod)).await;
        let events = events.map_err(|cause| {
            Error::request("list the events about a pod of", format_args!("Namespace {namespace}"), cause)
        })?;
        Ok(json!(events.items))
    }

    /// The API server's version, and the UID of `kube-system`, which no two clusters share.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn identity(&self) -> Result<(String, Option<String>), Error> {
        let version = within(self.client.apiserver_version()).await;
        let version = version.map_err(|cause| Error::request("read the version of", "the API server", cause))?;
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let system = within(namespaces.get_metadata("kube-system")).await;
        let system = system.map_err(|cause: Cause| Error::request("read", "Namespace kube-system", cause))?;
        Ok((version.git_version, system.metadata.uid))
    }
}
