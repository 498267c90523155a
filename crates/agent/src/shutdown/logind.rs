//! systemd-logind, which tells when the host is about to shut down, and waits for those that hold a lock ("Inhibitor Locks" in
//! systemd's documentation).

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use serde::Serialize;
use zbus::message::Type;
use zbus::{Connection, DynamicType, MatchRule, Message, MessageStream, OwnedFd, OwnedVariant};

/// Where settings of logind are that go with a restart of the host.
pub(crate) const DROP_INS: &str = "/run/systemd/logind.conf.d";
const SERVICE: &str = "org.freedesktop.login1";
const OBJECT: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
/// How long to wait before a bus that went away is asked again; the wait doubles each time, to the longest …
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// … and begins anew after a connection that lasted for so long.
const GOOD: Duration = Duration::from_secs(60);
/// How often logind is looked at whether it has taken its new settings; the wait doubles each time.
const LOOKS: u32 = 5;
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// Why the host's shutdown is not heard of.
#[derive(Debug, thiserror::Error)]
enum LogindError {
    #[error("{0}")]
    Bus(#[from] zbus::Error),
    #[error("logind's settings can't be written: {0}")]
    Settings(#[from] std::io::Error),
    #[error("the bus ended")]
    Ended,
}

/// The way to logind, for one node.
pub(super) struct Logind {
    drop_in: PathBuf,
    directory: PathBuf,
    /// How long the host has to wait.
    wanted: Duration,
}

/// The bus, once it is there again.
async fn again(wait: &mut Duration) -> Connection {
    loop {
        tokio::time::sleep(*wait).await;
        *wait = (*wait * 2).min(LONGEST);
        if let Ok(bus) = Connection::system().await {
            return bus;
        }
    }
}

impl Logind {
    pub(super) fn new(directory: &Path, tag: &str, wanted: Duration) -> Self {
        Self { drop_in: drop_in(directory, tag), directory: directory.to_owned(), wanted }
    }

    /// Tells of each shutdown that begins (true) or is called off, until dropped. The host waits while `tell` works on a beginning.
    /// A host without logind is none that tells: that is said once, and it is looked for on, since the bus may come after the node.
    pub(super) async fn follow(&self, tell: impl Fn(bool) -> BoxFuture<'static, ()>) {
        let (mut said, mut wait) = (String::new(), AGAIN);
        let mut bus = match Connection::system().await {
            Ok(bus) => bus,
            Err(error) => {
                tracing::info!(%error, "no systemd-logind here: Pods are not ended when the host shuts down");
                again(&mut wait).await
            }
        };
        loop {
            let began = tokio::time::Instant::now();
            let why = self.session(&bus, &tell).await.to_string();
            if began.elapsed() >= GOOD {
                (said, wait) = (String::new(), AGAIN);
            }
            if why != said {
                tracing::warn!(why, "the host's shutdown is not heard of; it is tried again");
                said = why;
            }
            bus = again(&mut wait).await;
        }
    }

    /// Listens on one connection, for as long as that lasts.
    async fn session(&self, bus: &Connection, tell: &impl Fn(bool) -> BoxFuture<'static, ()>) -> LogindError {
        match self.listen(bus, tell).await {
            Ok(()) => LogindError::Ended,
            Err(error) => error,
        }
    }

    async fn listen(
        &self,
        bus: &Connection,
        tell: &impl Fn(bool) -> BoxFuture<'static, ()>,
    ) -> Result<(), LogindError> {
        // The bus lets nobody speak in logind's name, where anybody may send such a signal.
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SERVICE)
            .path(OBJECT)
            .interface(MANAGER)
            .member("PrepareForShutdown")
            .build()?;
        // Before the lock is taken: whatever comes then is heard.
        let mut signals = MessageStream::for_match_rule(rule, bus, None).await?;
        let mut lock = None;
        // An agent that was started anew in the middle of a shutdown: no lock is given any more, but Pods are ended for as long as there is.
        let mut begins = is_preparing(bus).await?;
        if !begins {
            self.make_wait(bus).await?;
            lock = Some(inhibit(bus).await?);
        }
        loop {
            let mut next = None;
            if begins {
                tokio::select! {
                    () = tell(true) => {}
                    // Called off meanwhile: whoever has not been told to end stays.
                    called_off = until_called_off(&mut signals) => next = Some(called_off?),
                }
                if next.is_none() {
                    // The host goes on.
                    lock = None;
                }
            }
            let Some(now) = (match next {
                Some(now) => now,
                None => next_of(&mut signals).await?,
            }) else {
                return Ok(());
            };
            begins = now;
            if !begins {
                tell(false).await;
                if lock.is_none() {
                    lock = Some(inhibit(bus).await?);
                }
            }
        }
    }

    /// Sees to it that logind waits for as long as it has to. Where it does not, that is said, and it is held up for as long as it does wait.
    async fn make_wait(&self, bus: &Connection) -> Result<(), LogindError> {
        if delay(bus).await? >= self.wanted {
            return Ok(());
        }
        std::fs::create_dir_all(&self.directory)?;
        let text = format!(
            "# Written by yunfan: Pods have this long to end when the host shuts down.\n[Login]\nInhibitDelayMaxSec={}\n",
            self.wanted.as_secs()
        );
        std::fs::write(&self.drop_in, text)?;
        let body = ("systemd-logind.service", "all", 1_i32);
        let (service, object) = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1");
        call(bus, service, object, "org.freedesktop.systemd1.Manager", "KillUnit", &body).await?;
        let mut has = Duration::ZERO;
        for look in 0..LOOKS {
            tokio::time::sleep(FIRST_LOOK * 2_u32.pow(look)).await;
            has = delay(bus).await?;
            if has >= self.wanted {
                return Ok(());
            }
        }
        let (granted, wanted) = (has.as_secs(), self.wanted.as_secs());
        tracing::warn!(
            granted,
            wanted,
            "systemd-logind does not wait for as long as Pods may have to end, although it was told to: set InhibitDelayMaxSec in its \
             configuration, or the shutdown grace period to what it grants (seconds)"
        );
        Ok(())
    }
}

fn drop_in(directory: &Path, tag: &str) -> PathBuf {
    directory.join(format!("99-yunfan-{tag}.conf"))
}

/// Removes what a cloud told logind; that takes note of it when it starts anew.
pub(crate) fn remove_drop_in(directory: &Path, tag: &str) -> std::io::Result<()> {
    match std::fs::remove_file(drop_in(directory, tag)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn call<B: Serialize + DynamicType>(
    bus: &Connection,
    service: &str,
    object: &str,
    interface: &str,
    method: &str,
    body: &B,
) -> zbus::Result<Message> {
    bus.call_method(Some(service), object, Some(interface), method, body).await
}

/// The most that logind waits for those that hold a lock.
async fn delay(bus: &Connection) -> Result<Duration, LogindError> {
    let name = (MANAGER, "InhibitDelayMaxUSec");
    let answer = call(bus, SERVICE, OBJECT, "org.freedesktop.DBus.Properties", "Get", &name).await?;
    let value: OwnedVariant = answer.body().deserialize()?;
    Ok(Duration::from_micros(u64::try_from(value)?))
}

/// What the next signal says; none when the bus ended.
async fn next_of(signals: &mut MessageStream) -> Result<Option<bool>, LogindError> {
    match signals.next().await {
        Some(signal) => Ok(Some(signal?.body().deserialize()?)),
        None => Ok(None),
    }
}

/// Waits for a shutdown to be called off, or for the bus to end.
async fn until_called_off(signals: &mut MessageStream) -> Result<Option<bool>, LogindError> {
    loop {
        match next_of(signals).await? {
            Some(true) => {}
            other => return Ok(other),
        }
    }
}

/// Whether a shutdown has begun.
async fn is_preparing(bus: &Connection) -> Result<bool, LogindError> {
    let name = (MANAGER, "PreparingForShutdown");
    let answer = call(bus, SERVICE, OBJECT, "org.freedesktop.DBus.Properties", "Get", &name).await?;
    let value: OwnedVariant = answer.body().deserialize()?;
    Ok(bool::try_from(value)?)
}

/// A lock that holds a shutdown up until it is dropped.
async fn inhibit(bus: &Connection) -> Result<OwnedFd, LogindError> {
    let body = ("shutdown", "yunfan", "Pods of this node need time to end", "delay");
    let answer = call(bus, SERVICE, OBJECT, MANAGER, "Inhibit", &body).await?;
    Ok(answer.body().deserialize()?)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Mutex};

    use futures::FutureExt;
    use tokio::sync::mpsc;
    use zbus::connection::Builder;

    use super::*;

    /// What a host has: logind, and systemd, which makes logind read its settings again.
    struct Host {
        delay: Arc<Mutex<u64>>,
        /// It takes no new settings.
        stubborn: bool,
        preparing: bool,
        directory: PathBuf,
        locks: mpsc::UnboundedSender<UnixStream>,
    }

    struct FakeLogind(Arc<Host>);
    struct FakeSystemd(Arc<Host>);

    #[zbus::interface(name = "org.freedesktop.login1.Manager")]
    impl FakeLogind {
        #[zbus(property, name = "InhibitDelayMaxUSec")]
        fn delay(&self) -> u64 {
            *self.0.delay.lock().unwrap()
        }

        #[zbus(property)]
        fn preparing_for_shutdown(&self) -> bool {
            self.0.preparing
        }

        fn inhibit(&self, what: &str, _who: &str, _why: &str, mode: &str) -> OwnedFd {
            assert_eq!((what, mode), ("shutdown", "delay"));
            let (ours, theirs) = UnixStream::pair().unwrap();
            self.0.locks.send(ours).unwrap();
            std::os::fd::OwnedFd::from(theirs).into()
        }
    }

    #[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
    impl FakeSystemd {
        fn kill_unit(&self, unit: &str, who: &str, signal: i32) {
            assert_eq!((unit, who, signal), ("systemd-logind.service", "all", 1));
            for file in std::fs::read_dir(&self.0.directory).unwrap().filter(|_| !self.0.stubborn) {
                let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
                let seconds = text.lines().find_map(|line| line.strip_prefix("InhibitDelayMaxSec=")).unwrap();
                *self.0.delay.lock().unwrap() = seconds.parse::<u64>().unwrap() * 1_000_000;
            }
        }
    }

    /// A connection to a host, that host's end of it, and the locks that were taken there.
    async fn host(
        directory: &Path,
        delay: Duration,
        (stubborn, preparing): (bool, bool),
    ) -> (Connection, Connection, mpsc::UnboundedReceiver<UnixStream>) {
        let (near, far) = UnixStream::pair().unwrap();
        let (locks, taken) = mpsc::unbounded_channel();
        let delay = Arc::new(Mutex::new(u64::try_from(delay.as_micros()).unwrap()));
        let host = Arc::new(Host { delay, stubborn, preparing, directory: directory.to_owned(), locks });
        let server = Builder::unix_stream(far)
            .server(zbus::Guid::generate())
            .p2p()
            .serve_at(OBJECT, FakeLogind(host.clone()))
            .serve_at("/org/freedesktop/systemd1", FakeSystemd(host));
        let (server, client) = tokio::join!(server.build(), Builder::unix_stream(near).p2p().build());
        (client.unwrap(), server.unwrap(), taken)
    }

    async fn signal(host: &Connection, begins: bool) {
        host.emit_signal(None::<&str>, OBJECT, MANAGER, "PrepareForShutdown", &begins).await.unwrap();
    }

    /// Whether the other end of a lock is closed, which is how it is given back.
    fn is_given_back(lock: &UnixStream) -> bool {
        lock.set_nonblocking(true).unwrap();
        matches!((&mut &*lock).read(&mut [0]), Ok(0))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_host_waits_until_what_is_told_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let (bus, host, mut locks) = host(dir.path(), Duration::from_secs(60), (false, false)).await;
        let (tell, mut told) = mpsc::unbounded_channel();
        let (go_on, may_go_on) = mpsc::unbounded_channel::<()>();
        let may_go_on = Arc::new(tokio::sync::Mutex::new(may_go_on));
        let logind = Logind::new(dir.path(), "abcdef", Duration::from_secs(60));
        let work = move |begins| {
            tell.send(begins).unwrap();
            let may_go_on = may_go_on.clone();
            async move { may_go_on.lock().await.recv().await.unwrap_or_default() }.boxed()
        };
        let session = tokio::spawn(async move { logind.session(&bus, &work).await.to_string() });
        let first = locks.recv().await.unwrap();
        assert!(!dir.path().join("99-yunfan-abcdef.conf").exists(), "the host waits for long enough");
        signal(&host, true).await;
        assert_eq!(told.recv().await, Some(true));
        assert!(!is_given_back(&first), "the Pods still run");
        go_on.send(()).unwrap();
        // The end of the lock is what the host waits for.
        first.set_nonblocking(false).unwrap();
        let first = tokio::task::spawn_blocking(move || (&mut &first).read(&mut [0]).unwrap());
        assert_eq!(first.await.unwrap(), 0);

        // Called off: the next one is waited for too.
        signal(&host, false).await;
        assert_eq!(told.recv().await, Some(false));
        go_on.send(()).unwrap();
        let second = locks.recv().await.unwrap();
        assert!(!is_given_back(&second));
        host.close().await.unwrap();
        assert!(!session.await.unwrap().is_empty(), "a bus that ends is told of");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_that_would_not_wait_is_made_to() {
        let dir = tempfile::tempdir().unwrap();
        let settings = dir.path().join("new");
        let (bus, _host, mut locks) = host(&settings, Duration::from_secs(5), (false, false)).await;
        let logind = Logind::new(&settings, "abcdef", Duration::from_secs(40));
        let session = tokio::spawn(async move {
            {
                let nothing = |_| std::future::ready(()).boxed();
                logind.session(&bus, &nothing).await.to_string()
            }
        });
        locks.recv().await.unwrap();
        let text = std::fs::read_to_string(settings.join("99-yunfan-abcdef.conf")).unwrap();
        assert!(text.ends_with("[Login]\nInhibitDelayMaxSec=40\n"), "{text}");
        session.abort();
        remove_drop_in(&settings, "abcdef").unwrap();
        remove_drop_in(&settings, "abcdef").unwrap();
        assert_eq!(std::fs::read_dir(&settings).unwrap().count(), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_host_does_not_grant_is_not_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let (bus, host, mut locks) = host(dir.path(), Duration::from_secs(5), (true, false)).await;
        let (tell, mut told) = mpsc::unbounded_channel();
        let logind = Logind::new(dir.path(), "abcdef", Duration::from_secs(40));
        let work = move |begins| {
            tell.send(begins).unwrap();
            std::future::ready(()).boxed()
        };
        let session = tokio::spawn(async move { logind.session(&bus, &work).await.to_string() });
        // It is held up for as long as it waits.
        let lock = locks.recv().await.unwrap();
        assert!(!is_given_back(&lock));
        signal(&host, true).await;
        assert_eq!(told.recv().await, Some(true));
        session.abort();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_shutdown_that_is_called_off_is_heard_of_at_once_and_one_that_goes_on_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (bus, host, mut locks) = host(dir.path(), Duration::from_secs(60), (false, true)).await;
        let (tell, mut told) = mpsc::unbounded_channel();
        let logind = Logind::new(dir.path(), "abcdef", Duration::from_secs(60));
        let work = move |begins: bool| {
            tell.send(begins).unwrap();
            // Pods that never end.
            async move {
                if begins {
                    std::future::pending::<()>().await;
                }
            }
            .boxed()
        };
        let session = tokio::spawn(async move { logind.session(&bus, &work).await.to_string() });
        assert_eq!(told.recv().await, Some(true), "it was under way before");
        signal(&host, false).await;
        assert_eq!(told.recv().await, Some(false));
        let lock = locks.recv().await.unwrap();
        for begins in [true, false, true] {
            signal(&host, begins).await;
            assert_eq!(told.recv().await, Some(begins));
            assert!(!is_given_back(&lock), "the next one is held up too");
        }
        host.close().await.unwrap();
        assert!(!session.await.unwrap().is_empty());
    }
}
