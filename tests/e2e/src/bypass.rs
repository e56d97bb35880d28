//! Attempts to get by without a right: each is denied with words that say what is missing, and the same is allowed to whoever has it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tourniquet_api::names;

use crate::Scenario;
use crate::people::{Ask, Person, Place, Right, Said, right};

/// One row of the table.
#[derive(Clone)]
pub struct Attempt {
    /// What is tried.
    pub title: &'static str,
    /// What whoever tries it may do: enough for RBAC itself to let the request pass, unless RBAC is what stops it.
    pub given: Vec<Right>,
    pub ask: Ask,
    /// Words of the denial.
    pub denied: &'static str,
    pub control: Control,
}

/// That it is the missing right, and nothing else, which denies it.
#[derive(Clone)]
pub enum Control {
    /// The same request is allowed with these rights as well.
    With(Vec<Right>),
    /// The same request is allowed to this user.
    To(&'static str),
    /// Nobody is allowed to, and this is what they do instead.
    Instead(Ask),
}

/// With this the same is allowed.
pub fn break_glass() -> Control {
    Control::With(vec![right(Place::Responses, "override-protection", "incidentresponses.tourniquet.dev")])
}

/// An object by which a response holds its target, of whichever kind the cluster's engine has.
pub struct Holding<'a> {
    /// Where such objects are, as a path of the API.
    pub path: &'a str,
    pub name: &'a str,
    pub response_uid: &'a str,
    /// Whoever tries has this on all of them.
    pub right: Right,
    /// What it would be changed to: a merge patch that lets the target out.
    pub opened: Value,
    /// Another one, without its name and labels.
    pub another: Value,
}

impl Holding<'_> {
    /// One try.
    pub fn attempt(&self, title: &'static str, ask: Ask) -> Attempt {
        Attempt {
            title,
            given: vec![self.right.clone()],
            ask,
            denied: "this policy is what holds the target of a response",
            control: break_glass(),
        }
    }

    /// Everything by which somebody may try to get rid of it.
    pub fn attempts(&self) -> Vec<Attempt> {
        let (path, object) = (self.path, format!("{}/{}", self.path, self.name));
        let owner = json!({ "metadata": { "ownerReferences": [{
            "apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "11111111-2222-3333-4444-555555555555",
        }] } });
        let mut forged = self.another.clone();
        forged["metadata"] = json!({ "name": "forged", "labels": { names::RESPONSE_LABEL: self.response_uid } });
        vec![
            self.attempt("the policy deleted", Ask::delete(&object)),
            self.attempt(
                "all policies of the response deleted",
                Ask::delete(format!("{path}?labelSelector={}={}", names::RESPONSE_LABEL, self.response_uid)),
            ),
            self.attempt("the policy opened", Ask::merge_patch(&object, self.opened.clone())),
            self.attempt(
                "the policy's label taken off first",
                Ask::merge_patch(&object, json!({ "metadata": { "labels": null } })),
            ),
            self.attempt("the policy given an owner that does not exist", Ask::merge_patch(&object, owner)),
            self.attempt("a policy in a response's name", Ask::create(path, forged)),
        ]
    }
}

impl Scenario {
    /// Tries all of them; every one that does not end as expected is in the error. The attempts are real, the controls are asked for as dry runs: the
    /// API server decides in the same way and keeps nothing.
    pub async fn try_to_bypass(&self, attempts: Vec<Attempt>) -> Result<()> {
        let (mut tried, mut wrong) = (0, Vec::new());
        for (index, attempt) in attempts.iter().enumerate() {
            tried += 1;
            if let Err(error) = self.attempt(index, attempt).await {
                wrong.push(format!("{}: {error:#}", attempt.title));
            }
        }
        println!("{tried} attempts");
        ensure!(wrong.is_empty(), "{} of {tried} attempts:\n  {}", wrong.len(), wrong.join("\n  "));
        Ok(())
    }

    async fn attempt(&self, index: usize, attempt: &Attempt) -> Result<()> {
        let person = self.person(&format!("attempt-{index}"), &attempt.given).await?;
        denied(&person, &attempt.ask.afresh(&self.env.client).await?, attempt.denied).await?;
        let same = attempt.ask.afresh(&self.env.client).await?.dry();
        let allowed = match &attempt.control {
            Control::With(rights) => {
                self.grant(&person, rights).await?;
                person.asks(&same).await?
            }
            Control::To(user) => self.impersonate(user).await?.asks(&same).await?,
            Control::Instead(ask) => person.asks(&ask.dry()).await?,
        };
        allowed.done().context("with the right").map(drop)
    }
}

async fn denied(person: &Person, ask: &Ask, words: &str) -> Result<()> {
    let said: Said = person.asks(ask).await?;
    ensure!(matches!(said.code, 403 | 422), "not denied but answered {}: {}", said.code, said.message());
    ensure!(said.message().contains(words), "denied for another reason: {}", said.message());
    Ok(())
}
