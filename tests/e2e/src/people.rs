//! People with rights, and what they ask of the API server: real RBAC and real admission, by impersonation.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{HeaderName, HeaderValue, Method, Request};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::config::AuthInfo;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::environment::config;
use crate::scenario::TEST_LABEL;
use crate::{RESPONSE_NAMESPACE, Scenario, until};

/// Where a right is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the response namespace.
    Responses,
    /// In the test's own namespace.
    Own,
    /// Everywhere.
    Cluster,
}

/// One rule of a role.
#[derive(Clone, Debug)]
pub struct Right {
    place: Place,
    verbs: &'static str,
    resource: &'static str,
    names: Vec<String>,
}

/// A right: verbs with commas between them, and a resource as `kubectl auth can-i` takes it, such as `incidentresponses.tourniquet.dev/status`.
pub const fn right(place: Place, verbs: &'static str, resource: &'static str) -> Right {
    Right { place, verbs, resource, names: Vec::new() }
}

impl Right {
    /// The same, on objects of these names only.
    pub fn on(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.names = names.into_iter().collect();
        self
    }

    fn group_and_resource(&self) -> (&'static str, String) {
        let (path, subresource) = self.resource.split_once('/').unwrap_or((self.resource, ""));
        let (resource, group) = path.split_once('.').unwrap_or((path, ""));
        let slash = if subresource.is_empty() { "" } else { "/" };
        (group, format!("{resource}{slash}{subresource}"))
    }

    fn rule(&self) -> Value {
        let (group, resource) = self.group_and_resource();
        let verbs: Vec<&str> = self.verbs.split(',').collect();
        json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs, "resourceNames": self.names })
    }

    /// In which namespace, if in one.
    fn namespace<'a>(&self, own: &'a str) -> Option<&'a str> {
        match self.place {
            Place::Responses => Some(RESPONSE_NAMESPACE),
            Place::Own => Some(own),
            Place::Cluster => None,
        }
    }
}

/// Somebody whom RBAC knows.
#[derive(Clone)]
pub struct Person {
    pub name: String,
    client: Client,
}

impl Person {
    /// For programs that act as this one.
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

impl Scenario {
    /// Somebody of this very name.
    pub async fn impersonate(&self, name: &str) -> Result<Person> {
        let mut config = config(&self.env.context).await?;
        config.headers.push((HeaderName::from_static("impersonate-user"), HeaderValue::from_str(name)?));
        Ok(Person { name: name.to_owned(), client: Client::try_from(config)? })
    }

    /// Somebody of this test's own, with these rights and no others.
    pub async fn person(&self, name: &str, rights: &[Right]) -> Result<Person> {
        let person = self.impersonate(&format!("{}-{name}", self.namespace)).await?;
        self.grant(&person, rights).await?;
        Ok(person)
    }

    /// A service account by a token of its own: the audit log knows whoever impersonates by their own name.
    pub async fn signed_in(&self, namespace: &str, account: &str) -> Result<Person> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.env.client.clone(), namespace);
        let request: TokenRequest = serde_json::from_value(json!({ "spec": { "audiences": [] } }))?;
        let made = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        let token = made.status.and_then(|status| status.token).context("no token")?;
        let mut config = config(&self.env.context).await?;
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        let name = format!("system:serviceaccount:{namespace}:{account}");
        Ok(Person { name, client: Client::try_from(config)? })
    }

    /// Gives rights; returns once the API server knows of them.
    pub async fn grant(&self, person: &Person, rights: &[Right]) -> Result<()> {
        for right in rights {
            self.bind(person, right.namespace(&self.namespace), &json!({ "rules": [right.rule()] })).await?;
        }
        for right in rights {
            self.knows(person, right).await?;
        }
        Ok(())
    }

    /// Gives a ClusterRole in the response namespace.
    pub async fn grant_role(&self, person: &Person, role: &str) -> Result<()> {
        let binding = self.binding(person, "ClusterRole", role);
        self.create::<RoleBinding>(Some(RESPONSE_NAMESPACE), binding).await?;
        self.knows(person, &right(Place::Responses, "get", "incidentresponses.tourniquet.dev")).await
    }

    /// Gives a ClusterRole in the whole cluster.
    pub async fn grant_role_everywhere(&self, person: &Person, role: &str) -> Result<()> {
        self.create::<ClusterRoleBinding>(None, self.binding(person, "ClusterRole", role)).await?;
        self.knows(person, &right(Place::Cluster, "get", "incidentresponses.tourniquet.dev")).await
    }

    async fn bind(&self, person: &Person, namespace: Option<&str>, role: &Value) -> Result<()> {
        let mut role = role.clone();
        role["metadata"] =
            json!({ "generateName": format!("{}-", self.namespace), "labels": { TEST_LABEL: self.namespace } });
        match namespace {
            Some(_) => {
                let name = self.create::<Role>(namespace, role).await?;
                self.create::<RoleBinding>(namespace, self.binding(person, "Role", &name)).await?;
            }
            None => {
                let name = self.create::<ClusterRole>(None, role).await?;
                self.create::<ClusterRoleBinding>(None, self.binding(person, "ClusterRole", &name)).await?;
            }
        }
        Ok(())
    }

    fn binding(&self, person: &Person, kind: &str, role: &str) -> Value {
        json!({
            "metadata": { "generateName": format!("{}-", self.namespace), "labels": { TEST_LABEL: self.namespace } },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role },
            // A service account is a user of this name as well.
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": person.name }],
        })
    }

    async fn create<K>(&self, namespace: Option<&str>, object: Value) -> Result<String>
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned,
    {
        let namespace = namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
        let path = format!("/apis/rbac.authorization.k8s.io/v1{namespace}/{}", K::plural(&()));
        let request = Request::post(path).header("content-type", "application/json");
        let created: Value = self.env.client.request(request.body(object.to_string().into_bytes())?).await?;
        created["metadata"]["name"].as_str().map(str::to_owned).context("an object without a name was created")
    }

    /// Waits until the API server's authorizer grants the right: it learns of roles by watching them.
    async fn knows(&self, person: &Person, right: &Right) -> Result<()> {
        let (group, resource) = right.group_and_resource();
        let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
        let reviews: Api<SubjectAccessReview> = Api::all(self.env.client.clone());
        for verb in right.verbs.split(',') {
            let review: SubjectAccessReview = serde_json::from_value(json!({ "spec": {
                "user": person.name, "groups": ["system:authenticated"],
                "resourceAttributes": {
                    "namespace": right.namespace(&self.namespace), "verb": verb, "group": group,
                    "resource": resource, "subresource": subresource, "name": right.names.first(),
                },
            } }))?;
            until(&format!("{} may {verb} {}", person.name, right.resource), Duration::from_secs(15), async || {
                let answer = reviews.create(&PostParams::default(), &review).await?;
                Ok(answer.status.is_some_and(|status| status.allowed).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Whether the API server can record who asks for a response: from Kubernetes 1.36 on.
    pub async fn fills_in_requesters(&self) -> Result<bool> {
        let served = self.env.client.list_api_group_resources("admissionregistration.k8s.io/v1").await?;
        Ok(served.resources.iter().any(|resource| resource.name == "mutatingadmissionpolicies"))
    }

    /// Takes all of them away again.
    pub(crate) async fn remove_rights(&self) -> Result<()> {
        let client = &self.env.client;
        let mine = ListParams::default().labels(&format!("{TEST_LABEL}={}", self.namespace));
        let now = DeleteParams::default();
        Api::<ClusterRoleBinding>::all(client.clone()).delete_collection(&now, &mine).await?;
        Api::<ClusterRole>::all(client.clone()).delete_collection(&now, &mine).await?;
        Api::<RoleBinding>::namespaced(client.clone(), RESPONSE_NAMESPACE).delete_collection(&now, &mine).await?;
        Api::<Role>::namespaced(client.clone(), RESPONSE_NAMESPACE).delete_collection(&now, &mine).await?;
        Ok(())
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    method: Method,
    path: String,
    content: &'static str,
    body: Option<Value>,
}

impl Ask {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), content: "application/json", body: None }
    }

    pub fn create(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::POST, body: Some(body), ..Self::get(path) }
    }

    pub fn replace(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::PUT, body: Some(body), ..Self::get(path) }
    }

    pub fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::DELETE, ..Self::get(path) }
    }

    /// The same, with options of the deletion.
    pub fn with_body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    pub fn merge_patch(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::PATCH, content: "application/merge-patch+json", body: Some(body), ..Self::get(path) }
    }

    pub fn json_patch(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::PATCH, content: "application/json-patch+json", body: Some(body), ..Self::get(path) }
    }

    /// Server-side apply.
    pub fn apply(path: impl AsRef<str>, manager: &str, body: Value) -> Self {
        let path = format!("{}?fieldManager={manager}&force=true", path.as_ref());
        Self { method: Method::PATCH, content: "application/apply-patch+yaml", body: Some(body), ..Self::get(path) }
    }

    /// The same; a replace is one of what is stored at this moment.
    pub async fn afresh(&self, client: &Client) -> Result<Self> {
        let mut ask = self.clone();
        if let (&Method::PUT, Some(body)) = (&self.method, &mut ask.body) {
            let stored: Value = client.request(Request::get(&self.path).body(Vec::new())?).await?;
            body["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
        }
        Ok(ask)
    }

    /// The same, of which nothing is kept; admission is asked all the same.
    #[must_use]
    pub fn dry(&self) -> Self {
        let mut dry = self.clone();
        match &mut dry.body {
            Some(options) if dry.method == Method::DELETE => options["dryRun"] = json!(["All"]),
            _ => dry.path += if dry.path.contains('?') { "&dryRun=All" } else { "?dryRun=All" },
        }
        dry
    }
}

/// What the API server said.
#[derive(Clone, Debug)]
pub struct Said {
    pub code: u16,
    pub body: Value,
}

impl Said {
    /// Fails when it was not done.
    pub fn done(self) -> Result<Value> {
        ensure!((200..300).contains(&self.code), "{}: {}", self.code, self.message());
        Ok(self.body)
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Person {
    pub async fn asks(&self, ask: &Ask) -> Result<Said> {
        let body = ask.body.as_ref().map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder().method(&ask.method).uri(&ask.path).header("content-type", ask.content);
        let answer = self.client.send(request.body(kube::client::Body::from(body))?).await?;
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect_bytes().await?;
        // What is no JSON is a sentence.
        let body =
            serde_json::from_slice(&bytes).unwrap_or_else(|_| json!({ "message": String::from_utf8_lossy(&bytes) }));
        Ok(Said { code, body })
    }
}
