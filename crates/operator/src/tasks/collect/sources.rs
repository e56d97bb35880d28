//! The ways to an artifact: the agent on the node, programs of the container, the API server, the kubelet.

use std::io::Cursor;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::task::JoinHandle;
use tokio_util::compat::FuturesAsyncReadCompatExt;
use tourniquet_capture::{self as capture, MOST_TRAILER, Reason, Trailer, What};
use tourniquet_cluster::{Cluster, ContainerRef, Error, Output};
use tourniquet_evidence::folder::{
    ArtifactPlan, ArtifactRecord, Bounds, Claim, FileFacts, Folder, Source, SourceReport,
};
use tourniquet_response::{Artifact, Ended, FromOutside, ObjectRef, Way};

use super::container_of;

/// What is read of an output at a time, in bytes.
const CHUNK: usize = 64 * 1024;
/// Entries of a folder.
const ENTRIES: u64 = 1_000_000;

/// Where artifacts of one pod come from.
pub(super) struct Sources<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) object: &'a ObjectRef,
    /// The agent on the pod's node; `None` when none runs there.
    pub(super) agent: Result<Option<ContainerRef>, Error>,
}

/// A command that was begun: its output, of which something has come or which has ended, and what becomes of it.
struct Begun {
    stdout: BufReader<Output>,
    end: JoinHandle<(Vec<u8>, Ended)>,
}

impl Begun {
    /// The end of a command of which nothing came.
    async fn end(self) -> (Vec<u8>, Ended) {
        drop(self.stdout);
        joined(self.end.await)
    }
}

fn joined(end: Result<(Vec<u8>, Ended), tokio::task::JoinError>) -> (Vec<u8>, Ended) {
    end.unwrap_or_else(|_| (Vec::new(), Ended::Lost("whoever waited for it is gone".to_owned())))
}

impl Sources<'_> {
    /// Collects an artifact by the first way that there is. What stood in the way of the others is said where none is.
    pub(super) async fn collect(&self, folder: &Folder, artifact: &Artifact, bounds: Bounds) -> ArtifactRecord {
        let mut why = Vec::new();
        for way in &artifact.ways {
            let taken = match way {
                Way::Agent(read) => self.by_agent(folder, artifact, read, &bounds).await,
                Way::Tool(argv) => Box::pin(self.by_tool(folder, artifact, argv, &bounds)).await,
                Way::Log { previous } => self.log(folder, artifact, *previous, &bounds).await,
                Way::Manifest | Way::Events => self.stored(folder, artifact, way, &bounds).await,
            };
            match taken {
                Ok(record) => return record,
                Err(reason) => why.push(reason),
            }
        }
        let why = if why.is_empty() { artifact.what.clone() } else { why.join("; ") };
        let source = match artifact.ways.first() {
            Some(Way::Agent(_)) | None => Source::NodeAgent,
            Some(Way::Tool(_)) => Source::ContainerTools,
            Some(Way::Log { .. }) => Source::Kubelet,
            Some(Way::Manifest | Way::Events) => Source::ApiServer,
        };
        folder.add_failed(plan(artifact, &artifact.name, source, Vec::new()), why).await
    }

    async fn by_agent(
        &self,
        folder: &Folder,
        artifact: &Artifact,
        read: &FromOutside,
        bounds: &Bounds,
    ) -> Result<ArtifactRecord, String> {
        let agent = match &self.agent {
            Ok(Some(agent)) => agent,
            Ok(None) => return Err("no agent runs on the pod's node".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        let (what, name) = (what(read, artifact.limit), artifact.name.as_str());
        let (mut begun, argv) = self.ask(agent, artifact, what).await?;
        let is_over = is_over(&mut begun.stdout).await;
        let (begun, name, argv) = match (begun, argv) {
            (begun, argv) if is_over => {
                let (stderr, ended) = begun.end().await;
                let said = Trailer::parse(&stderr);
                let is_folder = matches!(&said, Ok(trailer) if is_because(trailer, Reason::IsFolder));
                let (FromOutside::Path(path), true) = (read, is_folder) else {
                    // Nothing came of it, or it is empty.
                    let report = report_of_agent(&stderr, &ended, read);
                    let plan = plan(artifact, name, Source::NodeAgent, argv);
                    return Ok(folder.add(plan, Cursor::new(Vec::new()), async { report }, bounds.clone()).await);
                };
                let what = What::Folder { path: path.clone(), max_bytes: artifact.limit, max_entries: ENTRIES };
                let (begun, argv) = self.ask(agent, artifact, what).await?;
                (begun, format!("{name}.tar"), argv)
            }
            (begun, argv) => (begun, name.to_owned(), argv),
        };
        let plan = plan(artifact, &name, Source::NodeAgent, argv);
        let Begun { stdout, end } = begun;
        let report = async {
            let (stderr, ended) = joined(end.await);
            report_of_agent(&stderr, &ended, read)
        };
        Ok(Box::pin(folder.add(plan, stdout, report, bounds.clone())).await)
    }

    async fn ask(&self, agent: &ContainerRef, artifact: &Artifact, what: What) -> Result<(Begun, Vec<String>), String> {
        let request = capture::Request {
            pod: capture::Pod { uid: self.object.uid.clone().unwrap_or_default() },
            container: artifact
                .container
                .as_ref()
                .map(|(name, id)| capture::Container { name: Some(name.clone()), id: id.clone() }),
            what,
            timeout_seconds: u32::try_from(artifact.timeout.as_secs())
                .unwrap_or(u32::MAX)
                .clamp(1, capture::LONGEST_TIMEOUT),
        };
        let argv = request.argv().map_err(|error| error.to_string())?.to_vec();
        let begun = self.begin(agent, &argv, MOST_TRAILER).await.map_err(|ended| format!("the agent: {ended:?}"))?;
        Ok((begun, argv))
    }

    async fn by_tool(
        &self,
        folder: &Folder,
        artifact: &Artifact,
        argv: &[String],
        bounds: &Bounds,
    ) -> Result<ArtifactRecord, String> {
        let Some(container) = &artifact.container else { return Err("no container is named".to_owned()) };
        let place = container_of(self.object, container);
        if let Some(why) = self.cluster.replaced(&place).await.map_err(|error| error.to_string())? {
            return Err(why);
        }
        let program = argv.first().map_or("", String::as_str);
        let words = tourniquet_evidence::folder::STDERR;
        let mut begun = self.begin(&place, argv, words).await.map_err(|ended| format!("{program}: {ended:?}"))?;
        if is_over(&mut begun.stdout).await {
            let (stderr, ended) = begun.end().await;
            if let Ended::NotBegun(why) = ended {
                return Err(format!("{program}: {why}"));
            }
            let report = report_of_tool(stderr, ended);
            let plan = plan(artifact, &artifact.name, Source::ContainerTools, argv.to_vec());
            return Ok(folder.add(plan, Cursor::new(Vec::new()), async { report }, bounds.clone()).await);
        }
        let name = if program == "tar" { format!("{}.tar", artifact.name) } else { artifact.name.clone() };
        let plan = plan(artifact, &name, Source::ContainerTools, argv.to_vec());
        let Begun { stdout, end } = begun;
        let report = async {
            let (stderr, ended) = joined(end.await);
            let mut report = report_of_tool(stderr, ended);
            if let Ok(Some(why)) = self.cluster.replaced(&place).await {
                report.broken.get_or_insert(why);
            }
            report
        };
        Ok(Box::pin(folder.add(plan, stdout, report, bounds.clone())).await)
    }

    /// Begins a command, and waits for the first of its output: whether there is such a program shows only then.
    async fn begin(&self, place: &ContainerRef, argv: &[String], words: usize) -> Result<Begun, Ended> {
        let (stdout, stderr, ended) = self.cluster.exec(place, argv).await?.split();
        let end = tokio::spawn(async move { tokio::join!(last_words(stderr, words), ended) });
        Ok(Begun { stdout: BufReader::with_capacity(CHUNK, stdout), end })
    }

    async fn log(
        &self,
        folder: &Folder,
        artifact: &Artifact,
        previous: bool,
        bounds: &Bounds,
    ) -> Result<ArtifactRecord, String> {
        let Some(container) = &artifact.container else { return Err("no container is named".to_owned()) };
        let place = container_of(self.object, container);
        let log = self.cluster.log(&place, previous, artifact.limit).await.map_err(|error| error.to_string())?;
        let request = format!(
            "GET /api/v1/namespaces/{}/pods/{}/log?container={}&previous={previous}&timestamps=true",
            place.namespace, place.pod, place.container
        );
        let plan = plan(artifact, &artifact.name, Source::Kubelet, vec![request]);
        let report = async { SourceReport::default() };
        Ok(folder.add(plan, Box::pin(log.compat()), report, bounds.clone()).await)
    }

    async fn stored(
        &self,
        folder: &Folder,
        artifact: &Artifact,
        way: &Way,
        bounds: &Bounds,
    ) -> Result<ArtifactRecord, String> {
        let (namespace, uid) =
            (self.object.namespace.clone().unwrap_or_default(), self.object.uid.clone().unwrap_or_default());
        let found = if *way == Way::Events {
            self.cluster.events_of(&namespace, &uid).await.map_err(|error| error.to_string())?
        } else {
            let pod = self.cluster.pod(&namespace, &self.object.name, &uid).await.map_err(|error| error.to_string())?;
            let pod = pod.ok_or_else(|| "the pod is gone".to_owned())?;
            self.cluster.manifest_of(&pod).await
        };
        let bytes = serde_json::to_vec_pretty(&found).map_err(|error| error.to_string())?;
        let plan = plan(artifact, &artifact.name, Source::ApiServer, Vec::new());
        let report = async { SourceReport::default() };
        Ok(folder.add(plan, Cursor::new(bytes), report, bounds.clone()).await)
    }
}

fn plan(artifact: &Artifact, name: &str, source: Source, argv: Vec<String>) -> ArtifactPlan {
    ArtifactPlan {
        name: name.to_owned(),
        what: artifact.what.clone(),
        source,
        container: artifact.container.as_ref().map(|(name, _)| name.clone()),
        argv,
    }
}

fn what(read: &FromOutside, max_bytes: u64) -> What {
    match read {
        FromOutside::Processes => What::Processes {},
        FromOutside::Connections => What::Connections {},
        FromOutside::Environment { values } => What::Environment { values: *values },
        FromOutside::Memory(process) => {
            // Whatever is no number is a name.
            let process = process.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
            What::Memory { process, max_bytes }
        }
        FromOutside::Path(path) => What::File { path: path.clone(), max_bytes },
    }
}

/// Whether an output has ended before anything came.
async fn is_over(stdout: &mut BufReader<Output>) -> bool {
    stdout.fill_buf().await.map_or(true, <[u8]>::is_empty)
}

/// The end of what it says beside its output.
async fn last_words(mut stderr: Output, limit: usize) -> Vec<u8> {
    let (mut said, mut buffer) = (Vec::new(), vec![0; CHUNK]);
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        said.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let surplus = said.len().saturating_sub(limit);
        said.drain(..surplus);
    }
    said
}

fn is_because(trailer: &Trailer, wanted: Reason) -> bool {
    matches!(&trailer.outcome, capture::Outcome::Failed { reason, .. } if *reason == wanted)
}

fn report_of_agent(stderr: &[u8], ended: &Ended, read: &FromOutside) -> SourceReport {
    let exit_code = if let Ended::Exited(code) = ended { Some(*code) } else { None };
    let trailer = match Trailer::parse(stderr) {
        Ok(trailer) => trailer,
        Err(error) => {
            let how = if exit_code.is_some() { String::new() } else { format!(" ({ended:?})") };
            return SourceReport { broken: Some(format!("{error}{how}")), exit_code, ..SourceReport::default() };
        }
    };
    let (broken, truncated) = match (&trailer.outcome, ended) {
        (capture::Outcome::Whole, Ended::Exited(0)) => (None, None),
        // What there is of it is there; the digests tell whether it arrived.
        (capture::Outcome::Truncated { message }, _) => (None, Some(message.clone())),
        (capture::Outcome::Failed { message, .. }, _) => (Some(message.clone()), None),
        (capture::Outcome::Whole, ended) => {
            (Some(format!("the agent's command did not end as one that is whole: {ended:?}")), None)
        }
    };
    let file = trailer.file.as_ref().map(|file| {
        let path = if let FromOutside::Path(path) = read { path.clone() } else { String::new() };
        FileFacts {
            path,
            mode: format!("{:04o}", file.mode),
            uid: file.uid,
            gid: file.gid,
            size: file.size,
            accessed: Some(file.atime),
            modified: Some(file.mtime),
            changed: Some(file.ctime),
            born: file.btime,
        }
    });
    let claimed = Claim { by: "tourniquet-agent".to_owned(), sha256: trailer.sha256, length: Some(trailer.length) };
    SourceReport { broken, truncated, exit_code, stderr: trailer.warnings.join("\n"), claimed: Some(claimed), file }
}

fn report_of_tool(stderr: Vec<u8>, ended: Ended) -> SourceReport {
    let (exit_code, broken) = match ended {
        Ended::Exited(0) => (Some(0), None),
        Ended::Exited(code) => (Some(code), Some(format!("the program ended with exit code {code}"))),
        other => (None, Some(format!("the program's end is not known: {other:?}"))),
    };
    SourceReport { broken, exit_code, stderr: String::from_utf8_lossy(&stderr).into_owned(), ..SourceReport::default() }
}
