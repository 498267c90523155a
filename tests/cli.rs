//! The command line itself.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use yunfan_tests::{Cloud, binary, repository, run};

fn yunfan(arguments: &[&str]) -> String {
    run(binary(), arguments).ok()
}

/// Names in the section `Commands:` of a help text.
fn commands(help: &str) -> Vec<String> {
    let section =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = section.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .filter(|name| name != "help")
        .collect()
}

/// Checks the help of a command and of all below it; returns how many flags it saw.
fn explained(path: &[&str]) -> usize {
    let help = yunfan(&[path, &["--help"]].concat());
    let lines: Vec<&str> = help.lines().collect();
    let mut flags = 0;
    for (index, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        let is_argument = line.starts_with("  <") || line.starts_with("  [");
        if !text.starts_with('-') && !is_argument || text.starts_with("- ") {
            continue;
        }
        flags += 1;
        let same_line = text.contains("  ");
        let next_line = lines.get(index + 1).is_some_and(|next| {
            let indent = |line: &str| line.len() - line.trim_start().len();
            !next.trim().is_empty() && indent(next) > indent(line)
        });
        assert!(same_line || next_line, "{path:?} does not explain {text}:\n{help}");
    }
    let below = commands(&help);
    for name in &below {
        flags += explained(&[path, &[name.as_str()]].concat());
    }
    flags
}

#[test]
fn help_explains_every_flag() {
    let names = commands(&yunfan(&["--help"]));
    for name in [
        "up",
        "server",
        "agent",
        "down",
        "node",
        "image",
        "cni",
        "why",
        "backup",
        "restore",
        "version",
        "completion",
    ] {
        assert!(names.iter().any(|found| found == name), "no {name} among {names:?}");
    }
    let flags = explained(&[]);
    assert!(flags > 40, "only {flags} flags were seen: is the help read right?");
}

#[test]
fn version_and_mistakes() {
    assert_eq!(yunfan(&["version"]), format!("yunfan {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(yunfan(&["--version"]), format!("yunfan {}", env!("CARGO_PKG_VERSION")));
    run(binary(), &["upp"]).refused_with(&["upp"]);
    run(binary(), &["up", "--listen", "nowhere"]).refused_with(&["--listen", "nowhere"]);
    run(binary(), &["up", "--cluster-cidr", "10.0.0.0/33"]).refused_with(&["--cluster-cidr"]);
    run(binary(), &["up", "--log", "a=b=c", "--data-dir", "/var/tmp/yunfan-e2e-none"])
        .refused_with(&["--log"]);
    let none = ["--data-dir", "/var/tmp/yunfan-e2e-none"];
    for command in [["image", "list"].as_slice(), &["why", "pod", "x"], &["backup", "/dev/null"]] {
        run(binary(), &[command, &none].concat()).refused_with(&["/var/tmp/yunfan-e2e-none"]);
    }
    run(binary(), &[&["down"], none.as_slice()].concat()).ok();
    assert!(!Path::new(none[1]).exists(), "a command that only asks made a data directory");
}

#[test]
fn completion_for_three_shells() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("completion").to_string_lossy().into_owned();
    std::fs::write(&file, yunfan(&["completion", "bash"])).expect("a file");
    let ask = format!(
        ". {file}; COMP_WORDS=(yunfan im); COMP_CWORD=1; \
         $(complete -p yunfan | sed 's/.*-F \\([^ ]*\\).*/\\1/') yunfan im yunfan; echo \"${{COMPREPLY[@]}}\""
    );
    assert_eq!(run("bash", &["--norc", "-c", &ask]).ok(), "image");
    let zsh = yunfan(&["completion", "zsh"]);
    assert!(zsh.starts_with("#compdef yunfan") && zsh.contains("--data-dir"));
    let fish = yunfan(&["completion", "fish"]);
    assert!(fish.contains("complete -c yunfan") && fish.contains("data-dir"));
    run(binary(), &["completion", "tcl"]).refused_with(&["bash", "zsh", "fish"]);
}

#[test]
fn what_is_written_is_private() {
    let cloud = Cloud::start();
    let mode = |path: &Path| path.metadata().map(|meta| meta.permissions().mode() & 0o777);
    let dir = cloud.data_dir();
    assert_eq!(mode(dir).expect("the data directory"), 0o700);
    for name in ["kubeconfig", "clouds.yaml", "instance", "lock"] {
        assert_eq!(mode(&dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")), 0o600, "{name}");
    }
    let keys = std::fs::read_dir(dir.join("pki")).expect("keys").flatten();
    let mut seen = 0;
    for file in keys {
        let name = file.file_name().to_string_lossy().into_owned();
        if name.ends_with(".key") || name.contains("password") {
            seen += 1;
            assert_eq!(mode(&file.path()).expect("a key"), 0o600, "{name}");
        }
    }
    assert!(seen >= 3, "{seen} keys");
    // What a person is told to try works.
    let kubeconfig = dir.join("kubeconfig").to_string_lossy().into_owned();
    run("kubectl", &["--kubeconfig", &kubeconfig, "get", "nodes"]).ok();
}

#[test]
fn make_demo_image_prints_the_archive() {
    let root = repository().to_string_lossy().into_owned();
    let target = tempfile::tempdir().expect("a directory");
    let variable = format!("CARGO_TARGET_DIR={}", target.path().display());
    let said = run("make", &["-s", "-C", &root, "demo-image", &variable]).ok();
    let path = said.lines().last().expect("a line").to_owned();
    let inside = run("tar", &["-tf", &path]).ok();
    assert!(inside.contains("index.json") && inside.contains("oci-layout"), "{inside}");
    let again = run("make", &["-s", "-C", &root, "demo-image", &variable]).ok();
    assert_eq!(again.lines().last(), Some(path.as_str()));
}
