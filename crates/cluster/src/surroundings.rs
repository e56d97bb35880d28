//! What the receipt of a response needs to see. Nothing here fails a response: what cannot be seen is said instead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, Role, RoleRef, Subject};
use kube::api::{Api, ListParams};
use kube::core::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tourniquet_response::{Grant, Grants, Looked, Neighbour, Neighbours};

use crate::error::{Cause, Error};
use crate::observe::existing;
use crate::{Cluster, within};

/// How long all of it may take, waiting for others who look included. The response looks at nothing else meanwhile.
const LIMIT: Duration = Duration::from_secs(5);
/// How old what is seen of the whole cluster may be: a hundred responses at once are not to list it a hundred times.
const AGE: Duration = Duration::from_secs(10);
/// What one request may bring. Not from the API server's cache by `resourceVersion=0`: that would ignore the limit and bring all of
/// them (Kubernetes 1.36, `cacher.shouldDelegateList`), and a pod has some 10 KB.
const PAGE: u32 = 500;
/// How many pages are read of anything.
const PAGES: usize = 5;
/// How many bindings of one account are followed to their roles.
const BINDINGS: usize = 32;

/// The bindings of the cluster, as far as they were looked at.
pub(crate) struct Bindings {
    all: Vec<Binding>,
    /// Whether there are more RoleBindings or ClusterRoleBindings.
    more: bool,
}

/// Pods of the cluster, as far as they were looked at.
pub(crate) struct Pods(Listed<SlimPod>);

impl Cluster {
    pub(crate) async fn service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Box<ServiceAccount>>, Error> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let account = existing(within(api.get(name)).await)
            .map_err(|cause| Error::request("read", format_args!("ServiceAccount {namespace}/{name}"), cause))?;
        Ok(account.map(Box::new))
    }

    pub(crate) async fn services(&self, namespace: &str) -> Result<Vec<Service>, Error> {
        let path = format!("/api/v1/namespaces/{namespace}/services");
        Ok(self.pages(&path, "Services", None).await?.items)
    }

    pub(crate) async fn grants(&self, namespace: &str, account: &str) -> Result<Grants, Error> {
        let bindings = self.bindings.get_of_late(AGE, async || self.bindings().await).await?;
        let mut left_out = Vec::new();
        let mut found: Vec<Grant> = Vec::new();
        let mut add = |binding: &Binding| {
            let metadata = &binding.metadata;
            let place = (metadata.namespace.as_deref(), metadata.name.as_str());
            let subjects = binding.subjects.as_deref().unwrap_or_default();
            found.extend(Grant::of(place, &binding.role_ref, subjects, (namespace, account)));
        };
        bindings.all.iter().for_each(&mut add);
        if bindings.more {
            // Where the account is at home, most is granted to it.
            let own = format!("{RBAC}/namespaces/{namespace}/rolebindings");
            let own: Listed<Binding> = self.pages(&own, "RoleBindings", None).await?;
            own.items.iter().for_each(&mut add);
            left_out
                .push(format!("the cluster has more than {} bindings, of which these are all", PAGE as usize * PAGES));
        }
        found.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
        found.dedup_by(|one, other| one.namespace == other.namespace && one.name == other.name);
        if found.len() > BINDINGS {
            left_out.push(format!("{} of its {} bindings", found.len() - BINDINGS, found.len()));
            found.truncate(BINDINGS);
        }
        let followed = join_all(found.into_iter().map(|grant| self.with_rules(grant))).await;
        let mut bindings = Vec::new();
        for (grant, missed) in followed {
            bindings.push(grant);
            left_out.extend(missed);
        }
        Ok(Grants { bindings, left_out })
    }

    /// The binding with the rules of its role, or why they could not be read. A binding can name a role that does not exist: it then
    /// grants nothing.
    async fn with_rules(&self, mut grant: Grant) -> (Grant, Option<String>) {
        let rules = match (grant.role_kind.as_str(), &grant.namespace) {
            ("Role", Some(namespace)) => {
                let api: Api<Role> = Api::namespaced(self.client.clone(), namespace);
                existing(within(api.get(&grant.role)).await).map(|role| role.and_then(|role| role.rules))
            }
            _ => {
                let api: Api<ClusterRole> = Api::all(self.client.clone());
                existing(within(api.get(&grant.role)).await).map(|role| role.and_then(|role| role.rules))
            }
        };
        match rules {
            Ok(rules) => {
                grant.rules = rules.unwrap_or_default();
                (grant, None)
            }
            Err(cause) => {
                let error = Error::request("read", format_args!("{} {}", grant.role_kind, grant.role), cause);
                (grant, Some(error.to_string()))
            }
        }
    }

    /// All bindings, those of the whole cluster first.
    async fn bindings(&self) -> Result<Bindings, Error> {
        let (cluster, namespaced) = (format!("{RBAC}/clusterrolebindings"), format!("{RBAC}/rolebindings"));
        // Not `try_join`: it drops the other request, and with it a Retry-After that is on its way.
        let (cluster, namespaced) = futures::join!(
            self.pages::<Binding>(&cluster, "ClusterRoleBindings", None),
            self.pages::<Binding>(&namespaced, "RoleBindings", None)
        );
        let (cluster, namespaced) = (cluster?, namespaced?);
        let more = cluster.more || namespaced.more;
        Ok(Bindings { all: cluster.items.into_iter().chain(namespaced.items).collect(), more })
    }

    /// The pods of the cluster; where these are too many, at least those of the namespace and of the node.
    pub(crate) async fn neighbours(&self, namespace: &str, node: &str) -> Result<Arc<Neighbours>, Error> {
        let key = (namespace.to_owned(), node.to_owned());
        self.neighbours.get_of_late(&key, AGE, async || self.find_neighbours(namespace, node).await).await
    }

    async fn find_neighbours(&self, namespace: &str, node: &str) -> Result<Neighbours, Error> {
        let everywhere = self.pods.get_of_late(AGE, async || self.pages(PODS, "pods", None).await.map(Pods)).await?;
        let mut pods: BTreeMap<&str, Neighbour> = BTreeMap::new();
        let Pods(Listed { items, more }) = everywhere.as_ref();
        let mut nearer = Vec::new();
        if *more {
            let own = format!("/api/v1/namespaces/{namespace}/pods");
            let of_node = format!("spec.nodeName={node}");
            let (own, of_node) = futures::join!(
                self.pages::<SlimPod>(&own, "pods", None),
                self.pages::<SlimPod>(
                    PODS,
                    "pods of the node",
                    Some(&of_node).filter(|_| !node.is_empty()).map(String::as_str)
                )
            );
            nearer = own?.items.into_iter().chain(of_node?.items).collect();
        }
        for pod in items.iter().chain(&nearer).filter(|pod| !pod.has_finished()) {
            pods.entry(&pod.metadata.uid).or_insert_with(|| pod.into());
        }
        Ok(Neighbours { pods: pods.into_values().collect(), more: *more })
    }

    /// A list by pages, and whether there are more than were read.
    async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        what: &'static str,
        fields: Option<&str>,
    ) -> Result<Listed<T>, Error> {
        let fails = |cause| Error::request("list", what, cause);
        let mut listed = Listed { items: Vec::new(), more: false };
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector = fields.map(str::to_owned);
        for _ in 0..PAGES {
            let request =
                Request::new(path).list(&params).map_err(|error| fails(Cause::Transport(error.to_string())))?;
            let page: Page<T> = match within(self.client.request(request)).await {
                // The list is too old to go on with: what was read of it is what there is.
                Err(Cause::Status { code: 410, .. }) => break,
                page => page.map_err(fails)?,
            };
            listed.items.extend(page.items);
            params.continue_token = page.metadata.next.filter(|next| !next.is_empty());
            if params.continue_token.is_none() {
                return Ok(listed);
            }
        }
        listed.more = true;
        Ok(listed)
    }
}

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const PODS: &str = "/api/v1/pods";

/// The result of a look, or why there is none.
pub(crate) async fn patiently<T>(look: impl Future<Output = Result<T, Error>>) -> Looked<T> {
    match tokio::time::timeout(LIMIT, look).await {
        Ok(seen) => seen.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it took longer than {} s", LIMIT.as_secs())),
    }
}

struct Listed<T> {
    items: Vec<T>,
    more: bool,
}

// Of 2,500 pods only what is needed is kept in memory; as whole objects they would be some 50 MB.

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    namespace: Option<String>,
    name: String,
    uid: String,
}

#[derive(Deserialize)]
struct Binding {
    metadata: Named,
    #[serde(rename = "roleRef")]
    role_ref: RoleRef,
    subjects: Option<Vec<Subject>>,
}

#[derive(Deserialize)]
struct SlimPod {
    metadata: Named,
    #[serde(default)]
    spec: SlimSpec,
    #[serde(default)]
    status: SlimStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SlimSpec {
    service_account_name: Option<String>,
    node_name: Option<String>,
    volumes: Vec<SlimVolume>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SlimVolume {
    persistent_volume_claim: Option<Claim>,
    host_path: Option<HostPath>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    claim_name: String,
}

#[derive(Deserialize)]
struct HostPath {
    path: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SlimStatus {
    phase: String,
    container_statuses: Vec<SlimContainer>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SlimContainer {
    #[serde(rename = "imageID")]
    image_id: String,
}

impl SlimPod {
    fn has_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

impl From<&SlimPod> for Neighbour {
    fn from(pod: &SlimPod) -> Self {
        let (metadata, spec) = (&pod.metadata, &pod.spec);
        let claims = spec.volumes.iter().filter_map(|volume| volume.persistent_volume_claim.as_ref());
        let host_paths = spec.volumes.iter().filter_map(|volume| volume.host_path.as_ref());
        let images = pod.status.container_statuses.iter().map(|container| container.image_id.clone());
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            account: spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
            node: spec.node_name.clone().unwrap_or_default(),
            claims: claims.map(|claim| claim.claim_name.clone()).collect(),
            host_paths: host_paths.map(|host| host.path.clone()).collect(),
            images: images.filter(|image| !image.is_empty()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tourniquet_response::Neighbour;

    use super::{Page, SlimPod};

    /// What the API server may leave out, and what of it matters.
    #[test]
    fn of_a_pod_as_much_is_read_as_of_the_whole_object() {
        let pods = json!({
            "metadata": { "resourceVersion": "1", "continue": "" },
            "items": [
                { "metadata": { "namespace": "shop", "name": "new", "uid": "1" } },
                {
                    "metadata": { "namespace": "shop", "name": "web", "uid": "2", "labels": { "app": "web" } },
                    "spec": {
                        "serviceAccountName": "web",
                        "nodeName": "node-1",
                        "containers": [],
                        "volumes": [
                            { "name": "a", "emptyDir": {} },
                            { "name": "b", "persistentVolumeClaim": { "claimName": "data" } },
                            { "name": "c", "hostPath": { "path": "/var/log" } },
                        ],
                    },
                    "status": { "phase": "Running", "containerStatuses": [
                        { "name": "web", "image": "web", "imageID": "sha256:1", "ready": true, "restartCount": 0 },
                        { "name": "new", "image": "new", "imageID": "", "ready": false, "restartCount": 0 },
                    ] },
                },
            ],
        });
        let page: Page<SlimPod> = serde_json::from_value(pods.clone()).unwrap();
        assert_eq!(page.metadata.next.as_deref(), Some(""));
        let seen: Vec<Neighbour> = page.items.iter().map(Neighbour::from).collect();
        let whole = pods["items"].as_array().unwrap().iter();
        let whole = whole.map(|pod| serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(pod.clone()).unwrap());
        assert_eq!(seen, whole.map(|pod| Neighbour::from(&pod)).collect::<Vec<_>>());
    }
}
