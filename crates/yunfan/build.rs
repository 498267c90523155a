//! Folds functions whose code is the same into one, where the linker can: what is generated for each type and each crate that uses it
//! is much of the program.

use std::path::PathBuf;
use std::process::Command;

/// LLD and mold know it, GNU's own linker does not.
const FOLD: &str = "-Wl,--icf=all";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu") && linker_folds() {
        println!("cargo:rustc-link-arg-bins={FOLD}");
    }
}

/// Tries it with a program that does nothing, linked as this one will be. Which linker that is depends on who built the compiler, and
/// on flags.
fn linker_folds() -> bool {
    let Some((compiler, dir)) = std::env::var_os("RUSTC").zip(std::env::var_os("OUT_DIR")) else {
        return false;
    };
    let dir = PathBuf::from(dir);
    let source = dir.join("nothing.rs");
    if std::fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let mut command = Command::new(compiler);
    command.arg(&source).arg("-o").arg(dir.join("nothing")).arg(format!("-Clink-arg={FOLD}"));
    if let Some(linker) = std::env::var("RUSTC_LINKER").ok().filter(|linker| !linker.is_empty()) {
        command.arg(format!("-Clinker={linker}"));
    }
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    command.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    command.output().is_ok_and(|output| output.status.success())
}
