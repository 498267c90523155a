//! Bodies that make one object (`{"port": …}`) or several (`{"ports": […]}`): all of them or none.

use axum::http::StatusCode;
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::body::parse_value;
use crate::error::Fault;
use crate::versions::json_response;

/// The most objects of one request.
const MOST: usize = 200;

/// What a request wants made.
pub(super) struct Bulk {
    one: &'static str,
    many: &'static str,
    wanted: Vec<Value>,
    single: bool,
}

impl Bulk {
    /// Reads a body with the member `one` or `many`.
    pub(super) fn of(body: Value, one: &'static str, many: &'static str) -> Result<Self, Fault> {
        let Value::Object(mut members) = body else {
            return Err(Fault::bad("Malformed request body: it must be an object."));
        };
        if let Some(Value::Array(wanted)) = members.remove(many) {
            if wanted.is_empty() || wanted.len() > MOST {
                return Err(Fault::bad(format!("Resources required: {many} must have 1 to {MOST} entries.")));
            }
            return Ok(Self { one, many, wanted, single: false });
        }
        match members.remove(one) {
            Some(wanted @ Value::Object(_)) => Ok(Self { one, many, wanted: vec![wanted], single: true }),
            _ => Err(Fault::bad(format!("Unable to find '{one}' in request body"))),
        }
    }

    /// Makes what is wanted, each from the body that makes one; where one can't be made, those before it are taken away
    /// again by their ids.
    ///
    /// # Errors
    /// The first that could not be made, also where one before it could not be taken away.
    pub(super) async fn make<B, Made, Gone>(
        self,
        make: impl Fn(B) -> Made,
        remove: impl Fn(String) -> Gone,
    ) -> Result<Response, Fault>
    where
        B: DeserializeOwned,
        Made: Future<Output = Result<Value, Fault>>,
        Gone: Future<Output = Result<(), Fault>>,
    {
        let mut made: Vec<Value> = Vec::new();
        for body in self.bodies::<B>()? {
            match make(body).await {
                Ok(view) => made.push(view),
                Err(fault) => {
                    for id in made.iter().filter_map(|view| view["id"].as_str()) {
                        if let Err(left) = remove(id.to_owned()).await {
                            tracing::warn!(kind = self.one, id, fault = %left, "made for a request that failed, and left");
                        }
                    }
                    return Err(fault);
                }
            }
        }
        Ok(self.answer(made))
    }

    fn bodies<B: DeserializeOwned>(&self) -> Result<Vec<B>, Fault> {
        let body = |wanted: &Value| {
            // Each may have its name around it, as if it came alone.
            let inner = wanted.as_object().filter(|members| members.len() == 1);
            let wanted =
                inner.and_then(|members| members.get(self.one)).filter(|it| it.is_object()).unwrap_or(wanted);
            let mut body = Map::new();
            body.insert(self.one.to_owned(), wanted.clone());
            parse_value(Value::Object(body))
        };
        self.wanted.iter().map(body).collect()
    }

    fn answer(&self, mut made: Vec<Value>) -> Response {
        let body = if self.single {
            json!({self.one: made.pop().unwrap_or_default()})
        } else {
            json!({self.many: made})
        };
        json_response(StatusCode::CREATED, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_several() {
        let of = |body: Value| Bulk::of(body, "port", "ports").map(|bulk| (bulk.wanted.len(), bulk.single));
        assert_eq!(of(json!({"port": {}})).ok(), Some((1, true)));
        assert_eq!(of(json!({"ports": [{}, {}]})).ok(), Some((2, false)));
        for bad in [json!({}), json!([]), json!({"ports": []}), json!({"port": 7}), json!({"ports": {}})] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
    }
}
