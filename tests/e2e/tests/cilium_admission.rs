//! Who may change what holds a pod on Cilium: a policy of the whole cluster. Real RBAC on the real API server; the other kinds are tried in
//! `none_admission_traces` and `none_calico`.

use std::time::Duration;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;
use tourniquet_api::names;
use tourniquet_e2e::bypass::Holding;
use tourniquet_e2e::people::{Place, right};
use tourniquet_e2e::{Spec, scenario, until};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_policy_of_the_whole_cluster_is_changed_by_the_operator_or_by_who_may_break_the_glass() {
    scenario("admission", |s| async move {
        let web = s.pod("web").await?;
        let response = s.respond("held", Spec::isolate(&web)).await?;
        let kind = GroupVersionKind::gvk("cilium.io", "v2", "CiliumClusterwideNetworkPolicy");
        let kind = ApiResource::from_gvk_with_plural(&kind, "ciliumclusterwidenetworkpolicies");
        let policies = kube::Api::<DynamicObject>::all_with(s.env.client.clone(), &kind);
        let name = names::policy(&response.uid);
        let there = async || Ok(policies.get_metadata_opt(&name).await?.and_then(|policy| policy.metadata.uid));
        let first = until("the policy is there", SOON, there).await?;

        let holding = Holding {
            path: "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies",
            name: &name,
            response_uid: &response.uid,
            right: right(
                Place::Cluster,
                "create,patch,update,delete,deletecollection",
                "ciliumclusterwidenetworkpolicies.cilium.io",
            ),
            opened: json!({ "spec": { "endpointSelector": { "matchLabels": { "a": "b" } } } }),
            another: json!({
                "apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
                "spec": { "endpointSelector": { "matchLabels": { "a": "b" } }, "ingress": [{}] },
            }),
        };
        s.try_to_bypass(holding.attempts()).await?;

        // It was never away.
        anyhow::ensure!(there().await?.as_ref() == Some(&first), "{name} is another one");
        response.delete().await?;
        response.gone(SOON).await
    });
}
