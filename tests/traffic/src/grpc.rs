//! The health checks of gRPC, as the kubelet's probes make them.

use std::io;
use std::net::TcpStream;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
pub(crate) const BEGINNING: &[u8] = b"PRI * HTTP/2.0";

/// `HealthCheckResponse{status: SERVING}` in gRPC's framing: not compressed, two bytes, field 1 is 1.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Answers every `grpc.health.v1.Health/Check` of a connection, until the client closes it.
pub(crate) fn answer(connection: TcpStream) -> io::Result<()> {
    connection.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(serve(connection)).map_err(io::Error::other)
}

async fn serve(connection: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut connection = h2::server::handshake(tokio::net::TcpStream::from_std(connection)?).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let head = Response::builder().header("content-type", "application/grpc").body(())?;
        let mut body = respond.send_response(head, false)?;
        // The protocol's numbers (grpc.github.io, status codes): 0 is OK, 12 unimplemented.
        let mut status = "12";
        if request.uri().path() == CHECK {
            body.send_data(Bytes::from_static(SERVING), false)?;
            status = "0";
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        body.send_trailers(trailers)?;
    }
    Ok(())
}
