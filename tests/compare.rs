//! The API cases of `tests/cases`: what Yunfan answers is compared, field by field, with what a real `kube-apiserver` answers to the
//! same requests. That is recorded in `tests/cases/recorded`; with `KUBE_APISERVER=PATH` the one there is run and asked as well
//! (`tests/conformance/peers.sh` builds one), and with `YUNFAN_RECORD=1` its answers are recorded anew. `YUNFAN_CASE=NAME` runs one
//! case alone.
#![forbid(unsafe_code)]

use yunfan_tests::Cloud;
use yunfan_tests::compare::{Answer, Case, Peer, Run, Server, differences};

#[test]
fn kubernetes_answers_the_same() {
    // Nothing but the API server, as it is there: no controller and no scheduler for Kubernetes' kinds.
    let cloud = ["--controllers", "own", "--scheduler", "own"].into_iter();
    let cloud =
        cloud.fold(Cloud::builder(), |cloud, argument| cloud.argument(argument)).server_only().start();
    let ours = server(&cloud);
    let peer = Peer::path().map(|path| Peer::start(&path));
    let only = std::env::var("YUNFAN_CASE").ok();
    let mut report = Vec::new();
    let mut steps = 0;
    for case in Case::all().iter().filter(|case| only.as_ref().is_none_or(|only| *only == case.name)) {
        steps += case.steps.len();
        report.extend(compare(case, &ours, peer.as_ref().map(Peer::server)));
    }
    assert!(steps > 0, "no case was run");
    let lines = report.join("\n");
    assert!(
        report.is_empty(),
        "{} of {steps} requests are not answered as they should be:\n{lines}",
        report.len()
    );
}

/// Runs a case; one text for each step with something wrong.
fn compare(case: &Case, ours: &Server, peer: Option<&Server>) -> Vec<String> {
    let answers = Run::new(ours, &case.namespace()).all(case);
    let theirs = match peer {
        None => case.recorded(),
        Some(peer) => ask_peer(case, peer),
    };
    assert_eq!(theirs.len(), case.steps.len(), "{}: recorded of other steps, record it anew", case.name);
    let mut report = Vec::new();
    for (index, step) in case.steps.iter().enumerate() {
        let (answer, wrong) = &answers[index];
        let known = step.differs.keys().map(String::as_str);
        let mut lines = [wrong.clone(), differences(&answer.plain(), &theirs[index].plain(), known)].concat();
        if step.gap.is_some() {
            lines = if lines.is_empty() {
                vec!["is answered as it should be: its gap is none".to_owned()]
            } else {
                vec![]
            };
        }
        if !lines.is_empty() {
            report.push(format!(
                "{} step {}, {}\n  {}",
                case.name,
                index + 1,
                step.request,
                lines.join("\n  ")
            ));
        }
    }
    report
}

fn ask_peer(case: &Case, peer: &Server) -> Vec<Answer> {
    let answers = Run::new(peer, &case.namespace()).all(case);
    for (step, (_, wrong)) in case.steps.iter().zip(&answers) {
        assert!(wrong.is_empty(), "{} itself, {}: {}", peer.name, step.request, wrong.join("\n"));
    }
    let answers: Vec<Answer> = answers.iter().map(|(answer, _)| answer.plain()).collect();
    if std::env::var_os("YUNFAN_RECORD").is_some() {
        case.record(&answers);
    }
    answers
}

/// How to ask the cloud as its admin.
fn server(cloud: &Cloud) -> Server {
    let write = |name: &str, path: &str| {
        let jsonpath = format!("jsonpath={{{path}}}");
        let encoded = cloud.kubectl(&["config", "view", "--raw", "-o", &jsonpath]).ok();
        let decoded = yunfan_tests::run_with("base64", &["-d"], &[], &encoded).ok();
        let file = cloud.work().join(name);
        std::fs::write(&file, decoded).expect("a file");
        file.to_string_lossy().into_owned()
    };
    let authority = cloud.authority().to_string_lossy().into_owned();
    let certificate = write("admin.crt", ".users[0].user.client-certificate-data");
    let key = write("admin.key", ".users[0].user.client-key-data");
    let credentials = ["--cacert", &authority, "--cert", &certificate, "--key", &key].map(str::to_owned);
    Server { name: "yunfan".to_owned(), url: cloud.url(), credentials: credentials.to_vec() }
}
