//! OpenStack's own tests: Tempest's smoke tests against a fresh cloud, with the configuration that `make tempest-conf` writes.

use std::path::Path;
use std::time::Duration;

use yunfan_tests::{Cloud, repository, run_within};

/// Far longer than they take: they must end all the same.
const LONGEST: Duration = Duration::from_secs(40 * 60);
/// Of the tests that are not excluded, how many pass at least. That tests skip themselves must not hide that nothing was tried.
const LEAST: usize = 55;
/// Tempest's tests of consoles.
const CONSOLES: &str = "test_novnc|test_get_vnc_console";

/// The number behind a label of Tempest's summary.
fn number(text: &str, label: &str) -> usize {
    let line = text.lines().rfind(|line| line.trim_start().starts_with(label));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

#[test]
fn tempest_smoke_tests_pass() {
    let cloud = Cloud::start();
    let conf = cloud.work().join("tempest.conf").to_string_lossy().into_owned();
    let clouds = cloud.data_dir().join("clouds.yaml").to_string_lossy().into_owned();
    let authority = cloud.authority().to_string_lossy().into_owned();
    let environment = [
        ("OS_CLOUD", "yunfan".to_owned()),
        ("OS_CLIENT_CONFIG_FILE", clouds),
        ("TEMPEST_AUTHORITY", authority),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let script = |name: &str| {
        let path = repository().join("tests/tempest").join(name);
        run_within(LONGEST, Path::new(&path), &[&conf], &environment, "")
    };
    script("conf.sh").ok();
    let ran = script("run.sh");
    let (passed, failed) = (number(&ran.stdout, "- Passed:"), number(&ran.stdout, "- Failed:"));
    assert!(ran.succeeded() && failed == 0, "{passed} passed, {failed} failed\n{ran}");
    assert!(passed >= LEAST, "{passed} passed: the others skipped themselves\n{ran}");
    // A real guest's screen over a real WebSocket, which no smoke test looks at.
    let run = repository().join("tests/tempest/run.sh");
    let looked = run_within(LONGEST, &run, &[&conf, "--regex", CONSOLES], &environment, "");
    let (passed, failed) = (number(&looked.stdout, "- Passed:"), number(&looked.stdout, "- Failed:"));
    assert!(looked.succeeded() && failed == 0 && passed == 3, "{passed} passed, {failed} failed\n{looked}");
}
