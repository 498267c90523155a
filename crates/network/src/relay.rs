//! The way from inside a network to the API server, which listens in the host's namespace and may do so on loopback alone:
//! connections are carried over byte by byte, so TLS is between the workload and the API server.

use rustix::net::sockopt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The port of the Service `kubernetes`.
pub(crate) const PORT: u16 = 443;
/// Connections of one network at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 1024;
/// How long the API server may take to accept.
const CONNECT: Duration = Duration::from_secs(10);
/// After so much silence a workload is asked whether it is there.
const QUIET: Duration = Duration::from_secs(60);
/// What is read and written at once, each way; most connections are quiet watches.
const BUFFER: usize = 4 * 1024;

/// Serves until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, server: String) {
    let (permits, server) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::new(server));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::debug!(error = %e, "listener of the way to the API server");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let server = server.clone();
        connections.spawn(async move {
            if let Err(e) = carry(stream, &server).await {
                tracing::debug!(error = %e, %server, "connection to the API server");
            }
            drop(permit);
        });
    }
}

async fn carry(mut inside: TcpStream, server: &str) -> std::io::Result<()> {
    let mut outside = tokio::time::timeout(CONNECT, TcpStream::connect(server)).await??;
    // A workload that was cut off says no goodbye, and would hold its place for ever.
    sockopt::set_socket_keepalive(&inside, true)?;
    sockopt::set_tcp_keepidle(&inside, QUIET)?;
    inside.set_nodelay(true)?;
    outside.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut inside, &mut outside, BUFFER, BUFFER).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_end_too() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = door.local_addr().unwrap();
        let relay = tokio::spawn(serve(door, server.local_addr().unwrap().to_string()));
        let echo = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut got = String::new();
            stream.read_to_string(&mut got).await.unwrap();
            stream.write_all(got.to_uppercase().as_bytes()).await.unwrap();
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"words").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "WORDS");
        echo.await.unwrap();
        relay.abort();
    }

    #[tokio::test]
    async fn where_nobody_answers_the_connection_ends() {
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = door.local_addr().unwrap();
        // Port 1 of loopback: nobody listens there.
        let relay = tokio::spawn(serve(door, "127.0.0.1:1".to_owned()));
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await; // an end or a reset
        assert!(answer.is_empty());
        relay.abort();
    }
}
