//! Calls of a plug-in: gRPC over its socket.

use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::KmsSettings;
use super::messages::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use crate::aead::random;

/// A plug-in. The connection is made when it is first used, and again whenever it broke.
pub(super) struct Plugin {
    channel: Channel,
    time: Duration,
}

/// Why there is no answer.
pub(super) struct Failed {
    pub(super) why: String,
    /// Nothing answers there.
    pub(super) away: bool,
}

impl From<Failed> for String {
    fn from(failed: Failed) -> Self {
        failed.why
    }
}

impl Plugin {
    pub(super) fn new(settings: &KmsSettings) -> Self {
        let socket = settings.socket.clone();
        // The name is not looked up: where to connect is said here.
        let channel = Endpoint::from_static("http://kms").connect_with_connector_lazy(tower::service_fn(
            move |_: Uri| {
                let socket = socket.clone();
                async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
            },
        ));
        Self { channel, time: settings.time }
    }

    pub(super) async fn status(&self) -> Result<StatusResponse, Failed> {
        self.call("/v2.KeyManagementService/Status", StatusRequest {}).await
    }

    pub(super) async fn encrypt(&self, plaintext: Vec<u8>) -> Result<EncryptResponse, Failed> {
        let asked = EncryptRequest { plaintext, uid: uid() };
        self.call("/v2.KeyManagementService/Encrypt", asked).await
    }

    pub(super) async fn decrypt(&self, asked: DecryptRequest) -> Result<DecryptResponse, Failed> {
        self.call("/v2.KeyManagementService/Decrypt", DecryptRequest { uid: uid(), ..asked }).await
    }

    async fn call<Q, A>(&self, path: &'static str, asked: Q) -> Result<A, Failed>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let call = async {
            let mut grpc = tonic::client::Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static(path);
            grpc.unary(Request::new(asked), path, ProstCodec::<Q, A>::default()).await
        };
        match tokio::time::timeout(self.time, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Failed {
                away: matches!(status.code(), Code::Unavailable | Code::Unknown | Code::DeadlineExceeded),
                why: said(&status),
            }),
            Err(_) => {
                Err(Failed { why: format!("no answer within {} ms", self.time.as_millis()), away: true })
            }
        }
    }
}

/// What a call is found by in the plug-in's log.
fn uid() -> String {
    let bytes: [u8; 16] = random().unwrap_or_default();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A refusal in words; the transport's own message says little without what is behind it.
fn said(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
