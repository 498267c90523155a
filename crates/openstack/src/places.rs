//! Where objects are: from the ids that OpenStack's clients use to the namespaces and names that the API server reads by.
//!
//! An id is written in the object's spec or is its uid, so a lookup of an id that was never seen reads a list. That list says
//! where all of its objects are, and it is remembered: every later lookup reads one object. An object keeps its namespace and
//! name as long as it lives, so what is remembered can become useless but not wrong; and what is read is compared with the id.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kube::api::{Api, GetParams};
use kube::core::Request;
use yunfan_resources::Identified;

use crate::error::Fault;
use crate::ids::{self, Kind};

/// How many objects' places are remembered.
const REMEMBERED: usize = 50_000;

/// A namespace (empty for an object in none) and a name.
type Place = (String, String);

/// The places of objects that were seen, by kind and id.
pub(crate) struct Places {
    known: Mutex<HashMap<(String, String), Place>>,
    capacity: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self { known: Mutex::default(), capacity: REMEMBERED }
    }
}

impl Places {
    /// The object with this id, if `api` can see one.
    pub(crate) async fn find<K: Kind + Identified>(
        &self,
        api: &Api<K>,
        id: &str,
    ) -> Result<Option<K>, Fault> {
        let place = self.place::<K>(id);
        if let Some(place) = place.filter(|(within, _)| api.namespace().is_none_or(|own| own == within))
            && let Some(object) = read(api, &place).await?.filter(|object| object.id() == id)
        {
            return Ok(Some(object));
        }
        let all = ids::list(api).await?;
        self.remember(&all);
        Ok(all.into_iter().find(|object| object.id() == id))
    }

    fn place<K: Kind>(&self, id: &str) -> Option<Place> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(K::kind(&()).into_owned(), id.to_owned())).cloned()
    }

    fn remember<K: Kind + Identified>(&self, objects: &[K]) {
        let kind = K::kind(&());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for object in objects {
            if known.len() >= self.capacity {
                known.clear();
            }
            let place = (ids::namespace(object).to_owned(), ids::name(object).to_owned());
            known.insert((kind.clone().into_owned(), object.id()), place);
        }
    }
}

/// What is at a place now; `None` also for who may not read there: the list decides then.
async fn read<K: Kind>(api: &Api<K>, (namespace, name): &Place) -> Result<Option<K>, Fault> {
    let path = K::url_path(&(), Some(namespace.as_str()).filter(|namespace| !namespace.is_empty()));
    let mut request =
        Request::new(path).get(name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
    // As `Api::get` does, for the client's spans.
    request.extensions_mut().insert("get");
    match api.clone().into_client().request::<K>(request).await {
        Err(kube::Error::Api(status)) if [403, 404].contains(&status.code) => Ok(None),
        other => Ok(Some(other?)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::http::{Response, StatusCode};
    use kube::client::Body;
    use serde_json::{Value, json};
    use yunfan_resources::compute::Flavor;
    use yunfan_resources::image::Image;

    use super::*;

    /// An API server with these objects of one kind, that notes what it is asked.
    fn server(objects: Vec<Value>) -> (kube::Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = asked.clone();
        let service = tower::service_fn(move |request: axum::http::Request<Body>| {
            let path = request.uri().path().to_owned();
            let name = path.rsplit('/').next().unwrap_or_default();
            let namespace = path.split_once("/namespaces/").and_then(|(_, rest)| rest.split('/').next());
            let within = |object: &&Value| namespace.is_none_or(|own| object["metadata"]["namespace"] == own);
            let answer = if ["flavors", "images"].contains(&name) {
                let items: Vec<&Value> = objects.iter().filter(within).collect();
                Some(json!({"metadata": {}, "items": items}))
            } else {
                objects.iter().filter(within).find(|object| object["metadata"]["name"] == name).cloned()
            };
            notes.lock().unwrap().push(path);
            let (status, body) = match answer {
                Some(body) => (StatusCode::OK, body),
                None => (
                    StatusCode::NOT_FOUND,
                    json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "gone"}),
                ),
            };
            let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            async move { response }
        });
        (kube::Client::new(service, "default"), asked)
    }

    fn flavor(name: &str, id: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"id": id, "vcpus": 1, "memoryMib": 64, "diskGib": 1}})
    }

    async fn name_of<K: Kind + Identified>(places: &Places, api: &Api<K>, id: &str) -> Option<String> {
        places.find(api, id).await.unwrap().map(|object| ids::name(&object).to_owned())
    }

    #[tokio::test]
    async fn one_list_serves_all_later_lookups() {
        let (client, asked) = server(vec![flavor("a", "1"), flavor("b", "2")]);
        let (places, flavors) = (Places::default(), Api::<Flavor>::all(client));
        for (id, name) in [("1", "a"), ("2", "b"), ("1", "a")] {
            assert_eq!(name_of(&places, &flavors, id).await.as_deref(), Some(name));
        }
        let base = "/apis/compute.yunfan.io/v1/flavors";
        assert_eq!(*asked.lock().unwrap(), [base.to_owned(), format!("{base}/b"), format!("{base}/a")]);
    }

    #[tokio::test]
    async fn what_has_changed_is_looked_for_again() {
        let places = Places::default();
        let (before, _) = server(vec![flavor("a", "1"), flavor("b", "2")]);
        assert_eq!(name_of(&places, &Api::<Flavor>::all(before), "1").await.as_deref(), Some("a"));
        // Deleted, one of them made anew with another id.
        let (after, _) = server(vec![flavor("a", "3")]);
        let after = Api::<Flavor>::all(after);
        assert_eq!(name_of(&places, &after, "1").await, None);
        assert_eq!(name_of(&places, &after, "2").await, None);
        assert_eq!(name_of(&places, &after, "3").await.as_deref(), Some("a"));
    }

    #[tokio::test]
    async fn a_namespace_shows_its_own_only() {
        let image = |namespace: &str, name: &str| json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"id": "same", "diskFormat": "qcow2"}});
        let (client, _) = server(vec![image("one", "a"), image("two", "b")]);
        let places = Places::default();
        for (namespace, name) in [("one", Some("a")), ("two", Some("b")), ("three", None), ("one", Some("a"))]
        {
            let images = Api::<Image>::namespaced(client.clone(), namespace);
            assert_eq!(name_of(&places, &images, "same").await.as_deref(), name, "{namespace}");
        }
    }

    #[tokio::test]
    async fn not_everything_is_remembered() {
        let (client, _) = server((0..5).map(|n| flavor(&format!("f{n}"), &n.to_string())).collect());
        let places = Places { capacity: 2, ..Places::default() };
        assert!(name_of(&places, &Api::<Flavor>::all(client), "0").await.is_some());
        assert!(places.known.lock().unwrap().len() <= 2);
    }
}
