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
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

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
/// Those who come at one moment.
const ARRIVING: usize = 4;
/// How long those who are at the serial port may take to read the last of a machine that ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where those who come to a machine's serial port are sent while somebody is there; none while nobody is.
pub(crate) type Arrivals = tokio::sync::Mutex<Option<mpsc::Sender<UnixStream>>>;

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
            match there.send(theirs).await {
                Ok(()) => return Ok(ours),
                // Of an earlier process.
                Err(returned) => theirs = returned.0,
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
        let (sender, receiver) = mpsc::channel(ARRIVING);
        *arrivals = Some(sender);
        tokio::spawn(self.clone().stay(port, theirs, receiver));
        Ok(ours)
    }

    /// Gives the console back to the ring where nobody is there who reads it: a process of ours that was ended had no time for that.
    pub(crate) async fn restore_ring(&self) {
        let Ok(live) = self.live() else { return };
        let backends = live.qmp.execute("query-chardev", Value::Null).await.unwrap_or_default();
        let own = backends.as_array().into_iter().flatten().find(|one| one["label"] == RING_NAME);
        let is_ring =
            own.and_then(|one| one["filename"].as_str()).is_none_or(|name| name.starts_with("ringbuf"));
        if !is_ring && let Err(error) = self.change_console(&live, ring()).await {
            tracing::warn!(vm = self.uid, %error, "what the guest writes to its console is not kept");
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
    async fn stay(
        self: Arc<Self>,
        port: UnixStream,
        first: UnixStream,
        mut arriving: mpsc::Receiver<UnixStream>,
    ) {
        let (mut from_guest, to_guest) = port.into_split();
        let (output, _) = broadcast::channel(BEHIND);
        let (input, typed) = mpsc::channel(TYPED);
        let typing = type_in(to_guest, typed);
        tokio::pin!(typing);
        let mut there = JoinSet::new();
        there.spawn(attend(first, output.subscribe(), input.clone()));
        let mut piece = vec![0; PIECE];
        loop {
            tokio::select! {
                Some(next) = arriving.recv() => {
                    there.spawn(attend(next, output.subscribe(), input.clone()));
                }
                read = from_guest.read(&mut piece) => match read {
                    Ok(length @ 1..) => self.pass_on(&piece[..length], &output).await,
                    _ => break,
                },
                () = &mut typing => break,
                Some(_) = there.join_next() => {
                    if !there.is_empty() {
                        continue;
                    }
                    // Nobody comes meanwhile.
                    let _operation = self.operation.lock().await;
                    if let Ok(next) = arriving.try_recv() {
                        there.spawn(attend(next, output.subscribe(), input.clone()));
                        continue;
                    }
                    *self.arrivals.lock().await = None;
                    if let Ok(live) = self.live()
                        && let Err(error) = self.change_console(&live, ring()).await
                    {
                        tracing::warn!(vm = self.uid, %error, "what the guest writes to its console is not kept");
                    }
                    // What was under way; then QEMU has closed its end.
                    while let Ok(Ok(length @ 1..)) = timeout(LAST_WORDS, from_guest.read(&mut piece)).await {
                        self.pass_on(&piece[..length], &output).await;
                    }
                    return;
                }
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
async fn attend(who: UnixStream, mut output: broadcast::Receiver<Arc<[u8]>>, input: mpsc::Sender<Vec<u8>>) {
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
        while let Ok(length @ 1..) = reader.read(&mut piece).await {
            if input.send(piece[..length].to_vec()).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = showing => {}
        () = taking => {}
    }
}
