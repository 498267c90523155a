//! The rest of a request's body that nobody read.
//!
//! An answer may be whole before its request is: a path that is not served, a caller who may not. HTTP/2 then lets a server reset
//! the stream (RFC 9113, section 8.1), and clients must keep the answer; curl 7.88 drops it in about one case of four. So
//! what is on its way is read and thrown away, within limits.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

/// Bytes of a body that are read for nothing; a client that sends more than that is cut off.
const MAX_REST: usize = 1024 * 1024;
/// A body's rest must arrive within this time.
const PATIENCE: Duration = Duration::from_secs(1);

/// A request's body, of which the rest is read when its last reader lets it go.
pub(crate) struct ReadToEnd(Option<Incoming>);

impl ReadToEnd {
    pub(crate) fn new(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Body for ReadToEnd {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for ReadToEnd {
    fn drop(&mut self) {
        // Outside a runtime, as it ends, nobody is left to read.
        if let Some(body) = self.0.take().filter(|body| !body.is_end_stream())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(PATIENCE, read(body)));
        }
    }
}

async fn read(mut body: Incoming) {
    let mut seen = 0;
    while let Some(Ok(frame)) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        seen += frame.data_ref().map_or(0, Bytes::len);
        if seen > MAX_REST {
            return;
        }
    }
}
