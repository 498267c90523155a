//! Which versions of TLS the front desk speaks.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use yunfan_identity::pki;

use crate::support::Desk;

/// An alert that ends the connection (RFC 8446, section 6), of the kind `protocol_version`.
const REFUSED: [u8; 2] = [2, 70];

async fn serve(desk: &Desk) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = desk.authority.issue_server("server", &["127.0.0.1"], 1).expect("a certificate");
    let tls = pki::server_config(&server, Some(desk.authority.certificate())).expect("a TLS configuration");
    tokio::spawn(yunfan_serve::serve_tls(listener, Arc::new(tls), desk.api.router(), std::future::pending()));
    address
}

/// What a client begins with that speaks nothing newer than this version, and is else as it should be.
fn hello(minor: u8) -> Vec<u8> {
    let long = |bytes: &[u8]| [&[0, bytes.len() as u8], bytes].concat();
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    // No session; a cipher that all versions have (AES-128-CBC with SHA-1), and one of TLS 1.2; no compression.
    body.extend([0, 0, 4, 0, 0x2f, 0xc0, 0x2b, 1, 0]);
    // Signatures by ECDSA on P-256, which is also the curve, and its points are not compressed.
    body.extend(long(&[0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0]));
    let message = [&[1, 0][..], &long(&body)].concat();
    [&[22, 3, 1][..], &long(&message)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_of_tls_are_refused() {
    let desk = Desk::new().await;
    let address = serve(&desk).await;
    let greeted = async |minor| {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(&hello(minor)).await.expect("sent");
        stream
    };
    // The same words with a version that it takes begin a handshake.
    assert_eq!(greeted(3).await.read_u8().await.expect("an answer"), 22);
    for minor in [1, 2] {
        let mut stream = greeted(minor).await;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.expect("the end");
        assert_eq!(
            (heard.first(), heard.last_chunk()),
            (Some(&21), Some(&REFUSED)),
            "TLS 1.{}: {heard:?}",
            minor - 1
        );
    }
    let cases: [(&SupportedProtocolVersion, _); 2] = [
        (&version::TLS12, rustls::ProtocolVersion::TLSv1_2),
        (&version::TLS13, rustls::ProtocolVersion::TLSv1_3),
    ];
    for (offered, spoken) in cases {
        let mut roots = RootCertStore::empty();
        roots.add(desk.authority.certificate().clone()).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&[offered]).expect("a version");
        let tls = builder.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(address).await.expect("connected");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
        assert_eq!(stream.expect("a handshake").get_ref().1.protocol_version(), Some(spoken));
    }
}
