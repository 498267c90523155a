//! Servers that a cloud asks: webhooks, and an OpenID provider. They speak HTTPS with a certificate of an authority of their own,
//! and answer as a test wants.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// What a server makes of a path and the JSON that was sent there; `None` never answers.
type Answer = dyn Fn(&str, &Value) -> Option<Value> + Send + Sync;

/// An authority that signs certificates of servers and clients.
pub struct HookAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Default for HookAuthority {
    fn default() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "hooks");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }
}

impl HookAuthority {
    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate and its key, both PEM, for a client of this name.
    pub fn client(&self, name: &str) -> (String, String) {
        let (key, mut params) = (KeyPair::generate().expect("a key"), CertificateParams::default());
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// A certificate and its key, both PEM, for a server on 127.0.0.1.
    pub fn server_pair(&self) -> (String, String) {
        let (certificate, key) = self.of_server();
        (certificate.pem(), key.serialize_pem())
    }

    fn of_server(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate, key)
    }

    fn server(&self) -> Arc<ServerConfig> {
        let (certificate, key) = self.of_server();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.expect("versions").with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).expect("a configuration"))
    }
}

/// A server.
pub struct Hook {
    url: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    /// Starts one; it ends with the test.
    pub fn start(
        authority: &HookAuthority,
        answer: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (tls, seen, answer) = (authority.server(), asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, seen, answer) = (tls.clone(), seen.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, tls, &seen, &*answer));
            }
        });
        Self { url, asked }
    }

    /// Where it is, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it was sent so far.
    pub fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a kubeconfig that leads to this path of it.
    pub fn kubeconfig(&self, authority: &HookAuthority, path: &str, file: &Path) -> String {
        let certificate = file.with_extension("crt");
        std::fs::write(&certificate, authority.pem()).expect("written");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "hook", "cluster": {
                "server": format!("{}{path}", self.url), "certificate-authority": certificate,
            }}],
            "users": [{"name": "us", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "hook", "user": "us"}}],
        });
        std::fs::write(file, config.to_string()).expect("written");
        file.to_string_lossy().into_owned()
    }
}

fn serve(stream: TcpStream, tls: Arc<ServerConfig>, seen: &Mutex<Vec<Value>>, answer: &Answer) {
    let Ok(connection) = ServerConnection::new(tls) else { return };
    let mut stream = StreamOwned::new(connection, stream);
    let (mut bytes, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    let (path, body) = loop {
        match stream.read(&mut chunk) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&chunk[..count]),
            _ => return,
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        match serde_json::from_str::<Value>(body) {
            Ok(body) => break (path, body),
            Err(_) if head.starts_with("GET") => break (path, Value::Null),
            Err(_) => {}
        }
    };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(body.clone());
    match answer(&path, &body) {
        Some(value) => {
            let text = value.to_string();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length";
            let _ = stream.write_all(format!("{head}: {}\r\n\r\n{text}", text.len()).as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        // Longer than any test waits.
        None => std::thread::sleep(Duration::from_secs(3600)),
    }
}
