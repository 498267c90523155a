//! Connections on which nothing goes on: one on which nothing is asked for, or whose client takes nothing of an answer, would else keep
//! its place, and what the answer is made of, for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::Instant;

/// How long a connection may go on without a request; as kube-apiserver's.
pub(crate) const IDLE: Duration = Duration::from_secs(90);
/// How long a client may take nothing of an answer that is there for it. A piece is asked for when the last ones have left the kernel's
/// buffers, which hold some MiB: at 25 KiB a second that happens every three minutes. (kube-apiserver: a whole answer has a minute.)
pub(crate) const STALLED: Duration = Duration::from_secs(180);

/// Response extension: the answer lasts as long as it lasts (a watch, a log), and who looks at a part of it may look for long.
#[derive(Clone, Copy, Debug)]
pub struct Lasts;

/// Requests of one connection that are under way.
#[derive(Clone)]
pub(crate) struct UnderWay(Arc<Inner>);

struct Inner {
    begun: Instant,
    /// When something last went on: milliseconds since `begun`.
    active: AtomicU64,
    count: AtomicUsize,
    /// Answers of which a piece was handed out, and the next was not asked for since.
    handed: AtomicUsize,
    /// Answers under way that last: others of the same connection are not to end them.
    lasting: AtomicUsize,
}

/// One request, until its answer is sent.
pub(crate) struct Busy(UnderWay);

impl UnderWay {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            begun: Instant::now(),
            active: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            handed: AtomicUsize::new(0),
            lasting: AtomicUsize::new(0),
        }))
    }

    /// A request has come.
    pub(crate) fn enter(&self) -> Busy {
        self.note();
        self.0.count.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }

    /// Counts from now on.
    pub(crate) fn note(&self) {
        let passed = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.active.store(passed, Ordering::Release);
    }

    /// Done when none was under way for so long, or when nothing was taken of what was handed out for as long as `stalled` says. It looks when
    /// that can be at the earliest: to be told of each request would cost more than the request.
    pub(crate) async fn ceased(&self, time: Duration, stalled: Duration) {
        loop {
            let passed = self.0.begun.elapsed().as_millis();
            let quiet = passed.saturating_sub(self.0.active.load(Ordering::Acquire).into());
            let quiet = Duration::from_millis(u64::try_from(quiet).unwrap_or(u64::MAX));
            let none = self.0.count.load(Ordering::Acquire) == 0;
            let stalls =
                self.0.handed.load(Ordering::Acquire) > 0 && self.0.lasting.load(Ordering::Acquire) == 0;
            let wait = match (none, stalls) {
                (true, _) => time.saturating_sub(quiet),
                (false, true) => stalled.saturating_sub(quiet),
                (false, false) => time,
            };
            if wait.is_zero() {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.note();
        self.0.0.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer, which is under way until it was sent.
pub(crate) struct Answering<B> {
    body: B,
    lasts: bool,
    /// Whether its last piece was handed out, and no other asked for.
    handed: bool,
    busy: Busy,
}

impl<B> Answering<B> {
    /// One that `lasts` may stand still.
    pub(crate) fn new(body: B, lasts: bool, busy: Busy) -> Self {
        if lasts {
            busy.0.0.lasting.fetch_add(1, Ordering::AcqRel);
        }
        Self { body, lasts, handed: false, busy }
    }

    fn set_handed(&mut self, handed: bool) {
        let under_way = &self.busy.0;
        if handed {
            under_way.note();
        }
        if self.handed != handed {
            let count = &under_way.0.handed;
            let _ = if handed {
                count.fetch_add(1, Ordering::AcqRel)
            } else {
                count.fetch_sub(1, Ordering::AcqRel)
            };
            self.handed = handed;
        }
    }
}

impl<B> Drop for Answering<B> {
    fn drop(&mut self) {
        self.set_handed(false);
        if self.lasts {
            self.busy.0.0.lasting.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if !self.lasts {
            self.set_handed(matches!(polled, Poll::Ready(Some(_))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
