//! Every command and flag.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use yunfan_agent::{InvalidPeriods, ShutdownPeriods};

use crate::access::AccessOptions;
use crate::audit::AuditOptions;
use crate::controllers::ControllerOptions;
use crate::encryption::{EncryptionOptions, SecretsCommand};
use crate::eviction::EvictionOptions;
use crate::pods::PodOptions;
use crate::ranges::Ranges;

/// A private cloud in one binary: virtual machines and containers on one set of mechanisms.
#[derive(Parser)]
#[command(name = "yunfan", version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: Log,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args)]
pub(crate) struct Log {
    /// What is written to standard error: a level, or levels by module (`info,yunfan_api=debug`).
    #[arg(
        long,
        global = true,
        default_value = "warn,yunfan=info",
        env = "YUNFAN_LOG",
        value_name = "FILTER"
    )]
    pub(crate) log: String,
    /// Write the log as JSON, one object a line.
    #[arg(long, global = true)]
    pub(crate) log_json: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a whole cloud on this machine: store, API, scheduler, controllers and the agent of one node.
    Up(ServerOptions),
    /// Run the cloud's control plane alone; nodes join with `yunfan agent`.
    Server(ServerOptions),
    /// Run the agent of one node against a server elsewhere.
    Agent(AgentOptions),
    /// Stop the cloud of a data directory and remove all that it made on this machine. Its data stay, unless asked.
    Down(DownOptions),
    /// Nodes that may join the cloud.
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Container images of the cloud's nodes.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Say why a Pod or a VirtualMachine is where it is: how it was placed, what it waits for, what happened to it.
    Why(WhyOptions),
    /// Write all objects of a running cloud to a file.
    Backup(FileOptions),
    /// Make the objects of a cloud what they are in a backup; the cloud may be running.
    Restore(FileOptions),
    /// The encryption of Secrets in the store.
    Secrets {
        #[command(subcommand)]
        command: SecretsCommand,
    },
    /// The network plug-in of container runtimes behind CRI, which call it without arguments.
    Cni {
        #[command(subcommand)]
        command: Option<CniCommand>,
    },
    /// Print the version.
    Version,
    /// Print a completion script for a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

/// The data directory's flag, the same for every command.
#[derive(Args, Clone)]
pub(crate) struct DataDir {
    /// Where the cloud keeps its data.
    #[arg(long, env = "YUNFAN_DATA_DIR", default_value = "/var/lib/yunfan", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct ServerOptions {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Address and port of the API. Nothing listens elsewhere than on loopback unless told to here.
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
    /// Name of this machine's node; its host name when not given.
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// etcd's URLs (`http://HOST:PORT`, comma-separated); the embedded store when not given.
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub(crate) etcd: Vec<String>,
    /// Range of the cluster network; each node gets a slice of it. One of IPv6 may follow, behind a comma, where --service-cidr has one, too.
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR[,CIDR]")]
    pub(crate) cluster_cidr: Ranges,
    /// Size of the slices that nodes get from now on: 24 has addresses for 253 Pods, 22 for 1021.
    #[arg(long, default_value_t = 24, value_name = "BITS", value_parser = clap::value_parser!(u8).range(16..=29))]
    pub(crate) node_cidr_mask_size: u8,
    /// Size of the slices of IPv6 that nodes get from now on.
    #[arg(long, default_value_t = 64, value_name = "BITS", value_parser = clap::value_parser!(u8).range(1..=120))]
    pub(crate) node_cidr_mask_size_ipv6: u8,
    /// Range of the Services' addresses. One of IPv6 may follow, behind a comma: Services get addresses of it as they ask; nodes carry IPv4 alone yet.
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR[,CIDR]")]
    pub(crate) service_cidr: Ranges,
    /// Ports of nodes that Services of the type NodePort get.
    #[arg(long, default_value = "30000-32767", value_name = "FIRST-LAST", value_parser = port_range)]
    pub(crate) service_node_port_range: RangeInclusive<u16>,
    /// Seconds for which the store keeps the history of objects, at least; 0 keeps all of it.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(crate) compaction_interval: u64,
    #[command(flatten)]
    pub(crate) encryption: EncryptionOptions,
    #[command(flatten)]
    pub(crate) audit: AuditOptions,
    /// What runs virtual machines' instructions; `auto` takes KVM where a virtual CPU really runs.
    #[arg(long, value_enum, default_value_t = AcceleratorArg::Auto)]
    pub(crate) accelerator: AcceleratorArg,
    /// Directory of manifests of static Pods, which this node runs by itself.
    #[arg(long, value_name = "DIR")]
    pub(crate) pod_manifest_path: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) containers: ContainerOptions,
    #[command(flatten)]
    pub(crate) shutdown: ShutdownOptions,
    #[command(flatten)]
    pub(crate) eviction: EvictionOptions,
    #[command(flatten)]
    pub(crate) pods: PodOptions,
    /// Which controllers run: `own` leaves the kinds of Kubernetes to a kube-controller-manager.
    #[arg(long, value_enum, default_value_t = Share::All, value_name = "SHARE")]
    pub(crate) controllers: Share,
    #[command(flatten)]
    pub(crate) controller: ControllerOptions,
    /// What is placed: `own` leaves Pods to a kube-scheduler.
    #[arg(long, value_enum, default_value_t = Share::All, value_name = "SHARE")]
    pub(crate) scheduler: Share,
    #[command(flatten)]
    pub(crate) access: AccessOptions,
}

/// Of what a part of the cloud takes care, where Kubernetes' own program for it may run as well.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Share {
    /// Kubernetes' own kinds and the cloud's.
    All,
    /// The cloud's own kinds alone.
    Own,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum AcceleratorArg {
    /// KVM where it works, else TCG.
    Auto,
    /// KVM, or fail.
    Kvm,
    /// QEMU's translator.
    Tcg,
    /// None: machines are pretended, for tests of scale.
    Fake,
}

#[derive(Args)]
pub(crate) struct AgentOptions {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// The file that `yunfan node add` wrote.
    #[arg(long, value_name = "FILE")]
    pub(crate) join: PathBuf,
    /// Port of the agent's API on the node's address; 0 takes that of kubelets (10250) where it is free, else any. Others read it from
    /// the Node's status.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub(crate) port: u16,
    /// What runs virtual machines' instructions.
    #[arg(long, value_enum, default_value_t = AcceleratorArg::Auto)]
    pub(crate) accelerator: AcceleratorArg,
    /// Directory of manifests of static Pods, which this node runs by itself.
    #[arg(long, value_name = "DIR")]
    pub(crate) pod_manifest_path: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) containers: ContainerOptions,
    #[command(flatten)]
    pub(crate) shutdown: ShutdownOptions,
    #[command(flatten)]
    pub(crate) eviction: EvictionOptions,
    #[command(flatten)]
    pub(crate) pods: PodOptions,
}

/// What runs the node's containers.
#[derive(Args)]
pub(crate) struct ContainerOptions {
    /// Socket of a CRI v1 runtime that runs this node's containers, such as `unix:///run/containerd/containerd.sock`; the runtime in this
    /// program when not given.
    #[arg(long, value_name = "URL", value_parser = yunfan_cri::socket_of)]
    pub(crate) container_runtime_endpoint: Option<PathBuf>,
    /// Directory that says where images are fetched from: mirrors of registries, their authorities, plain HTTP. It is as containerd's
    /// `certs.d`, with a `hosts.toml` for each registry; a runtime behind CRI has its own.
    #[arg(long, default_value = "/etc/yunfan/certs.d", value_name = "DIR")]
    pub(crate) registry_config_dir: PathBuf,
}

/// How long Pods have to end when the node shuts down: when the host does, or with `yunfan down`.
#[derive(Args)]
pub(crate) struct ShutdownOptions {
    /// Seconds that Pods have to end when the host shuts down, or with `yunfan down`; 0 ends them with the host.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) shutdown_grace_period: u32,
    /// Of these seconds, those at the end that only critical Pods have.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) shutdown_grace_period_critical_pods: u32,
    /// Instead of both: the seconds of each priority, such as `0=20,100000=10,2000000000=10`; the lowest ends first.
    #[arg(long, value_delimiter = ',', value_name = "PRIORITY=SECONDS", value_parser = priority_period)]
    pub(crate) shutdown_grace_period_by_pod_priority: Vec<(i32, u32)>,
}

impl ShutdownOptions {
    /// # Errors
    /// When they contradict each other.
    pub(crate) fn periods(&self) -> Result<ShutdownPeriods, InvalidPeriods> {
        ShutdownPeriods::new(
            self.shutdown_grace_period,
            self.shutdown_grace_period_critical_pods,
            &self.shutdown_grace_period_by_pod_priority,
        )
    }
}

#[derive(Args)]
pub(crate) struct DownOptions {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Delete the data directory as well: objects, images, disks, keys.
    #[arg(long)]
    pub(crate) delete_data: bool,
}

#[derive(Subcommand)]
pub(crate) enum NodeCommand {
    /// Make the credentials with which a node joins.
    Add {
        /// Name of the node.
        name: String,
        #[command(flatten)]
        data: DataDir,
        /// Address at which others reach the node.
        #[arg(long, value_name = "IP")]
        address: IpAddr,
        /// URL at which the node reaches the API server; the one in the cloud's kubeconfig when not given.
        #[arg(long, value_name = "URL")]
        server: Option<String>,
        /// Days for which the credentials are valid. An agent renews its own two months before they end.
        #[arg(long, value_name = "N", default_value_t = yunfan_identity::pki::LEAF_DAYS, value_parser = clap::value_parser!(i64).range(1..=3650))]
        days: i64,
        /// File to write; it holds a private key.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
}

#[derive(Subcommand)]
pub(crate) enum CniCommand {
    /// Give a container runtime on this machine the plug-in, by which Pods come into this cloud's networks, and its configuration.
    Install {
        /// Where the runtime looks for plug-ins (containerd's `bin_dir`).
        #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
        bin_dir: PathBuf,
        /// Where it looks for their configurations (containerd's `conf_dir`).
        #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
        conf_dir: PathBuf,
    },
}

#[derive(Subcommand)]
pub(crate) enum ImageCommand {
    /// Import an OCI image layout or `docker save` archive on every node that is ready.
    Import {
        /// The archive.
        archive: PathBuf,
        /// Name for the image; the names in the archive when not given.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        data: DataDir,
    },
    /// Write images of a node as one archive, which is both an OCI image layout and what `docker save` writes.
    Export {
        /// Names or ids of the images.
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// File to write; standard output when not given, or `-`.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// The node to take them from; one that has them all when not given.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        #[command(flatten)]
        data: DataDir,
    },
    /// List the images on the nodes.
    List {
        #[command(flatten)]
        data: DataDir,
        /// How to print it.
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

#[derive(Args)]
pub(crate) struct WhyOptions {
    /// `pod` or `virtualmachine` (`vm`).
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// Its namespace.
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// kubeconfig to use; the cloud admin's in the data directory when not given.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Args)]
pub(crate) struct FileOptions {
    /// The backup.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataDir,
}

/// Reads `30000-32767`.
fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let ends = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match ends {
        Some((first, last)) if 0 < first && first <= last => Ok(first..=last),
        _ => Err("two ports are needed, the lower one first, such as 30000-32767".to_owned()),
    }
}

/// Reads `100000=10`.
fn priority_period(text: &str) -> Result<(i32, u32), String> {
    let pair = text.split_once('=').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    pair.ok_or_else(|| "a priority and seconds are needed, such as 100000=10".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_is_listened_to_unless_that_is_asked_for() {
        for command in ["up", "server"] {
            let parsed = Cli::parse_from(["yunfan", command]).command;
            let (Command::Up(options) | Command::Server(options)) = parsed else {
                panic!("{command} is another command");
            };
            assert!(options.listen.ip().is_loopback(), "{command}: {}", options.listen);
        }
    }

    #[test]
    fn ranges_of_ports() {
        assert_eq!(port_range("30000-32767"), Ok(30_000..=32_767));
        for wrong in ["", "1", "0-5", "9-8", "1-70000", "a-b"] {
            assert!(port_range(wrong).is_err(), "{wrong}");
        }
    }
}
