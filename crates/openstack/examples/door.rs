//! A cloud without nodes behind the door on a loopback address, to try OpenStack's clients on:
//! `cargo run -p yunfan-openstack --example door -- 127.0.0.1:5000`. The admin's password is `correct horse`.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests look at more of it")]
mod support;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5000".to_owned());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    let cloud = support::start(&format!("http://{address}")).await;
    axum::serve(listener, cloud.router.clone()).await
}
