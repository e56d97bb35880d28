//! Messages, one after the other: taken up, carried out, and looked after until what came of them has settled.
//!
//! The queue is the only memory. A message stays in it, hidden, until its effect is there and its outcome is told; whoever is killed before leaves it to
//! the next one, to whom everything that was done already is done. Effects come one after the other, since they take milliseconds; what takes
//! longer, looking and telling, is done beside.

use std::time::Duration;

use futures::future::{Either, select};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cluster::{Done, Failure, Responses};
use crate::mapping::Refused;
use crate::message::{self, Ages, Delivery};
use crate::outcome::{self, Outcome, Seen, State};
use crate::queue::{Queue, Received, Trouble};
use crate::respond::{Policy, decide};

/// How long things take. The defaults are for use; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How often the queue is asked while it is empty.
    pub pause: Duration,
    /// How long a message is hidden from others, renewed while it is worked on.
    pub hidden: Duration,
    /// The longest pause between two looks at responses that have not settled; the first one is half a second.
    pub longest_look: Duration,
    /// How long they are looked at. Collecting evidence takes half an hour at most.
    pub follow: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            pause: Duration::from_secs(2),
            hidden: Duration::from_secs(60),
            longest_look: Duration::from_secs(10),
            follow: Duration::from_secs(35 * 60),
        }
    }
}

/// Everything that a message is dealt with by.
#[derive(Clone)]
pub struct Work {
    /// Where messages are.
    pub queue: Queue,
    /// Where responses are.
    pub responses: Responses,
    /// What is done.
    pub policy: Policy,
    /// How old a message may be.
    pub ages: Ages,
    /// How often a message is taken up before it is set aside: one that ends the intake each time must not for ever.
    pub most_received: i64,
    /// How long things take.
    pub times: Times,
}

/// The most messages that are looked after at the same time. The others wait in the queue; their effects are there.
const MOST_FOLLOWED: usize = 64;

/// What is still to be said of a message.
enum Case {
    /// This, and nothing more will be.
    Told { id: Option<String>, outcome: Option<Outcome>, aside: Option<String> },
    /// What is seen of these.
    Followed { id: String, done: Done },
}

impl Work {
    /// Works until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut followed = JoinSet::new();
        let mut trouble = Pauses::new(self.times.pause);
        while !stop.is_cancelled() {
            while followed.try_join_next().is_some() {}
            match self.queue.receive(self.times.hidden).await {
                Ok(Some(mut message)) => {
                    trouble.over();
                    let taken = self.take_up(&mut message);
                    let case = match select(Box::pin(taken), Box::pin(stop.cancelled())).await {
                        Either::Left((case, _)) => case,
                        // It comes again, to the next one.
                        Either::Right(_) => break,
                    };
                    // Otherwise it comes again too, with its effect there.
                    if followed.len() < MOST_FOLLOWED {
                        let work = self.clone();
                        followed.spawn(async move { work.see_through(message, case).await });
                    }
                }
                Ok(None) => {
                    trouble.over();
                    wait(self.times.pause, &stop).await;
                }
                Err(error) => {
                    warn!(%error, "no messages for now");
                    wait(trouble.next(), &stop).await;
                }
            }
        }
        // What is hidden comes again when that is over.
        followed.shutdown().await;
    }

    /// Decides, and does it, however long the API server is away.
    async fn take_up(&self, message: &mut Received) -> Case {
        let delivery = Delivery { text: &message.text, inserted: message.inserted };
        let now = Timestamp::now();
        let read = match message::read(&delivery, now, &self.ages) {
            Ok(read) => read,
            Err(rejected) => {
                warn!(message = message.id, why = %rejected, "set aside");
                let told = |id: &String| outcome::refused(id, Refused::new("the message", rejected.why.as_str()));
                let outcome = rejected.id.as_ref().map(told);
                return Case::Told { id: rejected.id, outcome, aside: Some(rejected.why) };
            }
        };
        if message.received > self.most_received {
            let why = format!("it was taken up {} times, and the intake ended each time", message.received - 1);
            error!(message = message.id, why, "set aside");
            let outcome = outcome::unknown(&read.id, Refused::new("the message", why.as_str()));
            return Case::Told { id: Some(read.id), outcome: Some(outcome), aside: Some(why) };
        }
        let order = match decide(&read, &self.policy, now) {
            Ok(order) => order,
            Err(refused) => {
                warn!(message = message.id, id = read.id, why = %refused, "refused");
                let outcome = outcome::refused(&read.id, refused);
                return Case::Told { id: Some(read.id), outcome: Some(outcome), aside: None };
            }
        };
        let mut pauses = Pauses::new(Duration::from_millis(500));
        loop {
            match self.responses.carry_out(&order).await {
                Ok(done) => {
                    info!(message = message.id, id = read.id, responses = ?done.names, refused = done.refused.len(), "done");
                    return Case::Followed { id: read.id, done };
                }
                Err(error) => {
                    warn!(message = message.id, id = read.id, error, "not done yet; trying again");
                    sleep(pauses.next()).await;
                    self.keep(message).await;
                }
            }
        }
    }

    /// Tells what comes of a message, and then deletes it.
    async fn see_through(&self, mut message: Received, case: Case) {
        let told = match case {
            Case::Told { id, outcome, aside } => self.tell_once(&message, id, outcome, aside).await,
            Case::Followed { id, done } => self.follow(&mut message, &id, &done).await,
        };
        if !told {
            return;
        }
        if let Err(error) = self.queue.delete(&message).await {
            // It comes again, and everything that it asks for is there.
            warn!(message = message.id, %error, "not deleted");
        }
    }

    async fn tell_once(
        &self,
        message: &Received,
        id: Option<String>,
        outcome: Option<Outcome>,
        aside: Option<String>,
    ) -> bool {
        // Told first: what is set aside is set aside once.
        if let (Some(id), Some(outcome)) = (id, outcome)
            && self.tell(&id, &outcome).await.is_err()
        {
            return false;
        }
        let Some(why) = aside else { return true };
        let set = self.queue.set_aside(message, &why).await;
        if let Err(error) = &set {
            warn!(message = message.id, %error, "not set aside yet");
        }
        set.is_ok()
    }

    /// Until it has settled, or long enough.
    async fn follow(&self, message: &mut Received, id: &str, done: &Done) -> bool {
        let begun = Instant::now();
        let mut pauses = Pauses::new(Duration::from_millis(500)).at_most(self.times.longest_look);
        let mut last = None;
        let mut kept = Instant::now();
        loop {
            let over = begun.elapsed() >= self.times.follow;
            match self.responses.look(done).await {
                Ok(responses) => {
                    let seen = Seen {
                        asked: done.names.len(),
                        responses: &responses,
                        refused: &done.refused,
                        namespace: &self.policy.namespace,
                        over,
                    };
                    let outcome = if done.release { outcome::released(id, &seen) } else { outcome::created(id, &seen) };
                    let settled = outcome.state != State::Working;
                    if last.as_ref() == Some(&outcome) || self.tell(id, &outcome).await.is_ok() {
                        last = Some(outcome);
                        if settled {
                            return true;
                        }
                    }
                }
                Err(Failure::Refused(error) | Failure::Passing(error)) => {
                    warn!(id, error, "cannot look at the responses");
                }
            }
            if over {
                // Nobody was told, so it comes again.
                return false;
            }
            sleep(pauses.next()).await;
            if kept.elapsed() >= self.times.hidden / 3 {
                self.keep(message).await;
                kept = Instant::now();
            }
        }
    }

    async fn keep(&self, message: &mut Received) {
        if let Err(error) = self.queue.keep(message, self.times.hidden).await {
            // Somebody else may take it up meanwhile, and find everything done.
            warn!(message = message.id, %error, "not kept");
        }
    }

    async fn tell(&self, id: &str, outcome: &Outcome) -> Result<(), Trouble> {
        let json = serde_json::to_vec(outcome).unwrap_or_default();
        let told = self.queue.tell(id, json, outcome.state != State::Working).await;
        if let Err(error) = &told {
            warn!(id, %error, "the outcome is not told yet");
        }
        told
    }
}

async fn wait(pause: Duration, stop: &CancellationToken) {
    let _ = select(Box::pin(sleep(pause)), Box::pin(stop.cancelled())).await;
}

/// Pauses that double.
struct Pauses {
    first: Duration,
    next: Duration,
    most: Duration,
}

impl Pauses {
    const fn new(first: Duration) -> Self {
        Self { first, next: first, most: Duration::from_secs(15) }
    }

    const fn at_most(self, most: Duration) -> Self {
        Self { most, ..self }
    }

    fn next(&mut self) -> Duration {
        let pause = self.next.min(self.most);
        self.next = pause * 2;
        pause
    }

    const fn over(&mut self) {
        self.next = self.first;
    }
}
