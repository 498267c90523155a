//! Static routes of routers: all at once with the router, or some more and some less (`extraroute-atomic`).

use axum::extract::Path;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::network::{HostRoute, Router};

use super::routers::find;
use crate::auth::Session;
use crate::body::Json;
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

/// Most routes of a router, as Neutron's `max_routes` is where nobody set it.
const MOST: usize = 30;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    router: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    routes: Vec<HostRoute>,
}

/// Refuses more routes than a router can have.
pub(super) fn check(id: &str, routes: &[HostRoute]) -> Result<(), Fault> {
    if routes.len() <= MOST {
        return Ok(());
    }
    let text =
        format!("Unable to complete operation for {id}. The number of routes exceeds the maximum {MOST}.");
    Err(Fault::bad(text).named("RoutesExhausted"))
}

/// What is said where the API server refuses routes.
pub(super) fn refused(fault: Fault) -> Fault {
    if fault.message.contains("spec.routes") {
        return Fault::bad(format!("Invalid format for routes: {}", fault.message)).named("InvalidRoutes");
    }
    fault
}

/// `PUT /routers/{id}/add_extraroutes`: those that are there already stay.
pub(super) async fn add(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    change(&session, &id, |routes| {
        for route in &body.router.routes {
            if !routes.contains(route) {
                routes.push(route.clone());
            }
        }
    })
    .await
}

/// `PUT /routers/{id}/remove_extraroutes`: those that are not there are no error.
pub(super) async fn remove(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    change(&session, &id, |routes| routes.retain(|route| !body.router.routes.contains(route))).await
}

async fn change(session: &Session, id: &str, edit: impl Fn(&mut Vec<HostRoute>)) -> Answer {
    let (router, context) = find(session, id).await?;
    let routers = session.within::<Router>(ids::namespace(&router));
    let changed = change::edit(&routers, router, |router| {
        let mut routes = router.spec.routes.clone();
        edit(&mut routes);
        check(id, &routes)?;
        Ok(Changes::default().set("routes", Some(json!(routes))))
    });
    let router = changed.await.map_err(refused)?;
    Ok(ok(&json!({"router": context.router_view(&router)})))
}

/// Routes as Neutron shows them.
pub(super) fn view(routes: &[HostRoute]) -> Value {
    routes.iter().map(|route| json!({"destination": route.destination, "nexthop": route.nexthop})).collect()
}
