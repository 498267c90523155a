//! `/exec/{namespace}/{pod}/{container}`, `/attach/…` of the same form, and `/portForward/{namespace}/{pod}`: what goes on over
//! an upgraded connection.

use std::future::Future;
use std::net::Ipv4Addr;

use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;
use http::StatusCode;
use yunfan_runtime::{ContainerId, ExecConfig, ExecSession};

use super::streams::Transport;
use super::streams::forward::{self, Target};
use super::streams::remote::{self, Wanted};
use super::{Api, Refusal, find_pod, reach, refuse, running_container, running_pod};

pub(crate) async fn exec(
    State(api): State<Api>,
    Path(place): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let query = Query::parse(query);
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        let message = "you must specify at least 1 command for the container";
        return Err(refuse(StatusCode::BAD_REQUEST, message.to_owned()).into());
    }
    let runtime = api.runtime.clone();
    let start = |id: ContainerId, wanted: Wanted| async move {
        let config = ExecConfig { command, tty: wanted.tty, stdin: wanted.stdin };
        runtime.exec(&id, config).await
    };
    serve(&api, place, &query, request, start).await
}

pub(crate) async fn attach(
    State(api): State<Api>,
    Path(place): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let runtime = api.runtime.clone();
    let start = |id: ContainerId, wanted: Wanted| async move {
        let session = runtime.attach(&id, wanted.stdin).await?;
        // How the container ended stands in the Pod's status; that attaching went well is all that is said here.
        let exit = session.exit;
        Ok(ExecSession { exit: Box::pin(async move { exit.await.map(|_| 0) }), ..session })
    };
    serve(&api, place, &Query::parse(query), request, start).await
}

async fn serve<F>(
    api: &Api,
    place: (String, String, String),
    query: &Query,
    request: Request,
    start: impl FnOnce(ContainerId, Wanted) -> F + Send + 'static,
) -> Result<Response, Refusal>
where
    F: Future<Output = yunfan_runtime::Result<ExecSession>> + Send,
{
    let wanted = query.wanted();
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        let message = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(refuse(StatusCode::BAD_REQUEST, message.to_owned()).into());
    }
    let transport = Transport::agree(request.headers(), &remote::PROTOCOLS)?;
    let (namespace, pod, container) = place;
    let id = running_container(api, &namespace, &pod, &container).await?;
    let served = move |io, transport| remote::serve(io, transport, wanted, start(id, wanted));
    Ok(transport.switch(request, served))
}

pub(crate) async fn port_forward(
    State(api): State<Api>,
    Path((namespace, pod)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let transport = Transport::agree(request.headers(), &forward::PROTOCOLS)?;
    let query = Query::parse(query);
    let named: Vec<&str> = query.all("ports").chain(query.all("port")).collect();
    let ports = transport.names_ports().then(|| forward::ports(&named)).transpose();
    let ports = ports.map_err(|message| refuse(StatusCode::BAD_REQUEST, message))?.unwrap_or_default();
    let uid = running_pod(&api, &namespace, &pod).await?;
    let object = find_pod(&api, &namespace, &pod)?;
    let target = Target::new(reach(&api, &object, uid.clone(), Ipv4Addr::LOCALHOST.into()), pod, uid);
    Ok(transport.switch(request, move |io, transport| forward::serve(io, transport, target, ports)))
}

/// Names and values, in their order.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: Option<String>) -> Self {
        // The extractor does the decoding; a list of pairs keeps repeated names.
        let uri = format!("/?{}", query.unwrap_or_default()).parse::<http::Uri>();
        let pairs = uri.ok().and_then(|uri| axum::extract::Query::try_from_uri(&uri).ok());
        Self(pairs.map(|pairs| pairs.0).unwrap_or_default())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Streams have the kubelet's or the API server's names.
    fn wanted(&self) -> Wanted {
        let on =
            |names: [&str; 2]| names.iter().any(|name| self.all(name).any(|v| matches!(v, "1" | "true")));
        Wanted {
            stdin: on(["input", "stdin"]),
            stdout: on(["output", "stdout"]),
            stderr: on(["error", "stderr"]),
            tty: on(["tty", "tty"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_the_command_word_by_word() {
        let query = "command=sh&command=-c&command=echo%20hi&input=1&output=1&tty=true";
        let query = Query::parse(Some(query.to_owned()));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo hi"]);
        assert_eq!(query.wanted(), Wanted { stdin: true, stdout: true, stderr: false, tty: true });
        assert_eq!(Query::parse(None).wanted(), Wanted::default());
    }
}
