//! What is said of a store, and when it is tried again. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tourniquet_api::{AzureBlob, EvidenceStoreStatus, Immutability, SecretKeyRef};
use tourniquet_cluster::SecretValue;
use tourniquet_evidence::Trouble;
use tourniquet_evidence::store::{self, Checked};
use tourniquet_response::{Note, NoteType, POWER_OFF, Power};

/// What a try showed.
pub(super) type Outcome = Result<Checked, Trouble>;

/// One try among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// How often in a row it was not ready, this time included.
    pub(super) failures: u32,
    /// Whether it is worth a line in the log.
    pub(super) news: bool,
}

/// The condition that says whether a store can be used.
const READY: &str = "Ready";
/// Between two tries of a store that is ready.
const EVERY: Duration = Duration::from_secs(300);
/// The first pause while it is not ready. It doubles.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause while it is not ready: a credential that was mended is used within this.
const LONGEST: Duration = Duration::from_secs(60);
/// How much the clocks may differ before it is mentioned: signatures and tokens are good for minutes on either side.
const SKEW: SignedDuration = SignedDuration::from_secs(60);
/// The longest reason and message (Kubernetes, `metav1.Condition`, has 1,024 and 32,768 characters), of which nobody reads as much.
const REASON: usize = 128;
const MESSAGE: usize = 4096;

/// The status after a try.
pub(super) fn status(
    before: &EvidenceStoreStatus,
    blob: Option<&AzureBlob>,
    generation: Option<i64>,
    outcome: &Outcome,
    now: Timestamp,
) -> EvidenceStoreStatus {
    let (ready, reason, message) = match outcome {
        Ok(checked) => ("True", "RoundTripSucceeded".to_owned(), ready(checked, blob)),
        Err(trouble) => ("False", reason(&trouble.code), plain(&trouble.message)),
    };
    let former = before.conditions.iter().find(|condition| condition.type_ == READY);
    let since = former.filter(|former| former.status == ready).map(|former| former.last_transition_time.clone());
    let condition = Condition {
        type_: READY.to_owned(),
        status: ready.to_owned(),
        reason,
        message,
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| Time(whole_seconds(now))),
    };
    let checked = outcome.as_ref().ok();
    EvidenceStoreStatus {
        observed_generation: generation,
        conditions: before.conditions.iter().filter(|other| other.type_ != READY).cloned().chain([condition]).collect(),
        // What was seen before it failed may not be so any more.
        immutability: checked.map_or(Immutability::Unknown, |checked| immutability(checked.immutability)),
        clock_offset_seconds: checked.map(|checked| checked.clock_offset.as_secs()),
        checked_at: Some(Time(whole_seconds(now))),
    }
}

/// What is worth an event: that it became ready, that it is not any more, or not for another reason. Whoever collects into it reads why it does not.
pub(super) fn note(before: &EvidenceStoreStatus, after: &EvidenceStoreStatus) -> Option<Note> {
    let ready = |status: &EvidenceStoreStatus| status.conditions.iter().find(|is| is.type_ == READY).cloned();
    let now = ready(after)?;
    let before = ready(before);
    let same =
        |before: &Condition| before.status == now.status && (now.status == "True" || before.reason == now.reason);
    if before.as_ref().is_some_and(same) {
        return None;
    }
    Some(if now.status == "True" {
        Note::of_itself(NoteType::Normal, "Ready", "Check", &now.message)
    } else {
        Note::of_itself(NoteType::Warning, "NotReady", "Check", &format!("{}: {}", now.reason, now.message))
    })
}

/// The pause until the next try, never shorter than what the service asks for; and no longer than that of one that is ready, whatever it asks for.
pub(super) fn pause(outcome: &Outcome, failures: u32) -> Duration {
    match outcome {
        Ok(_) => EVERY,
        Err(trouble) => {
            let pause = (FIRST * (1 << failures.saturating_sub(1).min(6))).min(LONGEST);
            pause.max(trouble.retry_after.unwrap_or_default().min(EVERY))
        }
    }
}

/// Whether this is something else than before: ready again, not any more, or for another reason.
pub(super) fn news(before: Option<&Outcome>, now: &Outcome) -> bool {
    match (before, now) {
        (Some(Ok(_)), Ok(_)) => false,
        (Some(Err(before)), Err(now)) => before.code != now.code,
        _ => true,
    }
}

/// What stays until somebody changes something.
pub(super) fn trouble(code: &str, message: impl Into<String>) -> Trouble {
    Trouble { code: code.to_owned(), message: message.into(), transient: false, retry_after: None }
}

pub(super) fn unreadable(error: &str) -> Trouble {
    trouble(
        "Unreadable",
        format!(
            "this object cannot be read: {error}. Compare it with kubectl explain evidencestore.spec, and create it anew"
        ),
    )
}

pub(super) fn timed_out(blob: &AzureBlob, limit: Duration) -> Trouble {
    let (container, endpoint, limit) = (&blob.container, &blob.endpoint, limit.as_secs());
    let message = format!(
        "{endpoint}, container {container}, did not answer within {limit} s. Compare the endpoint, and whether network policies and firewalls let the operator reach it"
    );
    Trouble { transient: true, ..trouble("TimedOut", message) }
}

/// Why there is no signature to use.
pub(super) fn no_signature(missing: &SecretValue, namespace: &str, at: &SecretKeyRef) -> Trouble {
    let SecretKeyRef { name, key } = at;
    let anew = format!("kubectl --namespace {namespace} create secret generic {name} --from-file={key}=FILE");
    match missing {
        SecretValue::NoSecret => trouble(
            "SecretNotFound",
            format!(
                "Secret {namespace}/{name} does not exist. Put the shared access signature into a file, and create it: {anew}"
            ),
        ),
        SecretValue::NoKey => trouble(
            "SecretKeyNotFound",
            format!(
                "Secret {namespace}/{name} has no key {key}. Put the shared access signature there, or name its key in auth.sas.secretRef.key"
            ),
        ),
        SecretValue::NotText | SecretValue::Found(_) => trouble(
            "BadConfiguration",
            format!(
                "what Secret {namespace}/{name} has under {key} is not text. A shared access signature is a query string such as sv=…&sp=cwrl&sig=…; delete the Secret, and create it anew: {anew}"
            ),
        ),
    }
}

/// Where what is refused came from: that is where a better one has to go.
pub(super) fn naming_secret(trouble: Trouble, blob: &AzureBlob, namespace: &str) -> Trouble {
    let of_the_credential = trouble.code.starts_with("Auth") || trouble.code == "BadConfiguration";
    match &blob.auth.sas {
        Some(sas) if of_the_credential && !trouble.transient => {
            let SecretKeyRef { name, key } = &sas.secret_ref;
            let message =
                format!("{}. The signature is what Secret {namespace}/{name} has under {key}", trouble.message);
            Trouble { message, ..trouble }
        }
        _ => trouble,
    }
}

/// Nobody gave the operator the power to read it, so it is not tried.
pub(super) fn no_power(namespace: &str, SecretKeyRef { name, .. }: &SecretKeyRef) -> Trouble {
    let off = Power::Secrets.is_off();
    let message = format!(
        "to read Secret {namespace}/{name} takes {off}. Have it switched on, or use auth.workloadIdentity or auth.managedIdentity, which take no Secret"
    );
    trouble(POWER_OFF, message)
}

/// The API server does not let us read it.
pub(super) fn secret_refused(error: &tourniquet_cluster::Error) -> Trouble {
    trouble("SecretNotReadable", error.to_string())
}

fn ready(checked: &Checked, blob: Option<&AzureBlob>) -> String {
    let at = blob.map(|blob| format!(" in container {} of {}", blob.container, blob.endpoint)).unwrap_or_default();
    let protection = match checked.immutability {
        store::Immutability::Verified => "what is stored is protected from being changed and deleted",
        store::Immutability::Absent => {
            "nothing protects what is stored from being changed or deleted: give the container an immutability policy"
        }
        store::Immutability::Unknown => {
            "whether what is stored is protected from being changed and deleted, the service did not say to this credential"
        }
    };
    let clock = match checked.clock_offset {
        offset if offset.abs() > SKEW => {
            let side = if offset.is_negative() { "behind" } else { "ahead of" };
            format!(
                ". The store's clock is {} s {side} the operator's: one of the two is wrong",
                offset.as_secs().abs()
            )
        }
        _ => String::new(),
    };
    plain(&format!("stored, read back and compared{at}; {protection}{clock}"))
}

fn immutability(seen: store::Immutability) -> Immutability {
    match seen {
        store::Immutability::Verified => Immutability::Verified,
        store::Immutability::Absent => Immutability::Absent,
        store::Immutability::Unknown => Immutability::Unknown,
    }
}

/// A code as a condition's reason: letters, digits and underscores, beginning with a letter. Who answered may be a gateway that gives a number, or anything.
fn reason(code: &str) -> String {
    let kept: String = code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(REASON).collect();
    let kept = kept.trim_matches('_');
    match kept.chars().next() {
        None => "Unexpected".to_owned(),
        Some(first) if first.is_ascii_digit() => format!("Status{kept}"),
        Some(first) => format!("{}{}", first.to_ascii_uppercase(), kept.get(1..).unwrap_or_default()),
    }
}

/// Somebody else's words may be in it: nothing that a terminal would obey.
fn plain(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE).collect()
}

/// Times of conditions have no fractions.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use tourniquet_api::{SharedAccessSignature, StoreAuth};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn checked(immutability: store::Immutability, offset: i64) -> Outcome {
        Ok(Checked { immutability, clock_offset: SignedDuration::from_secs(offset) })
    }

    fn good() -> Outcome {
        checked(store::Immutability::Verified, 0)
    }

    fn bad(code: &str) -> Outcome {
        Err(trouble(code, "no"))
    }

    fn of(outcome: &Outcome) -> EvidenceStoreStatus {
        status(&EvidenceStoreStatus::default(), None, Some(3), outcome, at(0))
    }

    fn the_condition(status: &EvidenceStoreStatus) -> &Condition {
        let mut ready = status.conditions.iter().filter(|condition| condition.type_ == READY);
        let first = ready.next().unwrap();
        assert!(ready.next().is_none(), "one condition of a type");
        first
    }

    #[test]
    fn what_changes_is_noted_and_what_stays_so_is_not() {
        let noted = |before: &EvidenceStoreStatus, outcome: &Outcome| {
            let after = status(before, None, Some(3), outcome, at(1));
            let note = note(before, &after).map(|note| (note.type_, note.reason, note.note));
            (after, note)
        };
        let (down, first) = noted(&EvidenceStoreStatus::default(), &bad("CannotConnect"));
        assert_eq!(first, Some((NoteType::Warning, "NotReady".to_owned(), "CannotConnect: no".to_owned())));
        assert_eq!(noted(&down, &bad("CannotConnect")).1, None);
        let (_, other) = noted(&down, &bad("ContainerNotFound"));
        assert!(other.is_some_and(|(_, _, note)| note.starts_with("ContainerNotFound")));
        let (up, mended) = noted(&down, &good());
        assert!(mended.is_some_and(|(type_, reason, _)| (type_, reason.as_str()) == (NoteType::Normal, "Ready")));
        // What else is said of one that is ready is in its status.
        assert_eq!(noted(&up, &checked(store::Immutability::Absent, 300)).1, None);
    }

    #[test]
    fn a_round_trip_makes_a_store_ready() {
        let status = of(&checked(store::Immutability::Verified, -2));
        let ready = the_condition(&status);
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "RoundTripSucceeded"));
        assert_eq!((status.observed_generation, ready.observed_generation), (Some(3), Some(3)));
        assert_eq!((status.immutability, status.clock_offset_seconds), (Immutability::Verified, Some(-2)));
    }

    #[test]
    fn what_does_not_protect_what_is_stored_is_said_with_what_to_do() {
        let message = |immutability| the_condition(&of(&checked(immutability, 0))).message.clone();
        assert!(message(store::Immutability::Absent).contains("give the container an immutability policy"));
        assert!(message(store::Immutability::Unknown).contains("did not say"));
    }

    #[test]
    fn a_clock_that_is_wrong_is_mentioned_though_the_store_is_ready() {
        let message = |offset| the_condition(&of(&checked(store::Immutability::Verified, offset))).message.clone();
        assert!(message(-61).contains("61 s behind the operator's"));
        assert!(message(3600).contains("3600 s ahead of the operator's"));
        assert!(!message(60).contains("clock"));
    }

    #[test]
    fn what_was_seen_before_it_failed_is_not_claimed_any_more() {
        let before = of(&checked(store::Immutability::Verified, 1));
        let after = status(&before, None, Some(3), &bad("CannotConnect"), at(60));
        assert_eq!((after.immutability, after.clock_offset_seconds), (Immutability::Unknown, None));
        assert_eq!(the_condition(&after).reason, "CannotConnect");
        assert_eq!(after.checked_at, Some(Time(at(60))));
    }

    #[test]
    fn a_condition_keeps_its_time_for_as_long_as_it_says_the_same() {
        let since = |status: &EvidenceStoreStatus| the_condition(status).last_transition_time.0;
        let first = of(&bad("CannotConnect"));
        let another_reason = status(&first, None, Some(3), &bad("TlsFailed"), at(5));
        let mended = status(&another_reason, None, Some(4), &good(), at(10));
        assert_eq!([since(&first), since(&another_reason), since(&mended)], [at(0), at(0), at(10)]);
    }

    #[test]
    fn conditions_of_others_stay() {
        let mut before = of(&good());
        let theirs = Condition { type_: "Audited".to_owned(), ..the_condition(&before).clone() };
        before.conditions.push(theirs.clone());
        let after = status(&before, None, Some(3), &bad("TlsFailed"), at(1));
        assert_eq!(after.conditions.len(), 2);
        assert!(after.conditions.contains(&theirs));
    }

    #[test]
    fn whatever_code_a_service_gives_the_reason_is_one_that_kubernetes_takes() {
        for (code, wanted) in [
            ("AuthorizationPermissionMismatch", "AuthorizationPermissionMismatch"),
            ("404", "Status404"),
            ("", "Unexpected"),
            ("---", "Unexpected"),
            ("_", "Unexpected"),
            ("server busy", "Serverbusy"),
            ("Failed: (left out) is wrong\u{1b}[31m", "Failedleftoutiswrong31m"),
            ("Größe", "Gre"),
        ] {
            assert_eq!(reason(code), wanted, "{code:?}");
        }
        assert_eq!(reason(&"a".repeat(5000)).len(), REASON);
    }

    #[test]
    fn words_of_others_do_nothing_to_a_terminal_and_have_an_end() {
        let message = format!("a\u{1b}[31m\nb{}", "ä".repeat(5000));
        let said = the_condition(&of(&Err(trouble("Unexpected", message)))).message.clone();
        assert!(said.starts_with("a [31m b") && said.chars().count() == MESSAGE, "{said}");
    }

    #[test]
    fn a_store_that_is_not_ready_is_tried_soon_and_then_less_often() {
        let pauses: Vec<u64> = (1..=9).map(|failures| pause(&bad("CannotConnect"), failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause(&good(), 0), EVERY);
    }

    #[test]
    fn a_service_can_ask_for_more_time_but_not_for_ever() {
        let asks =
            |seconds| Err(Trouble { retry_after: Some(Duration::from_secs(seconds)), ..trouble("ServerBusy", "busy") });
        assert_eq!(pause(&asks(120), 1), Duration::from_secs(120));
        assert_eq!(pause(&asks(86_400), 1), EVERY);
        assert_eq!(pause(&asks(1), 9), LONGEST);
    }

    #[test]
    fn the_log_has_a_line_when_something_changes() {
        assert!(news(None, &good()) && news(None, &bad("TlsFailed")));
        assert!(news(Some(&good()), &bad("TlsFailed")) && news(Some(&bad("TlsFailed")), &good()));
        assert!(news(Some(&bad("TlsFailed")), &bad("CannotConnect")));
        assert!(!news(Some(&good()), &good()) && !news(Some(&bad("TlsFailed")), &bad("TlsFailed")));
    }

    #[test]
    fn a_secret_that_is_missing_is_named_with_the_command_that_makes_it() {
        let at = SecretKeyRef { name: "evidence".to_owned(), key: "sas".to_owned() };
        let said = |missing| no_signature(&missing, "tourniquet-system", &at);
        let missing = said(SecretValue::NoSecret);
        assert_eq!(missing.code, "SecretNotFound");
        assert!(
            missing
                .message
                .contains("kubectl --namespace tourniquet-system create secret generic evidence --from-file=sas="),
            "{missing}"
        );
        assert_eq!(said(SecretValue::NoKey).code, "SecretKeyNotFound");
        assert_eq!(said(SecretValue::NotText).code, "BadConfiguration");
    }

    #[test]
    fn a_signature_that_is_refused_is_said_to_be_in_which_secret() {
        let reference = SecretKeyRef { name: "evidence".to_owned(), key: "sas".to_owned() };
        let sas = Some(SharedAccessSignature { secret_ref: reference });
        let blob = AzureBlob { auth: StoreAuth { sas, ..StoreAuth::default() }, ..AzureBlob::default() };
        let said = |code, blob| naming_secret(trouble(code, "no"), blob, "tourniquet-system").message;
        assert!(said("AuthenticationFailed", &blob).contains("Secret tourniquet-system/evidence"));
        assert_eq!(said("ContainerNotFound", &blob), "no");
        assert_eq!(said("AuthenticationFailed", &AzureBlob::default()), "no");
    }
}
