//! Commands in containers, by the API server's exec.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams, AttachedProcess};
use tokio::io::{AsyncRead, ReadBuf, ReadHalf, SimplexStream};
use tourniquet_response::Ended;

use crate::error::{Cause, Error};
use crate::{Cluster, within};

/// What is under way of an output between the connection and whoever reads it, in bytes. kube's default is 1024, a read for each.
const BUFFER: usize = 64 * 1024;

/// A container of one pod and no other.
#[derive(Clone, Debug)]
pub struct ContainerRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// The container's name.
    pub container: String,
    /// The container's ID, as the pod's status has it.
    pub container_id: String,
}

/// A command that was begun. Dropped, the connection to it ends.
pub struct Process {
    /// What it writes to its standard output.
    pub stdout: Output,
    /// What it writes to its standard error.
    pub stderr: Output,
    status: StatusLater,
    _attached: AttachedProcess,
}

type StatusLater = Shared<BoxFuture<'static, Option<Status>>>;

impl Process {
    /// How it ended. It does not end while its outputs are not read.
    pub async fn ended(&self) -> Ended {
        ended(self.status.clone().await)
    }

    /// Its outputs, to be read apart from each other, and how it ended: what comes of that ends the connection when it is dropped.
    pub fn split(self) -> (Output, Output, impl Future<Output = Ended> + Send + use<>) {
        let Self { stdout, stderr, status, _attached: attached } = self;
        let later = async move {
            let status = status.await;
            drop(attached);
            ended(status)
        };
        (stdout, stderr, later)
    }
}

/// An output of a command. It ends when the command has, also when the connection broke: kube's own reader then waits for ever
/// (kube-client 5.0.0, `remote_command.rs`: an error returns without closing the pipes).
pub struct Output {
    reader: Option<ReadHalf<SimplexStream>>,
    status: StatusLater,
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        let Some(reader) = &mut this.reader else { return Poll::Ready(Ok(())) };
        if let Poll::Ready(read) = Pin::new(&mut *reader).poll_read(cx, buffer) {
            return Poll::Ready(read);
        }
        if this.status.poll_unpin(cx).is_pending() {
            return Poll::Pending;
        }
        // What came before the end was written before it was told.
        match Pin::new(reader).poll_read(cx, buffer) {
            Poll::Ready(read) => Poll::Ready(read),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }
}

impl Cluster {
    /// Begins a command. An exec names a pod by its name, so whoever needs to know that it is still that container asks before and after
    /// ([`Cluster::replaced`]).
    ///
    /// # Errors
    /// What it came to where it was not begun, or nobody can know whether it was.
    pub async fn exec(&self, place: &ContainerRef, argv: &[String]) -> Result<Process, Ended> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &place.namespace);
        let parameters = AttachParams {
            container: Some(place.container.clone()),
            max_stdout_buf_size: Some(BUFFER),
            max_stderr_buf_size: Some(BUFFER),
            stdin: false,
            ..AttachParams::default()
        };
        let mut attached = match within(api.exec(&place.pod, argv.to_vec(), &parameters)).await {
            Ok(attached) => attached,
            // Answered instead of begun: a right that is missing, a pod that is gone.
            Err(cause @ Cause::Status { code: 400..=499, .. }) => return Err(Ended::NotBegun(cause.to_string())),
            Err(cause) => return Err(Ended::Lost(cause.to_string())),
        };
        let status = attached.take_status();
        let status: BoxFuture<'static, _> = match status {
            Some(status) => status.boxed(),
            None => std::future::ready(None).boxed(),
        };
        let status = status.shared();
        let output = |reader| Output { reader, status: status.clone() };
        Ok(Process {
            stdout: output(attached.stdout()),
            stderr: output(attached.stderr()),
            status: status.clone(),
            _attached: attached,
        })
    }

    /// Why a container is not the one that is meant, or does not run; `None` when it is and does.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn replaced(&self, place: &ContainerRef) -> Result<Option<String>, Error> {
        let ContainerRef { namespace, pod: name, pod_uid, container, container_id } = place;
        let Some(pod) = self.pod(namespace, name, pod_uid).await? else {
            return Ok(Some(format!("pod {namespace}/{name} was removed")));
        };
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let status = statuses.into_iter().find(|status| status.name == *container);
        Ok(match status {
            Some(status) if status.container_id.as_ref() != Some(container_id) => {
                Some(format!("container {container} was restarted"))
            }
            Some(status) if status.state.as_ref().is_some_and(|state| state.running.is_some()) => None,
            _ => Some(format!("container {container} has ended")),
        })
    }
}

/// What the kubelet says of an exec's end (`k8s.io/apimachinery/pkg/util/remotecommand`): success, an exit code, or an error instead.
fn ended(status: Option<Status>) -> Ended {
    let Some(status) = status else { return Ended::Lost("it ended without a word".to_owned()) };
    if status.status.as_deref() == Some("Success") {
        return Ended::Exited(0);
    }
    let message = status.message.unwrap_or_default();
    if status.reason.as_deref() == Some("NonZeroExitCode") {
        let causes = status.details.into_iter().flat_map(|details| details.causes.unwrap_or_default());
        let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
        let code = code.and_then(|cause| cause.message?.parse().ok());
        return code.map_or_else(|| Ended::Lost(message), Ended::Exited);
    }
    // What the runtime says before there is a process: no such program, no such user, a container that does not run.
    let not_begun =
        ["failed to start exec", "unable to start container process", "container not running", "container not found"];
    if not_begun.iter().any(|sign| message.contains(sign)) {
        return Ended::NotBegun(message);
    }
    Ended::Lost(message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests: a panic is a failed test")]
mod tests {
    use super::*;

    fn status(json: serde_json::Value) -> Option<Status> {
        Some(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn an_exit_code_is_one_only_where_it_says_so() {
        assert_eq!(ended(status(serde_json::json!({ "status": "Success" }))), Ended::Exited(0));
        let failed = serde_json::json!({
            "status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with non-zero exit code",
            "details": { "causes": [{ "reason": "ExitCode", "message": "7" }] },
        });
        assert_eq!(ended(status(failed)), Ended::Exited(7));
        let missing = serde_json::json!({
            "status": "Failure", "reason": "InternalError",
            "message": "Internal error occurred: failed to start exec \"1\": OCI runtime exec failed: exec failed: unable to start container process: exec: \"/x\": stat /x: no such file or directory",
        });
        assert!(matches!(ended(status(missing)), Ended::NotBegun(_)));
        let broken =
            serde_json::json!({ "status": "Failure", "reason": "InternalError", "message": "error stream closed" });
        assert!(matches!(ended(status(broken)), Ended::Lost(_)));
        assert!(matches!(ended(None), Ended::Lost(_)));
    }
}
