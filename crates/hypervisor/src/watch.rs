//! What a machine's process tells, and how its end is noticed.

use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::machine::{Live, Machine, QUIT_WITHIN};
use crate::process::{ended, kill};
use crate::qmp::{Event, Qmp, QmpError};
use crate::record::Files;
use crate::spawn::Complaints;
use crate::{Error, ExitReason, VmEventKind, VmState, socket};

/// How long the firmware may take to begin anew after a reset.
const FIRMWARE_WITHIN: Duration = Duration::from_secs(1);

/// A process that was started or found.
pub(crate) struct Found {
    pub(crate) qmp: Arc<Qmp>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) handle: OwnedFd,
    /// Present when it is our child.
    pub(crate) child: Option<(Child, Complaints)>,
}

impl Machine {
    /// Takes a running process on: from here on its events count, and its end is noticed.
    pub(crate) async fn attach(self: &Arc<Self>, found: Found) -> Result<(), Error> {
        let Found { qmp, events, handle, child } = found;
        let status = match qmp.execute("query-status", Value::Null).await {
            Ok(status) => status,
            Err(error) => {
                kill(&handle).map_err(Error::io("end QEMU of", &self.files.dir))?;
                if let Some((mut child, _)) = child {
                    tokio::task::spawn_blocking(move || child.wait());
                }
                return self.result("query-status", Err(error)).map(drop);
            }
        };
        let handle = Arc::new(handle);
        self.inner().live = Some(Live { qmp: qmp.clone(), handle: handle.clone() });
        let ending = self.inner().record.ending.clone();
        self.set_state(if status["status"] == "running" { VmState::Running } else { VmState::Paused });
        if status["status"] == "shutdown" {
            // Powered off while nobody looked.
            tokio::spawn(self.clone().finish_power_off());
        }
        if let Some(reason) = ending {
            let machine = self.clone();
            tokio::spawn(async move { machine.stop(reason).await });
        }
        tokio::spawn(self.clone().watch(events, handle, child));
        Ok(())
    }

    /// Follows the process to its end.
    async fn watch(
        self: Arc<Self>,
        mut events: mpsc::Receiver<Event>,
        handle: Arc<OwnedFd>,
        child: Option<(Child, Complaints)>,
    ) {
        let ended = async {
            if let Err(error) = ended(handle.clone()).await {
                tracing::error!(vm = self.uid, %error, "the end of a process can't be noticed");
            }
        };
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => break,
                event = events.recv() => match event {
                    Some(event) => self.clone().on_event(&event),
                    None => {
                        // Most likely the process ends. If not, it has to be reached again: what can't be told to stop must not run.
                        if timeout(QUIT_WITHIN, &mut ended).await.is_ok() {
                            break;
                        }
                        match self.reconnect(&handle).await {
                            Ok(new) => events = new,
                            Err(error) => {
                                tracing::error!(vm = self.uid, %error, "the monitor is lost; ending the machine");
                                let _ = kill(&handle);
                                ended.await;
                                break;
                            }
                        }
                    }
                },
            }
        }
        self.on_end(child).await;
    }

    async fn reconnect(&self, handle: &Arc<OwnedFd>) -> Result<mpsc::Receiver<Event>, QmpError> {
        let (qmp, events) = connect(&self.files).await?;
        self.inner().live = Some(Live { qmp, handle: handle.clone() });
        Ok(events)
    }

    /// Never waits for the monitor: its reader may be waiting for us.
    fn on_event(self: Arc<Self>, event: &Event) {
        match event.event.as_str() {
            "SHUTDOWN"
                if event.data["guest"].as_bool() == Some(true)
                    || event.data["reason"] == "guest-shutdown" =>
            {
                let rebooting = std::mem::take(&mut self.inner().rebooting);
                if rebooting {
                    tokio::spawn(async move {
                        if let Ok(live) = self.live()
                            && let Err(error) = self.reset(&live.qmp).await
                        {
                            tracing::warn!(vm = self.uid, %error, "the second half of a reboot failed");
                        }
                    });
                } else {
                    tokio::spawn(self.finish_power_off());
                }
            }
            "RESET" => {
                let now = Instant::now();
                let last = self.reboots.send_replace(Some(now));
                let by_guest = event.data["guest"].as_bool().unwrap_or(false);
                // The firmware resets the machine once or twice more by itself.
                if !by_guest || last.is_none_or(|last| now - last > FIRMWARE_WITHIN) {
                    self.tell(VmEventKind::Rebooted { by_guest });
                }
            }
            "STOP" if self.is_alive() => self.set_state(VmState::Paused),
            "RESUME" => self.set_state(VmState::Running),
            "GUEST_PANICKED" => self.tell(VmEventKind::Panicked),
            _ => {}
        }
    }

    /// The guest has powered off; its process waits for us.
    async fn finish_power_off(self: Arc<Self>) {
        self.set_ending(ExitReason::Guest);
        if let Err(error) = self.stop(ExitReason::Guest).await {
            tracing::warn!(vm = self.uid, %error, "a machine that powered off could not be ended");
        }
    }

    /// The process has ended.
    async fn on_end(&self, child: Option<(Child, Complaints)>) {
        let mut message = "its QEMU process ended unexpectedly".to_owned();
        if let Some((mut child, mut complaints)) = child {
            match child.try_wait() {
                Ok(Some(status)) => message = format!("{message} ({status})"),
                Ok(None) => tracing::warn!(vm = self.uid, "a process ended but can't be reaped"),
                Err(error) => tracing::warn!(vm = self.uid, %error, "a process that ended can't be reaped"),
            }
            let said = complaints.read();
            if !said.is_empty() {
                message = format!("{message}: {said}");
            }
        }
        self.clean_up(ExitReason::Failed { message }).await;
    }
}

/// Reaches the monitor of a machine.
pub(crate) async fn connect(files: &Files) -> Result<(Arc<Qmp>, mpsc::Receiver<Event>), QmpError> {
    let stream = socket::connect(&files.socket()).and_then(UnixStream::from_std);
    Qmp::connect(stream.map_err(|error| QmpError::NoAnswer(error.to_string()))?).await
}
