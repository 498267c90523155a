//! The network plug-in (CNI) by which a container runtime's pods come into the network namespaces that the agent made.
//!
//! A container runtime makes each pod's network namespace itself, calls the plug-in that its administrator configured, and then starts
//! the pod in what its path leads to. Our networks are plugged into namespaces before any pod is there, with ports that outlive
//! sandboxes. So the plug-in, on `ADD`, binds our namespace over the runtime's: whoever opens the path from then on gets ours, and
//! the runtime's own is never used. On `DEL` that mount goes, and the runtime removes what it made; ours stays with the agent.
//! Moving a port into the runtime's namespace instead would need the agent to wait for each sandbox and make ports anew with it.
//!
//! Which namespace a pod has, the agent writes down before it asks for the sandbox ([`hand_over`]), by the Pod's uid, which every
//! runtime says (`K8S_POD_UID` in `CNI_ARGS`). A pod of someone else is not there and is refused. The specification: "Container
//! Network Interface (CNI) Specification", version 1.0.0.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yunfan_runtime::{Result, RuntimeError, kit};

/// Where all instances on a host say which namespaces their pods have.
pub const HANDOVER: &str = "/run/yunfan/cni";
/// The plug-in's type in its configuration, and so its file's name.
const TYPE: &str = "yunfan";
/// By what the scripts are known again.
const MARK: &str = "# Written by `yunfan cni install`.";
/// Versions of the specification that are spoken.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The specification's codes of errors.
const INCOMPATIBLE: u32 = 1;
const BAD_VARIABLE: u32 = 4;
const BAD_CONFIG: u32 = 7;
/// Ours, as all from 100 on are.
const FAILED: u32 = 100;
/// A longer configuration is none.
const LONGEST: u64 = 1 << 20;

/// What the plug-in must know of a pod.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    netns: PathBuf,
    ips: Vec<String>,
}

/// Says which network namespace a pod has, before its sandbox is made.
pub(crate) fn hand_over(dir: &Path, uid: &str, netns: &Path, ips: &[String]) -> Result<()> {
    // It goes with the last instance that has nothing in it.
    crate::runtime::private(dir)?;
    kit::write_json(&dir.join(uid), &Place { netns: netns.to_owned(), ips: ips.to_vec() }, false)
}

/// Forgets a pod.
pub(crate) fn take_back(dir: &Path, uid: &str) -> Result<()> {
    let path = dir.join(uid);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RuntimeError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes the directory of what was handed over, if no instance has anything in it.
pub(crate) fn forget_all(dir: &Path) {
    if std::fs::remove_dir(dir).is_ok()
        && dir == Path::new(HANDOVER)
        && let Some(parent) = dir.parent()
    {
        let _ = std::fs::remove_dir(parent);
    }
}

/// Where a container runtime looks for its network plug-ins, and what ours is.
#[derive(Debug, Clone)]
pub struct Install {
    /// Directory of the programs.
    pub bin: PathBuf,
    /// Directory of the configurations.
    pub conf: PathBuf,
    /// Command line that enters [`main`].
    pub command: Vec<String>,
    /// Where the plug-in finds which network namespace a pod has; as in [`crate::Config`].
    pub handover: PathBuf,
}

/// Gives a container runtime the plug-in, a script that runs the command, and its configuration. Runtimes also call a plug-in named `loopback`,
/// which has nothing to do here: where there is none, ours is that, too, so that no other needs to be installed. Returns the files.
///
/// # Errors
/// When a file can't be written.
pub fn install(install: &Install) -> Result<Vec<PathBuf>> {
    let Install { bin, conf, command, handover } = install;
    for dir in [bin, conf] {
        std::fs::create_dir_all(dir).map_err(RuntimeError::io("create", dir))?;
    }
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let script = format!("#!/bin/sh\n{MARK}\nexec {}\n", words.join(" "));
    let mut files = Vec::new();
    for name in [TYPE, "loopback"] {
        let path = bin.join(name);
        if name != TYPE && !is_ours(&path) {
            continue;
        }
        kit::write_atomic(&path, script.as_bytes(), false)?;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).map_err(RuntimeError::io("set mode of", &path))?;
        files.push(path);
    }
    let plugin = json!({"type": TYPE, "handover": handover});
    let list = json!({"cniVersion": "0.4.0", "name": TYPE, "plugins": [plugin]});
    let path = conf.join("10-yunfan.conflist");
    kit::write_json(&path, &list, false)?;
    files.push(path);
    Ok(files)
}

/// Whether there is nothing of somebody else at a path.
fn is_ours(path: &Path) -> bool {
    match std::fs::read(path) {
        Ok(text) => text.starts_with(format!("#!/bin/sh\n{MARK}\n").as_bytes()),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// A word as a shell takes it for nothing but itself.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A refusal, as the specification wants it said.
#[derive(Debug, PartialEq)]
struct Refusal {
    code: u32,
    message: String,
}

fn refusal(code: u32, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

/// The plug-in: what to do comes in variables of the environment and on standard input, the answer goes to standard output. Returns the
/// process's exit code.
pub fn main() -> i32 {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("CNI_"))
        .collect();
    let mut config = Vec::new();
    let read = std::io::stdin().take(LONGEST).read_to_end(&mut config);
    let config: std::result::Result<Conf, String> = read
        .map_err(|error| error.to_string())
        .and_then(|_| serde_json::from_slice(&config).map_err(|error| error.to_string()));
    let (version, outcome) = match config {
        Ok(config) => (config.version.clone(), serve(&config, &variables)),
        Err(error) => {
            (VERSIONS[0].to_owned(), Err(refusal(BAD_CONFIG, format!("the configuration: {error}"))))
        }
    };
    let (answer, code) = match outcome {
        Ok(answer) => (answer, 0),
        Err(refusal) => {
            (Some(json!({"cniVersion": version, "code": refusal.code, "msg": refusal.message})), 1)
        }
    };
    match answer.map_or(Ok(()), |answer| writeln!(std::io::stdout(), "{answer}")) {
        Ok(()) => code,
        Err(_) => 1,
    }
}

#[derive(Debug, Deserialize)]
struct Conf {
    #[serde(rename = "cniVersion")]
    version: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    handover: Option<PathBuf>,
}

/// Does what is asked for; only some of it is answered with more than success.
fn serve(config: &Conf, variables: &BTreeMap<String, String>) -> std::result::Result<Option<Value>, Refusal> {
    let variable = |name: &str| {
        let found = variables.get(name).filter(|value| !value.is_empty());
        found.ok_or_else(|| refusal(BAD_VARIABLE, format!("{name} is not set")))
    };
    let command = variable("CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(Some(json!({"cniVersion": config.version, "supportedVersions": VERSIONS})));
    }
    if !VERSIONS.contains(&config.version.as_str()) {
        return Err(refusal(INCOMPATIBLE, format!("version {:?} is not spoken", config.version)));
    }
    let loopback = config.kind == "loopback";
    match command.as_str() {
        "ADD" if loopback => Ok(Some(result(&config.version, "lo", variable("CNI_NETNS")?, &[]))),
        "DEL" | "CHECK" if loopback => Ok(None),
        "STATUS" | "GC" => Ok(None),
        "ADD" => {
            let (netns, place) = (variable("CNI_NETNS")?, place(config, variable("CNI_ARGS")?)?);
            cover(Path::new(netns), &place.netns)?;
            Ok(Some(result(&config.version, variable("CNI_IFNAME")?, netns, &place.ips)))
        }
        "CHECK" => {
            let place = place(config, variable("CNI_ARGS")?)?;
            match covers(Path::new(variable("CNI_NETNS")?), &place.netns) {
                true => Ok(None),
                false => Err(refusal(FAILED, "the pod is not in the network namespace that it should be in")),
            }
        }
        // A namespace that is gone already is not named.
        "DEL" => variables.get("CNI_NETNS").map_or(Ok(()), |netns| uncover(Path::new(netns))).map(|()| None),
        other => Err(refusal(BAD_VARIABLE, format!("CNI_COMMAND {other:?} is not known"))),
    }
}

/// What was handed over for the pod that `args` name.
fn place(config: &Conf, args: &str) -> std::result::Result<Place, Refusal> {
    let uid = args.split(';').find_map(|pair| pair.strip_prefix("K8S_POD_UID="));
    let uid = uid.ok_or_else(|| refusal(BAD_VARIABLE, "CNI_ARGS has no K8S_POD_UID"))?;
    // It becomes a file name.
    kit::check_name("K8S_POD_UID", uid).map_err(|error| refusal(BAD_VARIABLE, error.to_string()))?;
    let dir = config.handover.as_deref().unwrap_or(Path::new(HANDOVER));
    let text = std::fs::read(dir.join(uid))
        .map_err(|error| refusal(FAILED, format!("pod {uid} is none of a Yunfan on this node: {error}")))?;
    serde_json::from_slice(&text).map_err(|error| refusal(FAILED, format!("pod {uid}: {error}")))
}

/// Binds our namespace over the runtime's; done once.
fn cover(netns: &Path, ours: &Path) -> std::result::Result<(), Refusal> {
    if covers(netns, ours) {
        return Ok(());
    }
    rustix::mount::mount_bind(ours, netns)
        .map_err(|error| refusal(FAILED, format!("{} on {}: {error}", ours.display(), netns.display())))
}

fn covers(netns: &Path, ours: &Path) -> bool {
    let which = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    which(netns).is_some_and(|found| which(ours) == Some(found))
}

/// Takes our namespace off the runtime's, which is the one below.
fn uncover(netns: &Path) -> std::result::Result<(), Refusal> {
    let failed = |reason: String| refusal(FAILED, format!("{}: {reason}", netns.display()));
    let Ok(real) = std::fs::canonicalize(netns) else { return Ok(()) };
    let there = kit::mounts().map_err(|error| failed(error.to_string()))?;
    for _ in 1..there.iter().filter(|at| **at == real).count() {
        rustix::mount::unmount(&real, UnmountFlags::DETACH).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

fn result(version: &str, interface: &str, netns: &str, ips: &[String]) -> Value {
    let address = |ip: &String| {
        let (length, family) = if ip.contains(':') { (128, "6") } else { (32, "4") };
        let mut address = json!({"address": format!("{ip}/{length}"), "interface": 0});
        if version.starts_with('0') {
            address["version"] = family.into();
        }
        address
    };
    let ips: Vec<Value> = ips.iter().map(address).collect();
    json!({
        "cniVersion": version,
        "interfaces": [{"name": interface, "sandbox": netns}],
        "ips": ips,
        "dns": {},
    })
}

#[cfg(test)]
mod tests {
    use rustix::mount::MountPropagationFlags;

    use super::*;

    fn conf(handover: &Path) -> Conf {
        serde_json::from_value(json!({"cniVersion": "0.4.0", "type": TYPE, "handover": handover})).unwrap()
    }

    fn asked(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_pod_gets_the_namespace_that_was_made_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let conf = conf(dir.path());
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        std::fs::write(&ours, "ours").unwrap();
        std::fs::write(&theirs, "theirs").unwrap();
        // As the runtime's own namespace is: a mount by itself, and none that other mounts of the host are peers of.
        rustix::mount::mount_bind(&theirs, &theirs).unwrap();
        rustix::mount::mount_change(&theirs, MountPropagationFlags::PRIVATE).unwrap();
        hand_over(dir.path(), "u-1", &ours, &["10.0.0.9".to_owned()]).unwrap();
        let of = |command: &str, uid: &str| {
            asked(&[
                ("CNI_COMMAND", command),
                ("CNI_NETNS", theirs.to_str().unwrap()),
                ("CNI_IFNAME", "eth0"),
                ("CNI_ARGS", &format!("IgnoreUnknown=1;K8S_POD_UID={uid}")),
            ])
        };
        let read = || std::fs::read_to_string(&theirs).unwrap();
        for uid in ["u-2", "../x", ""] {
            assert!(serve(&conf, &of("ADD", uid)).is_err(), "{uid:?}");
        }
        assert!(serve(&conf, &of("CHECK", "u-1")).is_err());
        for _ in 0..2 {
            let answer = serve(&conf, &of("ADD", "u-1")).unwrap().unwrap();
            assert_eq!(answer["ips"][0], json!({"address": "10.0.0.9/32", "interface": 0, "version": "4"}));
            assert_eq!(answer["interfaces"][0]["name"], "eth0");
            assert_eq!(read(), "ours");
        }
        assert_eq!(serve(&conf, &of("CHECK", "u-1")), Ok(None));
        for _ in 0..2 {
            assert_eq!(serve(&conf, &of("DEL", "u-1")), Ok(None));
            assert_eq!(read(), "theirs");
        }
        rustix::mount::unmount(&theirs, UnmountFlags::DETACH).unwrap();
        take_back(dir.path(), "u-1").unwrap();
        take_back(dir.path(), "u-1").unwrap();
        assert!(serve(&conf, &of("ADD", "u-1")).is_err());
    }

    #[test]
    fn versions_and_nonsense() {
        let conf = conf(Path::new("/nonexistent"));
        let answer = serve(&conf, &asked(&[("CNI_COMMAND", "VERSION")])).unwrap().unwrap();
        assert!(answer["supportedVersions"].as_array().unwrap().contains(&json!("1.0.0")));
        assert_eq!(serve(&conf, &asked(&[])).unwrap_err().code, BAD_VARIABLE);
        assert_eq!(serve(&conf, &asked(&[("CNI_COMMAND", "X")])).unwrap_err().code, BAD_VARIABLE);
        let old = Conf { version: "0.1.0".to_owned(), ..conf };
        assert_eq!(serve(&old, &asked(&[("CNI_COMMAND", "DEL")])).unwrap_err().code, INCOMPATIBLE);
        let lo = Conf { version: "1.0.0".to_owned(), kind: "loopback".to_owned(), handover: None };
        let asked = asked(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", "/x")]);
        assert_eq!(serve(&lo, &asked).unwrap().unwrap()["interfaces"][0]["name"], "lo");
    }

    #[test]
    fn a_runtime_finds_the_plug_in_and_its_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let what = Install {
            bin: dir.path().join("bin"),
            conf: dir.path().join("net.d"),
            command: ["/opt/it's/yunfan", "cni"].map(str::to_owned).to_vec(),
            handover: "/h".into(),
        };
        for _ in 0..2 {
            assert_eq!(install(&what).unwrap().len(), 3);
        }
        let script = std::fs::read_to_string(dir.path().join("bin/loopback")).unwrap();
        assert!(script.ends_with("\nexec '/opt/it'\\''s/yunfan' 'cni'\n"), "{script}");
        let list = std::fs::read(dir.path().join("net.d/10-yunfan.conflist")).unwrap();
        let list: Value = serde_json::from_slice(&list).unwrap();
        assert_eq!(list["plugins"][0], json!({"type": "yunfan", "handover": "/h"}));
        std::fs::write(dir.path().join("bin/loopback"), "another's").unwrap();
        assert_eq!(install(&what).unwrap().len(), 2);
        assert_eq!(std::fs::read_to_string(dir.path().join("bin/loopback")).unwrap(), "another's");
    }
}
