//! What the chart renders with each of its switches, and what it refuses.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::{KUBERNETES, identity, objects, output, path, rights, template};
use crate::{
    cluster::{self, workspace},
    install::NAMESPACE,
};

/// What Helm, Argo CD and Flux each go by when they uninstall or prune.
const KEEP: [(&str, &str); 3] = [
    ("helm.sh/resource-policy", "keep"),
    ("argocd.argoproj.io/sync-options", "Prune=false,Delete=false"),
    ("kustomize.toolkit.fluxcd.io/prune", "disabled"),
];
/// Kinds that the chart makes and that are in no namespace.
const CLUSTER_SCOPED: [&str; 8] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "Namespace",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// A way to set the chart's switches, and what comes of it.
pub(crate) struct Case {
    /// What it is for.
    pub(crate) name: &'static str,
    /// What other cases set as well, before what is its own.
    upon: &'static [&'static str],
    /// As after `--set`.
    pub(crate) set: &'static [&'static str],
    /// Objects that are there, as in [`identity`].
    has: &'static [&'static str],
    /// And those that are not.
    lacks: &'static [&'static str],
    /// Texts that are in it.
    says: &'static [&'static str],
    /// And those that are not.
    omits: &'static [&'static str],
    /// Rights that the operator has, as in [`rights::Right`].
    may: &'static [&'static str],
    /// And those that it has not.
    may_not: &'static [&'static str],
}

const NONE: Case =
    Case { name: "", upon: &[], set: &[], has: &[], lacks: &[], says: &[], omits: &[], may: &[], may_not: &[] };
const OPERATOR: &str = "Deployment tourniquet-system/tourniquet-operator";
const AGENT: &str = "DaemonSet tourniquet-agent/tourniquet-agent";
const BUDGET: &str = "PodDisruptionBudget tourniquet-system/tourniquet-operator";
const MONITOR: &str = "ServiceMonitor tourniquet-system/tourniquet-operator";
const INTAKE: &str = "Deployment tourniquet-system/tourniquet-intake";
const DEFINITION: &str = "CustomResourceDefinition incidentresponses.tourniquet.dev";

const INTAKE_SET: &[&str] = &[
    "intake.enabled=true",
    "intake.clusterID=/subscriptions/1/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/aks",
    "intake.queueEndpoint=https://account.queue.core.windows.net",
    "intake.queue=aks",
    "intake.blobEndpoint=https://account.blob.core.windows.net",
    "intake.workloadIdentity.clientID=00000000-0000-0000-0000-000000000003",
];

/// Every switch, and those together that have to do with each other.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "as it is shipped",
        has: &[
            OPERATOR,
            AGENT,
            DEFINITION,
            "Namespace incident-response",
            "Namespace tourniquet-agent",
            "NetworkPolicy tourniquet-system/tourniquet-operator",
            "NetworkPolicy tourniquet-agent/tourniquet-agent",
        ],
        // A budget for a single pod would keep its node from being drained.
        lacks: &[BUDGET, MONITOR, INTAKE],
        says: &["DAC_READ_SEARCH"],
        omits: &["topologySpreadConstraints", "azure.workload.identity"],
        ..NONE
    },
    Case {
        name: "without agents",
        set: &["agent.enabled=false"],
        has: &[OPERATOR],
        lacks: &[AGENT, "Namespace tourniquet-agent", "NetworkPolicy tourniquet-agent/tourniquet-agent"],
        omits: &["SYS_ADMIN", "TOURNIQUET_AGENT_NAMESPACE"],
        ..NONE
    },
    Case {
        name: "agents that read nothing",
        set: &["agent.capture.enabled=false"],
        has: &[AGENT],
        lacks: &["Role tourniquet-agent/tourniquet-operator", "RoleBinding tourniquet-agent/tourniquet-operator"],
        omits: &["DAC_READ_SEARCH"],
        ..NONE
    },
    Case {
        name: "agents in a namespace of another name",
        set: &["agent.namespace=agents"],
        has: &["DaemonSet agents/tourniquet-agent", "Namespace agents"],
        says: &["system:serviceaccount:agents:tourniquet-agent"],
        omits: &["system:serviceaccount:tourniquet-agent:"],
        ..NONE
    },
    Case {
        name: "several replicas",
        set: &["replicas=3"],
        has: &[BUDGET],
        says: &["topologyKey: kubernetes.io/hostname", "topologyKey: topology.kubernetes.io/zone"],
        ..NONE
    },
    Case {
        name: "several replicas, neither spread nor with a budget",
        set: &["replicas=2", "topologySpreadConstraints=null", "podDisruptionBudget.enabled=false"],
        lacks: &[BUDGET],
        omits: &["topologySpreadConstraints"],
        ..NONE
    },
    Case {
        name: "without network policies",
        set: &["networkPolicy.enabled=false"],
        lacks: &[
            "NetworkPolicy tourniquet-system/tourniquet-operator",
            "NetworkPolicy tourniquet-agent/tourniquet-agent",
        ],
        ..NONE
    },
    Case {
        name: "a ServiceMonitor where Helm does not see that it is served",
        set: &["serviceMonitor.always=true", "serviceMonitor.labels.release=prometheus"],
        has: &[MONITOR, "Service tourniquet-system/tourniquet-operator"],
        says: &["release: prometheus"],
        ..NONE
    },
    Case {
        name: "no ServiceMonitor in any case",
        set: &["serviceMonitor.always=true", "serviceMonitor.enabled=false"],
        lacks: &[MONITOR, "Service tourniquet-system/tourniquet-operator"],
        ..NONE
    },
    Case {
        name: "definitions that somebody else applies",
        set: &["crds.enabled=false"],
        lacks: &[DEFINITION, "CustomResourceDefinition containments.internal.tourniquet.dev"],
        ..NONE
    },
    Case {
        name: "every power",
        may: &[
            "get pods/exec",
            "create pods/exec",
            "patch nodes",
            "create networkpolicies.networking.k8s.io",
            "delete ciliumclusterwidenetworkpolicies.cilium.io",
            "update tiers.projectcalico.org",
            "get secrets in tourniquet-system",
        ],
        omits: &["TOURNIQUET_POWERS_OFF"],
        ..NONE
    },
    Case {
        name: "with the values of a chart that had no powers",
        set: &["powers=null"],
        may: &["create pods/exec", "patch nodes", "create tiers.projectcalico.org", "get secrets in tourniquet-system"],
        omits: &["TOURNIQUET_POWERS_OFF"],
        ..NONE
    },
    Case {
        name: "without the power to start programs",
        set: &["powers.exec=false"],
        says: &["name: TOURNIQUET_POWERS_OFF\n          value: \"exec\""],
        // By the agents evidence is read all the same.
        may: &["create pods/exec in tourniquet-agent", "patch nodes"],
        may_not: &["get pods/exec", "create pods/exec"],
        ..NONE
    },
    Case {
        name: "without the power over nodes",
        set: &["powers.nodes=false"],
        says: &["name: TOURNIQUET_POWERS_OFF\n          value: \"nodes\""],
        may: &["watch nodes", "patch pods", "patch namespaces", "create pods/exec"],
        may_not: &["patch nodes"],
        ..NONE
    },
    Case {
        name: "without the power over policies",
        set: &["powers.policies=false"],
        says: &["name: TOURNIQUET_POWERS_OFF\n          value: \"policies\""],
        may: &["watch networkpolicies.networking.k8s.io", "list tiers.projectcalico.org", "patch nodes"],
        may_not: &[
            "create networkpolicies.networking.k8s.io",
            "patch networkpolicies.networking.k8s.io",
            "delete networkpolicies.networking.k8s.io",
            "patch ciliumclusterwidenetworkpolicies.cilium.io",
            "create globalnetworkpolicies.projectcalico.org",
            "create tier.globalnetworkpolicies.projectcalico.org",
        ],
        ..NONE
    },
    Case {
        name: "without the power over Secrets",
        set: &["powers.secrets=false"],
        says: &["name: TOURNIQUET_POWERS_OFF\n          value: \"secrets\""],
        may: &["update leases.coordination.k8s.io in tourniquet-system"],
        may_not: &["get secrets in tourniquet-system"],
        ..NONE
    },
    Case {
        name: "without any power",
        set: &["powers.exec=false", "powers.nodes=false", "powers.policies=false", "powers.secrets=false"],
        says: &["value: \"exec,nodes,policies,secrets\""],
        may: &["patch incidentresponses.tourniquet.dev"],
        may_not: &["get pods/exec", "patch nodes", "create networkpolicies.networking.k8s.io"],
        ..NONE
    },
    Case {
        name: "a response namespace that somebody else makes",
        set: &["createResponseNamespace=false", "responseNamespace=soc"],
        lacks: &["Namespace incident-response", "Namespace soc"],
        says: &["value: \"soc\""],
        ..NONE
    },
    Case {
        name: "workload identity",
        set: &[
            "workloadIdentity.clientID=00000000-0000-0000-0000-000000000001",
            "workloadIdentity.tenantID=00000000-0000-0000-0000-000000000002",
        ],
        has: &["ServiceAccount tourniquet-system/tourniquet-operator"],
        says: &[
            "azure.workload.identity/client-id: \"00000000-0000-0000-0000-000000000001\"",
            "azure.workload.identity/tenant-id: \"00000000-0000-0000-0000-000000000002\"",
            "azure.workload.identity/use: \"true\"",
        ],
        ..NONE
    },
    Case {
        name: "an intake, which may isolate, cordon and release in the response namespace",
        upon: INTAKE_SET,
        has: &[
            INTAKE,
            "ServiceAccount tourniquet-system/tourniquet-intake",
            "Role incident-response/tourniquet-intake",
            "RoleBinding incident-response/tourniquet-intake",
            "NetworkPolicy tourniquet-system/tourniquet-intake",
        ],
        says: &[
            "verbs: [get, list, create, patch, isolate, cordon, release]",
            "azure.workload.identity/client-id: \"00000000-0000-0000-0000-000000000003\"",
            "azure.workload.identity/use: \"true\"",
        ],
        ..NONE
    },
    Case {
        name: "an intake without an identity, by shared access signatures, behind a proxy of its own authority",
        upon: INTAKE_SET,
        set: &[
            "intake.workloadIdentity.clientID=",
            "intake.sas.secretRef=intake-sas",
            "intake.caBundle=-----BEGIN CERTIFICATE-----",
        ],
        has: &[INTAKE, "ConfigMap tourniquet-system/tourniquet-intake"],
        says: &[
            "{name: TOURNIQUET_INTAKE_QUEUE_SAS_FILE, value: /etc/tourniquet/sas/queue}",
            "{name: sas, secret: {secretName: \"intake-sas\"}}",
            "{name: TOURNIQUET_INTAKE_CA_FILE, value: /etc/tourniquet/ca/ca.crt}",
        ],
        omits: &["azure.workload.identity"],
        ..NONE
    },
    Case {
        name: "an intake that collects and runs approved commands",
        upon: INTAKE_SET,
        set: &[
            "intake.verbs={collect,run}",
            "intake.evidenceStore=soc",
            "intake.commands.kill-miner={/bin/pkill,xmrig}",
            "networkPolicy.enabled=false",
        ],
        has: &[INTAKE],
        lacks: &["NetworkPolicy tourniquet-system/tourniquet-intake"],
        says: &[
            "verbs: [get, list, create, patch, collect, run]",
            "resourceNames: [\"soc\"]",
            r#"value: "{\"kill-miner\":[\"/bin/pkill\",\"xmrig\"]}""#,
        ],
        ..NONE
    },
    Case {
        name: "a Logic App that talks to the API server",
        set: &["direct.enabled=true", "direct.objectID=00000000-0000-0000-0000-000000000004"],
        has: &["Role incident-response/tourniquet-direct", "RoleBinding incident-response/tourniquet-direct"],
        lacks: &[INTAKE],
        says: &[
            "verbs: [get, list, create, patch, isolate, cordon, release]",
            "kind: User, name: \"00000000-0000-0000-0000-000000000004\"",
        ],
        ..NONE
    },
    Case {
        name: "what pods may be given",
        set: &[
            "imagePullSecrets[0].name=registry",
            "podLabels.team=soc",
            "podAnnotations.note=here",
            "serviceAccount.annotations.owner=soc",
            "nodeSelector.pool=system",
            "tolerations[0].operator=Exists",
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution=null",
            "extraEnv[0].name=HTTPS_PROXY",
            "extraEnv[0].value=http://proxy:3128",
            "priorityClassName=",
        ],
        says: &["- name: registry", "team: soc", "note: here", "owner: soc", "pool: system", "name: HTTPS_PROXY"],
        omits: &["system-cluster-critical"],
        ..NONE
    },
];

/// What is refused, and what the message says.
const REFUSED: &[(&str, &str)] = &[
    ("agent.namespace=tourniquet-system", "must not be the operator's own"),
    ("responseNamespace=tourniquet-system", "must not be the operator's own namespace"),
    ("replicas=0", "replicas"),
    ("replica=2", "replica"),
    ("serviceMonitor.interval=soon", "interval"),
    ("workloadIdentity.clientID=operator", "clientID"),
    ("crds.enable=true", "enable"),
    ("powers.root=true", "root"),
    ("powers.exec=perhaps", "exec"),
    ("intake.enabled=true", "intake.workloadIdentity.clientID is needed"),
    ("direct.enabled=true", "direct.objectID is needed"),
    ("direct.verbs={delete}", "verbs"),
    ("intake.verbs={delete}", "verbs"),
    ("intake.clusterID=aks", "clusterID"),
    ("intake.queueEndpoint=http://account", "queueEndpoint"),
];

/// Helm's own lint, then each case and each refusal.
///
/// # Errors
/// Names the case and what is wrong with it.
pub fn check() -> Result<()> {
    let mut lint = Command::new(cluster::ensure_helm()?);
    output(lint.args(["lint", "--strict", "--kube-version", KUBERNETES]).arg(path()))?;
    for case in CASES {
        case.rendered().and_then(|text| case.holds(&text)).with_context(|| format!("the chart, {}", case.name))?;
    }
    for (set, message) in REFUSED {
        match template(&[set]) {
            Ok(_) => bail!("the chart takes {set}"),
            Err(error) => ensure!(error.to_string().contains(message), "the chart, {set}: {error}"),
        }
    }
    Ok(())
}

impl Case {
    /// What the chart renders with its values.
    ///
    /// # Errors
    /// When the chart does not take them.
    pub(crate) fn rendered(&self) -> Result<String> {
        template(&[self.upon, self.set].concat())
    }

    fn holds(&self, text: &str) -> Result<()> {
        let objects = objects(text)?;
        for object in objects.values() {
            well_formed(object)?;
        }
        for wanted in self.has {
            ensure!(objects.contains_key(*wanted), "there is no {wanted}");
        }
        for unwanted in self.lacks {
            ensure!(!objects.contains_key(*unwanted), "there is {unwanted}");
        }
        for wanted in self.says {
            ensure!(text.contains(wanted), "it does not say {wanted}");
        }
        for unwanted in self.omits {
            ensure!(!text.contains(unwanted), "it says {unwanted}");
        }
        let rights = rights::of(&objects, (NAMESPACE, "tourniquet-operator"))?;
        let rights: BTreeSet<String> = rights.iter().map(ToString::to_string).collect();
        for wanted in self.may {
            ensure!(rights.contains(*wanted), "the operator may not {wanted}");
        }
        for unwanted in self.may_not {
            ensure!(!rights.contains(*unwanted), "the operator may {unwanted}");
        }
        Ok(())
    }
}

/// What holds of every object of the chart, whatever the switches.
fn well_formed(object: &Value) -> Result<()> {
    let identity = identity(object)?;
    let (kind, metadata) = (object["kind"].as_str().unwrap_or_default(), &object["metadata"]);
    ensure!(
        CLUSTER_SCOPED.contains(&kind) != metadata["namespace"].is_string(),
        "{identity}: whoever applies it without Helm puts it into the namespace that he happens to be in"
    );
    ensure!(
        metadata["labels"]["app.kubernetes.io/name"] == "tourniquet",
        "{identity} has no label that says whose it is"
    );
    if kind == "CustomResourceDefinition" || kind == "Namespace" {
        for (key, value) in KEEP {
            ensure!(metadata["annotations"][key] == value, "{identity} goes when the chart is uninstalled: {key}");
        }
    }
    if kind == "CustomResourceDefinition" {
        let name = metadata["name"].as_str().and_then(|name| name.split('.').next()).unwrap_or_default();
        let file = workspace().join("crds").join(format!("{name}.yaml"));
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        // As a definition: Helm writes 1 where the generator writes 1.0.
        let (rendered, generated): (CustomResourceDefinition, CustomResourceDefinition) =
            (serde_json::from_value(object.clone())?, serde_saphyr::from_str(&text)?);
        ensure!(rendered.spec == generated.spec, "{identity} is not that of {}", file.display());
    }
    if let Some(list) = object["rules"].as_array().filter(|_| kind == "ClusterRole") {
        let verbs: BTreeSet<&str> = list
            .iter()
            .flat_map(|rule| rule["verbs"].as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        ensure!(!verbs.contains("*"), "{identity} grants every verb");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn each_switch_renders_what_it_is_for() {
        check().unwrap();
    }
}
