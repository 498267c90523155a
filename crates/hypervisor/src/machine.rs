//! One machine: its state, and what it can be told. `launch.rs` has how it begins, `watch.rs` what it tells and how it ends.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{broadcast, watch};
use tokio::time::{sleep, timeout};

use crate::cgroup::Hierarchies;
use crate::console::Console;
use crate::process::kill;
use crate::qmp::{Qmp, QmpError};
use crate::record::{Files, Record, VERSION};
use crate::{Accelerator, Error, ExitReason, Reboot, VmEvent, VmEventKind, VmInfo, VmState};

/// How long QEMU may take to end after it was told to.
pub(crate) const QUIT_WITHIN: Duration = Duration::from_secs(3);
/// How long the kernel may take to end a killed process.
const DIE_WITHIN: Duration = Duration::from_secs(10);
/// Time between two presses of the power button.
const PRESS_EVERY: Duration = Duration::from_secs(3);
/// How long reading the rest of the console may delay an end.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// What all machines of one driver share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The cloud instance's tag.
    pub(crate) tag: String,
    /// Where cgroups are.
    pub(crate) hierarchies: Hierarchies,
    /// Everybody who wants to know.
    pub(crate) events: broadcast::Sender<VmEvent>,
    /// QEMU.
    pub(crate) program: String,
}

/// One machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) uid: String,
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Files,
    /// Held while it is started, stopped or removed.
    pub(crate) operation: tokio::sync::Mutex<()>,
    /// Held while a disk is copied.
    pub(crate) copying: tokio::sync::Mutex<()>,
    console: tokio::sync::Mutex<Console>,
    /// The way to those who are at its serial port.
    pub(crate) arrivals: crate::ways::Arrivals,
    inner: Mutex<Inner>,
    state: watch::Sender<VmState>,
    /// When the guest was restarted last.
    pub(crate) reboots: watch::Sender<Option<Instant>>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) record: Record,
    pub(crate) live: Option<Live>,
    /// The next power-off of the guest is the first half of a reboot.
    pub(crate) rebooting: bool,
}

/// A machine's process.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) qmp: Arc<Qmp>,
    pub(crate) handle: Arc<OwnedFd>,
}

impl Machine {
    /// A machine without a process.
    pub(crate) fn new(
        uid: String,
        shared: Arc<Shared>,
        files: Files,
        record: Option<Record>,
    ) -> Arc<Machine> {
        let exit = ExitReason::Failed { message: "it was never started".into() };
        let record = record.unwrap_or(Record {
            version: VERSION,
            accelerator: Accelerator::Tcg { why: "not started yet".into() },
            process: None,
            exit: Some(exit.clone()),
            ending: None,
        });
        let state = VmState::Stopped(record.exit.clone().unwrap_or(exit));
        Arc::new(Machine {
            console: tokio::sync::Mutex::new(Console::new(files.console())),
            arrivals: tokio::sync::Mutex::default(),
            uid,
            shared,
            files,
            operation: tokio::sync::Mutex::new(()),
            copying: tokio::sync::Mutex::new(()),
            inner: Mutex::new(Inner { record, live: None, rebooting: false }),
            state: watch::Sender::new(state),
            reboots: watch::Sender::new(None),
        })
    }

    pub(crate) fn info(&self) -> VmInfo {
        let inner = self.inner();
        let pid = inner.live.as_ref().and(inner.record.process.as_ref()).map(|process| process.pid);
        VmInfo {
            uid: self.uid.clone(),
            pid,
            state: self.state.borrow().clone(),
            accelerator: inner.record.accelerator.clone(),
        }
    }

    /// Whether it has a process that is to go on.
    pub(crate) fn is_alive(&self) -> bool {
        let inner = self.inner();
        inner.live.is_some() && inner.record.ending.is_none()
    }

    /// Whether it was removed.
    pub(crate) fn is_known(&self) -> bool {
        self.inner().live.is_some() || self.files.record().exists()
    }

    /// Presses the power button, and stops the machine when `grace` is over.
    pub(crate) async fn shutdown(&self, grace: Duration) -> Result<(), Error> {
        if let Ok(live) = self.live() {
            self.set_ending(ExitReason::Requested);
            self.inner().rebooting = false;
            // A paused guest would not hear the button.
            let paused = *self.state.borrow() == VmState::Paused;
            if paused {
                let _ = live.qmp.execute("cont", Value::Null).await;
            }
            if self.press_button_until(&live.qmp, grace, self.stopped()).await {
                return Ok(());
            }
        }
        self.stop(ExitReason::Requested).await
    }

    /// Ends the process, and returns when all that belonged to it is gone.
    pub(crate) async fn stop(&self, reason: ExitReason) -> Result<(), Error> {
        let Ok(live) = self.live() else { return Ok(()) };
        self.set_ending(reason);
        let _ = timeout(DRAIN_WITHIN, self.drain(&live.qmp)).await;
        let told = timeout(QUIT_WITHIN, live.qmp.execute("quit", Value::Null)).await;
        if matches!(told, Ok(Ok(_))) && self.wait_stopped(QUIT_WITHIN).await {
            return Ok(());
        }
        kill(&live.handle).map_err(Error::io("end QEMU of", &self.files.dir))?;
        if self.wait_stopped(DIE_WITHIN).await {
            return Ok(());
        }
        let message = "its process does not end although it was killed: the host's disk may hang".into();
        Err(Error::NoAnswer { uid: self.uid.clone(), command: "quit".into(), message })
    }

    /// Restarts the guest.
    pub(crate) async fn reboot(&self, kind: Reboot) -> Result<(), Error> {
        let live = self.live()?;
        let mut reboots = self.reboots.subscribe();
        if let Reboot::Soft { grace } = kind {
            self.inner().rebooting = true;
            let rebooted = async { drop(reboots.changed().await) };
            let done = self.press_button_until(&live.qmp, grace, rebooted).await;
            self.inner().rebooting = false;
            if done {
                return Ok(());
            }
        }
        self.reset(&live.qmp).await
    }

    /// Presses the power button, again and again, until something happens; false when it has not within the time. Once would
    /// do for a guest that is up; one that still boots does not notice.
    async fn press_button_until(&self, qmp: &Qmp, within: Duration, done: impl Future<Output = ()>) -> bool {
        let press = async {
            loop {
                if let Err(error) = qmp.execute("system_powerdown", Value::Null).await {
                    tracing::debug!(vm = self.uid, %error, "the power button could not be pressed");
                }
                sleep(PRESS_EVERY).await;
            }
        };
        tokio::select! {
            () = done => true,
            () = sleep(within) => false,
            () = press => false,
        }
    }

    /// Presses reset, and lets the guest run if it was halted.
    pub(crate) async fn reset(&self, qmp: &Qmp) -> Result<(), Error> {
        self.result("system_reset", qmp.execute("system_reset", Value::Null).await)?;
        // The reset happens a moment after its answer, and a guest that has powered off can't go on before it.
        for _ in 0..100 {
            match qmp.execute("cont", Value::Null).await {
                Err(QmpError::Refused(_)) => sleep(Duration::from_millis(10)).await,
                other => return self.result("cont", other).map(drop),
            }
        }
        self.result("cont", qmp.execute("cont", Value::Null).await).map(drop)
    }

    /// Sends one command to a machine that runs.
    pub(crate) async fn execute(&self, command: &str) -> Result<Value, Error> {
        let live = self.live()?;
        self.result(command, live.qmp.execute(command, Value::Null).await)
    }

    /// The console's last lines.
    pub(crate) async fn console_log(&self, lines: Option<usize>) -> Result<String, Error> {
        if let Ok(live) = self.live()
            && let Err(error) = self.drain(&live.qmp).await
        {
            tracing::debug!(vm = self.uid, %error, "the newest part of the console could not be read");
        }
        let console = self.console.lock().await;
        console.tail(lines).await.map_err(Error::io("read", console.path()))
    }

    /// Removes what belonged to the process and records why it ended: what was meant to end it, else `reason`.
    pub(crate) async fn clean_up(&self, reason: ExitReason) {
        let (shared, uid) = (self.shared.clone(), self.uid.clone());
        let removed = tokio::task::spawn_blocking(move || shared.hierarchies.remove(&shared.tag, &uid)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(vm = self.uid, %error, "a cgroup could not be removed");
        }
        let _ = std::fs::remove_file(self.files.socket());
        let reason = {
            let mut inner = self.inner();
            let reason = inner.record.ending.take().unwrap_or(reason);
            inner.live = None;
            inner.rebooting = false;
            inner.record.process = None;
            inner.record.exit = Some(reason.clone());
            reason
        };
        self.save();
        self.set_state(VmState::Stopped(reason));
    }

    /// Changes the record and writes it down.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.inner().record);
        self.save();
    }

    pub(crate) fn record(&self) -> Record {
        self.inner().record.clone()
    }

    fn save(&self) {
        let record = self.record();
        if let Err(error) = self.files.save(&record) {
            tracing::warn!(vm = self.uid, %error, "a state file could not be written: after a restart this machine may be told wrong");
        }
    }

    pub(crate) fn set_ending(&self, reason: ExitReason) {
        let unset = self.inner().record.ending.is_none();
        if unset {
            self.update(|record| record.ending = Some(reason));
        }
    }

    pub(crate) fn set_state(&self, state: VmState) {
        if self.state.send_replace(state.clone()) != state {
            self.tell(match state {
                VmState::Running => VmEventKind::Running,
                VmState::Paused => VmEventKind::Paused,
                VmState::Stopped(reason) => VmEventKind::Stopped(reason),
            });
        }
    }

    pub(crate) fn tell(&self, kind: VmEventKind) {
        // Nobody listening is fine.
        let _ = self.shared.events.send(VmEvent { uid: self.uid.clone(), kind });
    }

    /// Waits for the process to be gone; false when it is not within the time.
    pub(crate) async fn wait_stopped(&self, within: Duration) -> bool {
        timeout(within, self.stopped()).await.is_ok()
    }

    async fn stopped(&self) {
        // Fails only when the sender is gone, which `self` owns.
        let _ = self.state.subscribe().wait_for(|state| matches!(state, VmState::Stopped(_))).await;
    }

    /// Adds to the console's log.
    pub(crate) async fn keep(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.console.lock().await.append(bytes).await
    }

    /// Moves what QEMU has of the console to its log.
    pub(crate) async fn drain(&self, qmp: &Qmp) -> std::io::Result<()> {
        self.console.lock().await.drain(qmp).await
    }

    pub(crate) fn live(&self) -> Result<Live, Error> {
        self.inner().live.clone().ok_or_else(|| Error::NotRunning { uid: self.uid.clone() })
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn result(&self, command: &str, result: Result<Value, QmpError>) -> Result<Value, Error> {
        let (uid, command) = (self.uid.clone(), command.to_owned());
        result.map_err(|error| match error {
            QmpError::Refused(message) => Error::Refused { uid, command, message },
            QmpError::NoAnswer(message) => Error::NoAnswer { uid, command, message },
        })
    }
}
