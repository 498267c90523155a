//! `/console/{uid}/vnc` and `/console/{uid}/serial`: a connection to a machine's screen or serial port takes the place of the
//! request's own. What is spoken over it is between the guest's QEMU and the client; here it is but bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::task::JoinError;
use yunfan_hypervisor::{Error, Way};

use super::{Api, Refusal, refuse};

/// What the upgrade is called.
const PROTOCOL: &str = "yunfan-console";
/// Connections to one machine at one time.
const MOST_OF_ONE: usize = 8;
/// Connections to all machines of the node at one time.
const MOST: usize = 256;

/// Who looks at consoles: connections by machine. Cheap to clone; clones are one.
#[derive(Clone, Default)]
pub(crate) struct Consoles(Arc<Mutex<HashMap<String, usize>>>);

/// One connection's place, which is free again when this goes.
struct Seat {
    consoles: Consoles,
    uid: String,
}

impl Consoles {
    fn seats(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        // Nothing panics under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one connection more; none where there are too many.
    fn take(&self, uid: &str) -> Option<Seat> {
        let mut seats = self.seats();
        if seats.values().sum::<usize>() >= MOST || seats.get(uid).is_some_and(|taken| *taken >= MOST_OF_ONE)
        {
            return None;
        }
        *seats.entry(uid.to_owned()).or_default() += 1;
        Some(Seat { consoles: self.clone(), uid: uid.to_owned() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.consoles.seats();
        if let Some(taken) = seats.get_mut(&self.uid) {
            *taken -= 1;
            if *taken == 0 {
                seats.remove(&self.uid);
            }
        }
    }
}

pub(crate) async fn connect(
    State(api): State<Api>,
    Path((uid, kind)): Path<(String, String)>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let way = match kind.as_str() {
        "vnc" => Way::Display,
        "serial" => Way::Serial,
        other => {
            return Err(refuse(StatusCode::NOT_FOUND, format!("no machine has a console {other}")).into());
        }
    };
    if request.headers().get(header::UPGRADE).is_none_or(|value| value != PROTOCOL) {
        return Err(refuse(StatusCode::BAD_REQUEST, "Upgrade request required".to_owned()).into());
    }
    let seat = api.consoles.take(&uid).ok_or_else(|| {
        let message = format!(
            "{MOST_OF_ONE} connections to the consoles of machine {uid} are open, or {MOST} on this node: close one first"
        );
        refuse(StatusCode::TOO_MANY_REQUESTS, message)
    })?;
    // Who asks may leave half-way: the place is taken as long as the machine is asked.
    let connecting = tokio::spawn(async move { (api.hypervisor.connect(&uid, way).await, seat) });
    let failed = |error: JoinError| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let (connected, seat) = connecting.await.map_err(failed)?;
    let stream = connected.map_err(|error| {
        let status = match &error {
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            // A screen that it was started without is there when it is started anew.
            Error::NotRunning { .. } | Error::Refused { .. } => StatusCode::CONFLICT,
            Error::Crowded { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        refuse(status, error.to_string())
    })?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _seat = seat;
        if let Ok(client) = upgrade.await {
            yunfan_serve::splice(TokioIo::new(client), stream).await;
        }
    });
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_places_and_each_is_given_back() {
        let consoles = Consoles::default();
        let mut seats: Vec<Seat> = (0..MOST_OF_ONE).map(|_| consoles.take("a").unwrap()).collect();
        assert!(consoles.take("a").is_none());
        seats.pop();
        seats.push(consoles.take("a").unwrap());
        let others = (0..MOST - MOST_OF_ONE).map(|number| consoles.take(&format!("b{number}")).unwrap());
        seats.extend(others.collect::<Vec<_>>());
        assert!(consoles.take("c").is_none());
        drop(seats);
        assert!(consoles.seats().is_empty() && consoles.take("c").is_some());
    }
}
