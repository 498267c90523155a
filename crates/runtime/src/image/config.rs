//! The part of an image's configuration that a runtime acts on. Everything else in it is ignored.

use serde::{Deserialize, Serialize};

/// What to run in a container of the image, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Program and leading arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// `NAME=value` lines.
    pub env: Vec<String>,
    /// Working directory; may be empty.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` or empty.
    pub user: String,
    /// Signal that asks it to stop (`SIGQUIT`, `3`); empty = SIGTERM.
    pub stop_signal: String,
}

/// The configuration file, as the registry has it.
#[derive(Debug, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    config: Option<Inner>,
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub(crate) diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Inner {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

/// Most layers an image may have; overlayfs takes up to 500, other runtimes 127.
const MOST_LAYERS: usize = 127;

impl ConfigFile {
    /// Reads a configuration and checks what the layers are named.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("its configuration is not valid: {error}"))?;
        if file.rootfs.diff_ids.len() > MOST_LAYERS {
            return Err(format!(
                "it has {} layers; at most {MOST_LAYERS} are supported",
                file.rootfs.diff_ids.len()
            ));
        }
        for diff_id in &file.rootfs.diff_ids {
            super::check_digest(diff_id)?;
        }
        let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        if !file.os.is_empty() && file.os != "linux" {
            return Err(format!("it is made for {}, this node runs linux", file.os));
        }
        if !file.architecture.is_empty() && file.architecture != here {
            return Err(format!("it is made for {}, this node is {here}", file.architecture));
        }
        Ok(file)
    }

    pub(crate) fn config(&mut self) -> ImageConfig {
        let inner = self.config.take().unwrap_or_default();
        ImageConfig {
            entrypoint: inner.entrypoint.unwrap_or_default(),
            cmd: inner.cmd.unwrap_or_default(),
            env: inner.env.unwrap_or_default(),
            working_dir: inner.working_dir.unwrap_or_default(),
            user: inner.user.unwrap_or_default(),
            stop_signal: inner.stop_signal.unwrap_or_default(),
        }
    }
}
