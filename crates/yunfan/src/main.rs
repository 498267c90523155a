//! The `yunfan` binary: command line and wiring, nothing else.
//!
//! **Owns**: the commands, the data directory as a whole (its lock, its tag, its format), and which parts run in this process.
//!
//! **Must never know**: how any part does its work.
//!
//! Start reading at `cli.rs` (every command and flag), then `cloud.rs` (how the parts of a cloud are put together).
#![forbid(unsafe_code)]

mod access;
mod admin;
mod agent;
mod audit;
mod backup;
mod cli;
mod cloud;
mod cni;
mod controllers;
mod credentials;
mod down;
mod encryption;
mod eviction;
mod holder;
mod image;
mod instance;
mod node;
mod pods;
mod ranges;
mod remote;
mod renewal;
mod store;
mod why;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};

/// Objects are many small pieces, made and dropped on every request: the C library's allocator took a fifth of the time of a write.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of stack of each thread, of which those that are touched take memory. A body in YAML that nests as deep as may be needs more than
/// the usual 2 MiB where the compiler does not optimise.
const STACK: usize = 8 * 1024 * 1024;

fn main() -> ExitCode {
    // Before anything that could make a thread: a shim forks.
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|word| word == SHIM) {
        yunfan_runtime::shim::main(&words[2..]);
    }
    let cli = Cli::parse();
    run(cli).unwrap_or_else(|error| {
        eprintln!("yunfan: {error:#}");
        ExitCode::FAILURE
    })
}

/// The hidden sub-command that runs a Pod's shim.
pub(crate) const SHIM: &str = "shim";

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Version => {
            say(&format!("yunfan {}", env!("CARGO_PKG_VERSION")));
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "yunfan", &mut std::io::stdout());
        }
        Command::Cni { command } => return cni::run(command),
        Command::Down(options) => down::run(&options)?,
        command => {
            start_log(&cli.log)?;
            // Two providers may be compiled in one day; the choice is made here once.
            let _ = rustls::crypto::ring::default_provider().install_default();
            // Threads for blocking work that a thousand Pods needed at once go soon: each holds memory.
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder
                .enable_all()
                .thread_keep_alive(std::time::Duration::from_secs(2))
                .thread_stack_size(STACK)
                .build()?;
            let result = runtime.block_on(run_async(command));
            // Blocking work that is under way (a probe, a copy) must not hold up the end.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            result?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_async(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(options) => cloud::run(&options, true).await,
        Command::Server(options) => cloud::run(&options, false).await,
        Command::Agent(options) => agent::run(&options).await,
        Command::Node { command } => node::run(&command),
        Command::Image { command } => image::run(&command).await,
        Command::Why(options) => why::run(&options).await,
        Command::Backup(options) => backup::backup(&options).await,
        Command::Restore(options) => backup::restore(&options).await,
        Command::Secrets { command } => encryption::run(&command).await,
        Command::Version | Command::Completion { .. } | Command::Cni { .. } | Command::Down(_) => Ok(()),
    }
}

fn start_log(log: &cli::Log) -> anyhow::Result<()> {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    let filter =
        EnvFilter::try_new(&log.log).map_err(|error| anyhow::anyhow!("--log {}: {error}", log.log))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if log.log_json {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
    Ok(())
}

/// Says that all is ready, and gives back, soon and some times more, what start-up alone needed of the program's code: its end goes on
/// behind the line that tells of it.
pub(crate) fn ready(line: &str) {
    say(line);
    tokio::spawn(async {
        for pause in [250, 750, 9_000] {
            tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
            if let Err(error) = yunfan_runtime::unmap_code() {
                tracing::debug!(%error, "the code that start-up needed stays mapped");
            }
        }
    });
}

/// Writes a line to standard output. A reader that went away (`| head`) is no failure.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
