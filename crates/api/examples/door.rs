//! The kube door alone, over an embedded store: `cargo run -p yunfan-api --example door -- DIR PORT`, then
//! `kubectl --kubeconfig DIR/kubeconfig get flavors`. Nothing acts on the objects here.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use yunfan_api::{Api, ApiConfig};
use yunfan_identity::pki::{self, Authority};
use yunfan_identity::rbac::RbacAuthorizer;
use yunfan_identity::token::{AccountKey, TokenKey};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let dir = PathBuf::from(words.next().ok_or("usage: door DIR PORT")?);
    let port: u16 = words.next().ok_or("usage: door DIR PORT")?.parse()?;
    std::fs::create_dir_all(&dir)?;
    let start = std::time::Instant::now();
    let store = yunfan_store::open_embedded(dir.join("store"))?;
    let authority = Authority::open_or_create(&dir.join("pki"))?;
    let tokens = TokenKey::open_or_create(&dir.join("pki"))?;
    let accounts = AccountKey::open_or_create(&dir.join("pki"))?;
    let rbac = Arc::new(RbacAuthorizer::new());
    let api = Api::start(store, tokens, accounts, rbac, &authority, ApiConfig::default()).await?;
    api.bootstrap().await?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    let server = authority.server("apiserver", "apiserver", &["127.0.0.1"])?;
    let tls = Arc::new(pki::server_config(&server, Some(authority.certificate()))?);
    let admin = authority.client("admin", "admin", &["system:masters"])?;
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://{address}"),
            "certificate-authority-data": STANDARD.encode(authority.certificate_pem())}}],
        "users": [{"name": "u", "user": {"client-certificate-data": STANDARD.encode(&admin.certificate_pem),
            "client-key-data": STANDARD.encode(&admin.key_pem)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(dir.join("kubeconfig"), config.to_string())?;
    eprintln!("ready in {:?} on https://{address}", start.elapsed());
    yunfan_serve::serve_tls(listener, tls, api.router(), async {
        // An error here would mean that there is no way to be stopped but by force.
        let _ = tokio::signal::ctrl_c().await;
    })
    .await?;
    Ok(())
}
