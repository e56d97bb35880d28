//! Attempts to get by without a right: each is denied with words that say what is missing, and the same is allowed to whoever has it.

use anyhow::{Context, Result, ensure};

use crate::Scenario;
use crate::people::{Ask, Person, Right, Said};

/// One row of the table.
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
pub enum Control {
    /// The same request is allowed with these rights as well.
    With(Vec<Right>),
    /// The same request is allowed to this user.
    To(&'static str),
    /// Nobody is allowed to, and this is what they do instead.
    Instead(Ask),
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
