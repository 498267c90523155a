//! Clients that are attached to a container: copies of its output for them, beside the log.
//!
//! A client that reads slowly holds up the container, as a slow terminal would, but only for so long: then it is cut off.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::container::Container;
use super::server::Server;
use crate::logs::writer::Stream;
use crate::proto::Reply;
use crate::types::ContainerState;

/// Clients of one container; each holds two pipes.
const MOST_CLIENTS: usize = 64;
/// How long a client may take nothing before it is cut off.
const PATIENCE: Duration = Duration::from_secs(10);

/// One attached client.
pub(super) struct Client {
    /// Where it is told how the container ended.
    pub(super) connection: u64,
    /// Whether it writes to the container's stdin.
    pub(super) input: bool,
    /// Its input has ended, and the container's goes on: it is let go.
    leaving: bool,
    copies: [Option<Copy>; 2],
}

/// A pipe to the client, and what did not fit in it yet.
struct Copy {
    pipe: OwnedFd,
    waiting: Vec<u8>,
    /// When it last took something.
    taken: Instant,
}

impl Client {
    /// With pipes for stdout and stderr.
    pub(super) fn new(connection: u64, input: bool, pipes: [OwnedFd; 2]) -> Self {
        let copies = pipes.map(|pipe| {
            // Where this fails the pipe is closed, and the first write says so.
            let _ = rustix::io::ioctl_fionbio(&pipe, true);
            Some(Copy { pipe, waiting: Vec::new(), taken: Instant::now() })
        });
        Self { connection, input, leaving: false, copies }
    }

    /// Sends some output, or keeps it until the client takes it.
    pub(super) fn offer(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some(copy) = &mut self.copies[stream as usize] {
            if copy.waiting.is_empty() {
                copy.taken = Instant::now();
            }
            copy.waiting.extend_from_slice(bytes);
            self.flush(stream);
        }
    }

    /// Sends what waits, as far as the client takes it; drops a client that is gone or took nothing for too long.
    pub(super) fn flush(&mut self, stream: Stream) {
        let slot = &mut self.copies[stream as usize];
        let Some(copy) = slot else { return };
        while !copy.waiting.is_empty() {
            match rustix::io::write(&copy.pipe, &copy.waiting) {
                Ok(written) => {
                    copy.waiting.drain(..written);
                    copy.taken = Instant::now();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if copy.taken.elapsed() < PATIENCE => return,
                Err(_) => {
                    *slot = None;
                    return;
                }
            }
        }
    }

    /// No more will come of a stream.
    pub(super) fn finish(&mut self, stream: Stream) {
        self.flush(stream);
        if !self.waits(stream) {
            self.copies[stream as usize] = None;
        }
    }

    /// Whether output waits for the client to take it.
    pub(super) fn waits(&self, stream: Stream) -> bool {
        self.copies[stream as usize].as_ref().is_some_and(|copy| !copy.waiting.is_empty())
    }

    /// The pipes to poll for room, and how long each is still waited for.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (&OwnedFd, Duration)> {
        let waiting = self.copies.iter().flatten().filter(|copy| !copy.waiting.is_empty());
        waiting.map(|copy| (&copy.pipe, PATIENCE.saturating_sub(copy.taken.elapsed())))
    }
}

impl Container {
    /// Whether a client has no room yet for what came before.
    pub(super) fn is_held(&self, stream: Stream) -> bool {
        self.clients.iter().any(|client| client.waits(stream))
    }

    pub(super) fn flush(&mut self) {
        for client in &mut self.clients {
            client.flush(Stream::Stdout);
            client.flush(Stream::Stderr);
        }
    }
}

impl Server {
    /// Attaches a client. `pipes` are for stdout and stderr.
    pub(super) fn attach(&mut self, connection: u64, container: &str, input: bool, pipes: Vec<OwnedFd>) {
        let failed = |reason: &str| Reply::Failed { reason: reason.to_owned() };
        let Some(found) = self.containers.get_mut(container) else {
            return self.send(connection, &Reply::NotFound, None);
        };
        if found.pidfd.is_none() {
            return self.send(connection, &Reply::NotRunning, None);
        }
        if found.clients.len() >= MOST_CLIENTS {
            return self.send(connection, &failed("too many clients are attached to it"), None);
        }
        let Ok(pipes) = <[OwnedFd; 2]>::try_from(pipes) else {
            return self.send(connection, &failed("two descriptors are needed"), None);
        };
        let (tty, input) = (found.tty, input && found.stdin && found.input.is_some());
        let given = found.input.as_ref().filter(|_| tty || input).and_then(|fd| fd.try_clone().ok());
        found.clients.push(Client::new(connection, input, pipes));
        self.send(connection, &Reply::Attached { tty, input }, given.as_ref().map(AsFd::as_fd));
    }

    /// A client has no more input. Where that is no end for the container, whose input stays open for the next client (and a
    /// terminal's end of input is a character), it is the end of the session.
    pub(super) fn end_input(&mut self, connection: u64) {
        for container in self.containers.values_mut() {
            for client in container.clients.iter_mut().filter(|client| client.connection == connection) {
                if !std::mem::take(&mut client.input) {
                    continue;
                }
                if container.stdin_once && !container.tty {
                    container.input = None;
                } else {
                    client.leaving = true;
                }
            }
        }
    }

    /// A client is gone.
    pub(super) fn detach(&mut self, connection: u64) {
        self.end_input(connection);
        for container in self.containers.values_mut() {
            container.clients.retain(|client| client.connection != connection);
        }
    }

    /// Tells clients of containers that ended how they did, once they have taken all output; those that leave before are told of no failure.
    pub(super) fn dismiss(&mut self) {
        let mut done = Vec::new();
        for container in self.containers.values_mut() {
            let ended = container.status.state == ContainerState::Exited;
            let code = container.status.exit_code.filter(|_| ended).unwrap_or_default();
            container.clients.retain_mut(|client| {
                if !ended && !client.leaving {
                    return true;
                }
                client.finish(Stream::Stdout);
                client.finish(Stream::Stderr);
                let over = client.copies.iter().all(Option::is_none);
                if over {
                    done.push((client.connection, code));
                }
                !over
            });
        }
        for (connection, code) in done {
            self.send(connection, &Reply::ExecExited { code }, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::pipe::PipeFlags;

    use super::*;

    fn client() -> (Client, std::fs::File) {
        let (reader, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (_, stderr) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        (Client::new(1, false, [stdout, stderr]), reader.into())
    }

    #[test]
    fn what_does_not_fit_waits_and_comes_in_order() {
        let (mut client, mut reader) = client();
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        client.offer(Stream::Stdout, &sent);
        assert!(client.waits(Stream::Stdout));
        assert_eq!(client.waiting().count(), 1);
        let mut got = vec![0; 100_000];
        let mut read = 0;
        while client.waits(Stream::Stdout) {
            read += reader.read(&mut got[..]).unwrap();
            client.flush(Stream::Stdout);
        }
        client.finish(Stream::Stdout);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert!(sent.ends_with(&rest) && read + rest.len() == sent.len());
    }

    #[test]
    fn a_client_that_is_gone_or_takes_nothing_is_cut_off() {
        let (mut gone, reader) = client();
        drop(reader);
        gone.offer(Stream::Stdout, b"x");
        gone.offer(Stream::Stderr, b"x");
        assert!(gone.copies.iter().all(Option::is_none));
        let (mut slow, _reader) = client();
        slow.offer(Stream::Stdout, &[0; 200_000]);
        let Some(before) = Instant::now().checked_sub(PATIENCE) else { return };
        slow.copies[0].as_mut().unwrap().taken = before;
        slow.flush(Stream::Stdout);
        assert!(slow.copies[0].is_none());
    }
}
