//! A document that many clients ask for again and again: made once, told apart by its ETag, compressed where that is wanted.

use std::io::Write;
use std::sync::OnceLock;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, ETAG, IF_NONE_MATCH, LAST_MODIFIED, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use jiff::Timestamp;

use super::{negotiate, respond};

/// A document.
pub(super) struct Document {
    bytes: Bytes,
    /// Compressed, once somebody wanted that.
    packed: OnceLock<Bytes>,
    pub(super) etag: String,
    made: Timestamp,
}

impl Document {
    pub(super) fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let etag = format!("{:016X}", fingerprint(&bytes));
        Self { bytes, packed: OnceLock::new(), etag, made: Timestamp::now() }
    }

    fn packed(&self) -> Bytes {
        let pack = || {
            let mut out = GzEncoder::new(Vec::new(), Compression::new(5));
            // Writing into memory does not fail.
            let _ = out.write_all(&self.bytes);
            out.finish().unwrap_or_default().into()
        };
        self.packed.get_or_init(pack).clone()
    }

    /// The answer to one request: 304 to a client that has this very document.
    pub(super) fn answer(&self, media_type: &'static str, headers: &HeaderMap) -> Response<Body> {
        let etag = format!("\"{}\"", self.etag);
        let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let fresh = known.is_some_and(|known| known.split(',').any(|known| known.trim() == etag));
        let packs = negotiate::accepts_gzip(headers);
        let mut response = if fresh {
            respond::raw(StatusCode::NOT_MODIFIED.as_u16(), media_type, Body::empty())
        } else {
            respond::raw(200, media_type, if packs { self.packed() } else { self.bytes.clone() })
        };
        if packs && !fresh {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        put(&mut response, ETAG, &etag);
        put(&mut response, LAST_MODIFIED, &http_time(self.made));
        response
    }
}

/// FNV-1a: only to tell documents apart.
pub(super) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A time as HTTP writes it (RFC 9110, section 5.6.7).
pub(super) fn http_time(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Sets a header; a value that can't be one is left out.
pub(super) fn put(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_http_wants_them() {
        let time: Timestamp = "2026-11-01T08:05:09.5Z".parse().expect("a time");
        assert_eq!(http_time(time), "Sun, 01 Nov 2026 08:05:09 GMT");
    }

    #[test]
    fn a_document_is_compressed_for_who_can_read_that_and_sent_once() {
        let document = Document::new("{}");
        let mut headers = HeaderMap::new();
        assert!(document.answer("application/json", &headers).headers().get(CONTENT_ENCODING).is_none());
        headers.insert("accept-encoding", HeaderValue::from_static("br, gzip"));
        let answer = document.answer("application/json", &headers);
        assert_eq!(answer.headers()[CONTENT_ENCODING], "gzip");
        headers.insert(IF_NONE_MATCH, answer.headers()[ETAG].clone());
        let again = document.answer("application/json", &headers);
        assert_eq!((again.status().as_u16(), again.headers().get(CONTENT_ENCODING)), (304, None));
    }
}
