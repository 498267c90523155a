//! Folds functions whose code is the same into one: what is generated for each type and each crate that uses it is much of the program.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The linker of this target is LLD, which knows how to.
    if std::env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
