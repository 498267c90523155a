//! The process that shims are forked from, as the agent sees it: started when it is needed, and again when it is gone.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::proto::{self, PODS_FLAG, Start};
use crate::sys;

/// Bytes of a name that becomes that of a file, such as a pod's uid.
pub(super) const LONGEST_NAME: usize = 63;

pub(super) struct Spawner {
    command: Vec<String>,
    tag: String,
    /// What a shim's command line is longer by than that of the process it is forked from, at most.
    room: String,
    running: Mutex<Option<Running>>,
}

struct Running {
    /// It ends when this is closed.
    socket: UnixStream,
    /// Kept so that its exit status is taken.
    child: Child,
}

impl Spawner {
    /// For pods in directories below `pods`.
    pub(super) fn new(command: &[String], tag: &str, pods: &Path) -> Self {
        let room = "-".repeat(pods.as_os_str().len() + LONGEST_NAME + 2);
        Self { command: command.to_vec(), tag: tag.to_owned(), room, running: Mutex::new(None) }
    }

    /// Has a shim started, with what comes along.
    pub(super) async fn start(&self, start: &Start, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let frame = proto::encode(start);
        let mut running = self.running.lock().await;
        if let Some(known) = running.as_mut()
            && known.child.try_wait()?.is_none()
            && known.send(&frame, fds).await.is_ok()
        {
            return Ok(());
        }
        // There was none yet, or somebody ended it.
        let new = running.insert(self.launch()?);
        new.send(&frame, fds).await
    }

    fn launch(&self) -> std::io::Result<Running> {
        let (own, other) = std::os::unix::net::UnixStream::pair()?;
        own.set_nonblocking(true)?;
        // Checked when opened.
        let (program, arguments) = self.command.split_at(1);
        let child = Command::new(&program[0])
            .args(arguments)
            .args(["--tag", &self.tag, PODS_FLAG, &self.room])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(other)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Running { socket: UnixStream::from_std(own)?, child })
    }
}

impl Running {
    async fn send(&self, frame: &[u8], fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let (socket, writable) = (&self.socket, Interest::WRITABLE);
        // A frame is far smaller than what goes at once.
        let sent = socket.async_io(writable, || Ok(sys::send_fds(socket, frame, fds)?)).await?;
        if sent == frame.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
    }
}
