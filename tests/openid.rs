//! Users of an OpenID provider that others wrote: they sign in there as a browser does, and come in with the token that they are given.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use yunfan_tests::{Cloud, HookAuthority, openid_provider, run, seconds};

/// The provider, which ends with this.
struct Provider {
    process: Child,
    /// What it says of itself: `issuer`, `client` and `secret`.
    told: Value,
    authority: String,
}

impl Provider {
    fn start(dir: &Path) -> Self {
        let authority = HookAuthority::default();
        let (certificate, key) = authority.server_pair();
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("written");
            path.to_string_lossy().into_owned()
        };
        let pair = [write("server.crt", &certificate), write("server.key", &key)];
        let mut command = Command::new(openid_provider());
        let mut process =
            command.args(pair).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the provider");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let told = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the provider said {line:?}"));
        Self { process, told, authority: write("ca.crt", authority.pem()) }
    }

    fn word(&self, key: &str) -> &str {
        self.told[key].as_str().expect("text")
    }

    fn curl(&self, words: &[&str]) -> String {
        run("curl", &[&["-sS", "--cacert", &self.authority], words].concat()).ok()
    }

    /// Signs in, by the code that the browser brings back: the token that says who it is.
    fn sign_in(&self) -> String {
        let about = self.curl(&[&format!("{}/.well-known/openid-configuration", self.word("issuer"))]);
        let about: Value = serde_json::from_str(&about).expect("JSON");
        let at = |endpoint: &str| about[endpoint].as_str().expect("an address").to_owned();
        let (client, back) =
            (format!("client_id={}", self.word("client")), "redirect_uri=https://app.example/back");
        let page = format!(
            "{}?response_type=code&state=s&nonce=n&scope=openid+email+profile+groups&{client}&{back}",
            at("authorization_endpoint")
        );
        let to = self.curl(&["-o", "/dev/null", "-w", "%{redirect_url}", &page]);
        let mut parts = to.split(['?', '&']);
        let code = parts.find(|part| part.starts_with("code=")).unwrap_or_else(|| panic!("no code: {to}"));
        let secret = format!("client_secret={}", self.word("secret"));
        let form =
            ["-d", "grant_type=authorization_code", "-d", code, "-d", &client, "-d", &secret, "-d", back];
        let given = self.curl(&[&form[..], &[&at("token_endpoint")]].concat());
        let given: Value = serde_json::from_str(&given).expect("JSON");
        given["id_token"].as_str().unwrap_or_else(|| panic!("no token: {given}")).to_owned()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn who(cloud: &Cloud, token: &str) -> Result<Value, String> {
    let said = cloud.kubectl_as(token, &["auth", "whoami", "-o", "json"]).as_probe()?;
    let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    Ok(said["status"]["userInfo"].clone())
}

#[test]
fn who_signs_in_at_an_openid_provider_comes_in() {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let provider = Provider::start(dir.path());
    let start = |client: &str| {
        let builder = Cloud::builder().server_only();
        let flags = [
            ("issuer-url", provider.word("issuer")),
            ("client-id", client),
            ("ca-file", &provider.authority),
            ("username-claim", "email"),
            ("groups-claim", "groups"),
            ("groups-prefix", "id:"),
        ];
        let builder = flags
            .iter()
            .fold(builder, |builder, (flag, value)| builder.argument(&format!("--oidc-{flag}={value}")));
        builder.start()
    };
    let cloud = start(provider.word("client"));
    let token = provider.sign_in();
    let user = cloud.until("the provider is found", seconds(20), || who(&cloud, &token));
    let name = user["username"].as_str().expect("a name");
    assert!(name.contains('@'), "{user}");
    let groups = user["groups"].as_array().expect("groups");
    assert!(
        groups.iter().any(|group| group.as_str().is_some_and(|group| group.starts_with("id:"))),
        "{user}"
    );
    cloud.kubectl(&["create", "clusterrolebinding", "seen", "--clusterrole=view", "--user", name]).ok();
    cloud.kubectl_as(&token, &["get", "pods"]).ok();
    cloud.kubectl_as(&token, &["get", "secrets"]).refused();
    // Another's signature over the same words.
    let other = provider.sign_in();
    let (words, signature) =
        (token.rsplit_once('.').expect("a JWT").0, other.rsplit_once('.').expect("a JWT").1);
    if !token.ends_with(signature) {
        assert!(who(&cloud, &format!("{words}.{signature}")).is_err());
    }
    assert!(who(&cloud, words).is_err());
    cloud.terminate();
    // It is for the client that asked for it, and for no other.
    let elsewhere = start("another");
    elsewhere.kubectl(&["get", "namespaces"]).ok();
    assert!(who(&elsewhere, &token).is_err());
}
