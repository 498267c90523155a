//! Running programs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::Value;

/// What a program did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its command line.
    pub command: String,
    /// Its exit code; 124 when it took longer than it may.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ran {
    /// Whether it ended with 0.
    pub fn succeeded(&self) -> bool {
        self.code == 0
    }

    /// Its standard output without blanks at both ends; fails the test where it did not succeed.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert!(self.succeeded(), "{self}");
        self.stdout.trim().to_owned()
    }

    /// Its standard output as JSON; fails the test where it did not succeed, or where it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.ok()).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }

    /// All that it wrote; fails the test where it succeeded.
    #[track_caller]
    pub fn refused(&self) -> String {
        assert!(self.code != 0 && self.code != 124, "was expected to fail: {self}");
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Fails the test where it succeeded, or did not say every one of `words`.
    #[track_caller]
    pub fn refused_with(&self, words: &[&str]) -> String {
        let said = self.refused();
        for word in words {
            assert!(said.contains(word), "did not say {word:?}: {self}");
        }
        said
    }

    /// As a probe's result: what it printed, or what it did.
    pub fn as_probe(&self) -> Result<String, String> {
        if self.succeeded() { Ok(self.stdout.trim().to_owned()) } else { Err(self.to_string()) }
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with {}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.code,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }
}

/// Runs a program with the environment of the tests.
#[track_caller]
pub fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Ran {
    run_with(program, arguments, &[], "")
}

/// Runs a program with variables added to its environment, and something on its standard input. None may take
/// longer than two minutes.
#[track_caller]
pub fn run_with(
    program: impl AsRef<Path>,
    arguments: &[&str],
    environment: &[(String, String)],
    input: &str,
) -> Ran {
    run_within(Duration::from_secs(120), program, arguments, environment, input)
}

/// [`run_with`] for programs that may take longer, or not so long.
#[track_caller]
pub fn run_within(
    limit: Duration,
    program: impl AsRef<Path>,
    arguments: &[&str],
    environment: &[(String, String)],
    input: &str,
) -> Ran {
    let program = program.as_ref();
    let command = format!("{} {}", program.display(), arguments.join(" "));
    let mut child = Command::new("timeout")
        .args(["-k", "5", &limit.as_secs().to_string()])
        .arg(program)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command}: {error}"));
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.as_bytes().to_vec();
        // A thread of its own: the program may write much before it reads. It may also end without reading at all.
        std::thread::spawn(move || stdin.write_all(&input));
    }
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("{command}: {error}"));
    Ran {
        command,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A manifest as kubectl reads it. It takes what begins with a brace for JSON, which YAML in flow style is not.
pub(crate) fn manifest(arguments: &[&str], input: &str) -> String {
    let is_flow = arguments.contains(&"apply") && input.starts_with('{');
    if is_flow { format!("---\n{input}") } else { input.to_owned() }
}

/// A program that runs until the test is done with it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// Starts a program with variables added to its environment. What it writes to standard error is thrown away.
    #[track_caller]
    pub(crate) fn start(program: &Path, arguments: &[&str], environment: &[(String, String)]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            // What nobody asks for must be read too, or the program would stop.
            std::thread::spawn(move || {
                let lines = BufReader::new(stdout).lines().map_while(Result::ok);
                lines.for_each(|line| drop(sender.send(line)));
            });
        }
        Self { child, lines }
    }

    /// The next line of its standard output; none when there is none for a minute, or it has ended.
    pub fn line(&self) -> Option<String> {
        self.lines.recv_timeout(Duration::from_secs(60)).ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
