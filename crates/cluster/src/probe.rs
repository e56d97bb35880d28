//! One connection attempt.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tourniquet_api::Answer;

/// Tries to open a TCP connection, and closes it at once. A refused connection is an answer: the packet reached the pod.
pub async fn attempt(address: SocketAddr, limit: Duration) -> Answer {
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Err(_) => Answer::TimedOut,
        Ok(Ok(_)) => Answer::Answered,
        Ok(Err(error)) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Answer::Refused,
            ErrorKind::TimedOut => Answer::TimedOut,
            _ => Answer::Unreachable,
        },
    }
}
