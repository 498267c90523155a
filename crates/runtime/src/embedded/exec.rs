//! Commands in running containers. Their input and output do not pass through the shim: it is handed one end of
//! each pipe, or hands over the terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::unix::pipe;

use super::connection::Connection;
use super::pod::Pod;
use crate::EXEC_OUTPUT_LIMIT;
use crate::error::{Result, RuntimeError};
use crate::proto::{Exec, Reply, Request};
use crate::runtime::{ExecExit, ExecReader, ExecSession, Resizer};
use crate::types::{ContainerId, ExecConfig, ExecResult};

/// Starting a command takes milliseconds; so long means that it hangs.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// After its end, how long children of a command may hold its output open.
const LINGER: Duration = Duration::from_millis(500);

pub(super) async fn start(pod: &Pod, id: &ContainerId, config: ExecConfig) -> Result<ExecSession> {
    if config.command.is_empty() {
        return Err(RuntimeError::invalid("command", "must not be empty"));
    }
    let mut connection = pod.connect().await?;
    let request = Request::Exec(Exec { container: id.local(), command: config.command, tty: config.tty });
    if config.tty {
        ask(pod, id, &mut connection, &request, &[]).await?;
        let master = connection.take_fd().ok_or_else(|| pod.error("no terminal came"))?;
        return terminal_session(pod, id, connection, master, config.stdin);
    }
    let failed = |error: std::io::Error| pod.error(format!("pipe: {error}"));
    let (stdin_reader, stdin) = if config.stdin {
        let (reader, writer) = pipe().map_err(failed)?;
        (reader, Some(pipe::Sender::from_owned_fd(writer).map_err(failed)?))
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        (null.map_err(|errno| failed(errno.into()))?, None)
    };
    let (stdout, stdout_writer) = pipe().map_err(failed)?;
    let (stderr, stderr_writer) = pipe().map_err(failed)?;
    let fds = [stdin_reader, stdout_writer, stderr_writer];
    ask(pod, id, &mut connection, &request, &fds).await?;
    // The command alone must hold them, or their end would never be seen.
    drop(fds);
    let stdout = pipe::Receiver::from_owned_fd(stdout).map_err(failed)?;
    let stderr = pipe::Receiver::from_owned_fd(stderr).map_err(failed)?;
    Ok(ExecSession {
        stdin: stdin.map(|stdin| Box::pin(stdin) as _),
        stdout: Box::pin(stdout),
        stderr: Some(Box::pin(stderr)),
        resize: None,
        exit: exit(pod, id, connection),
    })
}

/// A pipe whose ends on our side must not block.
pub(super) fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

/// Asks for a session; returns the reply that says that it has begun.
pub(super) async fn ask(
    pod: &Pod,
    id: &ContainerId,
    connection: &mut Connection,
    request: &Request,
    fds: &[OwnedFd],
) -> Result<Reply> {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let conversation = async {
        connection.send(request, &fds).await?;
        connection.receive().await
    };
    let reply = tokio::time::timeout(START_TIMEOUT, conversation)
        .await
        .map_err(|_| pod.error("the command does not start"))?
        .map_err(|error| pod.error(error))?;
    match reply {
        Some(reply @ (Reply::ExecStarted | Reply::Attached { .. })) => Ok(reply),
        Some(Reply::NotFound) => Err(RuntimeError::ContainerNotFound(id.to_string())),
        Some(Reply::NotRunning) => Err(RuntimeError::NotRunning(id.to_string())),
        Some(Reply::Failed { reason }) => Err(RuntimeError::Start { container: id.to_string(), reason }),
        other => Err(pod.error(format!("unexpected answer: {other:?}"))),
    }
}

fn exit(pod: &Pod, id: &ContainerId, mut connection: Connection) -> ExecExit {
    let (uid, id) = (pod.uid.clone(), id.to_string());
    Box::pin(async move { code_of(&uid, &id, connection.receive().await) })
}

/// What a session's last reply says.
pub(super) fn code_of(uid: &str, id: &str, reply: std::io::Result<Option<Reply>>) -> Result<i32> {
    match reply {
        Ok(Some(Reply::ExecExited { code })) => Ok(code),
        Ok(None) => Err(RuntimeError::NotRunning(id.to_owned())),
        Ok(Some(other)) => Err(RuntimeError::shim(uid, format!("said {other:?}"))),
        Err(error) => Err(RuntimeError::shim(uid, error)),
    }
}

fn terminal_session(
    pod: &Pod,
    id: &ContainerId,
    connection: Connection,
    master: OwnedFd,
    stdin: bool,
) -> Result<ExecSession> {
    let failed = |error: std::io::Error| pod.error(format!("terminal: {error}"));
    rustix::io::ioctl_fionbio(&master, true).map_err(|errno| failed(errno.into()))?;
    // A terminal's master is read and written like a pipe; "unchecked" because it is none.
    let stdin = match stdin {
        true => {
            let copy = master.try_clone().map_err(failed)?;
            Some(pipe::Sender::from_owned_fd_unchecked(copy).map_err(failed)?)
        }
        false => None,
    };
    let copy = master.try_clone().map_err(failed)?;
    let stdout = pipe::Receiver::from_owned_fd_unchecked(copy).map_err(failed)?;
    Ok(ExecSession {
        stdin: stdin.map(|stdin| Box::pin(stdin) as _),
        stdout: Box::pin(TerminalOutput(stdout)),
        stderr: None,
        resize: Some(resizer(master)),
        exit: exit(pod, id, connection),
    })
}

pub(super) fn resizer(master: OwnedFd) -> Resizer {
    Resizer(Arc::new(move |columns, rows| {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&master, size)?)
    }))
}

/// What a terminal shows. It ends when nobody has the terminal open any more, which it reports as an error.
struct TerminalOutput(pipe::Receiver);

impl AsyncRead for TerminalOutput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let end = Some(rustix::io::Errno::IO.raw_os_error());
        match Pin::new(&mut self.0).poll_read(cx, buf) {
            Poll::Ready(Err(error)) if error.raw_os_error() == end => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

pub(super) async fn run(
    pod: &Pod,
    id: &ContainerId,
    command: Vec<String>,
    timeout: Duration,
) -> Result<ExecResult> {
    let config = ExecConfig { command, ..ExecConfig::default() };
    let running = async {
        let mut session = start(pod, id, config).await?;
        let mut stderr = session.stderr.take();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit_code = {
            let reading = async {
                tokio::join!(
                    collect(Some(&mut session.stdout), &mut out),
                    collect(stderr.as_mut(), &mut err)
                );
            };
            tokio::pin!(reading);
            tokio::select! {
                () = &mut reading => session.exit.await?,
                code = &mut session.exit => {
                    let _ = tokio::time::timeout(LINGER, &mut reading).await;
                    code?
                }
            }
        };
        Ok(ExecResult { exit_code, stdout: out, stderr: err })
    };
    tokio::time::timeout(timeout, running).await.map_err(|_| RuntimeError::ExecTimeout(id.to_string()))?
}

/// Reads to the end, keeping what the limit allows.
async fn collect(reader: Option<&mut ExecReader>, kept: &mut Vec<u8>) {
    let Some(reader) = reader else { return };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = reader.read(&mut buffer).await {
        let room = EXEC_OUTPUT_LIMIT - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
}
