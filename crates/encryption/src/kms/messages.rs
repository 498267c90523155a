//! The messages of the KMS v2 interface (`v2.KeyManagementService`), and what Kubernetes keeps of it with each value. Six small messages
//! are written down by hand: their fields' numbers are what is agreed upon.

use std::collections::BTreeMap;

/// Asks how the plug-in is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRequest {}

/// How it is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusResponse {
    /// Of the interface: `v2`.
    #[prost(string, tag = "1")]
    pub version: String,
    /// `ok`, or what is wrong.
    #[prost(string, tag = "2")]
    pub healthz: String,
    /// The key that it encrypts with now.
    #[prost(string, tag = "3")]
    pub key_id: String,
}

/// Asks to decrypt.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DecryptRequest {
    /// What was encrypted.
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    /// Of the request, for logs.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// The key that it was encrypted with.
    #[prost(string, tag = "3")]
    pub key_id: String,
    /// What the plug-in gave beside it.
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// What was decrypted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DecryptResponse {
    /// It.
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
}

/// Asks to encrypt.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncryptRequest {
    /// What is to be encrypted.
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
    /// Of the request, for logs.
    #[prost(string, tag = "2")]
    pub uid: String,
}

/// What was encrypted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncryptResponse {
    /// It.
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    /// With which key.
    #[prost(string, tag = "2")]
    pub key_id: String,
    /// What the plug-in wants to get again with it; kept in plain.
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// A value as it is kept.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncryptedObject {
    /// The value, encrypted by us.
    #[prost(bytes = "vec", tag = "1")]
    pub encrypted_data: Vec<u8>,
    /// The plug-in's key.
    #[prost(string, tag = "2")]
    pub key_id: String,
    /// Our key or seed, encrypted by the plug-in.
    #[prost(bytes = "vec", tag = "3")]
    pub encrypted_dek_source: Vec<u8>,
    /// The plug-in's annotations.
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
    /// 0: our key is one for AES-GCM; 1: it is a seed, from which each value's key is derived.
    #[prost(int32, tag = "5")]
    pub encrypted_dek_source_type: i32,
}
