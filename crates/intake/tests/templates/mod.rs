//! The templates of deploy/azure, and where the requests of their workflows go.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tourniquet_workflow::{Answer, Request, Send, read};

pub(crate) fn deployed() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/azure"))
}

pub(crate) fn template_of(name: &str) -> Value {
    read(&deployed().join(format!("{name}.json")))
}

/// To Azurite, where a signature stands for the managed identity, by what a URL begins with.
pub(crate) fn signed(client: reqwest::Client, signatures: Vec<(String, String)>) -> Send {
    Arc::new(move |request: Request| {
        assert_eq!(request.audience, "https://storage.azure.com/");
        let (_, signature) =
            signatures.iter().find(|(begins, _)| request.uri.starts_with(begins)).expect("it asks nobody else");
        let mut asked = client.request(request.method.parse().unwrap(), format!("{}?{signature}", request.uri));
        for (header, value) in &request.headers {
            asked = asked.header(header, value);
        }
        if let Some(body) = request.body {
            asked = asked.body(body);
        }
        Box::pin(async move {
            let answer = asked.send().await.map_err(|error| error.to_string())?;
            let headers = answer.headers().iter();
            let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
            let status = answer.status().as_u16();
            Ok(Answer { status, headers, body: answer.text().await.map_err(|error| error.to_string())? })
        })
    })
}
