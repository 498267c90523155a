//! Being attached to a container. Its output comes through pipes that the shim fills, beside the log; input goes straight into
//! the container's pipe or terminal, of which the shim gives a copy.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::connection::Connection;
use super::exec::{ask, code_of, pipe, resizer};
use super::pod::Pod;
use crate::error::Result;
use crate::proto::{Reply, Request};
use crate::runtime::{ExecExit, ExecSession, ExecWriter};
use crate::types::ContainerId;

pub(super) async fn start(pod: &Pod, id: &ContainerId, input: bool) -> Result<ExecSession> {
    let failed = |error: std::io::Error| pod.error(format!("pipe: {error}"));
    let mut connection = pod.connect().await?;
    let (stdout, stdout_writer) = pipe().map_err(failed)?;
    let (stderr, stderr_writer) = pipe().map_err(failed)?;
    let fds = [stdout_writer, stderr_writer];
    let request = Request::Attach { container: id.local(), input };
    let Reply::Attached { tty, input } = ask(pod, id, &mut connection, &request, &fds).await? else {
        return Err(pod.error("it runs a command in place of attaching"));
    };
    // The shim alone must hold them, or their end would never be seen.
    drop(fds);
    let mut given = connection.take_fd();
    let (ended, end) = oneshot::channel();
    let mut stdin = None;
    if input && let Some(fd) = &given {
        let copy = fd.try_clone().map_err(failed)?;
        stdin = Some(Input::boxed(copy, ended).map_err(failed)?);
    }
    let stderr = pipe::Receiver::from_owned_fd(stderr).map_err(failed)?;
    Ok(ExecSession {
        stdin,
        stdout: Box::pin(pipe::Receiver::from_owned_fd(stdout).map_err(failed)?),
        stderr: (!tty).then(|| Box::pin(stderr) as _),
        resize: given.take().filter(|_| tty).map(resizer),
        exit: exit(pod, id, connection, input.then_some(end)),
    })
}

/// Waits for the container's end, and meanwhile tells the shim of the end of input.
fn exit(
    pod: &Pod,
    id: &ContainerId,
    mut connection: Connection,
    mut end: Option<oneshot::Receiver<()>>,
) -> ExecExit {
    let (uid, id) = (pod.uid.clone(), id.to_string());
    Box::pin(async move {
        loop {
            let told = async {
                match &mut end {
                    // Dropped or used: both are the end of input.
                    Some(end) => drop(end.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                reply = connection.receive() => return code_of(&uid, &id, reply),
                () = told => {
                    end = None;
                    // Should it be gone, the next reply says so.
                    let _ = connection.send(&Request::EndInput, &[]).await;
                }
            }
        }
    })
}

/// The way to a container's stdin.
struct Input {
    pipe: pipe::Sender,
    ended: Option<oneshot::Sender<()>>,
}

impl Input {
    fn boxed(fd: OwnedFd, ended: oneshot::Sender<()>) -> std::io::Result<ExecWriter> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // A terminal's master is written like a pipe; "unchecked" because it is none.
        let pipe = pipe::Sender::from_owned_fd_unchecked(fd)?;
        Ok(Box::pin(Self { pipe, ended: Some(ended) }))
    }
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        // The pipe is shared with other clients: only the shim may end it.
        self.ended.take().map(|ended| ended.send(()));
        Poll::Ready(Ok(()))
    }
}
