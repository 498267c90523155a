//! The same store on etcd, from 3.4 on.
//!
//! All keys lie below a prefix. Reads and writes go straight to etcd; watches are fed by one watch on the whole prefix
//! (`upstream.rs`) through the same ring as in the embedded engine. Compaction is of the whole etcd, whoever else uses it.

mod convert;
mod keys;
mod upstream;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, KvClient, TlsOptions, WatchClient,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::feed::{Feed, FeedLimits};
use crate::{
    KeyValue, RangeRequest, RangeResponse, Revision, Store, StoreError, Txn, TxnResponse, WatchStream,
    key_after, limits,
};
use keys::Keys;
use upstream::EtcdHistory;

/// How long etcd may take to answer one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Keys per page of a range; several pages at one revision make up a long answer.
const PAGE: usize = 500;
/// Most bytes of one answer: a page of the largest values.
const MESSAGE_BYTES: usize = PAGE * limits::MAX_TXN_BYTES + 1024 * 1024;
/// A longer prefix would not fit into what is counted for each operation (see `limits.rs`).
const PREFIX_BYTES: usize = 32;

/// Where etcd is and how to reach it.
#[derive(Clone)]
pub struct EtcdConfig {
    /// URLs, `http://HOST:PORT` or `https://HOST:PORT`; any one that answers will do.
    pub endpoints: Vec<String>,
    /// What all keys begin with in etcd; at most 32 bytes.
    pub prefix: String,
    /// For `https` endpoints.
    pub tls: Option<EtcdTls>,
    /// User name and password, if etcd asks for them.
    pub user: Option<(String, String)>,
    /// Limits of the ring of recent commits.
    pub feed: FeedLimits,
}

/// Certificates, PEM.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// The authority that signed etcd's certificate.
    pub ca: Vec<u8>,
    /// Our own certificate and its key, if etcd asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in etcd's certificate, if it is not the one in the URL.
    pub server_name: Option<String>,
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither keys nor passwords belong into a log.
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl EtcdConfig {
    /// Plain endpoints and the prefix `/yunfan`.
    pub fn new<S: Into<String>>(endpoints: impl IntoIterator<Item = S>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "/yunfan".to_owned(),
            tls: None,
            user: None,
            feed: FeedLimits::default(),
        }
    }
}

/// A store on etcd. Dropping it ends its watches.
pub struct EtcdStore {
    connection: Arc<Connection>,
    feed: Arc<Feed>,
    tasks: [JoinHandle<()>; 2],
}

/// What requests, the upstream watch and the heartbeat share.
struct Connection {
    client: Client,
    keys: Keys,
    /// Asks for a heartbeat.
    beats: Notify,
}

/// Connects to etcd. It must answer now; later interruptions are survived. Errors: [`StoreError::Unavailable`] when none
/// of the endpoints answers, [`StoreError::Refused`] when the configuration or the credentials are wrong.
pub async fn connect_etcd(config: EtcdConfig) -> Result<Arc<EtcdStore>, StoreError> {
    if config.prefix.len() > PREFIX_BYTES {
        let reason = format!("prefix {:?} is longer than {PREFIX_BYTES} bytes", config.prefix);
        return Err(StoreError::Refused(reason));
    }
    let keys = Keys::new(&config.prefix);
    let connecting = Client::connect(&config.endpoints, Some(options(&config)));
    let client = tokio::time::timeout(TIMEOUT, connecting)
        .await
        .map_err(|_| {
            StoreError::Unavailable(format!("etcd at {} does not answer", config.endpoints.join(", ")))
        })?
        .map_err(|e| convert::error(&e, 0))?;
    let connection = Arc::new(Connection { client, keys, beats: Notify::new() });
    let now = connection.beat().await.map_err(|e| match e {
        StoreError::Unknown(why) => StoreError::Unavailable(why),
        other => other,
    })?;
    let feed = Arc::new(Feed::new(config.feed, now, 0));
    let tasks = [
        tokio::spawn(upstream::feed(connection.clone(), feed.clone())),
        tokio::spawn(upstream::heart(connection.clone())),
    ];
    Ok(Arc::new(EtcdStore { connection, feed, tasks }))
}

fn options(config: &EtcdConfig) -> ConnectOptions {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
        .with_keep_alive_while_idle(true)
        // A member that has lost its leader ends the watch instead of being silent.
        .with_require_leader(true);
    if let Some((name, password)) = &config.user {
        options = options.with_user(name, password);
    }
    if let Some(tls) = &config.tls {
        let mut with = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
        if let Some((certificate, key)) = &tls.identity {
            with = with.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &tls.server_name {
            with = with.domain_name(name);
        }
        options = options.with_tls(with);
    }
    options
}

impl Connection {
    fn kv_client(&self) -> KvClient {
        self.client
            .kv_client()
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    fn watch_client(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(MESSAGE_BYTES)
    }

    /// Writes the heartbeat; its revision.
    async fn beat(&self) -> Result<Revision, StoreError> {
        let mut client = self.kv_client();
        let putting = client.put(self.keys.heartbeat(), "", None);
        let put = tokio::time::timeout(TIMEOUT, putting)
            .await
            .map_err(|_| StoreError::Unknown("etcd does not answer".to_owned()))?
            .map_err(|e| convert::write_error(&e))?;
        Ok(convert::revision(put.header().map_or(0, |h| h.revision())))
    }

    /// One page of a range, with the state's revision.
    async fn page(
        &self,
        req: &RangeRequest,
        limit: usize,
        revision: Revision,
    ) -> Result<RangeResponse, StoreError> {
        let (start, end) = self.keys.range(&req.start, &req.end);
        let options = GetOptions::new()
            .with_range(end)
            .with_limit(i64::try_from(limit).unwrap_or(0))
            .with_revision(convert::signed(revision));
        let mut client = self.kv_client();
        let mut got = tokio::time::timeout(TIMEOUT, client.get(start, Some(options)))
            .await
            .map_err(|_| StoreError::Unavailable("etcd does not answer".to_owned()))?
            .map_err(|e| convert::error(&e, revision))?;
        let now = convert::revision(got.header().map_or(0, |h| h.revision()));
        let kvs = got.take_kvs().into_iter().filter_map(|found| convert::kv(&self.keys, found.0)).collect();
        let revision = if revision == 0 { now } else { revision };
        Ok(RangeResponse { kvs, more: got.more(), count: u64::try_from(got.count()).unwrap_or(0), revision })
    }

    /// A range in pages, all at one revision.
    async fn range(&self, req: &RangeRequest) -> Result<RangeResponse, StoreError> {
        let wanted = if req.limit == 0 { usize::MAX } else { req.limit };
        let mut answer = self.page(req, wanted.min(PAGE), req.revision.unwrap_or(0)).await?;
        let mut rest = req.clone();
        while answer.more && answer.kvs.len() < wanted {
            let Some(KeyValue { key, .. }) = answer.kvs.last() else { break };
            rest.start = key_after(key);
            let page = self.page(&rest, (wanted - answer.kvs.len()).min(PAGE), answer.revision).await?;
            answer.kvs.extend(page.kvs);
            answer.more = page.more;
        }
        Ok(answer)
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        limits::check(&txn)?;
        let keys = &self.connection.keys;
        let mut client = self.connection.kv_client();
        let done = tokio::time::timeout(TIMEOUT, client.txn(convert::txn(keys, &txn)))
            .await
            .map_err(|_| StoreError::Unknown("etcd does not answer".to_owned()))?
            .map_err(|e| convert::write_error(&e))?;
        Ok(TxnResponse {
            succeeded: done.succeeded(),
            revision: convert::revision(done.header().map_or(0, |h| h.revision())),
            results: done.op_responses().into_iter().map(|r| convert::result(keys, r)).collect(),
        })
    }

    async fn range(&self, req: RangeRequest) -> Result<RangeResponse, StoreError> {
        if !req.end.is_empty() && req.start >= req.end {
            // etcd has no word for a range that ends before it begins.
            let revision = match req.revision {
                None | Some(0) => self.revision().await?,
                Some(revision) => revision,
            };
            return Ok(RangeResponse { kvs: Vec::new(), more: false, count: 0, revision });
        }
        match self.connection.range(&req).await {
            // A read of the present that was overtaken by a compaction between two pages.
            Err(StoreError::Compacted { .. }) if req.revision.unwrap_or(0) == 0 => {
                self.connection.range(&req).await
            }
            other => other,
        }
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: Revision) -> Result<WatchStream, StoreError> {
        self.feed.watch(Arc::new(EtcdHistory(self.connection.clone())), (start, end), from)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        // A read of one key goes through etcd's quorum like any other.
        let options = GetOptions::new().with_count_only();
        let mut client = self.connection.kv_client();
        let got = tokio::time::timeout(TIMEOUT, client.get(self.connection.keys.heartbeat(), Some(options)))
            .await
            .map_err(|_| StoreError::Unavailable("etcd does not answer".to_owned()))?
            .map_err(|e| convert::error(&e, 0))?;
        Ok(convert::revision(got.header().map_or(0, |h| h.revision())))
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.connection.beats.notify_one();
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let current = self.revision().await?;
        if revision > current {
            return Err(StoreError::FutureRevision { requested: revision, current });
        }
        // The watch that feeds ours must have what is about to go; else they would all have to start anew.
        self.connection.beats.notify_one();
        tokio::time::timeout(TIMEOUT, self.feed.reached(revision))
            .await
            .map_err(|_| StoreError::Unavailable("the watch on etcd does not catch up".to_owned()))?;
        let mut client = self.connection.kv_client();
        tokio::time::timeout(TIMEOUT, client.compact(convert::signed(revision), None))
            .await
            .map_err(|_| StoreError::Unknown("etcd does not answer".to_owned()))?
            .map_err(|e| convert::write_error(&e))?;
        {
            let mut ring = self.feed.ring_mut();
            ring.compacted = ring.compacted.max(revision);
        }
        // Moves the upstream watch beyond the compacted revision, so that it can be opened again after an interruption
        // even if nothing of ours is written for long.
        self.connection.beats.notify_one();
        Ok(())
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.feed.close(StoreError::Closed);
    }
}
