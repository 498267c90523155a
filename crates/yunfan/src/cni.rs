//! `yunfan cni`: the network plug-in of container runtimes behind CRI, and its installation.

use std::process::ExitCode;

use yunfan_cri::cni::{self, HANDOVER, Install};

use crate::cli::CniCommand;
use crate::say;

/// Without a command it is the plug-in, whose answer is all that goes to standard output.
pub(crate) fn run(command: Option<CniCommand>) -> anyhow::Result<ExitCode> {
    let Some(CniCommand::Install { bin_dir, conf_dir }) = command else {
        anyhow::ensure!(
            std::env::var_os("CNI_COMMAND").is_some(),
            "container runtimes call this; `yunfan cni install` gives it to them"
        );
        return Ok(match cni::main() {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        });
    };
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let install = Install {
        bin: bin_dir,
        conf: conf_dir,
        command: vec![program, "cni".to_owned()],
        handover: HANDOVER.into(),
    };
    for file in cni::install(&install)? {
        say(&format!("wrote {}", file.display()));
    }
    Ok(ExitCode::SUCCESS)
}
