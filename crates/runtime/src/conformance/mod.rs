//! One suite for every implementation of [`crate::Runtime`] and [`crate::ImageService`]: what the agent may rely on, whoever runs the containers.
//!
//! Each case gets the runtime of a fresh instance that has the image [`IMAGE`]; it uses pods of its own. Cases panic on a difference. What
//! an implementation can't do by its nature it says beforehand, with the reason; all else is tried. Needs root, `ip` and a static busybox.

mod attach;
mod containers;
mod exec;
mod image;
mod images;
mod registry;
mod rights;
mod volumes;

use std::path::PathBuf;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

pub use image::{
    Entry, IMAGE, Part, busybox_layer, digest, gzip, layer, named_archive, oci_archive, web_archive,
};

pub use images::images;
pub use registry::Registry;

use crate::{
    ContainerConfig, ContainerId, ContainerState, ContainerStatus, DnsConfig, LogOptions, Runtime,
    SandboxConfig,
};

/// What not every implementation can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// A command is over when its process is, though a child of it keeps the output open.
    OutputLeftOpen,
    /// A client that attached and takes nothing holds up neither the container nor others.
    SlowClients,
}

/// What the cases are run on.
pub struct Cloud {
    /// The runtime under test.
    pub runtime: Arc<dyn Runtime>,
    /// The instance's tag.
    pub tag: String,
    /// A directory for the cases; the runtime's root is `agent` in it.
    pub dir: PathBuf,
    /// Name of a network namespace in which lo is up.
    pub netns: String,
}

/// A network namespace, which goes with this.
pub struct Netns(pub String);

impl Netns {
    /// Makes one for an instance, in which lo is up.
    pub fn new(tag: &str) -> Self {
        let name = format!("yf-{tag}-test");
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Self(name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).status().expect("ip");
    assert!(done.success(), "ip {args:?}");
}

type Run = for<'a> fn(&'a Cloud) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// One promise and how it is tried.
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// What an implementation must be able to, that not every one is.
    pub needs: Option<Ability>,
    run: Run,
}

macro_rules! cases {
    ($($module:ident :: $name:ident $(needs $ability:ident)?),+ $(,)?) => {
        vec![$(Case {
            name: stringify!($name),
            needs: [$(Ability::$ability)?].first().copied(),
            run: |cloud| Box::pin($module::$name(cloud)),
        }),+]
    };
}

/// All cases.
pub fn cases() -> Vec<Case> {
    cases![
        containers::a_web_server_from_image_to_removal,
        containers::exit_codes_logs_restarts_and_mounts,
        containers::following_a_log_ends_with_the_container,
        containers::memory_limit_and_oom,
        containers::bad_configurations_name_the_field,
        containers::what_a_stopped_sandbox_wrote_can_be_discarded,
        containers::all_is_found_again_and_a_cleared_sandbox_keeps_its_last_logs,
        exec::streams_exit_codes_and_timeouts,
        exec::a_child_that_keeps_the_output_open_holds_up_nobody needs OutputLeftOpen,
        exec::a_terminal_can_be_resized_and_ends,
        exec::a_container_with_a_terminal_logs_what_it_shows,
        attach::all_clients_see_the_output_and_the_first_ones_input_counts,
        attach::a_client_that_leaves_neither_ends_nor_blocks_the_container needs SlowClients,
        attach::input_that_ends_lets_its_client_go_where_the_containers_goes_on,
        attach::without_stdin_there_is_nothing_to_write_to,
        attach::a_terminal_is_shared_and_resized,
        rights::a_privileged_container_has_all_rights_and_devices,
        rights::groups_and_users_are_as_asked_for,
        rights::whoever_runs_can_open_its_output_again,
        rights::containers_share_processes_when_their_pod_says_so,
        rights::a_container_joins_the_processes_of_another,
        rights::the_pod_s_kernel_parameters_and_the_host_s_processes,
        rights::calls_that_are_not_in_the_profile_fail,
        rights::limits_change_while_a_container_runs,
        volumes::parts_of_volumes_stay_inside_them,
        volumes::directories_in_memory_have_their_mode_group_and_size,
    ]
}

/// Runs all cases, but for those that need what is in `lacks`, each with the reason why it can't be. `YUNFAN_CASE` chooses those whose
/// names contain it.
///
/// # Panics
/// When the runtime differs in a case, or leaves a sandbox behind.
pub async fn run(cloud: &Cloud, lacks: &[(Ability, &str)]) {
    let only = std::env::var("YUNFAN_CASE").ok();
    for case in cases() {
        if only.as_ref().is_some_and(|only| !case.name.contains(only.as_str())) {
            continue;
        }
        let lacking = lacks.iter().find(|(ability, _)| case.needs == Some(*ability));
        // Who asks for a case by its name wants to see.
        if let (Some((ability, reason)), None) = (lacking, &only) {
            eprintln!("{}: not tried, without {ability:?}: {reason}", case.name);
            continue;
        }
        eprintln!("{}", case.name);
        (case.run)(cloud).await;
        for left in cloud.runtime.list().await.expect("a list") {
            cloud.runtime.remove_sandbox(&left.config.uid).await.expect("a removal");
        }
        assert!(cloud.runtime.list().await.expect("a list").is_empty(), "{} leaves nothing", case.name);
    }
}

impl Cloud {
    /// A sandbox in the test's network namespace.
    pub fn sandbox(&self, uid: &str) -> SandboxConfig {
        SandboxConfig {
            uid: uid.to_owned(),
            namespace: "demo".to_owned(),
            name: uid.to_owned(),
            hostname: format!("{uid}-host"),
            netns: Some(PathBuf::from(format!("/run/netns/{}", self.netns))),
            pod_ips: vec!["10.0.0.9".to_owned()],
            dns: Some(DnsConfig {
                servers: vec!["10.0.0.10".to_owned()],
                searches: vec!["demo.svc.cluster.local".to_owned()],
                options: vec!["ndots:5".to_owned()],
            }),
            domain: None,
            host_aliases: Vec::new(),
            tmpfs_volumes: Vec::new(),
            sysctls: Default::default(),
            host_pid: false,
            host_ipc: false,
            share_processes: false,
            privileged: false,
            handler: String::new(),
            shm_size_bytes: None,
            labels: Default::default(),
        }
    }

    /// Starts a container, in a sandbox that is made for it if there is none.
    pub async fn start(&self, uid: &str, config: ContainerConfig) -> ContainerId {
        self.runtime.run_sandbox(self.sandbox(uid)).await.unwrap();
        self.runtime.create_and_start(uid, config).await.unwrap()
    }

    /// What is known of a run.
    pub async fn status(&self, id: &ContainerId) -> ContainerStatus {
        let sandbox = self.runtime.sandbox(&id.pod_uid).await.unwrap().unwrap();
        sandbox.containers.into_iter().find(|known| known.id == *id).unwrap()
    }

    /// Waits for a run's end.
    pub async fn exited(&self, id: &ContainerId) -> ContainerStatus {
        for _ in 0..3000 {
            let status = self.status(id).await;
            if status.state == ContainerState::Exited {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{id} does not exit");
    }

    /// Waits until something holds as many bytes of the disk as it is to: not every implementation counts at once.
    async fn until_used<'a, F>(&'a self, what: &str, used: impl Fn() -> F, fits: impl Fn(u64) -> bool)
    where
        F: Future<Output = crate::Result<crate::DiskUse>> + 'a,
    {
        let mut last = 0;
        for _ in 0..600 {
            last = used().await.unwrap().bytes;
            if fits(last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{what} holds {last} bytes");
    }

    /// Output of a command in the container.
    pub async fn sh(&self, id: &ContainerId, script: &str) -> String {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let result = self.runtime.exec_sync(id, command, Duration::from_secs(10)).await.unwrap();
        String::from_utf8(result.stdout).unwrap() + &String::from_utf8(result.stderr).unwrap()
    }

    /// A log as a whole.
    pub async fn log(&self, id: &ContainerId, options: LogOptions) -> String {
        use futures::StreamExt;
        let stream = self.runtime.logs(id, options).await.unwrap();
        let parts: Vec<_> = stream.map(Result::unwrap).collect().await;
        String::from_utf8(parts.concat()).unwrap()
    }
}

/// A container that runs a shell script.
pub fn script(name: &str, text: &str) -> ContainerConfig {
    ContainerConfig {
        name: name.to_owned(),
        image: IMAGE.to_owned(),
        command: ["/bin/sh", "-c", text].map(str::to_owned).to_vec(),
        ..ContainerConfig::default()
    }
}
