//! What takes the shim longer than a moment: starting containers and commands. It is done in clones of the shim
//! ([`super::create`]), and finished here when they end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Uid};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::console::Console;
use super::container::{Container, pidfd_of};
use super::create::{self, Clone, Outcome, Stdio};
use super::os;
use super::server::{ExecProcess, Server, kill_group};
use crate::logs::writer::Stream;
use crate::proto::{Create, Exec, Reply, SPEC_FILE};
use crate::sys;
use crate::types::{ContainerState, RunUser};

/// Containers of one pod, all runs together.
const MOST_CONTAINERS: usize = 1024;

/// A clone at work, and for whom.
pub(super) struct Task {
    pub(super) clone: Clone,
    connection: u64,
    console: Option<Console>,
    purpose: Purpose,
}

pub(super) enum Purpose {
    Create(String),
    /// With the file that describes the process, and who runs it.
    Exec(PathBuf, RunUser),
}

impl Server {
    /// `trees` are those of the node's mounts that came along for its binds.
    pub(super) fn create(
        &mut self,
        connection: u64,
        create: &Create,
        trees: Vec<OwnedFd>,
    ) -> Result<Option<Reply>, String> {
        let id = create.status.id.local();
        if let Some(known) = self.containers.get(&id) {
            return match known.status.state {
                ContainerState::Created => Err("it is being created".to_owned()),
                _ => Ok(Some(Reply::Container(Box::new(known.status.clone())))),
            };
        }
        if self.stopping || self.containers.len() >= MOST_CONTAINERS {
            return Err("the sandbox is being stopped or is full".to_owned());
        }
        let mut container = Container::new(create)?;
        let (stdio, console) = if create.tty {
            let console = self.console()?;
            (Stdio::Terminal(console.path.clone()), Some(console))
        } else {
            let (stdout, out) = output_pipe()?;
            let (stderr, err) = output_pipe()?;
            container.outputs = vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
            let stdin = if create.stdin {
                let (stdin, input) =
                    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| format!("pipe: {e}"))?;
                container.input = Some(input);
                stdin
            } else {
                rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|e| format!("/dev/null: {e}"))?
            };
            (Stdio::Files([stdin, out, err]), None)
        };
        self.containers.insert(id.clone(), container);
        give(&stdio, &create.status.user);
        let (pod, layers, binds) = (self.pod.clone(), create.layers, create.binds.clone());
        let (name, cgroup) = (id.clone(), create.cgroup.clone());
        let clone =
            Clone::spawn(move || create::create(&pod, &name, &cgroup, layers, (&binds, trees), stdio))?;
        self.tasks.push(Task { clone, connection, console, purpose: Purpose::Create(id) });
        Ok(None)
    }

    fn console(&mut self) -> Result<Console, String> {
        self.counter += 1;
        Console::new(&self.pod, self.counter)
    }

    pub(super) fn exec(
        &mut self,
        connection: u64,
        exec: &Exec,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Reply>, String> {
        let Some(found) = self.containers.get(&exec.container) else {
            return Ok(Some(Reply::NotFound));
        };
        if found.pidfd.is_none() {
            return Ok(Some(Reply::NotRunning));
        }
        let user = found.status.user.clone();
        let (stdio, console) = if exec.tty {
            let console = self.console()?;
            (Stdio::Terminal(console.path.clone()), Some(console))
        } else {
            let fds = <[OwnedFd; 3]>::try_from(fds).map_err(|_| "three descriptors are needed")?;
            (Stdio::Files(fds), None)
        };
        give(&stdio, &user);
        self.counter += 1;
        let file = describe_process(&self.pod, exec, self.counter)?;
        let (pod, id, described) = (self.pod.clone(), exec.container.clone(), file.clone());
        let clone = Clone::spawn(move || create::exec(&pod, &id, &described, stdio))?;
        self.tasks.push(Task { clone, connection, console, purpose: Purpose::Exec(file, user) });
        Ok(None)
    }

    pub(super) fn finish(&mut self, task: Task) {
        let outcome = task.clone.outcome();
        let terminal = task.console.map(Console::receive);
        match task.purpose {
            Purpose::Create(id) => {
                if let (Some(Ok(master)), Some(container)) = (&terminal, self.containers.get(&id)) {
                    give_terminal(master, &container.status.user);
                }
                self.created(task.connection, &id, outcome, terminal);
            }
            Purpose::Exec(file, user) => {
                let _ = std::fs::remove_file(file);
                if let Some(Ok(master)) = &terminal {
                    give_terminal(master, &user);
                }
                self.exec_started(task.connection, outcome, terminal);
            }
        }
    }

    fn created(
        &mut self,
        connection: u64,
        id: &str,
        outcome: Outcome,
        terminal: Option<Result<OwnedFd, String>>,
    ) {
        let pid = match outcome {
            Outcome::Started(pid) => pid,
            Outcome::Failed(reason) => {
                // It is kept as a run that ended before it began.
                if let Some(container) = self.containers.get_mut(id) {
                    container.not_started(&reason);
                    self.publish(id);
                }
                return self.send(connection, &Reply::Failed { reason }, None);
            }
        };
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if let Some(Ok(master)) = terminal {
            let _ = rustix::io::ioctl_fionbio(&master, true);
            // Without a copy nobody can attach; the container itself is well.
            container.input = master.try_clone().ok();
            container.outputs.push((Stream::Stdout, master));
        }
        // Without a descriptor it ended already and is among `ended`.
        container.started(pid, pidfd_of(pid).ok());
        if self.stopping {
            let _ = container.signal(Signal::KILL);
        }
        let reply = Reply::Container(Box::new(container.status.clone()));
        self.publish(id);
        self.send(connection, &reply, None);
    }

    fn exec_started(&mut self, connection: u64, outcome: Outcome, terminal: Option<Result<OwnedFd, String>>) {
        let pid = match outcome {
            Outcome::Started(pid) => pid,
            Outcome::Failed(reason) => {
                return self.send(connection, &Reply::Failed { reason }, None);
            }
        };
        let master = match terminal.transpose() {
            Ok(master) => master,
            Err(reason) => {
                kill_group(pid);
                return self.send(connection, &Reply::Failed { reason }, None);
            }
        };
        self.send(connection, &Reply::ExecStarted, master.as_ref().map(AsFd::as_fd));
        if let Some((code, _)) = self.ended.remove(&pid) {
            return self.send(connection, &Reply::ExecExited { code }, None);
        }
        if !self.connections.contains_key(&connection) {
            kill_group(pid);
        }
        if let Ok(pidfd) = pidfd_of(pid) {
            self.execs.push(ExecProcess { pid, pidfd, connection });
        }
    }
}

/// Gives pipes to the user who will run with them: programs open what they already have once more, by `/dev/stdout`.
fn give(stdio: &Stdio, user: &RunUser) {
    if let Stdio::Files(files) = stdio {
        files.iter().for_each(|file| give_one(file.as_fd(), user));
    }
}

fn give_one(file: BorrowedFd<'_>, user: &RunUser) {
    let kind = rustix::fs::fstat(file).map(|found| FileType::from_raw_mode(found.st_mode));
    // `/dev/null` is everybody's.
    let own = |kind| matches!(kind, FileType::Fifo | FileType::Socket) || rustix::termios::isatty(file);
    if kind.is_ok_and(own) {
        // Whoever can't open it again has it all the same.
        let _ = rustix::fs::fchown(file, Some(Uid::from_raw(user.uid)), None);
    }
}

/// The same with the inner side of a terminal.
fn give_terminal(master: &OwnedFd, user: &RunUser) {
    if let Ok(inner) = os::inner_side(master.as_fd()) {
        give_one(inner.as_fd(), user);
    }
}

/// A pipe whose read end does not block and whose write end does.
fn output_pipe() -> Result<(OwnedFd, OwnedFd), String> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| format!("pipe: {e}"))?;
    rustix::io::ioctl_fionbio(&reader, true).map_err(|e| format!("pipe: {e}"))?;
    Ok((reader, writer))
}

/// A command gets the user, environment, directory and rights of the container's first process. Returns the file that says so, which is where
/// the container's own specification is: the environment may be secret.
fn describe_process(pod: &Path, exec: &Exec, number: u64) -> Result<PathBuf, String> {
    let config = pod.join("containers").join(&exec.container).join(SPEC_FILE);
    let config = std::fs::canonicalize(&config).map_err(|e| format!("{}: {e}", config.display()))?;
    let text = std::fs::read(&config).map_err(|e| format!("{}: {e}", config.display()))?;
    let mut spec: Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let mut process = spec["process"].take();
    process["args"] = json!(exec.command);
    process["terminal"] = json!(exec.tty);
    let file = config.with_file_name(format!("exec-{number}.json"));
    sys::write_json(&file, &process, false).map_err(|e| e.to_string())?;
    Ok(file)
}
