//! Its queue service, started when it is first needed, and what tests put into queues and find there, past everything that is tested.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::{ACCOUNT, Azurite, queue_account, serve};

const VERSION: &str = "2022-11-02";

impl Azurite {
    /// Where queues are. Waits until they are, the first time.
    pub fn queues(&self) -> SocketAddr {
        let port = || SocketAddr::new(self.address.ip(), serve("queue", self.address.ip(), &self.pki));
        *self.queues.get_or_init(port)
    }

    pub fn queue_endpoint(&self) -> String {
        self.queue_endpoint_at(self.queues())
    }

    /// The endpoint where something else leads to it.
    pub fn queue_endpoint_at(&self, address: SocketAddr) -> String {
        format!("https://{address}/{ACCOUNT}")
    }

    pub async fn create_queue(&self, name: &str) {
        let request = self.pki.client().put(self.queue_url(name, ""));
        let answer = request.header("x-ms-version", VERSION).header("content-length", "0").send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// Puts a text in, as playbooks do: encoded.
    pub async fn put_message(&self, queue: &str, text: &str) {
        self.put_raw_message(queue, &STANDARD.encode(text)).await;
    }

    pub async fn put_raw_message(&self, queue: &str, text: &str) {
        let body = format!("<QueueMessage><MessageText>{text}</MessageText></QueueMessage>");
        let request = self.pki.client().post(self.queue_url(&format!("{queue}/messages"), "")).body(body);
        let answer = request.header("x-ms-version", VERSION).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// How many messages there are, hidden ones included.
    pub async fn count_messages(&self, queue: &str) -> usize {
        let request = self.pki.client().get(self.queue_url(queue, "comp=metadata"));
        let answer = request.header("x-ms-version", VERSION).send().await.unwrap();
        answer.headers()["x-ms-approximate-messages-count"].to_str().unwrap().parse().unwrap()
    }

    /// The decoded texts of the messages that are not hidden; they stay as they are.
    pub async fn peek_messages(&self, queue: &str) -> Vec<String> {
        let url = self.queue_url(&format!("{queue}/messages"), "peekonly=true&numofmessages=32");
        let answer = self.pki.client().get(url).header("x-ms-version", VERSION).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{text}");
        let texts = text.split("<MessageText>").skip(1).filter_map(|rest| rest.split_once("</MessageText>"));
        texts.map(|(text, _)| String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()).collect()
    }

    fn queue_url(&self, path: &str, query: &str) -> String {
        format!("{}/{path}?{query}&{}", self.queue_endpoint(), queue_account("rwdlacup", "sco"))
    }
}
