//! What another implementation of [`crate::Runtime`] on this node shares with the embedded one: names, files and limits that the
//! agent relies on, whoever runs the containers.

pub use crate::cgroup::{
    has_pods, is_v2 as is_cgroup_v2, limit_pids_on_v1, make as make_cgroup, of_pod as cgroup_of_pod,
    remove as remove_cgroup, stats as cgroup_stats, update as update_cgroup,
};
pub use crate::embedded::{ETC_FILES, check_name, discard_etc, etc_usage, log_name, stop_signal, write_etc};
pub use crate::logs::writer::{rotate as rotate_log, take_back as take_back_log};
pub use crate::logs::{ROTATE_BYTES, files_of as log_files, keep_last};
pub use crate::mounts::{detach, mounts, share as share_mount, share_apart, unmount_below};
pub use crate::shim::binds::bind_settled;
pub use crate::shim::namespaces::mount_tmpfs_volume;
pub use crate::spec::{READ_ONLY_PATHS, masked_paths, page_name};
pub use crate::sys::{remove_tree, remove_with_mounts, write_atomic, write_json};
pub use crate::tree::remove_with_mounts as remove_dir;
pub use crate::user::check_non_root;
