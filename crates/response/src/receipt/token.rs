//! What whoever was in the pod may go on doing from elsewhere: its tokens, its identity in Azure, the secrets that it was given.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EphemeralContainer, Pod, ServiceAccount, Volume};
use tourniquet_api::Residual;

use super::powers::{self, Power};
use super::seen::{Grant, Grants, account};
use super::words::{NAMED, command, kubectl, list, sequence, shown, with};
use super::{HIGH, LOW, MEDIUM, Subject, residual};

/// The audience of tokens that Entra takes (Azure Workload Identity's webhook, `DefaultAudience`).
const ENTRA: &str = "api://AzureADTokenExchange";
const USE_IDENTITY: &str = "azure.workload.identity/use";
const CLIENT_ID: &str = "azure.workload.identity/client-id";
/// What a command says where a name is not known.
const UNKNOWN: &str = "CLIENT_ID";

/// For whom the pod's tokens are issued; an empty text is the API server.
fn audiences(pod: &Pod) -> BTreeSet<&str> {
    let sources = volumes(pod).filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
    let tokens = sources.filter_map(|source| source.service_account_token.as_ref());
    tokens.map(|token| token.audience.as_deref().unwrap_or_default()).collect()
}

/// Whether the pod was given a token that the API server takes.
pub(super) fn has_token(pod: &Pod) -> bool {
    // An API server's own audience is its issuer, as a rule this Service or an address of the provider.
    audiences(pod).iter().any(|audience| audience.is_empty() || audience.starts_with("https://kubernetes.default.svc"))
}

/// Whether the pod uses an identity of Azure.
pub(super) fn uses_identity(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.iter().flatten();
    labels.into_iter().any(|(key, value)| key == USE_IDENTITY && value == "true") || audiences(pod).contains(ENTRA)
}

/// What the token of the service account is good for.
pub(super) fn usable(of: &Subject<'_>, grants: Option<&Grants>) -> Residual {
    let account = account(of.pod);
    let mut found: Vec<(Power, String, &Grant)> = Vec::new();
    for grant in grants.into_iter().flat_map(|grants| &grants.bindings) {
        for (power, only) in powers::powers(&grant.rules) {
            let place = match &grant.namespace {
                Some(namespace) => format!("in namespace {namespace}"),
                None => "cluster-wide".to_owned(),
            };
            let what = powers::words(power, only.as_ref());
            found.push((power, format!("{what} {place} ({})", describe(grant)), grant));
        }
    }
    found.sort_by(|one, other| {
        (one.0, &one.2.namespace, &one.2.name).cmp(&(other.0, &other.2.namespace, &other.2.name))
    });
    let severity = match found.first() {
        Some((power, ..)) if power.is_high() => HIGH,
        Some(_) => MEDIUM,
        None if grants.is_none() => MEDIUM,
        None => LOW,
    };
    let mut message = format!(
        "the token of service account {}/{account}, which pod {} was given, works from wherever the API server can be reached, until the \
         pod is deleted",
        of.namespace, of.name
    );
    if grants.is_none() {
        message += "; what RBAC grants it could not be looked at";
    } else if found.is_empty() {
        message += "; RBAC grants it what it grants every service account, and no more";
    } else {
        let phrases: Vec<&str> = found.iter().map(|(_, phrase, _)| phrase.as_str()).take(PHRASES).collect();
        message += &format!("; it can {}", phrases.join("; "));
        if found.len() > PHRASES {
            message += &format!("; and {} more", found.len() - PHRASES);
        }
    }
    // What is not High goes with the token: who takes away every right of an application breaks its other pods.
    let mut seen = BTreeSet::new();
    let takes_away = found
        .iter()
        .filter(|(power, ..)| power.is_high())
        .filter(|(.., grant)| seen.insert((&grant.namespace, &grant.name)))
        .filter_map(|(.., grant)| take_away(grant));
    let delete = || kubectl(of.namespace, &["delete", "pod"], &[of.pod_name]);
    let remedy =
        sequence(takes_away).or_else(|| Some(with("it ends with the pod; when its memory is saved", delete())));
    residual("TokenUsable", severity, message, remedy)
}

/// How many powers are told.
const PHRASES: usize = 4;

fn describe(grant: &Grant) -> String {
    let kind = if grant.namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
    let group = grant.matched.iter().find(|(_, subject)| subject.kind == "Group");
    match group {
        // Whoever takes it away has to know from whom.
        Some((_, group)) => format!("{kind} {} by group {}", shown(&grant.name), shown(&group.name)),
        None => format!("{kind} {}", shown(&grant.name)),
    }
}

/// The command that takes a binding from the account: the whole binding where it is for nobody else.
fn take_away(grant: &Grant) -> Option<String> {
    let (kind, namespace) = match &grant.namespace {
        Some(namespace) => ("rolebinding", vec!["--namespace", namespace.as_str()]),
        None => ("clusterrolebinding", Vec::new()),
    };
    if grant.matched.len() == grant.subjects {
        return command(&[&["kubectl"], &namespace[..], &["delete", kind]].concat(), &[&grant.name]);
    }
    // From the last on, so that no place moves; a list that was changed meanwhile fails the test, and nothing is changed.
    let mut steps = Vec::new();
    for (place, subject) in grant.matched.iter().rev() {
        let path = format!("/subjects/{place}");
        steps.push(serde_json::json!({ "op": "test", "path": format!("{path}/name"), "value": subject.name }));
        steps.push(serde_json::json!({ "op": "remove", "path": path }));
    }
    let patch = serde_json::Value::from(steps).to_string();
    command(
        &[&["kubectl"], &namespace[..], &["patch", kind, "--type", "json", "--patch", &patch]].concat(),
        &[&grant.name],
    )
}

/// An identity of Azure, whose tokens no cluster can take back.
pub(super) fn identity(of: &Subject<'_>, account_object: Option<&ServiceAccount>) -> Residual {
    let account = account(of.pod);
    let annotations = account_object.and_then(|account| account.metadata.annotations.as_ref());
    let client = annotations.and_then(|annotations| annotations.get(CLIENT_ID)).map(String::as_str);
    // Who it is can be set in the pod itself as well.
    let (severity, who) = match client {
        Some(client) => (HIGH, format!("the Azure identity with client ID {}", shown(client))),
        None => (MEDIUM, format!("an Azure identity; service account {}/{account} names none", of.namespace)),
    };
    // Whoever may write to the account writes this too; it goes into a query.
    let client = client.filter(|client| client.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    let query = format!("[?clientId=='{}'].{{name:name, group:resourceGroup}}", client.unwrap_or(UNKNOWN));
    let subject = format!("[?subject=='system:serviceaccount:{}:{account}'].name", of.namespace);
    let find = command(&["az", "identity", "list", "--output", "table", "--query"], &[&query]);
    let credentials = ["az", "identity", "federated-credential", "list", "--identity-name", "NAME"];
    let credentials = command(
        &[&credentials[..], &["--resource-group", "GROUP", "--output", "tsv", "--query"]].concat(),
        &[&subject],
    );
    let remedy = with("find the identity", find)
        + &with("; what it trusts this account by", credentials)
        + "; and end that: az identity federated-credential delete --identity-name NAME --resource-group GROUP --name CREDENTIAL; \
           look in Entra for what it did, and take away what it may do";
    residual(
        "WorkloadIdentity",
        severity,
        format!(
            "pod {} can be {who}; tokens of Azure that were already issued outlive the isolation and the pod, and work from anywhere until \
             they expire",
            of.name
        ),
        Some(remedy),
    )
}

/// The secrets that the pod was given. Names only, ever.
pub(super) fn secrets(of: &Subject<'_>) -> Option<Residual> {
    let mut names = BTreeSet::new();
    let mut vaults = BTreeSet::new();
    for volume in volumes(of.pod) {
        names.extend(volume.secret.iter().filter_map(|secret| secret.secret_name.clone()));
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        names.extend(sources.filter_map(|source| source.secret.as_ref()).map(|secret| secret.name.clone()));
        let csi = volume.csi.as_ref().filter(|csi| csi.driver == "secrets-store.csi.k8s.io");
        let attributes = csi.and_then(|csi| csi.volume_attributes.as_ref());
        vaults.extend(attributes.and_then(|attributes| attributes.get("secretProviderClass").cloned()));
    }
    for (env, from) in environments(of.pod) {
        let of_variables = env.iter().filter_map(|variable| variable.value_from.as_ref()?.secret_key_ref.as_ref());
        names.extend(of_variables.map(|secret| secret.name.clone()));
        names.extend(from.iter().filter_map(|from| from.secret_ref.as_ref()).map(|secret| secret.name.clone()));
    }
    names.remove("");
    if names.is_empty() && vaults.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let vaults: Vec<&str> = vaults.iter().map(String::as_str).collect();
    let mut what = Vec::new();
    if !names.is_empty() {
        what.push(format!("Secrets of namespace {}: {}", of.namespace, list(&names)));
    }
    if !vaults.is_empty() {
        what.push(format!("vaults by SecretProviderClass: {}", list(&vaults)));
    }
    // Prints types and sizes, and nothing of what is in them.
    let named = &names[..names.len().min(NAMED)];
    let show = kubectl(of.namespace, &["get", "secrets", "--ignore-not-found"], named).filter(|_| !names.is_empty());
    Some(residual(
        "SecretsMounted",
        MEDIUM,
        format!("pod {} was given these; assume that they are known ({})", of.name, what.join("; ")),
        Some(with("change what is in them, first of all where they are used; which they are", show)),
    ))
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// The environment of each container, of those that have ended as well.
fn environments(pod: &Pod) -> Vec<(&[EnvVar], &[EnvFromSource])> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    containers
        .map(|Container { env, env_from, .. }| (env, env_from))
        .chain(ephemeral.map(|EphemeralContainer { env, env_from, .. }| (env, env_from)))
        .map(|(env, from)| (env.as_deref().unwrap_or_default(), from.as_deref().unwrap_or_default()))
        .collect()
}
