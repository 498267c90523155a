//! Documents that many clients ask for again and again: each is made once, told apart by its ETag, compressed where that is
//! wanted. Both take longer than others should wait, so they are done on threads of their own.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use tokio::sync::OnceCell;
use yunfan_objects::ApiError;
use yunfan_objects::builtin::{self, Descriptions};

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

    /// Whether it was made no later than a client's, which is known to the second.
    fn is_as_old(&self, since: &HeaderValue) -> bool {
        let read = since.to_str().ok().and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
        read.is_some_and(|since| self.made.as_second() <= since.timestamp().as_second())
    }

    /// The answer to one request: 304 to a client that has this very document.
    pub(super) async fn answer(
        self: &Arc<Self>,
        media_type: &'static str,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, ApiError> {
        let etag = format!("\"{}\"", self.etag);
        let fresh = match headers.get(IF_NONE_MATCH) {
            Some(known) => known.to_str().is_ok_and(|known| is_among(&etag, known)),
            // Asked for only where there is no better way to tell (RFC 9110, section 13.1.3).
            None => headers.get(IF_MODIFIED_SINCE).is_some_and(|since| self.is_as_old(since)),
        };
        let packs = negotiate::accepts_gzip(headers);
        let mut response = if fresh {
            respond::raw(StatusCode::NOT_MODIFIED.as_u16(), media_type, Body::empty())
        } else {
            let bytes = match self.packed.get() {
                _ if !packs => self.bytes.clone(),
                Some(packed) => packed.clone(),
                None => {
                    let document = self.clone();
                    blocking(move || document.packed()).await?
                }
            };
            respond::raw(200, media_type, bytes)
        };
        if packs && !fresh {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        put(&mut response, ETAG, &etag);
        put(&mut response, LAST_MODIFIED, &http_time(self.made));
        Ok(response)
    }
}

/// Whether a tag is among those that a client knows: those are compared whether they are weak or not, and `*` is any.
fn is_among(etag: &str, known: &str) -> bool {
    known
        .split(',')
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == etag)
}

/// Does what takes longer than others should wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(error.to_string()))
}

/// Documents by name, with what they were made from: one that is asked for while it is made is made for all who wait.
#[derive(Default)]
pub(crate) struct Documents {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    texts: Mutex<Weak<Descriptions>>,
}

struct Slot {
    stamp: u64,
    document: OnceCell<Arc<Document>>,
}

impl Documents {
    /// The document of that name, if it was made of what has this stamp.
    pub(super) fn kept(&self, name: &str, stamp: u64) -> Option<Arc<Document>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(name).filter(|slot| slot.stamp == stamp)?.document.get().cloned()
    }

    /// The document of that name, made now if there is none with this stamp. When a new one is begun, those go that
    /// `is_wanted` knows no more.
    ///
    /// # Errors
    /// 500 where it could not be made.
    pub(super) async fn get<B: Into<Bytes>>(
        &self,
        name: &str,
        stamp: u64,
        is_wanted: impl Fn(&str) -> bool,
        make: impl FnOnce() -> B + Send + 'static,
    ) -> Result<Arc<Document>, ApiError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            match slots.get(name).filter(|slot| slot.stamp == stamp) {
                Some(slot) => slot.clone(),
                None => {
                    slots.retain(|name, _| is_wanted(name));
                    let slot = Arc::new(Slot { stamp, document: OnceCell::new() });
                    slots.insert(name.to_owned(), slot.clone());
                    slot
                }
            }
        };
        let make = || blocking(move || Arc::new(Document::new(make())));
        slot.document.get_or_try_init(make).await.cloned()
    }

    /// What kinds and fields are for, read once for all documents that are made at the same time.
    pub(super) fn texts(&self) -> Arc<Descriptions> {
        let mut kept = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        kept.upgrade().unwrap_or_else(|| {
            let texts = Arc::new(builtin::descriptions());
            *kept = Arc::downgrade(&texts);
            texts
        })
    }
}

/// FNV-1a: only to tell documents apart.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
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

    #[tokio::test]
    async fn a_document_is_compressed_for_who_can_read_that_and_sent_once() {
        let document = Arc::new(Document::new("{}"));
        let mut headers = HeaderMap::new();
        let answer = document.answer("application/json", &headers).await.expect("an answer");
        assert!(answer.headers().get(CONTENT_ENCODING).is_none());
        headers.insert("accept-encoding", HeaderValue::from_static("br, gzip"));
        let answer = document.answer("application/json", &headers).await.expect("an answer");
        assert_eq!(answer.headers()[CONTENT_ENCODING], "gzip");
        headers.insert(IF_NONE_MATCH, answer.headers()[ETAG].clone());
        let again = document.answer("application/json", &headers).await.expect("an answer");
        assert_eq!((again.status().as_u16(), again.headers().get(CONTENT_ENCODING)), (304, None));
        let made = again.headers()[LAST_MODIFIED].clone();
        let code = async |name: HeaderName, value: &str| {
            let headers = [(name, HeaderValue::from_str(value).expect("a value"))];
            let headers: HeaderMap = headers.into_iter().collect();
            document.answer("application/json", &headers).await.expect("an answer").status().as_u16()
        };
        let made = made.to_str().expect("text");
        assert_eq!(code(IF_MODIFIED_SINCE, made).await, 304);
        assert_eq!(code(IF_MODIFIED_SINCE, "Sun, 01 Nov 1998 08:05:09 GMT").await, 200);
        assert_eq!(code(IF_MODIFIED_SINCE, "lately").await, 200);
        assert_eq!(code(IF_NONE_MATCH, &format!("\"x\", W/\"{}\"", document.etag)).await, 304);
        assert_eq!(code(IF_NONE_MATCH, "\"x\"").await, 200);
        assert_eq!(code(IF_NONE_MATCH, "*").await, 304);
    }

    #[tokio::test]
    async fn a_document_is_made_once_for_all_who_wait_and_again_when_its_stamp_changes() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let documents = Documents::default();
        let made = Arc::new(AtomicUsize::new(0));
        let get = |name: &'static str, stamp| {
            let made = made.clone();
            let make = move || format!("{name} {}", made.fetch_add(1, Ordering::Relaxed));
            documents.get(name, stamp, |name| name != "gone", make)
        };
        let all = futures::future::join_all((0..20).map(|_| get("a", 1))).await;
        for document in all {
            assert_eq!(document.expect("made").bytes, "a 0");
        }
        assert_eq!(get("gone", 1).await.expect("made").bytes, "gone 1");
        assert_eq!(get("a", 1).await.expect("made").bytes, "a 0");
        assert_eq!(get("a", 2).await.expect("made").bytes, "a 2", "what it is made of has changed");
        assert_eq!(get("gone", 1).await.expect("made").bytes, "gone 3", "it was dropped meanwhile");
    }
}
