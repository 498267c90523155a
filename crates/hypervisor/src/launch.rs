//! How a machine's process comes to be: started, or found again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;

use crate::args::{Descriptors, DiskFiles, arguments, memory_overhead_mib};
use crate::cgroup::Limits;
use crate::drives::{ROOT_DEVICE, device};
use crate::machine::Machine;
use crate::process::{Process, kill};
use crate::qmp::{Qmp, QmpError};
use crate::record::VERSION;
use crate::spawn::{Complaints, Launch, find_program, kvm_group, number, spawn, user_of};
use crate::watch::{Found, connect};
use crate::{Accelerator, Disk, Error, ExitReason, VmConfig, VmInfo, socket};

/// Threads of a machine besides one for each virtual processor: the main loop, and up to 64 for I/O.
const THREADS_BESIDES: u32 = 128;
/// How long an earlier process of the machine may take to end.
const EARLIER_WITHIN: Duration = Duration::from_secs(15);

/// What is ready before QEMU begins.
struct Prepared {
    launch: Launch,
    /// Our end of the monitor; connected before QEMU runs, so that nothing has to be tried again and again.
    monitor: std::os::unix::net::UnixStream,
}

impl Machine {
    /// Starts it unless it runs.
    pub(crate) async fn start(
        self: &Arc<Self>,
        config: VmConfig,
        accelerator: Accelerator,
    ) -> Result<VmInfo, Error> {
        let _operation = self.operation.lock().await;
        if self.is_alive() {
            return Ok(self.info());
        }
        if !self.wait_stopped(EARLIER_WITHIN).await {
            let message = "its earlier process has not ended yet".into();
            return Err(Error::NoAnswer { uid: self.uid.clone(), command: "quit".into(), message });
        }
        // Looked for first: without it there is no beginning, so nothing to write down or to clean up.
        let shared = self.shared.clone();
        let program = blocking(move || {
            let missing = || Error::MissingQemu { program: shared.program.clone() };
            find_program(&shared.program).ok_or_else(missing)
        })
        .await?;
        let of_volumes = config.volumes.iter().map(|volume| (device(&volume.id), volume.limits));
        let limits: Vec<_> = of_volumes.chain([(ROOT_DEVICE.to_owned(), config.limits)]).collect();
        let machine = self.clone();
        let prepared = blocking(move || machine.prepare(program, &config, accelerator)).await;
        let started = match prepared {
            Ok(prepared) => match self.run(prepared).await {
                Ok(()) => self.throttle(limits).await,
                failed => failed,
            },
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            self.clean_up(ExitReason::Failed { message: error.to_string() }).await;
            return Err(error);
        }
        Ok(self.info())
    }

    /// Makes everything that QEMU, which is at `program`, is handed.
    fn prepare(
        &self,
        program: PathBuf,
        config: &VmConfig,
        accelerator: Accelerator,
    ) -> Result<Prepared, Error> {
        let (shared, dir) = (&self.shared, &self.files.dir);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io("create", dir))?;
        // From here on a process in the cgroup is ours, whether we live to write its pid down or not.
        self.update(|record| {
            record.version = VERSION;
            record.accelerator = accelerator.clone();
            record.process = None;
            record.exit = None;
            record.ending = None;
        });
        let disk = OpenDisk::open(&config.disk, true)?;
        let volumes = config.volumes.iter().map(|volume| OpenDisk::open(&volume.disk, !volume.read_only));
        let volumes = volumes.collect::<Result<Vec<_>, _>>()?;
        let cdrom = config.cdrom.as_deref().map(|bytes| self.write_cdrom(bytes)).transpose()?;
        let listener =
            socket::listen(&self.files.socket()).map_err(Error::io("listen at", self.files.socket()))?;
        let monitor =
            socket::connect(&self.files.socket()).map_err(Error::io("connect to", self.files.socket()))?;
        let mut taps = Vec::with_capacity(config.nics.len());
        for nic in &config.nics {
            taps.push(nic.tap.try_clone().map_err(Error::io("hand over the tap device of", dir))?);
        }
        let limits = Limits {
            memory_bytes: (config.memory_mib + memory_overhead_mib()) << 20,
            vcpus: config.vcpus,
            pids: config.vcpus + THREADS_BESIDES,
        };
        let cgroups = shared
            .hierarchies
            .create(&shared.tag, &self.uid, limits)
            .map_err(Error::io("create the cgroup of", dir))?;
        let listener = OwnedFd::from(listener);
        let descriptors = Descriptors {
            monitor: number(&listener),
            disk: disk.numbers(),
            volumes: volumes.iter().map(OpenDisk::numbers).collect(),
            taps: taps.iter().map(number).collect(),
            cdrom: cdrom.as_ref().map(number),
        };
        let launch = Launch {
            program,
            arguments: arguments(config, &accelerator, &descriptors),
            inherited: [disk]
                .into_iter()
                .chain(volumes)
                .flat_map(OpenDisk::files)
                .chain([listener])
                .chain(taps)
                .chain(cdrom)
                .collect(),
            cgroups,
            user: rustix::process::geteuid().is_root().then(|| user_of(&self.uid)),
            groups: if accelerator == Accelerator::Kvm {
                kvm_group().into_iter().collect()
            } else {
                Vec::new()
            },
        };
        Ok(Prepared { launch, monitor })
    }

    /// Writes the CD for the machine's drive. One that is in the drive of an earlier process stays as it is there.
    fn write_cdrom(&self, bytes: &[u8]) -> Result<OwnedFd, Error> {
        let path = self.files.cdrom();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("replace the CD", &path)(error));
            }
            _ => fs::write(&path, bytes).map_err(Error::io("write the CD", &path))?,
        }
        open(&path, false)
    }

    /// Runs QEMU and waits until it answers.
    async fn run(self: &Arc<Self>, Prepared { launch, monitor }: Prepared) -> Result<(), Error> {
        let program = launch.program.clone();
        let (mut child, mut complaints) =
            blocking(move || spawn(launch).map_err(Error::io("run", program))).await?;
        let process = Process::of(child.id()).map_err(Error::io("find the process of", &self.files.dir));
        let handle = match &process {
            Ok(process) => process.open().map_err(Error::io("open the process of", &self.files.dir))?,
            Err(_) => None,
        };
        let (Ok(process), Some(handle)) = (process, handle) else {
            return Err(self.died(&mut child, &mut complaints));
        };
        self.update(|record| record.process = Some(process));
        let connected = match UnixStream::from_std(monitor) {
            Ok(stream) => Qmp::connect(stream).await,
            Err(error) => Err(QmpError::NoAnswer(error.to_string())),
        };
        match connected {
            Ok((qmp, events)) => {
                self.attach(Found { qmp, events, handle, child: Some((child, complaints)) }).await
            }
            Err(error) => {
                tracing::debug!(vm = self.uid, %error, "QEMU did not greet");
                let _ = kill(&handle);
                Err(self.died(&mut child, &mut complaints))
            }
        }
    }

    /// Why a process that has ended (or is about to) did.
    fn died(&self, child: &mut Child, complaints: &mut Complaints) -> Error {
        let status = match child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        Error::StartFailed { uid: self.uid.clone(), status, message: complaints.read() }
    }

    /// Finds the process again that was left running. What can't be reached is ended.
    pub(crate) async fn adopt(self: &Arc<Self>) {
        let record = self.record();
        let process = match record.process {
            Some(process) => Some(process),
            None if record.exit.is_some() => None,
            // We died between starting it and writing its pid down.
            None => {
                let processes = self.shared.hierarchies.processes(&self.shared.tag, &self.uid);
                processes.first().and_then(|pid| Process::of(*pid).ok())
            }
        };
        let Some(process) = process else {
            if record.exit.is_none() {
                self.clean_up(ExitReason::Failed { message: "it was not started to the end".into() }).await;
            }
            return;
        };
        let handle = match process.open() {
            Ok(Some(handle)) => handle,
            Ok(None) | Err(_) => {
                let message = "its QEMU process ended while nobody watched, or the host restarted".into();
                return self.clean_up(ExitReason::Failed { message }).await;
            }
        };
        self.update(|record| record.process = Some(process));
        let attached = match connect(&self.files).await {
            Ok((qmp, events)) => match handle.try_clone() {
                Ok(handle) => self
                    .attach(Found { qmp, events, handle, child: None })
                    .await
                    .map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        };
        if attached.is_ok() {
            self.restore_ring().await;
        }
        if let Err(message) = attached {
            tracing::error!(
                vm = self.uid,
                message,
                "a machine that was left running can't be reached; ending it"
            );
            let _ = kill(&handle);
            self.clean_up(ExitReason::Failed {
                message: format!("it could not be reached after a restart: {message}"),
            })
            .await;
        }
    }

    /// Forgets it. The caller has stopped it.
    pub(crate) fn erase(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.files.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.files.dir)(error))
            }
            _ => Ok(()),
        }
    }
}

/// The files of one disk.
struct OpenDisk {
    file: OwnedFd,
    base: Option<OwnedFd>,
}

impl OpenDisk {
    fn open(disk: &Disk, write: bool) -> Result<OpenDisk, Error> {
        let base = disk.base.as_ref().map(|base| open(&base.path, false)).transpose()?;
        Ok(OpenDisk { file: open(&disk.path, write)?, base })
    }

    fn numbers(&self) -> DiskFiles {
        DiskFiles { file: number(&self.file), base: self.base.as_ref().map(number) }
    }

    fn files(self) -> impl Iterator<Item = OwnedFd> {
        [self.file].into_iter().chain(self.base)
    }
}

/// Opens a disk's file, so that QEMU needs no right to its path.
pub(crate) fn open(path: &std::path::Path, write: bool) -> Result<OwnedFd, Error> {
    let file: Result<File, _> = OpenOptions::new().read(true).write(write).open(path);
    file.map(OwnedFd::from).map_err(Error::io("open the disk", path))
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::io("run a task for", "QEMU")(io::Error::other(error))),
    }
}
