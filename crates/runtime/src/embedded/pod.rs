//! What is known of one pod, and asking its shim.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::connection::Connection;
use crate::error::{Result, RuntimeError};
use crate::proto::{Reply, Request};
use crate::types::{ContainerId, ContainerState, ContainerStatus, SandboxStatus};

/// A shim that does not answer for so long is broken.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Pod {
    pub(super) uid: String,
    pub(super) dir: PathBuf,
    state: watch::Sender<SandboxStatus>,
    /// The end of the shim is intended.
    removing: AtomicBool,
    /// Its shim mounts trees ([`crate::proto::Bind::Tree`]); one that an older agent started does not.
    pub(super) takes_trees: bool,
}

impl Pod {
    pub(super) fn new(dir: PathBuf, status: SandboxStatus) -> Self {
        Self {
            uid: status.config.uid.clone(),
            dir,
            state: watch::Sender::new(status),
            removing: AtomicBool::new(false),
            takes_trees: false,
        }
    }

    pub(super) fn status(&self) -> SandboxStatus {
        self.state.borrow().clone()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state.borrow().ready
    }

    pub(super) fn set_removing(&self) {
        self.removing.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_removing(&self) -> bool {
        self.removing.load(Ordering::SeqCst)
    }

    pub(super) fn container(&self, id: &ContainerId) -> Option<ContainerStatus> {
        let state = self.state.borrow();
        state.containers.iter().find(|known| known.id == *id).cloned()
    }

    /// Takes news of a container; news that are older than what is known change nothing. Returns whether it was news.
    pub(super) fn apply(&self, status: ContainerStatus) -> bool {
        self.state.send_if_modified(|state| {
            let found = state.containers.binary_search_by(|known| known.id.cmp(&status.id));
            match found {
                Ok(index) if state.containers[index].state >= status.state => return false,
                Ok(index) => state.containers[index] = status,
                Err(index) => state.containers.insert(index, status),
            }
            true
        })
    }

    pub(super) fn forget(&self, id: &ContainerId) {
        self.state.send_modify(|state| state.containers.retain(|known| known.id != *id));
    }

    /// The shim is gone: so is every container. Returns those that ended by it.
    pub(super) fn died(&self) -> Vec<ContainerStatus> {
        let mut ended = Vec::new();
        self.state.send_modify(|state| {
            state.ready = false;
            state.shim_pid = None;
            for status in &mut state.containers {
                if end_of_lost(status) {
                    ended.push(status.clone());
                }
            }
        });
        ended
    }

    /// Waits until the container has exited or is forgotten.
    pub(super) async fn wait_exited(&self, id: &ContainerId) {
        let mut state = self.state.subscribe();
        let over = |state: &SandboxStatus| {
            let found = state.containers.iter().find(|known| known.id == *id);
            found.is_none_or(|known| known.state == ContainerState::Exited)
        };
        // Fails only when the sender is gone, and it is in `self`.
        let _ = state.wait_for(over).await;
    }

    pub(super) fn error(&self, reason: impl std::fmt::Display) -> RuntimeError {
        RuntimeError::shim(&self.uid, reason)
    }

    pub(super) async fn connect(&self) -> Result<Connection> {
        if !self.is_ready() {
            return Err(RuntimeError::SandboxDead(self.uid.clone()));
        }
        Connection::open(&self.dir).await.map_err(|e| self.error(format!("connect: {e}")))
    }

    /// One request, one reply.
    pub(super) async fn ask(&self, request: &Request) -> Result<Reply> {
        self.ask_with(request, &[]).await
    }

    /// As [`Self::ask`], with what comes along.
    pub(super) async fn ask_with(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply> {
        let mut connection = self.connect().await?;
        let conversation = async {
            connection.send(request, fds).await?;
            connection.receive().await
        };
        let reply = tokio::time::timeout(REPLY_TIMEOUT, conversation)
            .await
            .map_err(|_| self.error("it does not answer"))?
            .map_err(|e| self.error(e))?;
        reply.ok_or_else(|| self.error("it hung up"))
    }
}

/// Ends a container whose shim is gone; false when it had ended already.
pub(super) fn end_of_lost(status: &mut ContainerStatus) -> bool {
    if status.state == ContainerState::Exited {
        return false;
    }
    status.state = ContainerState::Exited;
    status.pid = None;
    status.exit_code = Some(137);
    status.finished_at = Some(std::time::SystemTime::now());
    status.lost = true;
    status.message = "killed because the shim of its pod ended".to_owned();
    true
}
