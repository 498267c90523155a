//! Writing objects: create, patch, delete. There is no update: a typed PUT would drop the fields that the
//! type does not know.

use std::fmt::Debug;

use kube::api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Writes objects in the name of one component. Cloning it is cheap.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    manager: &'static str,
}

/// What a kind must be able to do to be written.
pub trait Written: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned {}
impl<K> Written for K where K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned {}

impl Writer {
    /// A writer whose changes are tracked under the field manager `manager`.
    pub fn new(client: Client, manager: &'static str) -> Self {
        Self { client, manager }
    }

    /// The client that it writes through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Creates `object` in its own namespace (or in the cluster, where it names none).
    ///
    /// # Errors
    /// What the API server said; [`is_exists`] tells that the name is taken.
    pub async fn create<K: Written + Serialize>(&self, object: &K) -> kube::Result<K> {
        let params = PostParams { field_manager: Some(self.manager.to_owned()), dry_run: false };
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let request = path::<K>(object.meta().namespace.as_deref()).create(&params, body);
        self.client.request(request.map_err(kube::Error::BuildRequest)?).await
    }

    /// Reads one object.
    ///
    /// # Errors
    /// What the API server said; see [`is_not_found`].
    pub async fn get<K: Written>(&self, namespace: Option<&str>, name: &str) -> kube::Result<K> {
        let request = path::<K>(namespace).get(name, &GetParams::default());
        self.client.request(request.map_err(kube::Error::BuildRequest)?).await
    }

    /// Merges `patch` (RFC 7386) into an object. With `metadata.resourceVersion` in it, it fails with a
    /// conflict when the object changed since.
    ///
    /// # Errors
    /// What the API server said; see [`is_not_found`] and [`is_conflict`].
    pub async fn merge<K: Written>(
        &self,
        namespace: Option<&str>,
        name: &str,
        patch: &Value,
    ) -> kube::Result<K> {
        let request = path::<K>(namespace).patch(name, &self.params(), &Patch::Merge(patch));
        self.client.request(request.map_err(kube::Error::BuildRequest)?).await
    }

    /// Merges `patch`, which holds `status`, into an object's status.
    ///
    /// # Errors
    /// As [`Writer::merge`].
    pub async fn merge_status<K: Written>(
        &self,
        namespace: Option<&str>,
        name: &str,
        patch: &Value,
    ) -> kube::Result<K> {
        self.merge_part("status", namespace, name, patch).await
    }

    /// Merges `patch` into a subresource of an object that is the object itself: `status`, `approval`.
    ///
    /// # Errors
    /// As [`Writer::merge`].
    pub async fn merge_part<K: Written>(
        &self,
        subresource: &str,
        namespace: Option<&str>,
        name: &str,
        patch: &Value,
    ) -> kube::Result<K> {
        let request =
            path::<K>(namespace).patch_subresource(subresource, name, &self.params(), &Patch::Merge(patch));
        self.client.request(request.map_err(kube::Error::BuildRequest)?).await
    }

    /// Deletes an object; only the one with `uid` when it is given. One that is gone is no error.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn delete<K: Written>(
        &self,
        namespace: Option<&str>,
        name: &str,
        uid: Option<&str>,
    ) -> kube::Result<()> {
        let params = DeleteParams {
            preconditions: uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        self.delete_with::<K>(namespace, name, &params).await
    }

    /// Deletes an object with all options given. One that is gone, or is another by now, is no error.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn delete_with<K: Written>(
        &self,
        namespace: Option<&str>,
        name: &str,
        params: &DeleteParams,
    ) -> kube::Result<()> {
        self.delete_told::<K>(namespace, name, params).await.map(|_| ())
    }

    /// As [`Writer::delete_with`]; tells the object's revision at its deletion, where the answer says it.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn delete_told<K: Written>(
        &self,
        namespace: Option<&str>,
        name: &str,
        params: &DeleteParams,
    ) -> kube::Result<Option<u64>> {
        let request = path::<K>(namespace).delete(name, params).map_err(kube::Error::BuildRequest)?;
        // The answer is the object, or a Status, which has no revision.
        match self.client.request::<Value>(request).await {
            Ok(answer) => {
                Ok(answer["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            // With a uid given, a conflict says that the name belongs to another object now.
            Err(error) if is_conflict(&error) && params.preconditions.is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds a finalizer where it is missing. `object` is what was last seen of it.
    ///
    /// # Errors
    /// A conflict when the object changed since; what else the API server said.
    pub async fn add_finalizer<K: Written>(&self, object: &K, finalizer: &str) -> kube::Result<()> {
        let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
        if finalizers.iter().any(|f| f == finalizer) {
            return Ok(());
        }
        finalizers.push(finalizer.to_owned());
        self.set_finalizers(object, &finalizers).await.map(drop)
    }

    /// Removes a finalizer where it is there, and returns what was written then; the object being gone is no error.
    ///
    /// # Errors
    /// As [`Writer::add_finalizer`].
    pub async fn remove_finalizer<K: Written>(&self, object: &K, finalizer: &str) -> kube::Result<Option<K>> {
        let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
        let before = finalizers.len();
        finalizers.retain(|f| f != finalizer);
        if finalizers.len() == before {
            return Ok(None);
        }
        match self.set_finalizers(object, &finalizers).await {
            Err(error) if is_not_found(&error) => Ok(None),
            other => other.map(Some),
        }
    }

    async fn set_finalizers<K: Written>(&self, object: &K, finalizers: &[String]) -> kube::Result<K> {
        let meta = object.meta();
        let patch = serde_json::json!({"metadata": {
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "finalizers": finalizers,
        }});
        let name = meta.name.as_deref().unwrap_or_default();
        self.merge::<K>(meta.namespace.as_deref(), name, &patch).await
    }

    fn params(&self) -> PatchParams {
        PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() }
    }
}

/// Requests for a kind in a namespace, or in the cluster. (`kube::Api` decides that at compile time; here
/// the object decides.)
fn path<K: Written>(namespace: Option<&str>) -> Request {
    Request::new(K::url_path(&(), namespace))
}

/// Whether the API server said that the object is not there.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server said that the object changed meanwhile.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason != "AlreadyExists")
}

/// Whether the API server said that the name is taken.
pub fn is_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists")
}
