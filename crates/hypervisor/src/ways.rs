//! Ways into a machine that runs: its screen and keyboard, and its serial port.
//!
//! Nothing listens for either, so that there is no socket that somebody else could find. Whoever is let in gets one end of a
//! pair of sockets, and QEMU the other end by its monitor. As long as somebody is at the serial port, QEMU sends what the guest
//! writes to us instead of keeping it in its ring (`console.rs`): it goes to all who are there, and to the log. When the last one
//! has left, the ring takes over again.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Error;
use crate::console::{RING_BYTES, RING_NAME};
use crate::machine::{Live, Machine};

/// What a socket is called between the two commands that hand it to QEMU.
const HANDED: &str = "way";
/// Bytes of the guest or of somebody at its serial port that are passed on at once.
const PIECE: usize = 4096;
/// Pieces that one who is at the serial port may be behind; what is more they do not see.
const BEHIND: usize = 64;
/// Pieces that were typed and that the guest has not taken yet; whoever types more waits.
const TYPED: usize = 16;
/// How long the guest may take to make room for what is typed, before it is lost as on a line that nobody reads.
const UNREAD: Duration = Duration::from_secs(5);
/// Those who may be at one serial port.
const MOST_THERE: usize = 8;
/// How long those who are at the serial port may take to read the last of a machine that ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long after one another it is tried to give the console back to the ring where QEMU does not do it at once.
const AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

/// Where those who come to a machine's serial port are sent while somebody is there; none while nobody is.
pub(crate) type Arrivals = tokio::sync::Mutex<Option<Entrance>>;

/// The way to those who are at a serial port. Everybody has a place from when they are sent until they have left, so that there
/// are no more on the way than the channel takes: who holds the machine's lock never waits for those who are there.
#[derive(Debug)]
pub(crate) struct Entrance {
    places: Arc<Semaphore>,
    sender: mpsc::Sender<Arrival>,
}

/// Somebody who comes to a serial port.
#[derive(Debug)]
struct Arrival {
    who: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl Entrance {
    /// A new one, with the first who comes by it.
    fn new(first: UnixStream) -> Option<(Entrance, mpsc::Receiver<Arrival>)> {
        let (sender, receiver) = mpsc::channel(MOST_THERE);
        let entrance = Entrance { places: Arc::new(Semaphore::new(MOST_THERE)), sender };
        matches!(entrance.send(first), Sent::Yes).then_some((entrance, receiver))
    }

    fn send(&self, who: UnixStream) -> Sent {
        if self.sender.is_closed() {
            return Sent::Gone(who);
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else { return Sent::Full };
        match self.sender.try_send(Arrival { who, _place: place }) {
            Ok(()) => Sent::Yes,
            Err(mpsc::error::TrySendError::Full(_)) => Sent::Full,
            Err(mpsc::error::TrySendError::Closed(arrival)) => Sent::Gone(arrival.who),
        }
    }
}

/// What became of somebody who was sent to a serial port.
enum Sent {
    Yes,
    /// All places are taken.
    Full,
    /// Those who were there have left with their process.
    Gone(UnixStream),
}

impl Machine {
    /// A connection to the machine's screen, at the beginning of RFB's handshake; who has it is let in without a password.
    pub(crate) async fn display(&self) -> Result<UnixStream, Error> {
        let _operation = self.operation.lock().await;
        let live = self.live()?;
        // Without a screen QEMU would keep what it is handed, and say nothing.
        let screens = live.qmp.execute("query-vnc-servers", Value::Null).await;
        let screens = self.result("query-vnc-servers", screens)?;
        if screens.as_array().is_none_or(Vec::is_empty) {
            let message = "the machine was started without a screen".to_owned();
            return Err(Error::Refused { uid: self.uid.clone(), command: "add_client".into(), message });
        }
        let ours = self.hand_socket(&live).await?;
        let arguments = json!({"protocol": "vnc", "fdname": HANDED, "skipauth": true});
        let added = live.qmp.execute("add_client", arguments).await;
        if added.is_err() {
            let _ = live.qmp.execute("closefd", json!({"fdname": HANDED})).await;
        }
        self.result("add_client", added)?;
        Ok(ours)
    }

    /// A connection to the machine's serial port, which all who have one share.
    pub(crate) async fn serial(self: &Arc<Self>) -> Result<UnixStream, Error> {
        let _operation = self.operation.lock().await;
        let live = self.live()?;
        let (ours, mut theirs) = self.pair()?;
        let mut arrivals = self.arrivals.lock().await;
        if let Some(there) = &*arrivals {
            match there.send(theirs) {
                Sent::Yes => return Ok(ours),
                Sent::Full => return Err(self.crowded()),
                Sent::Gone(returned) => theirs = returned,
            }
        }
        let port = self.hand_socket(&live).await?;
        // What the ring has is lost with it.
        if let Err(error) = self.drain(&live.qmp).await {
            tracing::debug!(vm = self.uid, %error, "a part of the console's log could not be read");
        }
        let address = json!({"type": "fd", "data": {"str": HANDED}});
        let backend = json!({"type": "socket", "data": {"addr": address, "server": false}});
        self.change_console(&live, backend).await?;
        let (entrance, receiver) = Entrance::new(theirs).ok_or_else(|| self.crowded())?;
        *arrivals = Some(entrance);
        tokio::spawn(self.clone().stay(port, receiver));
        Ok(ours)
    }

    fn crowded(&self) -> Error {
        Error::Crowded { uid: self.uid.clone(), most: MOST_THERE }
    }

    /// Gives the console back to the ring where nobody is there who reads it: a process of ours that was ended had no time for that.
    /// False when QEMU did not do it.
    pub(crate) async fn restore_ring(&self) -> bool {
        let Ok(live) = self.live() else { return true };
        let backends = match live.qmp.execute("query-chardev", Value::Null).await {
            Ok(backends) => backends,
            Err(error) => {
                tracing::warn!(vm = self.uid, %error, "it is not known whether the console is kept");
                return false;
            }
        };
        let own = backends.as_array().into_iter().flatten().find(|one| one["label"] == RING_NAME);
        let is_ring =
            own.and_then(|one| one["filename"].as_str()).is_none_or(|name| name.starts_with("ringbuf"));
        if !is_ring && let Err(error) = self.change_console(&live, ring()).await {
            tracing::warn!(vm = self.uid, %error, "what the guest writes to its console is not kept");
            return false;
        }
        true
    }

    /// Tries again after a while to give the console back to the ring, unless somebody comes who reads it.
    async fn restore_ring_later(&self) {
        for pause in AGAIN {
            sleep(pause).await;
            let _operation = self.operation.lock().await;
            if self.arrivals.lock().await.is_some() || self.restore_ring().await {
                return;
            }
        }
    }

    async fn change_console(&self, live: &Live, backend: Value) -> Result<(), Error> {
        let arguments = json!({"id": RING_NAME, "backend": backend});
        let changed = live.qmp.execute("chardev-change", arguments).await;
        self.result("chardev-change", changed).map(drop)
    }

    /// Gives QEMU one end of a new pair of sockets, by the name [`HANDED`]; returns the other end.
    async fn hand_socket(&self, live: &Live) -> Result<UnixStream, Error> {
        let (ours, theirs) = self.pair()?;
        let sent = live.qmp.execute_with("getfd", json!({"fdname": HANDED}), Some(theirs.as_fd())).await;
        self.result("getfd", sent)?;
        Ok(ours)
    }

    fn pair(&self) -> Result<(UnixStream, UnixStream), Error> {
        UnixStream::pair().map_err(Error::io("make a pair of sockets for", &self.files.dir))
    }

    /// Carries bytes between the guest's serial port and those who are there, until the last of them has left or the process ends.
    async fn stay(self: Arc<Self>, port: UnixStream, mut arriving: mpsc::Receiver<Arrival>) {
        let (mut from_guest, to_guest) = port.into_split();
        let (output, _) = broadcast::channel(BEHIND);
        let (input, typed) = mpsc::channel(TYPED);
        let typing = type_in(to_guest, typed);
        tokio::pin!(typing);
        let mut there = JoinSet::new();
        let mut piece = vec![0; PIECE];
        loop {
            tokio::select! {
                // Whoever has come is there before it is looked whether nobody is.
                biased;
                Some(next) = arriving.recv() => {
                    there.spawn(attend(next, output.subscribe(), input.clone()));
                }
                Some(_) = there.join_next() => {}
                () = &mut typing => break,
                // Nobody comes while it is held; who has it meanwhile may have somebody come.
                operation = self.operation.lock(), if there.is_empty() => {
                    if let Ok(next) = arriving.try_recv() {
                        there.spawn(attend(next, output.subscribe(), input.clone()));
                        continue;
                    }
                    *self.arrivals.lock().await = None;
                    if self.restore_ring().await {
                        // What was under way; then QEMU has closed its end.
                        let rest = async {
                            while let Ok(length @ 1..) = from_guest.read(&mut piece).await {
                                self.pass_on(&piece[..length], &output).await;
                            }
                        };
                        let _ = timeout(LAST_WORDS, rest).await;
                        return;
                    }
                    drop(operation);
                    self.restore_ring_later().await;
                    return;
                }
                read = from_guest.read(&mut piece) => match read {
                    Ok(length @ 1..) => self.pass_on(&piece[..length], &output).await,
                    _ => break,
                },
            }
        }
        drop((output, input, arriving));
        let _ = timeout(LAST_WORDS, async { while there.join_next().await.is_some() {} }).await;
    }

    /// Writes down what the guest has written, and shows it to those who are there.
    async fn pass_on(&self, bytes: &[u8], output: &broadcast::Sender<Arc<[u8]>>) {
        if let Err(error) = self.keep(bytes).await {
            tracing::debug!(vm = self.uid, %error, "a part of the console's log could not be written");
        }
        // Nobody there is fine.
        let _ = output.send(bytes.into());
    }
}

/// What keeps the console's output while nobody is there.
fn ring() -> Value {
    json!({"type": "ringbuf", "data": {"size": RING_BYTES}})
}

/// Hands to the guest what is typed. Ends when the guest's end is closed.
async fn type_in(mut to_guest: OwnedWriteHalf, mut typed: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = typed.recv().await {
        if to_guest.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Serves one who is at the serial port, until they leave or it is closed.
async fn attend(arrival: Arrival, mut output: broadcast::Receiver<Arc<[u8]>>, input: mpsc::Sender<Vec<u8>>) {
    let Arrival { who, _place } = arrival;
    let (mut reader, mut writer) = who.into_split();
    let showing = async {
        loop {
            match output.recv().await {
                Ok(bytes) => {
                    if writer.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    };
    let taking = async {
        let mut piece = vec![0; PIECE];
        // A guest that takes nothing would keep us from seeing that they leave: after one wait what they type is lost until it
        // takes something again.
        let mut patience = UNREAD;
        while let Ok(length @ 1..) = reader.read(&mut piece).await {
            match input.send_timeout(piece[..length].to_vec(), patience).await {
                Ok(()) => patience = UNREAD,
                Err(mpsc::error::SendTimeoutError::Timeout(_)) => patience = Duration::ZERO,
                Err(mpsc::error::SendTimeoutError::Closed(_)) => return,
            }
        }
    };
    tokio::select! {
        () = showing => {}
        () = taking => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_comes_finds_a_place_or_is_refused_at_once() {
        let pair = || UnixStream::pair().unwrap();
        let (entrance, mut receiver) = Entrance::new(pair().0).unwrap();
        for _ in 1..MOST_THERE {
            assert!(matches!(entrance.send(pair().0), Sent::Yes));
        }
        // Nobody receives, as while those who are there wait for something else.
        assert!(matches!(entrance.send(pair().0), Sent::Full));
        let first = receiver.recv().await.unwrap();
        assert!(matches!(entrance.send(pair().0), Sent::Full), "who is there keeps the place");
        drop(first);
        assert!(matches!(entrance.send(pair().0), Sent::Yes));
        drop(receiver);
        assert!(matches!(entrance.send(pair().0), Sent::Gone(_)));
    }

    #[tokio::test]
    async fn whoever_leaves_is_gone_although_the_guest_takes_nothing() {
        let (output, _) = broadcast::channel(BEHIND);
        let (input, mut typed) = mpsc::channel(1);
        input.try_send(b"before".to_vec()).unwrap();
        let (mut client, who) = UnixStream::pair().unwrap();
        let (entrance, mut receiver) = Entrance::new(who).unwrap();
        let arrival = receiver.recv().await.unwrap();
        let attending = tokio::spawn(attend(arrival, output.subscribe(), input));
        client.write_all(&[b'x'; 3 * PIECE]).await.unwrap();
        drop(client);
        timeout(UNREAD * 2, attending).await.expect("they have left").unwrap();
        assert_eq!(entrance.places.available_permits(), MOST_THERE);
        assert_eq!(typed.recv().await.unwrap(), b"before");
        assert_eq!(typed.recv().await, None, "what was typed meanwhile is lost");
    }
}
