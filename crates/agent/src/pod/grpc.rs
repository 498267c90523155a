//! gRPC health checks (the protocol `grpc.health.v1.Health`), as far as a probe needs them.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::probe::AGENT;

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 10 * 1024;
/// What a service that is well answers.
const SERVING: u64 = 1;

/// Asks how `service` is; an empty name means the server as a whole.
pub(super) async fn check(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: &str,
) -> Result<(), String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(text)?;
    let driver = tokio::spawn(connection);
    let request = http::Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .header(http::header::USER_AGENT, AGENT)
        .body(Full::new(frame(service)))
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(text)?;
    let status = answer.status();
    let mut headers = answer.headers().clone();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    driver.abort();
    let body = body.map_err(|error| error.to_string())?;
    headers.extend(body.trailers().cloned().unwrap_or_default());
    if !status.is_success() {
        return Err(format!("error: health rpc failed: unexpected HTTP status {status}"));
    }
    let said =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    match said("grpc-status").as_str() {
        "" | "0" => {}
        "12" => return Err("error: this server does not implement the grpc health protocol".to_owned()),
        code => return Err(format!("error: health rpc failed with code {code}: {}", said("grpc-message"))),
    }
    match serving(&body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(format!("service unhealthy (responded with {other})")),
        None => Err("error: the answer is no HealthCheckResponse".to_owned()),
    }
}

/// A `HealthCheckRequest` in gRPC's frame: a flag, the length, and field 1 with the name.
fn frame(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    // A name in an API object is far shorter than 4 GiB.
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    frame.into()
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        // Seven bits, and that there are more.
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Field 1 of a `HealthCheckResponse`; one that is left out is 0.
fn serving(frame: &[u8]) -> Option<u64> {
    let (head, message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    if head[0] != 0 || message.len() < length {
        return None;
    }
    match &message[..length] {
        [] => Some(0),
        [0x08, rest @ ..] => {
            let end = rest.iter().position(|byte| byte & 0x80 == 0).filter(|end| *end < 9)?;
            let bits = rest[..=end].iter().rev();
            Some(bits.fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed() {
        assert_eq!(&frame("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&frame("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(frame(&"x".repeat(300))[5..8], [0x0a, 0xac, 0x02]);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 3, 8, 0xac, 2]), Some(300));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [&[][..], &[0, 0, 0, 0, 9, 8, 1], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 2, 8, 0x80]] {
            assert_eq!(serving(bad), None, "{bad:?}");
        }
    }

    /// A server that answers every check with `status`, in HTTP/2 as hyper speaks it.
    async fn server(status: u8) -> tokio::io::DuplexStream {
        let (client, server) = tokio::io::duplex(1 << 16);
        let service =
            hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                assert_eq!(request.into_body().collect().await.unwrap().to_bytes()[5..], [0x0a, 1, b's']);
                let body = Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]));
                http::Response::builder()
                    .header("grpc-status", if status == 9 { "12" } else { "0" })
                    .body(body)
            });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(connection.serve_connection(TokioIo::new(server), service));
        client
    }

    #[tokio::test]
    async fn only_a_service_that_serves_is_well() {
        assert_eq!(check(server(1).await, "s").await, Ok(()));
        assert!(check(server(2).await, "s").await.unwrap_err().contains("service unhealthy"));
        assert!(check(server(9).await, "s").await.unwrap_err().contains("does not implement"));
    }
}
