//! Text of Secrets that is looked for where nobody should find it.

use std::path::Path;

use crate::{Cloud, run};

/// Text that nothing else holds, as it is and in base64.
pub struct Marker(pub String);

impl Marker {
    /// Another one.
    #[allow(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        Self(format!("marker-{:032x}", rand::random::<u128>()))
    }

    /// The files below a directory that hold it. (Three ways of base64, by where it begins.)
    pub fn found(&self, dir: &Path) -> Vec<String> {
        let mut words = vec![self.0.clone()];
        for shift in 0..3 {
            let text = format!("{}{}", "x".repeat(shift), self.0);
            let encoded = run("sh", &["-c", &format!("printf %s '{text}' | base64 -w0")]).ok();
            // What the neighbours have a part in is left out.
            words.push(encoded.trim()[4..encoded.trim().len() - 4].to_owned());
        }
        let mut arguments = vec!["-rlaF"];
        for word in &words {
            arguments.extend(["-e", word]);
        }
        let dir = dir.to_string_lossy().into_owned();
        arguments.push(&dir);
        let said = run("grep", &arguments);
        assert!(said.code <= 1, "{said}");
        said.stdout.lines().map(str::to_owned).collect()
    }
}

/// Makes a Secret that holds it.
#[track_caller]
pub fn create(cloud: &Cloud, name: &str, marker: &Marker) {
    let value = format!("--from-literal=password={}", marker.0);
    cloud.kubectl(&["create", "secret", "generic", name, &value]).ok();
}

/// What a Secret holds.
#[track_caller]
pub fn value(cloud: &Cloud, name: &str) -> String {
    let encoded = cloud.get(&["secret", name])["data"]["password"].as_str().expect("a value").to_owned();
    run("sh", &["-c", &format!("printf %s '{encoded}' | base64 -d")]).ok()
}
