//! Connections on which nothing is asked for: one that says that it is alive, and no more, would else keep a place for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::Notify;

/// How long a connection may go on without a request; as kube-apiserver's.
pub(crate) const IDLE: Duration = Duration::from_secs(90);

/// Requests of one connection that are under way.
#[derive(Clone, Default)]
pub(crate) struct UnderWay(Arc<Inner>);

#[derive(Default)]
struct Inner {
    count: AtomicUsize,
    /// Told each time that a request comes or ends.
    changed: Notify,
}

/// One request, until its answer is sent.
pub(crate) struct Busy(UnderWay);

impl UnderWay {
    /// A request has come.
    pub(crate) fn enter(&self) -> Busy {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        self.0.changed.notify_one();
        Busy(self.clone())
    }

    /// Done when none was under way for so long.
    pub(crate) async fn ceased(&self, time: Duration) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.count.load(Ordering::Acquire) > 0 {
                changed.await;
            } else if tokio::time::timeout(time, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let inner = &self.0.0;
        inner.count.fetch_sub(1, Ordering::AcqRel);
        inner.changed.notify_one();
    }
}

/// The body of an answer, which is under way until it was sent.
pub(crate) struct Answering<B> {
    body: B,
    _busy: Busy,
}

impl<B> Answering<B> {
    pub(crate) fn new(body: B, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
