//! A KMS v2 plug-in for tests. Its keys are made from their names.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use yunfan_encryption::messages::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};

/// A plug-in that runs until it is stopped or dropped.
pub(crate) struct Plugin {
    state: Arc<Mutex<State>>,
    socket: PathBuf,
    task: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    key: String,
    forgotten: HashSet<String>,
    lie: String,
    calls: HashMap<String, usize>,
}

impl Plugin {
    /// Starts one on `kms.sock` in the directory.
    pub(crate) fn start(dir: &Path, key: &str) -> Self {
        let socket = dir.join("kms.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let state = Arc::new(Mutex::new(State { key: key.to_owned(), ..State::default() }));
        let task = tokio::spawn(serve(listener, state.clone()));
        Self { state, socket, task: Some(task) }
    }

    /// Ends it and all its connections.
    pub(crate) async fn stop(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Encrypts with another key from now on.
    pub(crate) fn rotate(&self, key: &str) {
        self.state.lock().unwrap().key = key.to_owned();
    }

    /// Decrypts nothing with this key any more.
    pub(crate) fn forget(&self, key: &str) {
        self.state.lock().unwrap().forgotten.insert(key.to_owned());
    }

    /// Does something wrong from now on.
    pub(crate) fn lie(&self, lie: &str) {
        self.state.lock().unwrap().lie = lie.to_owned();
    }

    /// How often a method was called.
    pub(crate) fn calls(&self, method: &str) -> usize {
        self.state.lock().unwrap().calls.get(method).copied().unwrap_or_default()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn serve(listener: UnixListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(state.clone(), request));
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let hangs = {
        let mut state = state.lock().unwrap();
        *state.calls.entry(method.clone()).or_default() += 1;
        state.lie == "hangs"
    };
    if hangs {
        std::future::pending::<()>().await;
    }
    Ok(match method.as_str() {
        "Status" => {
            let service = tower::service_fn(move |_: Request<StatusRequest>| {
                std::future::ready(Ok::<_, Status>(Response::new(state.lock().unwrap().status())))
            });
            tonic::server::Grpc::new(ProstCodec::default()).unary(service, request).await
        }
        "Encrypt" => {
            let service = tower::service_fn(move |asked: Request<EncryptRequest>| {
                let answer = state.lock().unwrap().encrypt(asked.into_inner());
                std::future::ready(Ok::<_, Status>(Response::new(answer)))
            });
            tonic::server::Grpc::new(ProstCodec::default()).unary(service, request).await
        }
        _ => {
            let service = tower::service_fn(move |asked: Request<DecryptRequest>| {
                let answer = state.lock().unwrap().decrypt(asked.into_inner());
                std::future::ready(answer.map(Response::new))
            });
            tonic::server::Grpc::new(ProstCodec::default()).unary(service, request).await
        }
    })
}

fn key(name: &str) -> LessSafeKey {
    let secret = digest(&SHA256, name.as_bytes());
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret.as_ref()).expect("32 bytes"))
}

impl State {
    fn status(&self) -> StatusResponse {
        let lies =
            |lie: &str, said: &str, truth: &str| (if self.lie == lie { said } else { truth }).to_owned();
        StatusResponse {
            version: lies("version", "v1", "v2"),
            healthz: lies("healthz", "the safe is open", "ok"),
            key_id: lies("no key", "", &self.key),
        }
    }

    fn encrypt(&self, asked: EncryptRequest) -> EncryptResponse {
        let mut ciphertext = asked.plaintext;
        key(&self.key)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut ciphertext)
            .expect("it is short");
        if self.lie == "long" {
            ciphertext.resize(5000, 0);
        }
        let annotations = BTreeMap::from([("test.example.com".to_owned(), b"kept".to_vec())]);
        EncryptResponse { ciphertext, key_id: self.key.clone(), annotations }
    }

    fn decrypt(&self, asked: DecryptRequest) -> Result<DecryptResponse, Status> {
        if asked.annotations.get("test.example.com").map(Vec::as_slice) != Some(b"kept") {
            return Err(Status::invalid_argument("the annotations are gone"));
        }
        if self.forgotten.contains(&asked.key_id) {
            return Err(Status::not_found("that key is forgotten"));
        }
        let mut text = asked.ciphertext;
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let opened = key(&asked.key_id).open_in_place(nonce, Aad::empty(), &mut text);
        let plaintext = opened.map_err(|_| Status::invalid_argument("it is damaged"))?.to_vec();
        Ok(DecryptResponse { plaintext })
    }
}
