//! One connection to a shim.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::proto::{self, Reply, Request, SOCKET};
use crate::sys;

pub(super) struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Connection {
    /// Connects to the shim of the pod in `dir`.
    pub(super) async fn open(dir: &Path) -> Result<Self> {
        let (_dir, path) = sys::short_path(dir, SOCKET)?;
        Ok(Self { stream: UnixStream::connect(path).await?, input: Vec::new(), fds: Vec::new() })
    }

    pub(super) async fn send(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let frame = proto::encode(request);
        if frame.len() > proto::LONGEST_FRAME {
            return Err(Error::new(ErrorKind::InvalidInput, "the request is too large"));
        }
        let stream = &self.stream;
        let sent = stream.async_io(Interest::WRITABLE, || Ok(sys::send_fds(stream, &frame, fds)?)).await?;
        self.stream.write_all(&frame[sent..]).await
    }

    /// The next reply; `None` when the shim closed the connection. Cancelling loses nothing.
    pub(super) async fn receive(&mut self) -> Result<Option<Reply>> {
        loop {
            let decoded = proto::decode(&mut self.input);
            if let Some(reply) = decoded.map_err(|e| Error::new(ErrorKind::InvalidData, e))? {
                return Ok(Some(reply));
            }
            let (stream, fds, input) = (&self.stream, &mut self.fds, &mut self.input);
            let mut buffer = vec![0; 16 * 1024];
            let read =
                stream.async_io(Interest::READABLE, || Ok(sys::recv_fds(stream, &mut buffer, fds)?)).await?;
            if read == 0 {
                return Ok(None);
            }
            input.extend_from_slice(&buffer[..read]);
        }
    }

    /// A descriptor that came with a reply.
    pub(super) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop()
    }
}
