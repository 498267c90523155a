//! Configurations as cert-manager, Kyverno and Gatekeeper install them: definitions, webhooks on nearly everything, signers, constraints
//! made of templates. The servers behind them are the test's own, and answer in those programs' ways.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use yunfan_tests::{Cloud, Hook, HookAuthority, seconds};

fn server() -> Cloud {
    Cloud::builder().server_only().start()
}

/// An answer to a review.
fn review(body: &Value, response: Value) -> Value {
    let mut response = response;
    response["uid"] = body["request"]["uid"].clone();
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// A webhook's path without the time that it is given, which comes behind it.
fn called(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn allowed(body: &Value) -> Option<Value> {
    Some(review(body, json!({"allowed": true})))
}

fn denied(body: &Value, message: &str) -> Option<Value> {
    Some(review(body, json!({"allowed": false, "status": {"code": 403, "message": message}})))
}

fn patched(body: &Value, patch: &Value) -> Option<Value> {
    let patch = STANDARD.encode(patch.to_string());
    Some(review(body, json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})))
}

fn apply(cloud: &Cloud, object: &Value) {
    cloud.kubectl_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

/// A definition of the plainest kind.
fn definition(group: &str, kind: &str, scope: &str, spec: &Value) -> Value {
    let singular = kind.to_lowercase();
    let plural = format!("{singular}s");
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": scope, "names": {"kind": kind, "plural": plural, "singular": singular},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": spec,
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }}},
            }],
        },
    })
}

fn established(cloud: &Cloud, name: &str) {
    let wait = ["wait", "--for=condition=Established", &format!("crd/{name}"), "--timeout=20s"];
    cloud.kubectl(&wait).ok();
}

/// What cert-manager brings: its definitions, a webhook whose authority is injected later, its own account that approves for its signers
/// alone.
#[test]
fn as_cert_manager() {
    let (cloud, authority) = (server(), HookAuthority::default());
    let hook = Hook::start(&authority, |path, body| {
        let (request, object) = (&body["request"], &body["request"]["object"]);
        match called(path) {
            "/mutate" => patched(
                body,
                &json!([{"op": "add", "path": "/spec/username", "value": request["userInfo"]["username"]}]),
            ),
            _ if object["spec"]["secretName"].as_str() == Some("") => {
                denied(body, "spec.secretName: Required value: must be specified")
            }
            _ => allowed(body),
        }
    });
    let spec = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    for kind in ["Certificate", "CertificateRequest"] {
        apply(&cloud, &definition("cert-manager.io", kind, "Namespaced", &spec));
        established(&cloud, &format!("{}s.cert-manager.io", kind.to_lowercase()));
    }
    cloud.kubectl(&["create", "namespace", "cert-manager"]).ok();
    cloud.kubectl(&["label", "namespace", "cert-manager", "cert-manager.io/disable-validation=true"]).ok();
    let configuration = |kind: &str, path: &str, resource: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": "cert-manager-webhook",
                "annotations": {"cert-manager.io/inject-ca-from-secret": "cert-manager/cert-manager-webhook-ca"}},
            "webhooks": [{
                "name": "webhook.cert-manager.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "matchPolicy": "Equivalent", "timeoutSeconds": 10, "failurePolicy": "Fail",
                "rules": [{"apiGroups": ["cert-manager.io", "acme.cert-manager.io"], "apiVersions": ["v1"],
                    "operations": ["CREATE", "UPDATE"], "resources": [resource]}],
                "namespaceSelector": {"matchExpressions": [
                    {"key": "cert-manager.io/disable-validation", "operator": "NotIn", "values": ["true"]}]},
                "clientConfig": {"url": format!("{}{path}", hook.url())},
            }],
        })
    };
    let webhooks = [
        configuration("MutatingWebhookConfiguration", "/mutate", "certificaterequests"),
        configuration("ValidatingWebhookConfiguration", "/validate", "*/*"),
    ];
    webhooks.iter().for_each(|webhook| apply(&cloud, webhook));
    let certificate = |name: &str, secret: &str| {
        json!({"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": name},
            "spec": {"secretName": secret, "dnsNames": ["example.com"]}})
        .to_string()
    };
    let create = |name: &str, secret: &str, more: &[&str]| {
        cloud.kubectl_with(&[&["create", "-f", "-"], more].concat(), &certificate(name, secret))
    };
    // Nobody vouches for the webhook yet: what it guards is refused, but not where it is not asked.
    create("web", "web-tls", &[]).refused_with(&["failed calling webhook \"webhook.cert-manager.io\""]);
    create("own", "own-tls", &["-n", "cert-manager"]).ok();
    let inject = json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": STANDARD.encode(authority.pem())}]);
    for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
        cloud
            .kubectl(&["patch", kind, "cert-manager-webhook", "--type=json", "-p", &inject.to_string()])
            .ok();
    }
    cloud.until("the webhook is vouched for", seconds(20), || create("web", "web-tls", &[]).as_probe());
    create("bad", "", &[]).refused_with(&[
        "admission webhook \"webhook.cert-manager.io\" denied the request",
        "must be specified",
    ]);
    // Applied again by whoever installed it, without the authority: what another owner put in stays.
    webhooks.iter().for_each(|webhook| apply(&cloud, webhook));
    create("again", "again-tls", &[]).ok();
    let request = json!({"apiVersion": "cert-manager.io/v1", "kind": "CertificateRequest",
        "metadata": {"name": "web-1"}, "spec": {"request": "Zm9v"}});
    apply(&cloud, &request);
    let user = cloud.kubectl(&["get", "certificaterequest", "web-1", "-o", "jsonpath={.spec.username}"]).ok();
    assert_eq!(user, cloud.kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).ok());
    signers(&cloud);
}

/// Its account approves requests for its own signers, and no others.
fn signers(cloud: &Cloud) {
    cloud.kubectl(&["create", "serviceaccount", "cert-manager", "-n", "cert-manager"]).ok();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "approver"},
        "rules": [
            {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"], "verbs": ["get", "list", "watch", "update"]},
            {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"],
                "verbs": ["update", "patch"]},
            {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
                "resourceNames": ["issuers.cert-manager.io/*", "clusterissuers.cert-manager.io/*"], "verbs": ["approve", "sign"]},
        ],
    });
    apply(cloud, &role);
    let account = "--serviceaccount=cert-manager:cert-manager";
    cloud.kubectl(&["create", "clusterrolebinding", "approver", "--clusterrole=approver", account]).ok();
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["example.com".to_owned()]).expect("a name");
    params.distinguished_name.push(rcgen::DnType::CommonName, "example.com");
    let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    for (name, signer) in
        [("own", "issuers.cert-manager.io/default.ca"), ("master", "kubernetes.io/kube-apiserver-client")]
    {
        let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"request": STANDARD.encode(&pem), "signerName": signer, "usages": ["client auth"]}});
        apply(cloud, &request);
    }
    let token = cloud.kubectl(&["create", "token", "cert-manager", "-n", "cert-manager"]).ok();
    let config = cloud.kubeconfig_with_token("cert-manager", &token);
    let config = config.to_string_lossy();
    let approve = |name: &str| cloud.kubectl(&["--kubeconfig", &config, "certificate", "approve", name]);
    approve("own").ok();
    approve("master").refused_with(&[
        "not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\"",
    ]);
    // (`kubectl auth can-i` knows no group of what discovery does not name.)
    let may = |signer: &str| {
        let attributes =
            json!({"group": "certificates.k8s.io", "resource": "signers", "name": signer, "verb": "sign"});
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}});
        let words = [
            "--kubeconfig",
            &*config,
            "create",
            "--validate=false",
            "-o",
            "jsonpath={.status.allowed}",
            "-f",
            "-",
        ];
        cloud.kubectl_with(&words, &review.to_string()).ok() == "true"
    };
    assert!(may("issuers.cert-manager.io/*"));
    assert!(!may("kubernetes.io/kubelet-serving"));
}

/// What Kyverno's resource webhooks decide here: no image without a version, each workload has an owner's label, which comes of itself in
/// one namespace.
fn kyverno(path: &str, body: &Value) -> Option<Value> {
    let (request, object) = (&body["request"], &body["request"]["object"]);
    if path.starts_with("/mutate") {
        let is_pod = request["kind"]["kind"] == "Pod" && request["operation"] == "CREATE";
        if !is_pod || object["metadata"]["labels"]["owner"].is_string() {
            return allowed(body);
        }
        let patch = if object["metadata"]["labels"].is_object() {
            json!([{"op": "add", "path": "/metadata/labels/owner", "value": "platform"}])
        } else {
            json!([{"op": "add", "path": "/metadata/labels", "value": {"owner": "platform"}}])
        };
        return patched(body, &patch);
    }
    let spec = if object["spec"]["template"].is_object() {
        &object["spec"]["template"]["spec"]
    } else {
        &object["spec"]
    };
    let images = spec["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|container| container["image"].as_str());
    if images.clone().any(|image| image.ends_with(":latest")) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let kind = request["kind"]["kind"].as_str().unwrap_or_default();
        return denied(
            body,
            &format!(
                "\n\nresource {kind}/{}/{name} was blocked due to the following policies \n\ndisallow-latest-tag:\n  require-image-tag: \
             'validation error: a version is needed'\n",
                request["namespace"].as_str().unwrap_or_default()
            ),
        );
    }
    if images.clone().any(|image| !image.contains(':')) {
        return Some(review(
            body,
            json!({"allowed": true, "warnings": ["policy image-tag: an image without a version"]}),
        ));
    }
    allowed(body)
}

/// One webhook of Kyverno's.
fn kyverno_hook(name: &str, url: &str, authority: &HookAuthority, policy: &str) -> Value {
    json!({
        "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "NoneOnDryRun", "matchPolicy": "Equivalent",
        "failurePolicy": policy, "timeoutSeconds": 2,
        "clientConfig": {"url": url, "caBundle": STANDARD.encode(authority.pem())},
        "rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE", "DELETE", "CONNECT"],
            "resources": ["*/*"], "scope": "*"}],
        "namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kyverno", "kube-system"]}]},
        "matchConditions": [{"name": "exclude-own",
            "expression": "!('system:serviceaccounts:kyverno' in request.userInfo.groups)"}],
    })
}

/// What Kyverno brings: webhooks on everything, with exceptions by namespace and by account, that mutate, refuse and warn.
#[test]
fn as_kyverno() {
    let (cloud, authority) = (server(), HookAuthority::default());
    let hook = Hook::start(&authority, kyverno);
    cloud.kubectl(&["create", "namespace", "kyverno"]).ok();
    cloud.kubectl(&["create", "serviceaccount", "engine", "-n", "kyverno"]).ok();
    cloud
        .kubectl(&[
            "create",
            "clusterrolebinding",
            "engine",
            "--clusterrole=cluster-admin",
            "--serviceaccount=kyverno:engine",
        ])
        .ok();
    let install = |url: &str, policy: &str| {
        for (kind, path) in [
            ("MutatingWebhookConfiguration", "/mutate/fail"),
            ("ValidatingWebhookConfiguration", "/validate/fail"),
        ] {
            let mut webhook =
                kyverno_hook("resource.kyverno.svc-fail", &format!("{url}{path}"), &authority, policy);
            if kind.starts_with("Mutating") {
                webhook["reinvocationPolicy"] = json!("IfNeeded");
            }
            apply(
                &cloud,
                &json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                "metadata": {"name": "kyverno-resource-cfg", "labels": {"webhook.kyverno.io/managed-by": "kyverno"}}, "webhooks": [webhook]}),
            );
        }
    };
    install(hook.url(), "Fail");
    let run = |name: &str, image: &str, more: &[&str]| {
        cloud.kubectl(&[&["run", name, "--image", image], more].concat())
    };
    cloud.until("the webhooks are asked", seconds(20), || {
        let tried = run("try", "demo/web:latest", &["--dry-run=server"]);
        if tried.succeeded() { Err("was let in".to_owned()) } else { Ok(()) }
    });
    run("late", "demo/web:latest", &[]).refused_with(&[
        "resource.kyverno.svc-fail",
        "disallow-latest-tag",
        "a version is needed",
    ]);
    let warned = run("bare", "demo/web", &[]);
    assert!(warned.succeeded() && warned.stderr.contains("an image without a version"), "{warned}");
    run("good", "demo/web:1", &[]).ok();
    let owner =
        |name: &str| cloud.kubectl(&["get", "pod", name, "-o", "jsonpath={.metadata.labels.owner}"]).ok();
    assert_eq!(owner("good"), "platform");
    run("tamed", "demo/web:1", &["--labels=owner=me"]).ok();
    assert_eq!(owner("tamed"), "me");
    // What its template says is refused with the workload, and what its loops make is mutated as anyone's.
    cloud
        .kubectl(&["create", "deployment", "late", "--image=demo/web:latest"])
        .refused_with(&["Deployment/default/late"]);
    cloud.kubectl(&["create", "deployment", "shop", "--image=demo/web:1"]).ok();
    cloud.until("the Deployment's Pod has an owner", seconds(20), || {
        let labels = cloud.kubectl(&["get", "pods", "-l", "app=shop,owner=platform", "-o", "name"]);
        if labels.ok().is_empty() { Err("none has".to_owned()) } else { Ok(()) }
    });
    // Who is excepted is not asked about.
    let token = cloud.kubectl(&["create", "token", "engine", "-n", "kyverno"]).ok();
    let engine = cloud.kubeconfig_with_token("engine", &token);
    run("late", "demo/web:latest", &["--kubeconfig", &engine.to_string_lossy()]).ok();
    run("late", "demo/web:latest", &["-n", "kyverno"]).ok();
    let asked = hook.asked();
    let seen = |field: &str, value: &str| asked.iter().any(|body| body["request"][field] == value);
    assert!(seen("operation", "CREATE") && seen("operation", "UPDATE"), "all that happens is shown");
    assert!(asked.iter().all(|body| body["request"]["namespace"] != "kube-system"));
    // It is gone: what must not pass unasked is refused, and its own removal is not.
    install("https://127.0.0.1:9", "Fail");
    cloud.until("the webhook is away", seconds(20), || {
        let tried = run("none", "demo/web:1", &["--dry-run=server"]);
        if tried.succeeded() {
            Err("was let in".to_owned())
        } else {
            Ok(tried.refused_with(&["resource.kyverno.svc-fail"]))
        }
    });
    cloud
        .kubectl(&[
            "delete",
            "mutatingwebhookconfigurations,validatingwebhookconfigurations",
            "-l",
            "webhook.kyverno.io/managed-by=kyverno",
        ])
        .ok();
    cloud.until("nobody is asked any more", seconds(20), || run("free", "demo/web:latest", &[]).as_probe());
}

/// What Gatekeeper brings: templates, of which it makes definitions of constraints; a webhook that lets all in when it is away, and one for
/// its own label that does not. And the policy that it makes of a constraint in newer versions.
#[test]
fn as_gatekeeper() {
    let (cloud, authority) = (server(), HookAuthority::default());
    let hook = Hook::start(&authority, |path, body| {
        let object = &body["request"]["object"];
        let labels = &object["metadata"]["labels"];
        match called(path) {
            "/v1/admitlabel" if labels["admission.gatekeeper.sh/ignore"].is_string() => {
                denied(body, "Only exempt namespace can have the admission.gatekeeper.sh/ignore label")
            }
            "/v1/admit" if object["kind"] == "Namespace" && !labels["gatekeeper"].is_string() => {
                denied(body, "[ns-must-have-gk] you must provide labels: {\"gatekeeper\"}")
            }
            _ => allowed(body),
        }
    });
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    apply(&cloud, &definition("templates.gatekeeper.sh", "ConstraintTemplate", "Cluster", &any));
    established(&cloud, "constrainttemplates.templates.gatekeeper.sh");
    apply(
        &cloud,
        &json!({"apiVersion": "templates.gatekeeper.sh/v1", "kind": "ConstraintTemplate",
        "metadata": {"name": "k8srequiredlabels"},
        "spec": {"crd": {"spec": {"names": {"kind": "K8sRequiredLabels"}}},
            "targets": [{"target": "admission.k8s.gatekeeper.sh", "rego": "package k8srequiredlabels\n"}]}}),
    );
    let constraint = json!({"type": "object", "properties": {
        "enforcementAction": {"type": "string", "default": "deny", "enum": ["deny", "dryrun", "warn"]},
        "match": any, "parameters": {"type": "object", "required": ["labels"], "properties": {
            "labels": {"type": "array", "items": {"type": "string"}}}},
    }});
    apply(&cloud, &definition("constraints.gatekeeper.sh", "K8sRequiredLabel", "Cluster", &constraint));
    established(&cloud, "k8srequiredlabels.constraints.gatekeeper.sh");
    let parameters = |labels: Value| {
        json!({"apiVersion": "constraints.gatekeeper.sh/v1", "kind": "K8sRequiredLabel",
        "metadata": {"name": "ns-must-have-gk"}, "spec": {"match": {"kinds": [{"apiGroups": [""], "kinds": ["Namespace"]}]}, "parameters": labels}})
    };
    let refused = cloud.kubectl_with(&["apply", "-f", "-"], &parameters(json!({"labels": [7]})).to_string());
    refused.refused_with(&["spec.parameters.labels[0]"]);
    apply(&cloud, &parameters(json!({"labels": ["team"]})));
    let action = cloud
        .kubectl(&["get", "k8srequiredlabels", "ns-must-have-gk", "-o", "jsonpath={.spec.enforcementAction}"])
        .ok();
    assert_eq!(action, "deny", "by default");

    gatekeeper_hooks(&cloud, &hook, &authority);
    constraint_as_policy(&cloud);
}

fn gatekeeper_hooks(cloud: &Cloud, hook: &Hook, authority: &HookAuthority) {
    let install = |url: &str| {
        let webhook = |name: &str, path: &str, policy: &str, rule: Value| {
            json!({
                "name": name, "admissionReviewVersions": ["v1", "v1beta1"], "sideEffects": "None", "timeoutSeconds": 3, "matchPolicy": "Exact",
                "failurePolicy": policy, "clientConfig": {"url": format!("{url}{path}"), "caBundle": STANDARD.encode(authority.pem())},
                "namespaceSelector": {"matchExpressions": [{"key": "admission.gatekeeper.sh/ignore", "operator": "DoesNotExist"}]},
                "rules": [rule],
            })
        };
        let all = json!({"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*",
            "pods/ephemeralcontainers", "pods/exec", "pods/log", "pods/eviction", "pods/portforward", "pods/proxy", "pods/attach",
            "pods/binding", "deployments/scale", "replicasets/scale", "statefulsets/scale", "replicationcontrollers/scale",
            "services/proxy", "nodes/proxy", "services/status"]});
        let mut label = webhook(
            "check-ignore-label.gatekeeper.sh",
            "/v1/admitlabel",
            "Fail",
            json!({"apiGroups": [""], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["namespaces"]}),
        );
        // This one is asked about every namespace.
        label["namespaceSelector"] = json!({});
        let webhooks = [webhook("validation.gatekeeper.sh", "/v1/admit", "Ignore", all), label];
        apply(
            cloud,
            &json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "gatekeeper-validating-webhook-configuration"}, "webhooks": webhooks}),
        );
    };
    install(hook.url());
    let create = |name: &str, label: &str| {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {label: "x"}}});
        cloud.kubectl_with(&["create", "-f", "-"], &namespace.to_string())
    };
    cloud.until("the webhook is asked", seconds(20), || {
        let tried = cloud.kubectl(&["create", "namespace", "bare", "--dry-run=server"]);
        if tried.succeeded() { Err("was let in".to_owned()) } else { Ok(()) }
    });
    create("bare", "other").refused_with(&[
        "admission webhook \"validation.gatekeeper.sh\" denied the request",
        "[ns-must-have-gk] you must provide labels",
    ]);
    create("ours", "gatekeeper").ok();
    create("sly", "admission.gatekeeper.sh/ignore")
        .refused_with(&["check-ignore-label.gatekeeper.sh", "Only exempt namespace"]);
    cloud
        .kubectl(&["label", "namespace", "ours", "admission.gatekeeper.sh/ignore=yes"])
        .refused_with(&["Only exempt namespace"]);
    // Away: the one lets all in, the other nothing.
    install("https://127.0.0.1:9");
    cloud.until("the webhooks are away", seconds(20), || {
        let tried = create("away", "other");
        if tried.stderr.contains("check-ignore-label.gatekeeper.sh")
            && tried.stderr.contains("failed calling")
        {
            Ok(())
        } else {
            Err(tried.to_string())
        }
    });
    cloud.kubectl(&["create", "configmap", "unasked"]).ok();
    cloud
        .kubectl(&["delete", "validatingwebhookconfiguration", "gatekeeper-validating-webhook-configuration"])
        .ok();
}

/// The constraint as a policy of the API server itself, with the constraint as its parameters.
fn constraint_as_policy(cloud: &Cloud) {
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "gatekeeper-k8srequiredlabels"},
        "spec": {
            "paramKind": {"apiVersion": "constraints.gatekeeper.sh/v1", "kind": "K8sRequiredLabel"},
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["namespaces"]}]},
            "variables": [{"name": "missing", "expression":
                "params.spec.parameters.labels.filter(label, !has(object.metadata.labels) || !(label in object.metadata.labels))"}],
            "validations": [{"expression": "size(variables.missing) == 0",
                "messageExpression": "'missing required labels: ' + variables.missing.join(', ')"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "gatekeeper-ns-must-have-gk"},
        "spec": {"policyName": "gatekeeper-k8srequiredlabels", "validationActions": ["Deny"],
            "paramRef": {"name": "ns-must-have-gk", "parameterNotFoundAction": "Allow"}},
    });
    apply(cloud, &policy);
    apply(cloud, &binding);
    let said = cloud.until("the policy holds", seconds(20), || {
        let tried = cloud.kubectl(&["create", "namespace", "teamless", "--dry-run=server"]);
        if tried.succeeded() { Err("was let in".to_owned()) } else { Ok(tried.stderr) }
    });
    assert!(said.contains("missing required labels: team"), "{said}");
    // The constraint's next version is what counts.
    let none = json!([{"op": "replace", "path": "/spec/parameters/labels", "value": []}]);
    cloud
        .kubectl(&["patch", "k8srequiredlabels", "ns-must-have-gk", "--type=json", "-p", &none.to_string()])
        .ok();
    cloud.until("nothing is required", seconds(20), || {
        cloud.kubectl(&["create", "namespace", "teamless"]).as_probe()
    });
}
