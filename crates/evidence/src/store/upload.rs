//! Blocks on their way: a few at a time, each until the service has it.

use azure_storage_blob::models::BlockBlobClientStageBlockOptions;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::io::AsyncRead;
use uuid::Uuid;

use super::attempts::Effort;
use super::blocks::{Block, Intake, Stop};
use super::{Store, Trouble};

/// Blocks on their way at the same time. With the one that is being filled, and what TLS has of each, some 20 MiB.
const PARALLEL: usize = 3;

/// An upload, before its commit.
pub(super) struct Upload<'a> {
    store: &'a Store,
    name: &'a str,
    nonce: Uuid,
    effort: Effort,
    blocks: u32,
    staging: FuturesUnordered<BoxFuture<'a, Result<(), Trouble>>>,
}

impl<'a> Upload<'a> {
    pub(super) fn new(store: &'a Store, name: &'a str, nonce: Uuid, effort: Effort) -> Self {
        Self { store, name, nonce, effort, blocks: 0, staging: FuturesUnordered::new() }
    }

    /// Takes all of a source, as fast as its blocks are stored.
    pub(super) async fn take<R: AsyncRead + Unpin>(
        &mut self,
        intake: &mut Intake<R>,
        stop: &Stop,
    ) -> Result<(), Trouble> {
        loop {
            tokio::select! {
                biased;
                Some(staged) = self.staging.next() => staged?,
                // It can be given up while the store holds it up.
                ended = stop.comes(), if self.staging.len() >= PARALLEL => {
                    intake.give_up(ended);
                    // The block that was being filled; its memory is there already.
                    if let Some(block) = intake.next().await {
                        self.stage(block);
                    }
                    return Ok(());
                }
                block = intake.next(), if self.staging.len() < PARALLEL => match block {
                    Some(block) => self.stage(block),
                    None => return Ok(()),
                },
            }
        }
    }

    /// Waits for all that is on its way.
    pub(super) async fn settle(&mut self) -> Result<(), Trouble> {
        while let Some(staged) = self.staging.next().await {
            staged?;
        }
        Ok(())
    }

    /// The blocks, in order.
    pub(super) fn ids(&self) -> Vec<Vec<u8>> {
        (0..self.blocks).map(|number| id(self.nonce, number)).collect()
    }

    fn stage(&mut self, block: Block) {
        let (store, name, effort) = (self.store, self.name, self.effort);
        let id = id(self.nonce, self.blocks);
        self.blocks += 1;
        self.staging.push(Box::pin(async move {
            let doing = format!("store a block of {name}");
            store
                .attempt(&doing, effort, |container| {
                    let (block, id) = (block.clone(), id.clone());
                    async move {
                        let options = BlockBlobClientStageBlockOptions {
                            transactional_content_md5: Some(block.md5),
                            ..BlockBlobClientStageBlockOptions::default()
                        };
                        let client = container.blob_client(name).block_blob_client();
                        let length = block.bytes.len() as u64;
                        client.stage_block(&id, length, block.bytes.into(), Some(options)).await.map(drop)
                    }
                })
                .await
        }));
    }
}

/// All of one length, as the service wants it, and of this upload only: another one of the same name cannot mix with it.
fn id(nonce: Uuid, number: u32) -> Vec<u8> {
    [nonce.as_bytes().as_slice(), &number.to_be_bytes()].concat()
}
