use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::authn::PeerCertificate;

const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];
const NO_GROUPS: [&str; 0] = [];

fn authority() -> (tempfile::TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    (dir, authority)
}

/// Shakes hands on loopback; gives the certificate that the server saw, if the client came through.
async fn handshake(
    server: ServerConfigParts<'_>,
    client: Option<&Identity>,
    trust: &Authority,
    name: &str,
) -> Result<Option<PeerCertificate>, String> {
    connected(server, client_config(trust.certificate(), client).unwrap(), name).await
}

async fn connected(
    server: ServerConfigParts<'_>,
    mut config: ClientConfig,
    name: &str,
) -> Result<Option<PeerCertificate>, String> {
    let server_config = server_config(server.identity, Some(server.clients.certificate())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(server_config)).accept(stream).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await?;
        Ok::<_, std::io::Error>(stream.get_ref().1.peer_certificates().and_then(PeerCertificate::new))
    });
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        assert_eq!(text, "hello");
        Ok::<_, std::io::Error>(())
    };
    let came_through = connect.await;
    let seen = serve.await.unwrap();
    came_through.and(seen).map_err(|error| error.to_string())
}

struct ServerConfigParts<'a> {
    identity: &'a Identity,
    clients: &'a Authority,
}

#[tokio::test]
async fn a_client_certificate_is_its_user_through_a_real_handshake() {
    let (_dir, authority) = authority();
    let identity = authority.issue_server("api", &NAMES, 1).unwrap();
    let server = || ServerConfigParts { identity: &identity, clients: &authority };
    let client = authority.issue_client("ann", &["system:masters", "staff"], 1).unwrap();
    let peer = handshake(server(), Some(&client), &authority, "localhost").await.unwrap().unwrap();
    let user = UserInfo::authenticated("ann", ["system:masters", "staff"]);
    assert_eq!(peer.user().unwrap(), user);
    // Whose client it is, its certificate says.
    let (_other_dir, other) = self::authority();
    for (authority, wanted) in [(&authority, true), (&other, false)] {
        let kind = ClientAuthority::new(&[authority.certificate().clone()]).unwrap();
        assert_eq!((kind.signed(&peer), kind.signed(&peer)), (wanted, wanted));
    }
}

#[tokio::test]
async fn no_certificate_is_let_in_and_a_strangers_is_not() {
    let (_dir, authority) = authority();
    let (_other_dir, other) = self::authority();
    let identity = authority.issue_server("api", &NAMES, 1).unwrap();
    let server = || ServerConfigParts { identity: &identity, clients: &authority };
    assert!(handshake(server(), None, &authority, "127.0.0.1").await.unwrap().is_none());
    let stranger = other.issue_client("ann", &NO_GROUPS, 1).unwrap();
    assert!(handshake(server(), Some(&stranger), &authority, "localhost").await.is_err());
    // A server's certificate proves no user.
    assert!(handshake(server(), Some(&identity), &authority, "localhost").await.is_err());
    assert!(handshake(server(), None, &other, "localhost").await.is_err(), "server is a stranger");
    assert!(handshake(server(), None, &authority, "elsewhere").await.is_err(), "not its name");
    let unchecked = unchecked_client_config().unwrap();
    assert!(connected(server(), unchecked, "elsewhere").await.unwrap().is_none(), "whoever it is");
}

#[test]
fn an_authority_and_its_certificates_are_kept_privately() {
    let (dir, authority) = authority();
    let server = authority.server("apiserver", "api", &NAMES).unwrap();
    let client = authority.client("admin", "admin", &["system:masters"]).unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
    let again = Authority::open_or_create(dir.path()).unwrap();
    assert_eq!(again.certificate_pem(), authority.certificate_pem());
    let same = |a: &Identity, b: &Identity| a.certificate_pem == b.certificate_pem;
    assert!(same(&again.server("apiserver", "api", &NAMES).unwrap(), &server));
    assert!(same(&again.server("apiserver", "api", &NAMES[..1]).unwrap(), &server), "fewer names");
    assert!(same(&again.client("admin", "admin", &["system:masters"]).unwrap(), &client));
    Identity::load(&dir.path().join("admin.crt"), &dir.path().join("admin.key")).unwrap();

    let wider = again.server("apiserver", "api", &["localhost", "::1"]).unwrap();
    assert!(!same(&wider, &server), "a name was missing");
    assert!(!same(&again.client("admin", "admin", &NO_GROUPS).unwrap(), &client), "other groups");
}

#[test]
fn a_certificate_near_its_end_or_of_another_authority_is_issued_again() {
    let (dir, authority) = authority();
    let put = |identity: &Identity| {
        std::fs::write(dir.path().join("web.key"), &identity.key_pem).unwrap();
        std::fs::write(dir.path().join("web.crt"), &identity.certificate_pem).unwrap();
    };
    let short = authority.issue_server("web", &NAMES, RENEW_DAYS).unwrap();
    put(&short);
    assert_ne!(authority.server("web", "web", &NAMES).unwrap().certificate_pem, short.certificate_pem);
    let foreign = self::authority().1.issue_server("web", &NAMES, LEAF_DAYS).unwrap();
    put(&foreign);
    assert_ne!(authority.server("web", "web", &NAMES).unwrap().certificate_pem, foreign.certificate_pem);
}

#[test]
fn damaged_files_are_named() {
    let (dir, authority) = authority();
    authority.server("web", "web", &NAMES).unwrap();
    for file in ["ca.key", "ca.crt", "web.key", "web.crt"] {
        let path = dir.path().join(file);
        let good = std::fs::read(&path).unwrap();
        for damaged in [&good[..good.len() / 2], b"", b"\xff\xfe"] {
            std::fs::write(&path, damaged).unwrap();
            let error = Authority::open_or_create(dir.path())
                .and_then(|authority| authority.server("web", "web", &NAMES))
                .err()
                .unwrap_or_else(|| panic!("{file} accepted"))
                .to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        std::fs::write(&path, good).unwrap();
    }
    std::fs::remove_file(dir.path().join("ca.crt")).unwrap();
    Authority::open_or_create(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    let error = Authority::open_or_create(dir.path()).err().unwrap().to_string();
    assert!(error.contains("ca.key") && error.contains("missing"), "{error}");
    let stranger = self::authority().0;
    std::fs::copy(stranger.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
    let error = Authority::open_or_create(dir.path()).err().unwrap().to_string();
    assert!(error.contains("does not belong"), "{error}");
}

#[test]
fn users_are_read_from_certificates() {
    let (_dir, authority) = authority();
    let identity = authority.issue_client("system:node:n1", &["system:nodes"], 1).unwrap();
    let der = identity.chain().unwrap().remove(0);
    let user = user_from_certificate(&der).unwrap();
    assert_eq!(user, UserInfo::authenticated("system:node:n1", ["system:nodes"]));
    assert!(user_from_certificate(&der[..der.len() - 1]).is_err());
    assert!(user_from_certificate(b"").is_err());
    let expired = authority.issue_client("old", &NO_GROUPS, 0).unwrap();
    let mut expired = CertificateUser::parse(&expired.chain().unwrap()[0]).unwrap();
    expired.not_after -= 1;
    assert!(expired.expired());
    assert!(authority.issue_client("", &NO_GROUPS, 1).is_err());
    assert!(authority.issue_client("x", &["a", "b", "c"], 1).is_err());
    assert!(authority.issue_server("x", &["naïve"], 1).is_err());
}

#[tokio::test]
async fn who_passes_on_requests_has_an_authority_of_its_own() {
    let (dir, authority) = authority();
    let front = authority.front_proxy().unwrap();
    assert_ne!(front.certificate_pem(), authority.certificate_pem());
    assert!(dir.path().join("front-proxy").join("ca.key").exists());
    let again = Authority::open_or_create(dir.path()).unwrap().front_proxy().unwrap();
    assert_eq!(again.certificate_pem(), front.certificate_pem());
    // Its certificates make nobody a user of the cloud.
    let identity = authority.issue_server("api", &NAMES, 1).unwrap();
    let server = ServerConfigParts { identity: &identity, clients: &authority };
    let client = front.issue_client("front-proxy-client", &NO_GROUPS, 1).unwrap();
    assert!(handshake(server, Some(&client), &authority, "localhost").await.is_err());
}

#[tokio::test]
async fn what_is_shown_changes_for_who_comes_next() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    let shown = authority.shown_server("server", "server", &["localhost"]).unwrap();
    let front = authority.front_proxy().unwrap();
    let proxy = front.shown_client("client", "front", &NO_GROUPS).unwrap();
    assert_eq!(authority.renew().unwrap(), Vec::<String>::new(), "both are new");
    let (before, other) = (format!("{shown:?}"), format!("{proxy:?}"));
    for (name, authority) in [("server", dir.path().to_owned()), ("client", dir.path().join("front-proxy"))] {
        std::fs::remove_file(authority.join(format!("{name}.crt"))).unwrap();
    }
    assert_eq!(authority.renew().unwrap(), ["server", "front-proxy/client"]);
    assert_ne!((format!("{shown:?}"), format!("{proxy:?}")), (before, other));
    assert_eq!(authority.renew().unwrap(), Vec::<String>::new());
    // What nobody shows any more is not looked after.
    drop(shown);
    std::fs::remove_file(dir.path().join("server.crt")).unwrap();
    assert_eq!(authority.renew().unwrap(), Vec::<String>::new());
    // One that can't be read is told of, and what is shown stays.
    std::fs::write(dir.path().join("front-proxy").join("client.crt"), "damaged").unwrap();
    let same = format!("{proxy:?}");
    assert!(authority.renew().unwrap_err().to_string().contains("client.crt"));
    assert_eq!(format!("{proxy:?}"), same);
}

#[test]
fn what_is_asked_for_can_be_signed() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    let (asked, key) = ask("system:node:a", &["system:nodes"], &["a", "10.0.0.1"]).unwrap();
    let read = CertificateRequest::parse(asked.as_bytes()).unwrap();
    assert_eq!(
        (read.common_name.as_str(), read.dns_names.as_slice()),
        ("system:node:a", &["a".to_owned()][..])
    );
    let hour = std::time::Duration::from_secs(3600);
    let certificate_pem = authority.sign_request(&read, &["server auth"], hour).unwrap();
    let identity = Identity { certificate_pem, key_pem: key };
    assert!(identity.is_ending().unwrap(), "an hour is soon");
    Shown::new(&identity).expect("the key is the certificate's");
    assert!(ask("a", &NO_GROUPS, &["ä b"]).is_err());
}

#[test]
fn keys_of_the_usual_kinds_are_made_for_pods() {
    for kind in ["ECDSAP256", "ECDSAP384", "ED25519"] {
        let (asked, key) = ask_for_key(kind).unwrap();
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"), "{key}");
        let asked = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, asked);
        let pem =
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{asked}\n-----END CERTIFICATE REQUEST-----\n");
        CertificateRequest::parse(pem.as_bytes()).unwrap();
    }
    let error = ask_for_key("RSA3072").unwrap_err().to_string();
    assert!(error.contains("RSA3072") && error.contains("ECDSAP256"), "{error}");
}
