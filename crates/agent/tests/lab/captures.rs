//! The agent's subcommand, started as a runtime does.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tourniquet_capture::{Outcome, Reason, Request, Trailer};

/// What came of a capture.
pub(crate) struct Captured {
    pub(crate) bytes: Vec<u8>,
    pub(crate) trailer: Trailer,
}

/// As a runtime does: the program, its arguments, no shell.
pub(crate) fn capture(uid: &str, container: Option<&str>, what: Value) -> Captured {
    captured(&run(&arguments(uid, container, what)))
}

/// As a runtime does that gives the program, as user 0, these capabilities and no others.
pub(crate) fn capture_with(capabilities: &str, uid: &str, container: Option<&str>, what: Value) -> Captured {
    let set = format!("--bounding-set=-all,{capabilities}");
    let mut command = Command::new("setpriv");
    command.args([&set, "--inh-caps=-all", env!("CARGO_BIN_EXE_tourniquet-agent")]);
    command.args(arguments(uid, container, what)).stdin(Stdio::null());
    captured(&command.output().expect("the program setpriv (util-linux)"))
}

fn arguments(uid: &str, container: Option<&str>, what: Value) -> [String; 2] {
    let mut request = json!({"pod": {"uid": uid}, "what": what});
    if let Some(id) = container {
        request["container"] = json!({"id": format!("containerd://{id}")});
    }
    let [_, subcommand, json] = Request::parse(&request.to_string()).expect("a request").argv().expect("a request");
    [subcommand, json]
}

pub(crate) fn run(arguments: &[impl AsRef<OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tourniquet-agent"));
    command.args(arguments).env_clear().stdin(Stdio::null()).output().expect("the agent")
}

pub(crate) fn captured(output: &Output) -> Captured {
    let trailer = Trailer::parse(&output.stderr).expect("one line and nothing else");
    assert_eq!(output.status.code(), Some(trailer.exit_status().into()), "{trailer:?}");
    assert_eq!(trailer.length, output.stdout.len() as u64);
    Captured { bytes: output.stdout.clone(), trailer }
}

impl Captured {
    #[track_caller]
    pub(crate) fn whole(self) -> Self {
        assert_eq!(self.trailer.outcome, Outcome::Whole, "{:?}", self.trailer);
        self
    }

    #[track_caller]
    pub(crate) fn failed(self, why: Reason) {
        let Outcome::Failed { reason, message } = self.trailer.outcome else { panic!("{:?}", self.trailer) };
        assert_eq!(reason, why, "{message}");
        assert!(self.bytes.is_empty());
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.bytes).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    pub(crate) fn pids(&self) -> Vec<Value> {
        self.lines().iter().map(|line| line["nodePid"].clone()).collect()
    }
}
