//! Azurite where the cluster's pods reach it, and a way to it that can be shut.

use std::net::SocketAddr;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tourniquet_azurite::Azurite;

use crate::crash::NODE;

/// Azurite on the node's address, started the first time; it ends with the test program.
pub async fn azurite() -> Result<&'static Azurite> {
    static RUNNING: OnceLock<Azurite> = OnceLock::new();
    let started = tokio::task::spawn_blocking(|| RUNNING.get_or_init(|| Azurite::start(NODE)));
    started.await.context("Azurite did not start")
}

/// A port of the node that leads to Azurite, while it is open. Shut, it refuses connections, and those that there were end.
pub struct Gate {
    pub address: SocketAddr,
    to: SocketAddr,
    open: Option<JoinHandle<()>>,
}

impl Gate {
    /// A shut one.
    pub async fn shut(azurite: &Azurite) -> Result<Self> {
        let address = TcpListener::bind(SocketAddr::new(NODE, 0)).await?.local_addr()?;
        Ok(Self { address, to: azurite.address, open: None })
    }

    pub async fn open(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).await.context("somebody else took the gate's port")?;
        let to = self.to;
        self.open = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                // Those that have ended are let go of.
                while connections.try_join_next().is_some() {}
                connections.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(to).await {
                        // Whoever ends it says so to the other side.
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        }));
        Ok(())
    }

    pub async fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            // It has let go of the port then.
            let _ = open.await;
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.abort();
        }
    }
}
