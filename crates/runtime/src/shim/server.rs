//! The shim's life: one loop around `poll`.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use super::attach::Client;
use super::container::{Container, code_of, record_path};
use super::tasks::Task;
use crate::logs::writer::Stream;
use crate::proto::{self, Reply, Request};
use crate::sys;
use crate::types::ContainerState;

/// More connections than this are turned away; each exec session holds one.
const MOST_CONNECTIONS: usize = 512;

pub(super) struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    fds: Vec<OwnedFd>,
    subscribed: bool,
}

/// A process that was started in a container by request.
pub(super) struct ExecProcess {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) connection: u64,
}

/// What a polled descriptor stands for.
enum Source {
    Listener,
    Connection(u64),
    Output(String, Stream),
    /// Room in the pipe to an attached client.
    Room(String),
    Process,
}

pub(super) struct Server {
    pub(super) listener: OwnedFd,
    pub(super) pod: PathBuf,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) tasks: Vec<Task>,
    pub(super) execs: Vec<ExecProcess>,
    /// Children that ended and were not asked for yet.
    pub(super) ended: HashMap<i32, (i32, SystemTime)>,
    pub(super) counter: u64,
    pub(super) stopping: bool,
}

impl Server {
    pub(super) fn new(listener: OwnedFd, pod: PathBuf) -> Self {
        Self {
            listener,
            pod,
            connections: BTreeMap::new(),
            containers: BTreeMap::new(),
            tasks: Vec::new(),
            execs: Vec::new(),
            ended: HashMap::new(),
            counter: 0,
            stopping: false,
        }
    }

    pub(super) fn serve(mut self) -> Result<(), String> {
        while !(self.stopping && self.is_idle()) {
            for source in self.wait()? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Connection(id) => self.receive(id),
                    Source::Output(id, stream) => {
                        if let Some(container) = self.containers.get_mut(&id) {
                            container.pump(stream);
                        }
                    }
                    Source::Room(id) => {
                        if let Some(container) = self.containers.get_mut(&id) {
                            container.flush();
                        }
                    }
                    Source::Process => {}
                }
            }
            self.reap();
            self.dismiss();
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.containers.values().all(|known| known.pidfd.is_none())
    }

    /// Waits until something happens; says what.
    fn wait(&self) -> Result<Vec<Source>, String> {
        let mut poll: Vec<(BorrowedFd<'_>, Source)> = vec![(self.listener.as_fd(), Source::Listener)];
        let mut patience = None;
        for (id, connection) in &self.connections {
            poll.push((connection.socket.as_fd(), Source::Connection(*id)));
        }
        for (id, container) in &self.containers {
            // What clients have no room for yet holds up what comes behind it.
            for (stream, fd) in container.outputs.iter().filter(|(stream, _)| !container.is_held(*stream)) {
                poll.push((fd.as_fd(), Source::Output(id.clone(), *stream)));
            }
            for (fd, left) in container.clients.iter().flat_map(Client::waiting) {
                poll.push((fd.as_fd(), Source::Room(id.clone())));
                patience = Some(patience.map_or(left, |other: Duration| other.min(left)));
            }
        }
        let processes = self.tasks.iter().map(|task| &task.clone.pidfd);
        let processes = processes.chain(self.execs.iter().map(|exec| &exec.pidfd));
        let containers = self.containers.values().filter_map(|known| known.pidfd.as_ref());
        for pidfd in processes.chain(containers) {
            poll.push((pidfd.as_fd(), Source::Process));
        }
        let flags = |source: &Source| match source {
            Source::Room(_) => PollFlags::OUT,
            _ => PollFlags::IN,
        };
        let mut fds: Vec<PollFd<'_>> =
            poll.iter().map(|(fd, source)| PollFd::from_borrowed_fd(*fd, flags(source))).collect();
        // Seconds at most: it always fits.
        let patience = patience.and_then(|left| Timespec::try_from(left).ok());
        loop {
            match rustix::event::poll(&mut fds, patience.as_ref()) {
                // No room in all that time: those clients are cut off.
                Ok(0) => return Ok(self.containers.keys().cloned().map(Source::Room).collect()),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(format!("poll: {errno}")),
            }
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let pairs = poll.into_iter().zip(ready);
        Ok(pairs.filter(|(_, ready)| *ready).map(|((_, source), _)| source).collect())
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else {
            return;
        };
        if self.connections.len() >= MOST_CONNECTIONS {
            return;
        }
        self.counter += 1;
        let connection = Connection { socket, input: Vec::new(), fds: Vec::new(), subscribed: false };
        self.connections.insert(self.counter, connection);
    }

    fn receive(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let mut buffer = vec![0; 64 * 1024];
        match sys::recv_fds(&connection.socket, &mut buffer, &mut connection.fds) {
            Ok(0) => return self.close(id),
            Ok(read) => connection.input.extend_from_slice(&buffer[..read]),
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.close(id),
        }
        if connection.fds.len() > sys::MOST_FDS || connection.input.len() > proto::LONGEST_FRAME {
            return self.close(id);
        }
        match proto::decode::<Request>(&mut connection.input) {
            Ok(None) => {}
            Ok(Some(request)) => {
                let fds = std::mem::take(&mut connection.fds);
                self.handle(id, request, fds);
            }
            Err(_) => self.close(id),
        }
    }

    /// Commands live as long as the connection that asked for them, and so do attached clients.
    fn close(&mut self, id: u64) {
        self.connections.remove(&id);
        for exec in self.execs.iter().filter(|exec| exec.connection == id) {
            kill_group(exec.pid);
        }
        self.detach(id);
    }

    /// Sends without waiting; who does not read is cut off.
    pub(super) fn send(&mut self, id: u64, reply: &Reply, fd: Option<BorrowedFd<'_>>) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let frame = proto::encode(reply);
        let sent = sys::send_fds(&connection.socket, &frame, fd.as_slice());
        if sent != Ok(frame.len()) {
            self.close(id);
        }
    }

    pub(super) fn publish(&mut self, container: &str) {
        let Some(found) = self.containers.get(container) else {
            return;
        };
        let event = Reply::Container(Box::new(found.status.clone()));
        let listeners: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.subscribed)
            .map(|(id, _)| *id)
            .collect();
        for id in listeners {
            self.send(id, &event, None);
        }
    }

    fn handle(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) {
        let reply = match request {
            Request::Subscribe => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.subscribed = true;
                }
                Reply::Snapshot {
                    shim_pid: rustix::process::getpid().as_raw_nonzero().get(),
                    containers: self.containers.values().map(|c| c.status.clone()).collect(),
                    takes_trees: true,
                }
            }
            Request::Create(create) => match self.create(id, &create, fds) {
                Ok(None) => return,
                Ok(Some(reply)) => reply,
                Err(reason) => {
                    self.containers.remove(&create.status.id.local());
                    Reply::Failed { reason }
                }
            },
            Request::Signal { container, signal } => self.signal(&container, signal),
            Request::Forget { container } => self.forget(&container),
            Request::Exec(exec) => match self.exec(id, &exec, fds) {
                Ok(None) => return,
                Ok(Some(reply)) => reply,
                Err(reason) => Reply::Failed { reason },
            },
            Request::Attach { container, input } => {
                self.attach(id, &container, input, fds);
                return;
            }
            Request::EndInput => {
                self.end_input(id);
                return;
            }
            Request::Shutdown => {
                self.stopping = true;
                for container in self.containers.values() {
                    let _ = container.signal(Signal::KILL);
                }
                return;
            }
        };
        self.send(id, &reply, None);
    }

    fn signal(&self, container: &str, signal: i32) -> Reply {
        let Some(found) = self.containers.get(container) else {
            return Reply::NotFound;
        };
        let Some(signal) = Signal::from_named_raw(signal) else {
            return Reply::Failed { reason: format!("there is no signal {signal}") };
        };
        match found.signal(signal) {
            Ok(()) => Reply::Ok,
            Err(_) => Reply::NotRunning,
        }
    }

    fn forget(&mut self, id: &str) -> Reply {
        match self.containers.get(id) {
            None => Reply::NotFound,
            Some(found) if found.status.state != ContainerState::Exited => {
                Reply::Failed { reason: "it has not ended".to_owned() }
            }
            Some(found) => {
                let code = found.status.exit_code.unwrap_or_default();
                let clients: Vec<u64> = found.clients.iter().map(|client| client.connection).collect();
                self.containers.remove(id);
                let _ = std::fs::remove_file(record_path(id));
                for client in clients {
                    self.send(client, &Reply::ExecExited { code }, None);
                }
                Reply::Ok
            }
        }
    }

    /// Takes notice of every child that ended.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(code) = code_of(status) {
                let pid = pid.as_raw_nonzero().get();
                self.ended.insert(pid, (code, SystemTime::now()));
            }
        }
        let (done, tasks) = std::mem::take(&mut self.tasks)
            .into_iter()
            .partition(|task| self.ended.remove(&task.clone.pid).is_some());
        self.tasks = tasks;
        let done: Vec<Task> = done;
        for task in done {
            self.finish(task);
        }
        let ids: Vec<String> = self.containers.keys().cloned().collect();
        for id in ids {
            let Some(container) = self.containers.get_mut(&id) else { continue };
            let Some((code, at)) = container.status.pid.and_then(|pid| self.ended.remove(&pid)) else {
                continue;
            };
            container.exited(code, at);
            self.publish(&id);
        }
        let execs = std::mem::take(&mut self.execs);
        for exec in execs {
            match self.ended.remove(&exec.pid) {
                Some((code, _)) => self.send(exec.connection, &Reply::ExecExited { code }, None),
                None => self.execs.push(exec),
            }
        }
        if self.tasks.is_empty() {
            // What is left were libcontainer's helpers and orphans; their pids will be used again.
            self.ended.clear();
        }
    }
}

/// A command leads its own session, and so its process group.
pub(super) fn kill_group(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}
