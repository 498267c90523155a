//! Profiles: which calls get which answer. Read from the OCI specification's form (`linux.seccomp`), or our own default.

use serde::Deserialize;

use super::syscalls;

/// Most bytes of a profile that is read.
const LARGEST: usize = 1 << 20;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// `CLONE_NEW*`: the flags of `clone(2)` that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// `AF_VSOCK`: sockets towards the machine that this one runs on.
const AF_VSOCK: u64 = 40;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Errno(u32),
    KillThread,
    KillProcess,
    Log,
    Trap,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal in the bits of this mask.
    Masked(u64),
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) compare: Compare,
    pub(super) value: u64,
}

/// An answer to one call, when all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) call: u32,
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// A whole profile: the first rule that fits a call decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) default: Action,
    pub(super) rules: Vec<Rule>,
}

/// Calls that need a capability to be of use, with that capability: without it they are not let through to the kernel at all.
const GUARDED: &[(&str, &[&str])] = &[
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "swapon",
            "swapoff",
            "syslog",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_MODULE", &["delete_module", "init_module", "finit_module", "create_module", "query_module"]),
    ("CAP_SYS_BOOT", &["reboot", "kexec_load", "kexec_file_load"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    ("CAP_SYS_TIME", &["settimeofday", "clock_settime", "clock_settime64", "adjtimex", "clock_adjtime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    (
        "CAP_SYS_NICE",
        &[
            "get_mempolicy",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
            "migrate_pages",
            "move_pages",
        ],
    ),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
];

/// Calls that reach across containers or into much of the kernel, whoever asks.
const REFUSED: &[&str] = &[
    "add_key",
    "keyctl",
    "request_key",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "userfaultfd",
    "personality",
    "nfsservctl",
    "sysfs",
    "_sysctl",
    "uselib",
    "ustat",
    "vserver",
    "get_kernel_syms",
    "memfd_secret",
    "modify_ldt",
];

/// The default profile for a container with these capabilities: what programs need and nothing that only the node's keeper does.
pub(super) fn standard(capabilities: &[String]) -> Profile {
    let has = |name: &str| capabilities.iter().any(|held| held == name);
    let guarded = |call: &str| GUARDED.iter().any(|(name, calls)| calls.contains(&call) && !has(name));
    let mut rules = Vec::new();
    for (name, call) in syscalls::all() {
        let rule = |conditions, action| Rule { call, conditions, action };
        if guarded(name) || REFUSED.contains(&name) {
            continue;
        }
        match name {
            "clone" if !has("CAP_SYS_ADMIN") => {
                let compare = Compare::Masked(NEW_NAMESPACES);
                rules.push(rule(vec![Condition { index: 0, compare, value: 0 }], Action::Allow));
            }
            // C libraries fall back on clone.
            "clone3" if !has("CAP_SYS_ADMIN") => rules.push(rule(Vec::new(), Action::Errno(ENOSYS))),
            "socket" => {
                let compare = Compare::NotEqual;
                rules.push(rule(vec![Condition { index: 0, compare, value: AF_VSOCK }], Action::Allow));
            }
            _ => rules.push(rule(Vec::new(), Action::Allow)),
        }
    }
    Profile { default: Action::Errno(EPERM), rules }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<WrittenCondition>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenCondition {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Reads a profile. Calls that this machine's kind of kernel does not have are left out.
pub(super) fn parse(text: &str) -> Result<Profile, String> {
    if text.len() > LARGEST {
        return Err("the profile is larger than 1 MiB".to_owned());
    }
    let written: Written = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut rules = Vec::new();
    for rule in written.syscalls {
        let answer = action(&rule.action, rule.errno_ret)?;
        let conditions = rule.args.into_iter().flatten().map(condition).collect::<Result<Vec<_>, _>>()?;
        let calls = rule.names.iter().filter_map(|name| syscalls::number(name));
        rules.extend(calls.map(|call| Rule { call, conditions: conditions.clone(), action: answer }));
    }
    Ok(Profile { default: action(&written.default_action, written.default_errno_ret)?, rules })
}

fn action(name: &str, errno: Option<u32>) -> Result<Action, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(EPERM)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRAP" => Action::Trap,
        other => return Err(format!("action {other:?} is not supported")),
    })
}

fn condition(written: WrittenCondition) -> Result<Condition, String> {
    if written.index > 5 {
        return Err(format!("a call has no argument {}", written.index));
    }
    let (compare, value) = match written.op.as_str() {
        "SCMP_CMP_EQ" => (Compare::Equal, written.value),
        "SCMP_CMP_NE" => (Compare::NotEqual, written.value),
        "SCMP_CMP_LT" => (Compare::Less, written.value),
        "SCMP_CMP_LE" => (Compare::LessOrEqual, written.value),
        "SCMP_CMP_GT" => (Compare::Greater, written.value),
        "SCMP_CMP_GE" => (Compare::GreaterOrEqual, written.value),
        "SCMP_CMP_MASKED_EQ" => (Compare::Masked(written.value), written.value_two),
        other => return Err(format!("comparison {other:?} is not known")),
    };
    Ok(Condition { index: written.index, compare, value })
}
