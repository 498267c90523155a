//! From a request's token to the client that acts as its user.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::request::Parts;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::Api;
use yunfan_identity::token::Claims;
use yunfan_resources::Identified;
use yunfan_serve::PeerAddress;

use crate::Ctx;
use crate::error::Fault;
use crate::ids::Kind;
use crate::ruled;

/// A request whose token is valid: who asks, and in which project.
pub(crate) struct Session {
    pub(crate) door: Ctx,
    pub(crate) claims: Claims,
    /// Acts as the token's user.
    pub(crate) client: kube::Client,
    /// Home namespace of the token's project.
    namespace: Option<String>,
    /// Id of the request, where the service gives its requests one.
    pub(crate) request: String,
}

/// Id of a request, `req-` and a UUID: its answer's header and what is recorded of it have the same.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

impl FromRequestParts<Ctx> for Session {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, door: &Ctx) -> Result<Self, Fault> {
        let claims = claims(door, &parts.headers, "x-auth-token")?.ok_or_else(Fault::unauthorized)?;
        ruled::check(door, parts, &claims).await?;
        let namespace = match &claims.project {
            Some(project) => door.directory.namespace(&project.id, &project.name).await?,
            None => None,
        };
        let peer = parts.extensions.get::<PeerAddress>().copied();
        let client = (door.client_as)(claims.user(), peer);
        let request = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        Ok(Self { door: door.clone(), claims, client, namespace, request })
    }
}

/// The claims of the token in a header; `None` where there is no such header. A token that is not valid is a 401.
pub(crate) fn claims(door: &Ctx, headers: &HeaderMap, header: &str) -> Result<Option<Claims>, Fault> {
    let Some(value) = headers.get(header) else { return Ok(None) };
    let token = value.to_str().map_err(|_| Fault::unauthorized())?;
    door.tokens.verify(token.trim()).map(Some).map_err(|_| Fault::unauthorized())
}

impl Session {
    /// The namespace of the token's project.
    pub(crate) fn namespace(&self) -> Result<&str, Fault> {
        self.namespace.as_deref().ok_or_else(|| match &self.claims.project {
            None => Fault::forbidden(
                "The token is not scoped to a project; sign in with a project to use this service.",
            ),
            Some(project) => {
                Fault::forbidden(format!("Project {} is gone, or its namespace is not made yet.", project.id))
            }
        })
    }

    /// The id of the token's project.
    pub(crate) fn project_id(&self) -> &str {
        self.claims.project.as_ref().map(|project| project.id.as_str()).unwrap_or_default()
    }

    /// Whether the token has Keystone's admin role. This only chooses what is *shown*; what is allowed, the API
    /// server decides.
    pub(crate) fn is_admin(&self) -> bool {
        self.claims.roles.iter().any(|role| role == "admin")
    }

    /// Objects of a kind in the token's project.
    pub(crate) fn own<K>(&self) -> Result<Api<K>, Fault>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Ok(Api::namespaced(self.client.clone(), self.namespace()?))
    }

    /// Objects of a kind in a namespace.
    pub(crate) fn within<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Objects of a kind that is in no namespace.
    pub(crate) fn global<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = ClusterResourceScope>,
    {
        Api::all(self.client.clone())
    }

    /// The object with this id among those that `api` can see.
    pub(crate) async fn find<K: Kind + Identified>(
        &self,
        api: &Api<K>,
        id: &str,
    ) -> Result<Option<K>, Fault> {
        self.door.directory.places().find(api, id).await
    }

    /// The object with this id: in the token's project or, for an admin, anywhere.
    pub(crate) async fn find_anywhere<K>(&self, id: &str) -> Result<Option<K>, Fault>
    where
        K: Kind + Identified + kube::Resource<Scope = NamespaceResourceScope>,
    {
        match self.find(&self.own::<K>()?, id).await? {
            None if self.is_admin() => match self.find(&self.everywhere::<K>(), id).await {
                // Admin of a project, but not of the cloud.
                Err(fault) if fault.status == StatusCode::FORBIDDEN => Ok(None),
                other => other,
            },
            own => Ok(own),
        }
    }

    /// Objects of a kind in every namespace; answered with 403 for who may not.
    pub(crate) fn everywhere<K: kube::Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }
}
