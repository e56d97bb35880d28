//! The queue, the one beside it for what cannot be acted on, and the container where outcomes are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use azure_core::error::{Error as SdkError, ErrorKind};
use azure_core::http::headers::HeaderName;
use azure_core::http::{ClientOptions, RequestContent, Url, XmlFormat};
use azure_storage_blob::models::BlockBlobClientUploadOptions;
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use azure_storage_queue::models::{
    QueueClientReceiveMessagesOptions, QueueClientSendMessageOptions, QueueMessage, ReceivedMessage,
};
use azure_storage_queue::{QueueClient, QueueClientOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::json;
pub use tourniquet_evidence::Auth;
use tourniquet_evidence::store::{Times, connection};

/// Where messages come from, and what is said of them goes.
#[derive(Clone, Debug)]
pub struct Config {
    /// The account's queue endpoint, such as `https://ACCOUNT.queue.core.windows.net`.
    pub queues: String,
    /// The queue's name; what is set aside goes into the one of this name with `-poison` behind it.
    pub queue: String,
    /// The account's blob endpoint, such as `https://ACCOUNT.blob.core.windows.net`.
    pub blobs: String,
    /// The container of outcomes.
    pub outcomes: String,
    /// As whom the queues are used.
    pub auth: Auth,
    /// As whom outcomes are written. A shared access signature is for one service.
    pub outcomes_auth: Auth,
    /// Certificate authorities to trust besides the system's, as PEM.
    pub ca_bundle: Option<String>,
}

/// What was not done, for the log: what, where, and what to do. Has no secret in it: of an answer only its code is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(String);

/// A message that is this intake's for a while.
#[derive(Clone, Debug)]
pub struct Received {
    /// The queue's name for it.
    pub id: String,
    /// Its text.
    pub text: String,
    /// When the queue took it.
    pub inserted: Timestamp,
    /// How often it was received, this time included.
    pub received: i64,
    receipt: String,
}

/// The queue and what belongs to it.
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    messages: QueueClient,
    poison: QueueClient,
    outcomes: BlobContainerClient,
}

/// The largest note that, encoded, a queue takes: 64 KiB.
const LARGEST_NOTE: usize = 48 * 1024;

/// Metadata of an outcome that nobody writes to any more; the playbook sees the header `x-ms-meta-final`.
const FINAL: &str = "final";

const POP_RECEIPT: HeaderName = HeaderName::from_static("x-ms-popreceipt");

impl Queue {
    /// Nothing is asked of it yet.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn open(config: &Config) -> Result<Self, Trouble> {
        let bad = |what: &str, why: String| Trouble(format!("{what}: {why}"));
        let connect = |auth: &Auth| connection(auth, config.ca_bundle.as_deref(), &Times::default());
        let (options, credential) = connect(&config.auth).map_err(|why| bad("the queue", why))?;
        let poison = format!("{}-poison", config.queue);
        let messages = queue(&config.queues, &config.queue, &options, credential.clone())?;
        let poison = queue(&config.queues, &poison, &options, credential)?;
        let (client_options, credential) = connect(&config.outcomes_auth).map_err(|why| bad("the outcomes", why))?;
        let options = BlobContainerClientOptions { client_options, ..BlobContainerClientOptions::default() };
        let url = below(&config.blobs, &config.outcomes)?;
        let outcomes = BlobContainerClient::new(url, credential, Some(options))
            .map_err(|error| bad("the outcomes", error.to_string()))?;
        Ok(Self { inner: Arc::new(Inner { messages, poison, outcomes }) })
    }

    /// The next message, if there is one. It is seen by nobody else until `hidden` is over.
    ///
    /// # Errors
    /// When the queue does not answer, or refuses.
    pub async fn receive(&self, hidden: Duration) -> Result<Option<Received>, Trouble> {
        let options = QueueClientReceiveMessagesOptions {
            number_of_messages: Some(1),
            visibility_timeout: Some(seconds(hidden)),
            ..QueueClientReceiveMessagesOptions::default()
        };
        let doing = "take a message from the queue";
        let answer = within(doing, self.inner.messages.receive_messages(Some(options))).await?;
        let answer = answer.into_model().map_err(|error| told(doing, &error))?;
        answer.items.unwrap_or_default().into_iter().next().map(received).transpose()
    }

    /// Keeps a message for as long again.
    ///
    /// # Errors
    /// When the queue does not answer, or the message is no longer this intake's.
    pub async fn keep(&self, message: &mut Received, hidden: Duration) -> Result<(), Trouble> {
        let update = self.inner.messages.update_message(&message.id, &message.receipt, seconds(hidden), None);
        let answer = within("keep a message of the queue", update).await?;
        if let Some(receipt) = answer.headers().get_optional_string(&POP_RECEIPT) {
            message.receipt = receipt;
        }
        Ok(())
    }

    /// Takes a message out of the queue for good: its effect is there.
    ///
    /// # Errors
    /// When the queue does not answer, or the message is no longer this intake's.
    pub async fn delete(&self, message: &Received) -> Result<(), Trouble> {
        within(
            "delete a message of the queue",
            self.inner.messages.delete_message(&message.id, &message.receipt, None),
        )
        .await?;
        Ok(())
    }

    /// Puts a message beside, with the reason, where it stays until somebody has looked at it.
    ///
    /// # Errors
    /// When the queue beside does not answer, or is not there.
    pub async fn set_aside(&self, message: &Received, why: &str) -> Result<(), Trouble> {
        let note = note(message, why);
        // Encoded, as messages of playbooks are: what is in it need not be writable in XML.
        let message = QueueMessage { message_text: Some(STANDARD.encode(note)) };
        let options = QueueClientSendMessageOptions {
            message_time_to_live: Some(-1),
            ..QueueClientSendMessageOptions::default()
        };
        let doing = "put a message into the queue beside (the one that ends with -poison)";
        let content: RequestContent<QueueMessage, XmlFormat> =
            message.try_into().map_err(|error| told(doing, &error))?;
        within(doing, self.inner.poison.send_message(content, Some(options))).await?;
        Ok(())
    }

    /// Writes what became of a message, over what was written before. The last time, its metadata says `final`: a playbook waits for a header, and looks into
    /// the body, which before may be an error of the service, only then.
    ///
    /// # Errors
    /// When the container does not answer, or refuses.
    pub async fn tell(&self, id: &str, outcome: Vec<u8>, last: bool) -> Result<(), Trouble> {
        let blob = self.inner.outcomes.blob_client(&format!("{id}.json")).block_blob_client();
        let options = BlockBlobClientUploadOptions {
            blob_content_type: Some("application/json".to_owned()),
            metadata: last.then(|| HashMap::from([(FINAL.to_owned(), "true".to_owned())])),
            ..BlockBlobClientUploadOptions::default()
        };
        within("write an outcome", blob.upload(RequestContent::from(outcome), Some(options))).await?;
        Ok(())
    }
}

/// What is put beside: the reason, and as much of the text as there is room for.
fn note(message: &Received, why: &str) -> String {
    let with = |most: usize| {
        let kept: String = message.text.chars().take(most).collect();
        let whole = kept.len() == message.text.len();
        json!({
            "reason": why,
            "messageId": message.id,
            "insertedAt": message.inserted.to_string(),
            "received": message.received,
            "whole": whole,
            "text": kept,
        })
        .to_string()
    };
    // A text of anything but base64 grows when it is written in JSON, six times at most.
    let note = with(40 * 1024);
    if note.len() <= LARGEST_NOTE { note } else { with(4 * 1024) }
}

fn received(message: ReceivedMessage) -> Result<Received, Trouble> {
    let lacks = |what| Trouble(format!("the queue gave a message without its {what}"));
    let inserted = message.insertion_time.ok_or_else(|| lacks("insertion time"))?;
    Ok(Received {
        id: message.message_id.ok_or_else(|| lacks("ID"))?,
        text: message.message_text.unwrap_or_default(),
        inserted: Timestamp::from_second(inserted.unix_timestamp()).map_err(|_| lacks("insertion time"))?,
        received: message.dequeue_count.unwrap_or(1),
        receipt: message.pop_receipt.ok_or_else(|| lacks("receipt"))?,
    })
}

fn queue(
    endpoint: &str,
    name: &str,
    options: &ClientOptions,
    credential: Option<Arc<dyn TokenCredential>>,
) -> Result<QueueClient, Trouble> {
    let options = QueueClientOptions { client_options: options.clone(), ..QueueClientOptions::default() };
    QueueClient::new(below(endpoint, name)?, credential, Some(options))
        .map_err(|error| Trouble(format!("the queue {name}: {error}")))
}

/// A name below an endpoint, which is https and carries no credential.
fn below(endpoint: &str, name: &str) -> Result<Url, Trouble> {
    let bad = || {
        Trouble(format!(
            "{name}: its endpoint has to look like https://ACCOUNT.queue.core.windows.net, without a query or a user"
        ))
    };
    let mut url = Url::parse(endpoint).map_err(|_| bad())?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if url.scheme() != "https" || !plain || url.password().is_some() {
        return Err(bad());
    }
    let fits = (3..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fits {
        return Err(Trouble(format!(
            "{name:?} is no name of a queue or container: 3 to 63 lower-case letters, digits and hyphens"
        )));
    }
    url.path_segments_mut().map_err(|()| bad())?.pop_if_empty().push(name);
    Ok(url)
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// One request, which must not hang: the message is hidden for a while only.
async fn within<T>(doing: &str, request: impl Future<Output = azure_core::Result<T>>) -> Result<T, Trouble> {
    /// As long as one of a page's worth of bytes takes on a bad line.
    const LIMIT: Duration = Duration::from_secs(20);
    match tokio::time::timeout(LIMIT, request).await {
        Ok(answer) => answer.map_err(|error| told(doing, &error)),
        Err(_) => Err(Trouble(format!("cannot {doing}: no answer within {} s", LIMIT.as_secs()))),
    }
}

fn told(doing: &str, error: &SdkError) -> Trouble {
    Trouble(match error.kind() {
        ErrorKind::HttpResponse { status, error_code, .. } => {
            let status = u16::from(*status);
            let code = error_code.as_deref().unwrap_or("no code");
            let advice = match status {
                401 | 403 => {
                    ". The identity needs the roles that deploy/azure/storage.json gives it, on the queue, on the one beside, and on the container of outcomes; a new role takes minutes to be in force"
                }
                404 => {
                    ". Create the queue, the one beside it, and the container of outcomes (deploy/azure/storage.json does)"
                }
                _ => "",
            };
            format!("cannot {doing}: {code} ({status}){advice}")
        }
        _ => format!("cannot {doing}: {error}"),
    })
}
