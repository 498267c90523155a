//! Large answers, compressed as they are sent, for clients that can read that.

use std::io::Write;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, stream};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, VARY};
use http::{Response, StatusCode};
use http_body::Body as _;

/// Smaller answers take less time to send than to compress. (What is streamed, such as a long list, is larger.)
const SMALLEST: u64 = 128 * 1024;

/// Least effort: more takes several times as long, and saves little.
const EFFORT: Compression = Compression::fast();

/// The answer, compressed where that is worth it. Not for a watch, whose events must not wait for one another.
pub(super) fn packed(response: Response<Body>) -> Response<Body> {
    let small = response.body().size_hint().exact().is_some_and(|size| size < SMALLEST);
    let done = response.headers().contains_key(CONTENT_ENCODING);
    if small || done || !matches!(response.status(), StatusCode::OK | StatusCode::CREATED) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    let start = Some((body.into_data_stream(), GzEncoder::new(Vec::new(), EFFORT)));
    let pieces = stream::unfold(start, |state| async move {
        let (mut body, mut encoder) = state?;
        while let Some(piece) = body.next().await {
            let written = match piece {
                // Writing into memory does not fail.
                Ok(piece) => encoder.write_all(&piece).map(|()| std::mem::take(encoder.get_mut())),
                Err(error) => return Some((Err(error), None)),
            };
            match written {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Some((Ok(Bytes::from(out)), Some((body, encoder)))),
                Err(error) => return Some((Err(axum::Error::new(error)), None)),
            }
        }
        Some((encoder.finish().map(Bytes::from).map_err(axum::Error::new), None))
    });
    Response::from_parts(parts, Body::from_stream(pieces))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Read;

    use http_body_util::BodyExt;

    use super::*;

    async fn unpacked(response: Response<Body>) -> Vec<u8> {
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut out).expect("it is gzip");
        out
    }

    #[tokio::test]
    async fn what_is_large_or_streamed_is_compressed() {
        let small = packed(Response::new(Body::from("small")));
        assert!(small.headers().get(CONTENT_ENCODING).is_none());
        let large = vec![b'x'; 300_000];
        assert_eq!(unpacked(packed(Response::new(Body::from(large.clone())))).await, large);
        let pieces = stream::iter(["a", "b", "c"].map(|piece| Ok::<_, Infallible>(Bytes::from(piece))));
        assert_eq!(unpacked(packed(Response::new(Body::from_stream(pieces)))).await, b"abc");
        let mut refusal = Response::new(Body::from(large));
        *refusal.status_mut() = StatusCode::CONFLICT;
        assert!(packed(refusal).headers().get(CONTENT_ENCODING).is_none());
    }
}
