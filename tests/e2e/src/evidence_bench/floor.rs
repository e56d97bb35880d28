//! The two halves of the way, each by itself.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use azure_core::Bytes;
use azure_core::http::{ClientOptions, Transport, Url};
use azure_storage_blob::models::BlockBlobClientUploadOptions;
use azure_storage_blob::{BlockBlobClient, BlockBlobClientOptions};
use kube::Client;
use secrecy::ExposeSecret;
use tokio::io::AsyncReadExt;
use tourniquet_azurite::{Azurite, Sas};
use tourniquet_cluster::{Cluster, ContainerRef};
use tourniquet_response::Ended;

use crate::environment::config;
use crate::{AGENT_NAMESPACE, OPERATOR_NAMESPACE, Scenario};

/// As the store's own blocks are, and as many at a time.
const BLOCK: u64 = 4 * 1024 * 1024;
const PARALLEL: usize = 3;

/// The agent, asked by somebody who is taken for the operator: nobody else may ask.
pub struct Agent {
    cluster: Cluster,
    place: ContainerRef,
}

impl Agent {
    pub async fn on(s: &Scenario, node: &str) -> Result<Self> {
        let mut config = config(&s.env.context).await?;
        config.auth_info.impersonate = Some(format!("system:serviceaccount:{OPERATOR_NAMESPACE}:tourniquet-operator"));
        let cluster = Cluster::new(Client::try_from(config)?);
        let place = cluster.agent_on(AGENT_NAMESPACE, node).await?.context("no agent runs there")?;
        Ok(Self { cluster, place })
    }

    /// The same command as the operator's, its output thrown away; how many bytes it was.
    pub async fn read(&self, argv: &[String]) -> Result<u64> {
        let begun = self.cluster.exec(&self.place, argv).await;
        let (mut stdout, mut stderr, ended) =
            begun.map_err(|ended| anyhow::anyhow!("the agent was not asked: {ended:?}"))?.split();
        let reading = async {
            let (mut buffer, mut length) = (vec![0; 256 * 1024], 0);
            while let count @ 1.. = stdout.read(&mut buffer).await? {
                length += count as u64;
            }
            Ok::<_, std::io::Error>(length)
        };
        let mut said = Vec::new();
        let (length, _, ended) = tokio::join!(reading, stderr.read_to_end(&mut said), ended);
        if ended != Ended::Exited(0) {
            bail!("the agent's command: {ended:?}: {}", String::from_utf8_lossy(&said));
        }
        Ok(length?)
    }
}

/// The SDK stores bytes that are in memory, in blocks as ours.
pub async fn upload(azurite: &Azurite, container: &str, name: &str, bytes: Bytes) -> Result<()> {
    let sas = Sas::new(container).sign();
    let url = Url::parse(&format!("{}/{container}/{name}?{}", azurite.endpoint(), sas.expose_secret()))?;
    let transport = Some(Transport::new(Arc::new(azurite.pki.client())));
    let client_options = ClientOptions { transport, ..ClientOptions::default() };
    let options = BlockBlobClientOptions { client_options, ..BlockBlobClientOptions::default() };
    let client = BlockBlobClient::new(url, None, Some(options))?;
    let options = BlockBlobClientUploadOptions {
        parallel: PARALLEL.try_into().ok(),
        partition_size: BLOCK.try_into().ok(),
        ..BlockBlobClientUploadOptions::default()
    };
    client.upload(bytes.into(), Some(options)).await?;
    Ok(())
}
