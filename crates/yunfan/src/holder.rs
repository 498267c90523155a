//! Who holds a TCP port, for the message that says so.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use tokio::net::TcpListener;

/// Binds a listener; when the address is in use, the error says by whom.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let who = of_port(address.port())
                .map(|pid| format!("process {pid} ({})", command(pid)))
                .unwrap_or_else(|| "another process".to_owned());
            anyhow::bail!("{address} is in use by {who}: stop it, or take another port with --listen")
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
}

/// The port that kubelets have.
const KUBELET_PORT: u16 = 10_250;

/// Binds an agent's listener. Where no port is asked for it is that of kubelets, which people's rules and collectors know, and any other
/// where that is taken.
pub(crate) async fn bind_agent(address: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    if port == 0
        && let Ok(listener) = TcpListener::bind((address, KUBELET_PORT)).await
    {
        return Ok(listener);
    }
    bind(SocketAddr::new(address, port)).await
}

/// A process' command line.
pub(crate) fn command(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    words.join(" ").trim().to_owned()
}

/// The process that listens on a port: found by the socket's inode in `/proc/net/tcp` and the processes' open files.
fn of_port(port: u16) -> Option<u32> {
    let sockets =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let inode = sockets.iter().flat_map(|table| table.lines().skip(1)).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let listens = *state == "0A" && local.ends_with(&format!(":{port:04X}"));
        listens.then(|| format!("socket:[{inode}]"))
    })?;
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let files = std::fs::read_dir(process.path().join("fd")).ok()?;
        let holds = files
            .flatten()
            .any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == inode.as_str()));
        holds.then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_names_its_holder() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let refused = bind(listener.local_addr().unwrap()).await.err().unwrap().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    }

    #[tokio::test]
    async fn two_agents_find_a_port_each() {
        let address = "127.0.0.1".parse().unwrap();
        let [one, other] = [bind_agent(address, 0).await.unwrap(), bind_agent(address, 0).await.unwrap()];
        assert_ne!(one.local_addr().unwrap(), other.local_addr().unwrap());
    }
}
