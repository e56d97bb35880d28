//! `tourniquet-agent capture REQUEST`: what the operator executes in the agent's container to read a pod from outside. The
//! protocol is the crate tourniquet-capture's.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use tourniquet_agent::pods::{self, FindError};
use tourniquet_capture::{Capture, Reason, Request, SUBCOMMAND, Trailer};

/// The node's: the agent's container has it by hostPID.
const PROC: &str = "/proc";
/// What hangs in the kernel, since somebody serves a file system that does not answer, cannot look at a clock.
const GRACE: Duration = Duration::from_secs(5);

/// The request, if a capture is what the program is started for; empty where it is no text.
pub(crate) fn requested(arguments: impl IntoIterator<Item = OsString>) -> Option<Option<String>> {
    let mut arguments = arguments.into_iter().skip(1);
    (arguments.next()? == SUBCOMMAND).then(|| {
        let request = arguments.next()?.into_string().ok()?;
        arguments.next().is_none().then_some(request)
    })
}

/// Reads the artifact to stdout, and says on stderr what was written.
pub(crate) fn run(request: Option<&str>) -> ExitCode {
    // A panic would be a second line; it is told by the trailer.
    std::panic::set_hook(Box::new(|_| {}));
    let trailer = match request.map(Request::parse) {
        Some(Ok(request)) => capture(request),
        Some(Err(error)) => Capture::refused(error),
        None => Capture::refused(format!("{SUBCOMMAND} takes one argument, a request as JSON")),
    };
    let code = ExitCode::from(trailer.exit_status());
    let said = serde_json::to_vec(&trailer).is_ok_and(|mut line| {
        line.push(b'\n');
        io::stderr().write_all(&line).is_ok()
    });
    if said { code } else { ExitCode::FAILURE }
}

/// On a thread of its own, which may hang: this one waits no longer than is allowed.
fn capture(request: Request) -> Trailer {
    let allowed = Duration::from_secs(u64::from(request.timeout_seconds)) + GRACE;
    let uid = request.pod.uid.clone();
    let capture = Capture::new(request);
    let (done, waiting) = mpsc::channel();
    let reading = capture.clone();
    let started = std::thread::Builder::new().name("capture".to_owned()).spawn(move || {
        // Nobody waits any more: then it was given up, and said so.
        let _ = done.send(read(&reading, &uid));
    });
    if let Err(error) = started {
        return capture.failed(Reason::Internal, format!("no thread can be started: {error}"));
    }
    match waiting.recv_timeout(allowed) {
        Ok(trailer) => trailer,
        Err(mpsc::RecvTimeoutError::Timeout) => capture
            .failed(Reason::TimedOut, "a read did not return: somebody serves a file system that does not answer"),
        Err(mpsc::RecvTimeoutError::Disconnected) => capture.failed(
            Reason::Internal,
            "the agent has a fault: its capture panicked; collect it by other means, and report this",
        ),
    }
}

fn read(capture: &Capture, uid: &str) -> Trailer {
    let proc = Path::new(PROC);
    // Not by way of the library's own buffer, which looks for line breaks.
    let out = match io::stdout().as_fd().try_clone_to_owned() {
        Ok(out) => File::from(out),
        Err(error) => return capture.failed(Reason::NotTaken, error),
    };
    let read = |members: &pods::PodProcesses<'_>| capture.run(members, out);
    match pods::with_processes(proc, uid, &pods::hierarchy(proc), read) {
        Ok(trailer) => trailer,
        Err(error) => capture.failed(reason(&error), error),
    }
}

const fn reason(error: &FindError) -> Reason {
    match error {
        FindError::NotAUid(_) => Reason::BadRequest,
        FindError::NotHere { .. } => Reason::PodNotHere,
        FindError::Relative { .. } | FindError::Enter { .. } | FindError::Unreadable { .. } => Reason::Denied,
        FindError::HostNetwork { .. } | FindError::Ambiguous { .. } | FindError::Unsteady { .. } => Reason::Unreadable,
    }
}
