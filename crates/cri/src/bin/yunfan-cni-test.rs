//! The network plug-in alone, for the tests of this crate.

fn main() {
    std::process::exit(yunfan_cri::cni::main())
}
