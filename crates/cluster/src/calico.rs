//! Calico's kinds: served by its own API server, or, from version 3.32 on, as definitions (`CustomResourceDefinition`) of the same group.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kube::api::{Api, DynamicObject, ListParams};
use tourniquet_api::names;
use tourniquet_response::{Calico, CalicoTier, Kind};

use crate::error::Error;
use crate::observe::{clusterwide_policy, existing};
use crate::{Cluster, api_resource, within};

/// How long it may take to find out whether they are served. Behind the aggregation layer may be nobody, and nothing waits for that: an
/// `APIService` survives an uninstall.
const SERVED_LIMIT: Duration = Duration::from_secs(1);

impl Cluster {
    /// Whether Calico's tiers and cluster-wide policies are served; when nobody answers for them, what was true before.
    pub(crate) async fn serves_calico(&self) -> bool {
        let Ok(Ok(plurals)) = tokio::time::timeout(SERVED_LIMIT, self.plurals("projectcalico.org/v3")).await else {
            return self.calico.load(Ordering::Relaxed);
        };
        let is_served = |kind: Kind| plurals.iter().any(|plural| plural == kind.plural());
        // Calico below 3.30 has no tiers.
        let served = is_served(Kind::Tier) && is_served(Kind::GlobalNetworkPolicy);
        self.calico.store(served, Ordering::Relaxed);
        served
    }

    /// A response's tier, its policy, and the tiers beside it.
    pub(crate) async fn calico(&self, tier: &str) -> Result<Calico, Error> {
        let api = |kind| Api::<DynamicObject>::all_with(self.client.clone(), &api_resource(kind));
        let name = names::response_of_field_manager(tier).map(names::calico_policy).unwrap_or_default();
        let (tiers, policies) = (api(Kind::Tier), api(Kind::GlobalNetworkPolicy));
        let all = ListParams::default();
        let (tiers, policy) = futures::join!(within(tiers.list(&all)), within(policies.get(&name)));
        let tiers = existing(tiers).map_err(|cause| Error::request("list", "Tiers of Calico", cause))?;
        let policy = existing(policy)
            .map_err(|cause| Error::request("read", format_args!("GlobalNetworkPolicy {name}"), cause))?;
        let mut calico = Calico { policy: policy.map(clusterwide_policy), ..Calico::default() };
        for found in tiers.into_iter().flat_map(|list| list.items) {
            if found.metadata.name.as_deref() == Some(tier) {
                calico.tier = Some(clusterwide_policy(found));
            } else {
                calico.others.push(other(&found));
            }
        }
        Ok(calico)
    }
}

fn other(tier: &DynamicObject) -> CalicoTier {
    CalicoTier {
        name: tier.metadata.name.clone().unwrap_or_default(),
        order: tier.data.pointer("/spec/order").and_then(serde_json::Value::as_f64),
        response_uid: tier.metadata.labels.as_ref().and_then(|labels| labels.get(names::RESPONSE_LABEL)).cloned(),
    }
}
